//! Reminders follow their task: its due date, its title, its end.

use super::*;

async fn patch(world: &World, user: &str, task: &Json, body: Json) -> Json {
    let answer = call(world, user, "PATCH", &path(task, ""), Some(body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// The reminders of the task: lead time, when it comes, state; in the order in which they were set.
async fn reminders(world: &World, task: &Json) -> Vec<(String, Timestamp, String)> {
    let answer = call(world, "alice", "GET", &format!("/api/reminders?task_id={}", id(task)), None).await;
    let items = answer.body["items"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    items.iter().rev().map(|one| (text(&one["lead_time"]), time(&one["remind_at"]), text(&one["state"]))).collect()
}

/// What the job of a reminder will say.
async fn will_say(world: &World, reminder: &Json) -> Json {
    let query = "SELECT convert_from(event, 'UTF8') FROM tidemill.jobs WHERE name = $1";
    let event: String = world.sql().await.query_one(query, &[&format!("reminder/{}", id(reminder))]).await.unwrap().get(0);
    // The job keeps what stands behind id and time.
    serde_json::from_str::<Json>(&format!("{{{event}")).unwrap_or_else(|error| panic!("{error}: {event}"))["data"].clone()
}

#[tokio::test]
async fn moving_the_due_date_moves_the_waiting_reminders_and_their_jobs() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "moved", "due_date": day(10) })).await;
    let all = [
        set(&world, "alice", &task, "1d").await,
        set(&world, "alice", &task, "2d").await,
        set(&world, "alice", &task, "90min").await,
    ];
    let over = set(&world, "alice", &task, "3d").await;
    assert_eq!(cancel(&world, "alice", &over).await.status, 200);
    let until = async |due: Timestamp| {
        let waits = |hours: i64, lead: &str| (lead.to_owned(), due - hours.hours(), "PENDING".to_owned());
        let mut expected = vec![waits(24, "1d"), waits(48, "2d"), ("90min".to_owned(), due - 90.minutes(), "PENDING".to_owned())];
        expected.push(("3d".to_owned(), super::due(&day(10)) - 72.hours(), "CANCELLED".to_owned()));
        assert_eq!(reminders(&world, &task).await, expected);
        for (reminder, (_, remind_at, _)) in all.iter().zip(expected) {
            assert_eq!(job(&world, reminder).await, Some(remind_at));
        }
        assert_eq!(world.count("SELECT count(*) FROM tidemill.jobs").await, 3);
    };
    until(due(&day(10))).await;
    // By a day either way: one reminder comes where another was.
    patch(&world, "alice", &task, json!({ "due_date": day(11) })).await;
    until(due(&day(11))).await;
    patch(&world, "alice", &task, json!({ "due_date": day(9) })).await;
    until(due(&day(9))).await;
    patch(&world, "alice", &task, json!({ "due_date": day(12), "due_time": "12:30" })).await;
    until(due(&day(12)) + 150.minutes()).await;
    patch(&world, "alice", &task, json!({ "due_time": null })).await;
    until(due(&day(12))).await;
    assert_eq!(will_say(&world, &all[0]).await["due_date"], json!(day(12)));
    // Far away, and back.
    patch(&world, "alice", &task, json!({ "due_date": "9999-12-31" })).await;
    assert_eq!(job(&world, &all[2]).await, Some("9999-12-30T22:00:00Z".parse().unwrap()));
    patch(&world, "alice", &task, json!({ "due_date": day(12) })).await;
    assert_eq!(
        world.count("SELECT count(*) FROM tidemill.jobs").await,
        world.count("SELECT count(*) FROM todo.reminders WHERE state = 'PENDING'").await
    );
}

#[tokio::test]
async fn changing_the_title_changes_what_the_job_will_say_and_nothing_else() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "old").await;
    let reminder = set_soon(&world, "alice", &task, 6).await;
    // What a date without a time means counts for tasks that are moved from now on, not for this one.
    world.sql().await.batch_execute("UPDATE todo.settings SET default_due_time = '00:01'").await.unwrap();
    patch(&world, "alice", &task, json!({ "title": "new", "priority": "high" })).await;
    assert_eq!(job(&world, &reminder).await, Some(time(&reminder["remind_at"])));
    until_state(&world, &reminder, "TRIGGERED").await;
    let records = told(&world, &reminder).await;
    assert_eq!((records.len(), &records[0].json()["data"]["task_title"]), (1, &json!("new")));
}

#[tokio::test]
async fn a_title_that_changes_after_the_reminder_has_fired_does_not_fire_it_again() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "old").await;
    let reminder = set_soon(&world, "alice", &task, 6).await;
    // What fires now is told when the broker is back.
    world.broker.stop().await;
    eventually("the job has fired", async || job(&world, &reminder).await.is_none().then_some(())).await;
    patch(&world, "alice", &task, json!({ "title": "new" })).await;
    assert_eq!((job(&world, &reminder).await, state(&world, &reminder).await.as_str()), (None, "PENDING"));
    world.broker.start().await;
    until_state(&world, &reminder, "TRIGGERED").await;
    fired(&world, "alice").await;
    let records = told(&world, &reminder).await;
    assert_eq!((records.len(), &records[0].json()["data"]["task_title"]), (1, &json!("old")));
    assert_eq!(audited(&world, &reminder).await, 1);
}

#[tokio::test]
async fn without_a_due_date_there_is_nothing_to_remind_of() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "dated").await;
    let all = [set(&world, "alice", &task, "1h").await, set(&world, "alice", &task, "2h").await];
    patch(&world, "alice", &task, json!({ "due_date": null })).await;
    for reminder in &all {
        assert_eq!((state(&world, reminder).await.as_str(), job(&world, reminder).await), ("CANCELLED", None));
    }
    patch(&world, "alice", &task, json!({ "due_date": day(3) })).await;
    assert_eq!(world.count("SELECT count(*) FROM tidemill.jobs").await, 0, "cancelled is cancelled");
}

#[tokio::test]
async fn a_reminder_whose_time_is_past_by_the_move_comes_at_once() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "sooner", "due_date": day(5) })).await;
    let reminder = set(&world, "alice", &task, "3d").await;
    patch(&world, "alice", &task, json!({ "due_date": day(1) })).await;
    until_state(&world, &reminder, "TRIGGERED").await;
    let records = told(&world, &reminder).await;
    assert_eq!((records.len(), time(&records[0].json()["time"])), (1, due(&day(1)) - 72.hours()));
    assert_eq!(audited(&world, &reminder).await, 1);
    // One that is over stays over, wherever the task goes.
    patch(&world, "alice", &task, json!({ "due_date": day(8) })).await;
    assert_eq!((state(&world, &reminder).await.as_str(), job(&world, &reminder).await), ("TRIGGERED", None));
}

#[tokio::test]
async fn of_two_reminders_that_come_to_the_same_time_the_first_stays() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "moved").await;
    let first = set(&world, "alice", &task, "1h").await;
    world.sql().await.batch_execute("UPDATE todo.settings SET default_due_time = '11:00'").await.unwrap();
    let second = set(&world, "alice", &task, "1h").await;
    assert_eq!(time(&second["remind_at"]), time(&first["remind_at"]) + 1.hour());
    patch(&world, "alice", &task, json!({ "due_date": day(3) })).await;
    assert_eq!(job(&world, &first).await, Some(due(&day(3))));
    assert_eq!((state(&world, &second).await.as_str(), job(&world, &second).await), ("CANCELLED", None));
}

#[tokio::test]
async fn completing_and_deleting_a_task_cancel_its_reminders_and_their_jobs() {
    let world = World::with_todo(Kind::Embedded).await;
    for (method, rest) in [("POST", "/complete"), ("DELETE", "")] {
        let task = dated(&world, "alice", "over").await;
        let all = [set(&world, "alice", &task, "1h").await, set(&world, "alice", &task, "2h").await];
        let other = set(&world, "alice", &dated(&world, "alice", "goes on").await, "1h").await;
        assert!(call(&world, "alice", method, &path(&task, rest), None).await.status < 300);
        for reminder in &all {
            until_state(&world, reminder, "CANCELLED").await;
            assert_eq!(job(&world, reminder).await, None);
        }
        suppressed(&world, "alice").await;
        assert_eq!((state(&world, &other).await.as_str(), job(&world, &other).await.is_some()), ("PENDING", true));
    }
    world.until_outbox_is_empty().await;
    assert_eq!(records::all(&world.broker.address(), TOPIC).await.len(), 0, "no reminder has fired");
}
