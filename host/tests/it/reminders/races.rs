//! What happens at the same moment: whichever commits first stands. Each race is forced both ways, by locks that a second connection holds.

use super::*;

/// A task with a reminder that comes in so many seconds.
async fn reminded(world: &World, user: &str, seconds: i64) -> (Json, Json) {
    let task = dated(world, user, "raced").await;
    // Nobody else is to wait for the locks that are held.
    crate::todo::audited(world, &task, 1).await;
    let reminder = set_soon(world, user, &task, seconds).await;
    (task, reminder)
}

async fn hold_task(world: &World, task: &Json) -> Client {
    hold(world, &format!("SELECT 1 FROM todo.tasks WHERE id = '{}' FOR UPDATE", id(task))).await
}

async fn hold_reminder(world: &World, reminder: &Json) -> Client {
    hold(world, &format!("SELECT 1 FROM todo.reminders WHERE id = '{}' FOR UPDATE", id(reminder))).await
}

/// Keeps a decision open: the row of the reminder is changed, the one of the trail can't be written.
async fn hold_trail(world: &World) -> Client {
    hold(world, "LOCK TABLE todo.audit_log IN EXCLUSIVE MODE").await
}

async fn release(held: Client) {
    held.batch_execute("COMMIT").await.unwrap();
}

/// The reminder was triggered: once, with one row of the trail, by one event.
async fn was_triggered(world: &World, user: &str, reminder: &Json) {
    until_state(world, reminder, "TRIGGERED").await;
    fired(world, user).await;
    suppressed(world, user).await;
    assert_eq!(state(world, reminder).await, "TRIGGERED");
    assert_eq!((audited(world, reminder).await, told(world, reminder).await.len(), job(world, reminder).await), (1, 1, None));
}

/// The reminder was cancelled, and nothing tells of it but so many events that found it so.
async fn was_cancelled(world: &World, user: &str, reminder: &Json, events: usize) {
    until_state(world, reminder, "CANCELLED").await;
    fired(world, user).await;
    suppressed(world, user).await;
    assert_eq!(state(world, reminder).await, "CANCELLED");
    assert_eq!(
        (audited(world, reminder).await, told(world, reminder).await.len(), job(world, reminder).await),
        (0, events, None)
    );
}

/// An event of a task in the place of another publisher.
async fn send(world: &World, event_id: &str, kind: &str, user: &str, data: Json) {
    let event = records::event(event_id, kind, &data);
    records::produce_event(&world.broker.address(), crate::todo::TOPIC, None, user, &event).await;
}

async fn send_completion(world: &World, task: &Json, completed_at: &str, version: Option<i32>) {
    let mut data = json!({
        "task_id": task["id"], "user_id": "alice", "title": "raced", "recurrence": null, "due_date": null, "completed_at": completed_at,
    });
    if let Some(version) = version {
        data["version"] = json!(version);
    }
    send(world, &format!("sent-{completed_at}-{}", id(task)), "task.completed", "alice", data).await;
}

#[tokio::test]
async fn a_user_cancels_before_the_trigger() {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_task(&world, &task).await;
    until_blocked(&world, 1).await;
    assert_eq!(job(&world, &reminder).await, None, "it has fired");
    let cancelled = cancel(&world, "alice", &reminder).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (200, &json!("CANCELLED")), "{cancelled:?}");
    release(held).await;
    was_cancelled(&world, "alice", &reminder, 1).await;
}

#[tokio::test]
async fn a_user_cancels_after_the_trigger() {
    let world = World::with_todo(Kind::Embedded).await;
    let (_, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_trail(&world).await;
    until_blocked(&world, 1).await;
    let (cancelled, ()) = tokio::join!(cancel(&world, "alice", &reminder), async {
        until_blocked(&world, 2).await;
        release(held).await;
    });
    assert_eq!((cancelled.status, cancelled.text.contains("was triggered at")), (409, true), "{cancelled:?}");
    was_triggered(&world, "alice", &reminder).await;
}

#[tokio::test]
async fn a_user_cancels_before_the_job_fires_and_it_never_does() {
    let world = World::with_todo(Kind::Embedded).await;
    let (_, reminder) = reminded(&world, "alice", 3).await;
    assert_eq!(cancel(&world, "alice", &reminder).await.status, 200);
    was_cancelled(&world, "alice", &reminder, 0).await;
}

/// How a task ends.
#[derive(Clone, Copy)]
enum End {
    Completed,
    Deleted,
}

impl End {
    fn event(self) -> &'static str {
        match self {
            Self::Completed => "task.completed",
            Self::Deleted => "task.deleted",
        }
    }

    /// By its user, which has to succeed.
    async fn by_request(self, world: &World, task: &Json) {
        let (method, rest, status) = match self {
            Self::Completed => ("POST", "/complete", 200),
            Self::Deleted => ("DELETE", "", 204),
        };
        assert_eq!(call(world, "alice", method, &path(task, rest), None).await.status, status);
    }

    /// By an event of another publisher, from far ahead.
    async fn by_event(self, world: &World, task: &Json) {
        match self {
            Self::Completed => send_completion(world, task, "2099-01-01T00:00:00Z", None).await,
            Self::Deleted => {
                let deleted_at = "2099-01-01T00:00:00Z";
                let data = json!({ "task_id": task["id"], "user_id": "alice", "title": "raced", "deleted_at": deleted_at });
                send(world, &format!("deleted-{}", id(task)), "task.deleted", "alice", data).await;
            }
        }
    }
}

/// The task ends while its reminder has fired and is not decided on yet. Nobody but the reminder handler can cancel reminders here.
async fn ends_before_the_trigger(end: End) {
    let world = World::todo(Kind::Embedded).await;
    world.handlers.rewrite("suppression", |manifest| manifest.replace(&format!("\"{}\"", end.event()), "\"task.none\""));
    let world = world.started().await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_task(&world, &task).await;
    // Both wait for the task, its end in front.
    tokio::join!(end.by_request(&world, &task), async {
        until_blocked(&world, 1).await;
        assert!(job(&world, &reminder).await.is_some(), "it has not fired yet");
        until_blocked(&world, 2).await;
        release(held).await;
    });
    until_state(&world, &reminder, "CANCELLED").await;
    fired(&world, "alice").await;
    assert_eq!((audited(&world, &reminder).await, told(&world, &reminder).await.len()), (0, 1));
}

#[tokio::test]
async fn a_task_is_completed_before_the_trigger() {
    ends_before_the_trigger(End::Completed).await;
}

#[tokio::test]
async fn a_task_is_deleted_before_the_trigger() {
    ends_before_the_trigger(End::Deleted).await;
}

async fn ends_after_the_trigger(end: End) {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    // The handler has locked the task, and waits for the reminder; the end waits for the task.
    let held = hold_reminder(&world, &reminder).await;
    until_blocked(&world, 1).await;
    tokio::join!(end.by_request(&world, &task), async {
        until_blocked(&world, 2).await;
        release(held).await;
    });
    was_triggered(&world, "alice", &reminder).await;
}

#[tokio::test]
async fn a_task_is_completed_after_the_trigger() {
    ends_after_the_trigger(End::Completed).await;
}

#[tokio::test]
async fn a_task_is_deleted_after_the_trigger() {
    ends_after_the_trigger(End::Deleted).await;
}

async fn suppressed_before_the_trigger(end: End) {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_task(&world, &task).await;
    until_blocked(&world, 1).await;
    end.by_event(&world, &task).await;
    until_state(&world, &reminder, "CANCELLED").await;
    release(held).await;
    was_cancelled(&world, "alice", &reminder, 1).await;
}

#[tokio::test]
async fn the_suppression_of_a_completion_comes_before_the_trigger() {
    suppressed_before_the_trigger(End::Completed).await;
}

#[tokio::test]
async fn the_suppression_of_a_deletion_comes_before_the_trigger() {
    suppressed_before_the_trigger(End::Deleted).await;
}

async fn suppressed_after_the_trigger(end: End) {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_trail(&world).await;
    until_blocked(&world, 1).await;
    // Two more wait: the suppression for the reminder, and the audit of this event for the trail.
    end.by_event(&world, &task).await;
    until_blocked(&world, 3).await;
    release(held).await;
    was_triggered(&world, "alice", &reminder).await;
}

#[tokio::test]
async fn the_suppression_of_a_completion_comes_after_the_trigger() {
    suppressed_after_the_trigger(End::Completed).await;
}

#[tokio::test]
async fn the_suppression_of_a_deletion_comes_after_the_trigger() {
    suppressed_after_the_trigger(End::Deleted).await;
}

#[tokio::test]
async fn a_move_comes_before_the_trigger() {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_task(&world, &task).await;
    let (route, body) = (path(&task, ""), json!({ "due_date": day(4) }));
    let (moved, ()) = tokio::join!(call(&world, "alice", "PATCH", &route, Some(body)), async {
        until_blocked(&world, 1).await;
        assert!(job(&world, &reminder).await.is_some(), "it has not fired yet");
        until_blocked(&world, 2).await;
        release(held).await;
    });
    assert_eq!(moved.status, 200, "{moved:?}");
    fired(&world, "alice").await;
    // What has fired is of the old time: it has no effect, and the new time has its own job.
    let later = time(&reminder["remind_at"]) + 48.hours();
    assert_eq!((state(&world, &reminder).await.as_str(), job(&world, &reminder).await), ("PENDING", Some(later)));
    assert_eq!((audited(&world, &reminder).await, told(&world, &reminder).await.len()), (0, 1));
    // Moved to where its time is past, it comes at once; and once.
    assert_eq!(call(&world, "alice", "PATCH", &path(&task, ""), Some(json!({ "due_date": day(1) }))).await.status, 200);
    until_state(&world, &reminder, "TRIGGERED").await;
    fired(&world, "alice").await;
    assert_eq!((audited(&world, &reminder).await, told(&world, &reminder).await.len()), (1, 2));
}

#[tokio::test]
async fn a_move_comes_after_the_trigger() {
    let world = World::with_todo(Kind::Embedded).await;
    let (task, reminder) = reminded(&world, "alice", 3).await;
    let held = hold_reminder(&world, &reminder).await;
    until_blocked(&world, 1).await;
    let (route, body) = (path(&task, ""), json!({ "due_date": day(4) }));
    let (moved, ()) = tokio::join!(call(&world, "alice", "PATCH", &route, Some(body)), async {
        until_blocked(&world, 2).await;
        release(held).await;
    });
    assert_eq!(moved.status, 200, "{moved:?}");
    was_triggered(&world, "alice", &reminder).await;
}

#[tokio::test]
async fn a_reminder_set_during_a_move_moves_along() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "moved").await;
    let held = hold_task(&world, &task).await;
    let (route, body) = (path(&task, ""), json!({ "due_date": day(4) }));
    let (moved, reminder, ()) = tokio::join!(
        call(&world, "alice", "PATCH", &route, Some(body)),
        async {
            until_blocked(&world, 1).await;
            set(&world, "alice", &task, "1h").await
        },
        async {
            until_blocked(&world, 2).await;
            release(held).await;
        }
    );
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_eq!(job(&world, &reminder).await, Some(due(&day(4)) - 1.hour()));
    // And the other way round.
    let held = hold_task(&world, &task).await;
    let (route, body) = (path(&task, ""), json!({ "due_date": day(3) }));
    let (other, moved, ()) = tokio::join!(
        set(&world, "alice", &task, "2h"),
        async {
            until_blocked(&world, 1).await;
            call(&world, "alice", "PATCH", &route, Some(body)).await
        },
        async {
            until_blocked(&world, 2).await;
            release(held).await;
        }
    );
    assert_eq!((moved.status, time(&other["remind_at"])), (200, due(&day(4)) - 2.hours()));
    for (reminder, hours) in [(&reminder, 1), (&other, 2)] {
        assert_eq!(job(&world, reminder).await, Some(due(&day(3)) - hours.hours()));
    }
}

#[tokio::test]
async fn the_same_reminder_set_twice_at_once_is_one() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "twice").await;
    let held = hold_task(&world, &task).await;
    let (one, other, ()) = tokio::join!(ask(&world, "alice", &task, "1h"), ask(&world, "alice", &task, "PT60M"), async {
        until_blocked(&world, 2).await;
        release(held).await;
    });
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!((statuses, &one.body), ([200, 201], &other.body));
    assert_eq!(world.count("SELECT count(*) FROM todo.reminders").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.jobs").await, 1);
}

#[tokio::test]
async fn a_late_suppression_leaves_the_reminders_of_a_task_that_was_reopened() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "reopened").await;
    let [old, again] = [set(&world, "alice", &task, "1h").await, set(&world, "alice", &task, "2h").await];
    world.until_outbox_is_empty().await;
    // What happens now is told when the broker is back.
    world.broker.stop().await;
    for rest in ["/complete", "/reopen"] {
        assert_eq!(call(&world, "alice", "POST", &path(&task, rest), None).await.status, 200);
    }
    let new = set(&world, "alice", &task, "3h").await;
    let known = ask(&world, "alice", &task, "2h").await;
    assert_eq!((known.status, &known.body["id"]), (200, &again["id"]), "asked for again, so it counts as set now");
    assert_eq!(state(&world, &old).await, "PENDING");
    world.broker.start().await;
    until_state(&world, &old, "CANCELLED").await;
    suppressed(&world, "alice").await;
    for reminder in [&new, &again] {
        assert_eq!((state(&world, reminder).await.as_str(), job(&world, reminder).await.is_some()), ("PENDING", true));
    }
    assert_eq!(job(&world, &old).await, None);
}

#[tokio::test]
async fn what_was_set_before_a_completion_is_known_by_the_version_or_else_by_the_time() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "versions").await;
    let reminder = set(&world, "alice", &task, "1h").await;
    let version = i32::try_from(task["version"].as_i64().unwrap()).unwrap();
    // A clock that is far ahead, and one that is far behind.
    send_completion(&world, &task, "2098-01-01T00:00:00Z", Some(version)).await;
    send_completion(&world, &task, "2001-01-01T00:00:00Z", None).await;
    suppressed(&world, "alice").await;
    assert_eq!(state(&world, &reminder).await, "PENDING");
    send_completion(&world, &task, "2002-01-01T00:00:00Z", Some(version + 1)).await;
    until_state(&world, &reminder, "CANCELLED").await;
    let other = set(&world, "alice", &task, "1h").await;
    send_completion(&world, &task, "2099-01-01T00:00:00Z", None).await;
    until_state(&world, &other, "CANCELLED").await;
}

#[tokio::test]
async fn c04_an_event_of_a_reminder_has_one_effect_however_often_it_comes() {
    let mut world = World::with_todo(Kind::Embedded).await;
    let (_, reminder) = reminded(&world, "alice", 3).await;
    until_state(&world, &reminder, "TRIGGERED").await;
    let event = told(&world, &reminder).await.remove(0);
    // A copy, one of another identity, and one for another time.
    let mut copies = vec![event.json(), event.json(), event.json()];
    copies[1]["id"] = json!(uuid::Uuid::now_v7());
    copies[2]["id"] = json!(uuid::Uuid::now_v7());
    copies[2]["time"] = json!("2026-01-01T00:00:00Z");
    for copy in copies {
        records::produce_event(&world.broker.address(), TOPIC, None, "alice", copy.to_string().as_bytes()).await;
    }
    fired(&world, "alice").await;
    // Read again as if the host had forgotten that it was handled.
    assert!(world.host().sigterm().await.success());
    world.sql().await.batch_execute("DELETE FROM tidemill.inbox").await.unwrap();
    records::rewind(&world.broker.address(), "reminder-consumer", TOPIC).await;
    world.start().await;
    fired(&world, "alice").await;
    assert_eq!((audited(&world, &reminder).await, state(&world, &reminder).await.as_str()), (1, "TRIGGERED"));
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters").await, 0);
}

#[tokio::test]
async fn an_event_that_can_be_no_reminder_is_a_dead_letter_and_holds_up_no_other() {
    let world = World::with_todo(Kind::Embedded).await;
    let (_, reminder) = reminded(&world, "alice", 3).await;
    for (event_id, data) in [
        ("odd", json!({ "reminder_id": "soon" })),
        ("unknown", json!({ "reminder_id": uuid::Uuid::nil(), "task_id": uuid::Uuid::nil() })),
    ] {
        let event = records::event(event_id, "reminder.triggered", &data);
        records::produce_event(&world.broker.address(), TOPIC, None, "alice", &event).await;
    }
    until_state(&world, &reminder, "TRIGGERED").await;
    world.until_dead(1).await;
    assert_eq!(world.dead().await, [("odd".to_owned(), 1, "rejected".to_owned())]);
    assert_eq!(audited(&world, &reminder).await, 1);
}
