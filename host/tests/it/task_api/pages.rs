//! Pages and their cursors: nothing is shown twice or left out, and a cursor of elsewhere is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value as Json, json};

use super::{patch, wrong};
use crate::support::{Kind, World};
use crate::todo::{call, create, path};

const ORDERS: [&str; 5] = ["created_at", "due_date", "priority", "title", "updated_at"];

/// One page of `alice`'s list: its items and the cursor.
async fn page(world: &World, query: &str, cursor: Option<&str>) -> (Vec<Json>, Option<String>) {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let answer = call(world, "alice", "GET", &format!("/api/tasks?{query}{cursor}"), None).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    (answer.body["items"].as_array().unwrap().clone(), answer.body["next_cursor"].as_str().map(str::to_owned))
}

/// All pages of a list, with something done before each but the first.
async fn pages(world: &World, query: &str, mut between: impl AsyncFnMut()) -> Vec<Json> {
    let (mut items, mut cursor) = page(world, query, None).await;
    while let Some(next) = cursor {
        between().await;
        let (more, next) = page(world, query, Some(&next)).await;
        assert!(!more.is_empty(), "a cursor leads somewhere");
        items.extend(more);
        assert!(items.len() < 1_000, "{query}: the pages go round in circles");
        cursor = next;
    }
    items
}

/// Tasks that share priorities, titles and due dates, and some without a due date.
async fn many(world: &World) -> Vec<Json> {
    let mut tasks = Vec::new();
    for number in 0..23 {
        let due = (number % 3 > 0).then(|| format!("2030-02-{:02}", 10 + number % 4));
        let priority = ["low", "medium", "high"][number % 3];
        let title = format!("{} {}", ["Ärger", "b", "B"][number % 3], number % 2);
        tasks.push(
            create(world, "alice", json!({ "title": title, "priority": priority, "due_date": due, "tags": ["kept"] })).await,
        );
    }
    tasks
}

fn ids(tasks: &[Json]) -> Vec<&str> {
    tasks.iter().map(|task| task["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_put_together_are_the_list_in_every_order() {
    let world = World::with_todo(Kind::Embedded).await;
    let tasks = many(&world).await;
    for order in ORDERS {
        let mut whole = Vec::new();
        for sort in [order.to_owned(), format!("-{order}")] {
            let (all, none) = page(&world, &format!("sort={sort}"), None).await;
            assert_eq!((all.len(), none), (tasks.len(), None), "{sort}");
            for limit in [1, 4, 22, 23] {
                let items = pages(&world, &format!("sort={sort}&limit={limit}"), async || {}).await;
                assert_eq!(ids(&items), ids(&all), "{sort} in pages of {limit}");
            }
            whole.push(all);
        }
        let undated = |task: &Json| order == "due_date" && task["due_date"].is_null();
        let [up, down] = [&whole[0], &whole[1]].map(|tasks| {
            assert!(tasks.iter().is_sorted_by_key(undated), "without a due date means last");
            tasks.iter().cloned().partition::<Vec<Json>, _>(|task| !undated(task))
        });
        let backwards = |tasks: Vec<Json>| tasks.into_iter().rev().collect::<Vec<_>>();
        assert_eq!((backwards(up.0), backwards(up.1)), down, "{order} backwards");
    }
}

#[tokio::test]
async fn pages_stay_right_while_tasks_come_go_and_change() {
    let world = World::with_todo(Kind::Embedded).await;
    let tasks = many(&world).await;
    for sort in ORDERS.iter().flat_map(|order| [(*order).to_owned(), format!("-{order}")]) {
        let mut passing = create(&world, "alice", json!({ "title": "m", "due_date": "2030-02-11" })).await;
        let items = pages(&world, &format!("sort={sort}&limit=4"), async || {
            // One at each end comes, one that was shown or will be goes, one changes its place.
            for (title, due) in [("0", "2029-01-01"), ("zzz", "2031-01-01")] {
                create(&world, "alice", json!({ "title": title, "due_date": due, "priority": "medium" })).await;
            }
            assert_eq!(call(&world, "alice", "DELETE", &path(&passing, ""), None).await.status, 204);
            passing = create(&world, "alice", json!({ "title": "m", "due_date": null })).await;
            assert_eq!(patch(&world, &passing, &json!({ "title": "0", "due_date": "2030-02-11" })).await.status, 200);
        })
        .await;
        let mut shown = ids(&items);
        shown.retain(|id| ids(&tasks).contains(id));
        let (whole, _) = page(&world, &format!("sort={sort}&tag=kept&limit=200"), None).await;
        assert_eq!(shown, ids(&whole), "{sort}: each task that stayed, once, in its place");
        let mut once = ids(&items);
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), items.len(), "{sort}: nothing twice");
        world.sql().await.batch_execute("UPDATE todo.tasks SET deleted_at = now() WHERE NOT tags @> '{kept}'").await.unwrap();
    }
}

#[tokio::test]
async fn a_cursor_of_elsewhere_is_refused_with_the_way_out() {
    let world = World::with_todo(Kind::Embedded).await;
    let mut task = Json::Null;
    for title in ["a", "b", "c"] {
        task = create(&world, "alice", json!({ "title": title })).await;
        create(&world, "bob", json!({ "title": title })).await;
    }
    let query = "sort=title&status=open&limit=1";
    let (_, cursor) = page(&world, query, None).await;
    let cursor = cursor.unwrap();
    let refused = async |user: &str, query: &str, cursor: &str, why: &str| {
        let answer = call(&world, user, "GET", &format!("/api/tasks?{query}&cursor={cursor}"), None).await;
        assert_eq!((answer.status, answer.problem()), (400, "invalid-parameters"), "{why}: {answer:?}");
        assert_eq!(wrong(&answer), ["cursor"], "{why}: {answer:?}");
        let message = answer.body["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(why) && message.contains("leave it out"), "{why}: {message}");
    };
    refused("bob", query, &cursor, "another user").await;
    refused("alice", "sort=-title&status=open&limit=1", &cursor, "another order").await;
    refused("alice", "sort=title&limit=1", &cursor, "other filters").await;
    let bytes = BASE64.decode(&cursor).unwrap();
    for place in 1..bytes.len() {
        let mut tampered = bytes.clone();
        tampered[place] ^= 1;
        refused("alice", query, &BASE64.encode(tampered), "changed on its way").await;
    }
    let mut older = bytes.clone();
    older[0] -= 1;
    refused("alice", query, &BASE64.encode(older), "another version").await;
    for text in ["", "x", "%25%25", &cursor[..cursor.len() - 4], task["id"].as_str().unwrap(), &"A".repeat(2_000)] {
        let answer = call(&world, "alice", "GET", &format!("/api/tasks?{query}&cursor={text}"), None).await;
        assert_eq!((answer.status, wrong(&answer)), (400, vec!["cursor"]), "{text}: {answer:?}");
    }
    let answer = call(&world, "alice", "GET", &format!("{}?cursor={cursor}", path(&task, "/history")), None).await;
    assert_eq!((answer.status, wrong(&answer)), (400, vec!["cursor"]), "a list of something else: {answer:?}");
    let (items, next) = page(&world, "sort=title&status=open&limit=200", Some(&cursor)).await;
    assert_eq!((items.len(), next), (2, None), "the size of a page may change");
}
