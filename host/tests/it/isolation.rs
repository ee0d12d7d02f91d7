//! Promises 16 and 17: an invocation is bounded, and nothing passes from one to the next.

use serde_json::json;

use crate::support::{Answer, Kind, World, eventually};

/// A world whose probe has these limits.
async fn limited(limits: &[(&str, toml::Value)]) -> World {
    let world = World::probe(Kind::Embedded).await;
    for (name, value) in limits {
        world.handlers.limit("probe", name, value.clone());
    }
    world.started().await
}

#[tokio::test]
async fn c17_no_memory_passes_from_one_request_to_the_next() {
    let world = World::with_probe().await;
    for _ in 0..20 {
        assert_eq!(world.steps("count", json!({})).await.body, json!({ "counted": 1 }));
    }
    assert_eq!(world.steps("count-then-count", json!({})).await.body, json!({ "counted": 2 }));
    // Also not after an instance was thrown away in the middle.
    assert_eq!(world.steps("count-then-trap", json!({})).await.status, 500);
    assert_eq!(world.steps("count", json!({})).await.body, json!({ "counted": 1 }));
}

#[tokio::test]
async fn c17_no_user_and_no_setting_passes_from_one_request_to_the_next() {
    let world = World::with_probe().await;
    for user in ["alice", "bob", "alice", "carol"] {
        let body = json!({ "sql": "INSERT INTO owned VALUES ($1, '') RETURNING subject", "params": [user] });
        let answer = Answer::read(world.request(user, "POST", "/probe/sql").json(&body).send().await.unwrap()).await;
        assert_eq!((answer.status, &answer.body["rows"]), (200, &json!([[user]])));
    }
    // A doomed unit and a rolled back one leave their connection as it was.
    world.steps("swallow", json!({})).await;
    world.steps("insert-then-trap", json!({ "id": "x" })).await;
    assert_eq!(world.steps("sql", json!({ "sql": "SELECT count(*) FROM owned" })).await.body["rows"], json!([[2]]));
}

#[tokio::test]
async fn c17_the_environment_is_empty_and_the_token_is_not_shown() {
    let world = World::with_probe().await;
    let answer = world.steps("ok", json!({})).await;
    assert_eq!(answer.body["environment"], 0);
    assert_eq!((&answer.body["subject"], &answer.body["route"]), (&json!("alice"), &json!("/probe/{action}")));
    let headers = answer.body["headers"].as_array().unwrap();
    assert!(headers.contains(&json!("content-type")) && !headers.contains(&json!("authorization")), "{headers:?}");
}

#[tokio::test]
async fn c16_an_endless_loop_ends_with_its_cpu_limit_and_holds_up_nobody() {
    let world = limited(&[("cpu", "1s".into())]).await;
    let spins = (0..3).map(|_| world.steps("spin", json!({})));
    let others = async {
        for number in 0..10 {
            assert_eq!(world.steps("insert", json!({ "id": format!("beside-{number}") })).await.status, 200);
        }
    };
    let (spins, ()) = tokio::join!(futures_util::future::join_all(spins), others);
    for answer in spins {
        assert!([500, 504].contains(&answer.status) && answer.problem() == "limit-exceeded", "{answer:?}");
    }
}

#[tokio::test]
async fn c16_waiting_counts_as_wall_time_only() {
    let world = limited(&[("cpu", "200ms".into()), ("wall", "20s".into())]).await;
    assert_eq!(world.steps("sleep", json!({ "ms": 1500 })).await.status, 200, "sleeping uses no CPU time");
    let world = limited(&[("wall", "500ms".into())]).await;
    let answer = world.steps("sleep", json!({ "ms": 60_000 })).await;
    assert_eq!((answer.status, answer.problem()), (504, "handler-timeout"));
    // The database's work is waiting as well.
    let answer = world.steps("insert-then-sleep", json!({ "id": "slow", "ms": 60_000 })).await;
    assert_eq!((answer.status, answer.problem()), (504, "handler-timeout"));
    assert!(!world.has_row("slow").await);
    eventually("no transaction stays open", async || (world.pending().await == 0).then_some(())).await;
}

#[tokio::test]
async fn c16_memory_is_bounded_and_the_limit_is_named() {
    let world = limited(&[("memory", "32MiB".into())]).await;
    assert_eq!(world.steps("alloc", json!({ "mib": 16 })).await.status, 200);
    let answer = world.steps("alloc", json!({ "mib": 48 })).await;
    assert_eq!((answer.status, answer.problem()), (500, "limit-exceeded"), "{answer:?}");
    world.until_logged("limit `memory`").await;
    assert_eq!(world.steps("alloc", json!({ "mib": 16 })).await.status, 200);
}

#[tokio::test]
async fn c16_a_result_is_bounded_and_the_limit_is_named() {
    let world = limited(&[("sql_result", "64KiB".into())]).await;
    for (size, status) in [(30_000, 200), (200_000, 409)] {
        let answer = world.steps("sql", json!({ "sql": format!("SELECT repeat('x', {size})") })).await;
        assert_eq!(answer.status, status, "{size}");
        if status == 409 {
            assert_eq!(answer.body["kind"], "Limit");
            assert!(answer.body["message"].as_str().unwrap().contains("sql_result"), "{answer:?}");
        }
    }
    let many_rows = json!({ "sql": "SELECT n FROM generate_series(1, 10000000) AS n" });
    assert_eq!(world.steps("sql", many_rows).await.body["kind"], "Limit");
}

#[tokio::test]
async fn c16_the_time_of_a_statement_is_bounded_and_the_limit_is_named() {
    let world = limited(&[("sql_time", "300ms".into())]).await;
    let slow = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b";
    let answer = world.steps("insert-then-sql", json!({ "id": "slow", "sql": slow })).await;
    assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("Limit")), "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains("sql_time"), "{answer:?}");
    assert!(!world.has_row("slow").await);
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%generate_series%'
        AND pid <> pg_backend_pid()";
    eventually("the statement is cancelled", async || (world.count(running).await == 0).then_some(())).await;
}

#[tokio::test]
async fn c16_published_events_are_bounded_in_number_and_size() {
    let world = limited(&[("events", 5.into()), ("event_size", "1KiB".into())]).await;
    let topic = world.topic("out");
    for (count, status) in [(5, 200), (6, 409)] {
        let answer = world.steps("publish", json!({ "topic": topic, "key": "k", "count": count })).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let answer = world.steps("publish", json!({ "topic": topic, "data": "x".repeat(2000) })).await;
    assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("Limit")), "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains("event_size"), "{answer:?}");
}

#[tokio::test]
async fn c16_log_lines_are_bounded_and_carry_the_invocation() {
    let world = limited(&[("log_lines", 20.into())]).await;
    for (step, said) in [("log", "logged"), ("print", "printed")] {
        let body = json!({ "text": format!("marked-{step}"), "lines": 100 });
        let request = world.request("alice", "POST", &format!("/probe/{step}")).header("x-correlation-id", "traced-7");
        assert_eq!(request.json(&body).send().await.unwrap().status(), 200);
        world.steps("log", json!({ "text": format!("after {step}") })).await;
        world.until_logged(&format!("logged after {step}")).await;
        let log = world.log();
        assert!(log.contains(&format!("{said} marked-{step}")));
        let kept = log.lines().filter(|line| line.contains(&format!("marked-{step}"))).count();
        assert!(kept <= 21, "{kept} lines of 20");
        assert!(
            log.lines()
                .any(|line| line.contains(&format!("marked-{step}")) && line.contains("probe") && line.contains("traced-7"))
        );
    }
}

#[tokio::test]
async fn c17_a_handlers_statements_are_planned_as_the_database_says() {
    let world = World::probe(Kind::Embedded).await.started().await;
    // The host's statement before them has a setting of its own.
    let noting = "CREATE TABLE public.planned (seqscan text, mode text); \
        CREATE FUNCTION public.note_settings() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
            INSERT INTO public.planned VALUES (current_setting('enable_seqscan'), current_setting('plan_cache_mode')); RETURN NEW; END $$; \
        CREATE TRIGGER note_settings BEFORE INSERT ON probe.seen FOR EACH ROW EXECUTE FUNCTION public.note_settings()";
    world.sql().await.batch_execute(noting).await.unwrap();
    world.send_event(0, "k", "one", "probe.ok").await;
    world.until_handled(1).await;
    let row = world.sql().await.query_one("SELECT seqscan, mode FROM public.planned", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, String>(1).as_str()), ("on", "auto"));
}
