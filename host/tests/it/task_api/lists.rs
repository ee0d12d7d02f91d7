//! `GET /api/tasks`: filters and orders.

use serde_json::{Value as Json, json};

use super::wrong;
use crate::support::{Kind, World};
use crate::todo::{call, create, path};

/// The titles in the list of a query.
async fn titles(world: &World, query: &str) -> Vec<String> {
    let answer = call(world, "alice", "GET", &format!("/api/tasks?{query}"), None).await;
    assert_eq!((answer.status, &answer.body["next_cursor"]), (200, &Json::Null), "{query}: {answer:?}");
    answer.body["items"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned()).collect()
}

/// Five tasks of `alice` that differ in everything, and one of `bob`.
async fn garden() -> World {
    let world = World::with_todo(Kind::Embedded).await;
    let bodies = [
        json!({ "title": "apples", "priority": "high", "tags": ["garden", "food"], "due_date": "2030-02-10" }),
        json!({ "title": "Beans", "priority": "low", "tags": ["garden"], "description": "100% ORGANIC_ones" }),
        json!({ "title": "carrots", "due_date": "2030-02-12", "due_time": "10:00", "tags": ["garden", "food", "food too"] }),
        json!({ "title": "Dill", "due_date": "2030-02-11" }),
        json!({ "title": "eggs", "tags": ["food"] }),
    ];
    let mut tasks = Vec::new();
    for body in bodies {
        tasks.push(create(&world, "alice", body).await);
    }
    create(&world, "bob", json!({ "title": "figs", "priority": "high", "tags": ["garden"], "due_date": "2030-02-10" })).await;
    for task in [3, 0] {
        assert_eq!(call(&world, "alice", "POST", &path(&tasks[task], "/complete"), None).await.status, 200);
    }
    world
}

#[tokio::test]
async fn every_filter_leaves_what_fits_all_of_them() {
    let world = garden().await;
    for (query, expected) in [
        ("", "eggs Dill carrots Beans apples"),
        ("status=all", "eggs Dill carrots Beans apples"),
        ("status=open", "eggs carrots Beans"),
        ("status=completed", "Dill apples"),
        ("priority=high", "apples"),
        ("priority=medium", "eggs Dill carrots"),
        ("tag=garden", "carrots Beans apples"),
        ("tag=garden&tag=food", "carrots apples"),
        ("tag=garden&tag=food&tag=food+too", "carrots"),
        ("tag=gard", ""),
        ("due_before=2030-02-12", "Dill apples"),
        ("due_after=2030-02-10", "Dill carrots"),
        ("due_after=2030-02-10&due_before=2030-02-12", "Dill"),
        ("due_after=2030-02-12&due_before=2030-02-10", ""),
        ("text=aPPl", "apples"),
        ("text=organic_", "Beans"),
        ("text=100%25", "Beans"),
        ("text=%25", "Beans"),
        ("text=s", "eggs carrots Beans apples"),
        ("status=open&tag=garden&text=a&due_before=2031-01-01&priority=medium", "carrots"),
    ] {
        assert_eq!(titles(&world, query).await.join(" "), expected, "{query}");
    }
}

#[tokio::test]
async fn every_order_goes_both_ways_and_ends_with_what_has_no_due_date() {
    let world = garden().await;
    for (query, expected) in [
        ("sort=created_at", "apples Beans carrots Dill eggs"),
        ("sort=-created_at", "eggs Dill carrots Beans apples"),
        ("sort=due_date", "apples Dill carrots Beans eggs"),
        ("sort=-due_date", "carrots Dill apples eggs Beans"),
        ("sort=priority", "Beans carrots Dill eggs apples"),
        ("sort=-priority", "apples eggs Dill carrots Beans"),
        ("sort=title", "apples Beans carrots Dill eggs"),
        ("sort=-title", "eggs Dill carrots Beans apples"),
        ("sort=updated_at", "Beans carrots eggs Dill apples"),
        ("sort=-updated_at", "apples Dill eggs carrots Beans"),
        ("sort=-due_date&status=open", "carrots eggs Beans"),
    ] {
        assert_eq!(titles(&world, query).await.join(" "), expected, "{query}");
    }
}

#[tokio::test]
async fn every_wrong_parameter_is_named_at_once() {
    let world = World::with_todo(Kind::Embedded).await;
    create(&world, "alice", json!({ "title": "one" })).await;
    let query =
        "status=done&priority=urgent&tag=&due_before=tomorrow&due_after=2030-02-30&text=&sort=age&limit=0&cursor=x&colour=red";
    let answer = call(&world, "alice", "GET", &format!("/api/tasks?{query}"), None).await;
    assert_eq!((answer.status, answer.problem()), (400, "invalid-parameters"), "{answer:?}");
    let mut fields = wrong(&answer);
    fields.sort_unstable();
    let all = ["colour", "cursor", "due_after", "due_before", "limit", "priority", "sort", "status", "tag", "text"];
    assert_eq!(fields, all, "{answer:?}");
    for (query, field) in [("limit=201", "limit"), ("tags=a", "tags"), ("sort=title&sort=title", "sort"), ("text=a%00b", "text")]
    {
        let answer = call(&world, "alice", "GET", &format!("/api/tasks?{query}"), None).await;
        assert_eq!((answer.status, wrong(&answer)), (400, vec![field]), "{query}: {answer:?}");
    }
}
