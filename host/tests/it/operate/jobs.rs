//! Promises 13 and 14 by hand: jobs can be looked at, cancelled, and fired before their time, each once.

use serde_json::{Value as Json, json};
use tidemill::store::operate::{Actor, JobFilter, Order, Via};

use super::Site;
use super::api::hosted;
use crate::support::{World, eventually, records};

/// A job as it is put into the table: how it repeats is SQL as well.
struct Put<'a> {
    name: &'a str,
    due: &'a str,
    repeats: &'a str,
}

const HOURLY: &str = "3600000000, NULL, NULL";
const NIGHTLY: &str = "NULL, '30 2 * * *', 'Europe/Berlin'";
const SINGLE: &str = "NULL, NULL, NULL";

impl Site {
    async fn put(&self, app: &str, topic: &str, job: Put<'_>) {
        let sql = format!(
            "INSERT INTO tidemill.jobs (app, name, handler, due, period, cron, time_zone, bucket, topic, key, event, correlation_id) \
             VALUES ($1, $2, 'h-' || $1, {}, {}, tidemill.key_bucket($3, 'k'), $3, 'k', \
                     convert_to('\"source\":\"src\",\"type\":\"ghost.ok\",\"data\":{{\"n\":1}}}}', 'UTF8'), 'c-1')",
            job.due, job.repeats
        );
        self.sql.execute(&sql, &[&app, &job.name, &topic]).await.unwrap();
    }

    async fn job(&self, name: &str, due: &str, repeats: &str) {
        self.put("ghost", "ghost.out", Put { name, due, repeats }).await;
    }

    /// The event ids in the outbox, in their order.
    async fn outbox_ids(&self) -> Vec<String> {
        let rows = self.sql.query("SELECT event_id FROM tidemill.outbox ORDER BY id", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn jobs(&self) -> i64 {
        self.count("SELECT count(*) FROM tidemill.jobs").await
    }
}

/// The names of a page or a report.
fn names(document: &Json) -> Vec<&str> {
    document["rows"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

fn outcomes(report: &Json) -> Vec<(&str, &str)> {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().map(|row| (row["id"].as_str().unwrap(), row["outcome"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn c13_jobs_are_listed_by_their_times() {
    let site = Site::new().await;
    site.job("late/1", "now() - interval '90 minutes'", SINGLE).await;
    site.job("soon/1", "now() + interval '1 hour'", HOURLY).await;
    site.job("soon/2", "now() + interval '2 hours'", NIGHTLY).await;
    site.put("other", "ghost.out", Put { name: "soon/1", due: "now() + interval '3 hours'", repeats: SINGLE }).await;
    let all = ["ghost/late/1", "ghost/soon/1", "ghost/soon/2", "other/soon/1"];
    for (conditions, expected) in [
        ("", &all[..]),
        ("--app ghost", &all[..3]),
        ("--handler h-other", &all[3..]),
        ("--prefix soon/", &all[1..]),
        ("--prefix %", &[]),
        ("--due-before 1s", &all[..1]),
        ("--due-before in_90m --due-after 1s", &all[1..2]),
        ("--state due", &all[..1]),
        ("--state scheduled --app ghost", &all[1..3]),
        ("other/soon/1 ghost/late/1", &[all[0], all[3]]),
    ] {
        let mut run = site.run(format!("jobs list {conditions} --json").replace("  ", " ").trim());
        run.args.iter_mut().for_each(|arg| *arg = arg.replace("in_", "in "));
        let page: Json = serde_json::from_str(&run.finish().await.stdout).unwrap();
        assert_eq!(names(&page), expected, "{conditions}");
    }
    let (page, _) = site.json("jobs list").await;
    let [late, hourly, nightly, _] = &page["rows"].as_array().unwrap()[..] else { panic!("{page}") };
    assert!((5_400_000..5_460_000).contains(&late["late_ms"].as_i64().unwrap()), "{late}");
    assert_eq!((&late["state"], &late["missed"], &hourly["late_ms"]), (&json!("due"), &Json::Null, &Json::Null));
    assert_eq!((&hourly["period_micros"], &hourly["missed"]), (&json!(3_600_000_000_i64), &json!("once")));
    assert_eq!((&nightly["cron"], &nightly["time_zone"]), (&json!("30 2 * * *"), &json!("Europe/Berlin")));
    let text = site.cli("jobs list").await;
    for words in ["1h30m late", "in 59m", "every 1h", "30 2 * * * Europe/Berlin", "h-other"] {
        assert!(text.contains(words), "`{words}` is missing in {text}");
    }
    assert!(site.cli("jobs list --app nobody").await.contains("no jobs"));
    site.fails("jobs show ghost/never", &["there is no job ghost/never"]).await;
    let shown = site.cli("jobs show ghost/late/1").await;
    assert!(shown.contains("\"type\":\"ghost.ok\"") && shown.contains("c-1") && shown.contains("1h30m"), "{shown}");
}

#[tokio::test]
async fn c13_pages_of_jobs_leave_none_out_where_many_have_one_time() {
    let site = Site::new().await;
    for number in 0..7 {
        let repeats = if number % 2 == 0 { SINGLE } else { HOURLY };
        site.job(&format!("n/{number}"), "'2040-01-01T00:00:00.000001Z'", repeats).await;
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (page, _) = site.json(&format!("jobs list --limit 2{after}")).await;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        assert!(site.cli(&format!("jobs list --limit 2{after}")).await.contains(&format!("--after {next}")));
        after = format!(" --after {next}");
    }
    assert_eq!(seen, (0..7).map(|number| format!("ghost/n/{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn c14_a_cancelled_job_is_gone_and_kept_in_the_record() {
    let site = Site::new().await;
    for name in ["a/1", "a/2", "b/1"] {
        site.job(name, "now() + interval '1 hour'", if name == "a/2" { NIGHTLY } else { SINGLE }).await;
    }
    let dry = site.cli("jobs cancel --prefix a/").await;
    assert!(dry.contains("2 of 2 would be cancelled") && dry.contains("--yes"), "{dry}");
    assert_eq!((site.jobs().await, site.recorded().await.len()), (3, 0), "a dry run changes nothing");

    let (report, code) = site.json("jobs cancel --prefix a/ --yes").await;
    assert_eq!((code, outcomes(&report)), (0, vec![("ghost/a/1", "cancelled"), ("ghost/a/2", "cancelled")]));
    assert_eq!((site.jobs().await, site.outbox_ids().await.len()), (1, 0));
    assert_eq!(site.recorded().await, ["ann cli jobs.cancel job/ghost/a/1", "ann cli jobs.cancel job/ghost/a/2"]);
    let kept = "SELECT count(*) FROM tidemill.actions WHERE subject = 'job/ghost/a/2' AND details @> \
                '{\"handler\": \"h-ghost\", \"cron\": \"30 2 * * *\", \"topic\": \"ghost.out\", \"key_base64\": \"aw==\"}' \
                AND convert_from(decode(details->>'value_base64', 'base64'), 'UTF8')::jsonb @> '{\"type\": \"ghost.ok\", \"data\": {\"n\": 1}}'";
    assert_eq!(site.count(kept).await, 1, "what is given up is not lost for ever");

    let (report, code) = site.json("jobs cancel ghost/a/1 ghost/b/1 --yes").await;
    assert_eq!((code, outcomes(&report)), (1, vec![("ghost/a/1", "missing"), ("ghost/b/1", "cancelled")]));
}

#[tokio::test]
async fn c13_run_now_fires_the_next_event_once_with_its_own_id() {
    let site = Site::new().await;
    for (name, repeats) in [("single", SINGLE), ("hourly", HOURLY), ("nightly", NIGHTLY)] {
        site.job(name, "'2040-03-24T01:30:00Z'", repeats).await;
    }
    let (shown, _) = site.json("jobs show ghost/hourly").await;
    site.cli("jobs run-now --all").await;
    assert_eq!((site.jobs().await, site.outbox_ids().await.len()), (3, 0), "a dry run changes nothing");
    let ids = "SELECT tidemill.job_event_id(app, name, incarnation, due)::text FROM tidemill.jobs ORDER BY name";
    let expected: Vec<String> = site.sql.query(ids, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();

    let (report, code) = site.json("jobs run-now --all --yes").await;
    assert_eq!((code, report["changed"].as_i64()), (0, Some(3)), "{report}");
    let mut published = site.outbox_ids().await;
    published.sort_by_key(|id| expected.iter().position(|other| other == id));
    assert_eq!(published, expected, "the ids of the scheduled times");
    let hourly = "SELECT convert_from(value, 'UTF8') FROM tidemill.outbox WHERE event_id = $1";
    let value: String = site.sql.query_one(hourly, &[&expected[0]]).await.unwrap().get(0);
    assert_eq!((&shown["value"]["json"], &shown["event_id"]), (&serde_json::from_str(&value).unwrap(), &json!(expected[0])));
    assert_eq!(shown["value"]["json"]["time"], "2040-03-24T01:30:00.000000Z");

    // The single one is over; the others go on with the next time, the clocks of Berlin having gone forward meanwhile.
    let left =
        "SELECT string_agg(name || ' ' || to_char(due AT TIME ZONE 'UTC', 'DD HH24:MI'), ', ' ORDER BY name) FROM tidemill.jobs";
    let left: String = site.sql.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, "hourly 24 02:30, nightly 25 01:00");
    assert_eq!(site.recorded().await[1], "ann cli jobs.run-now job/ghost/nightly");
    site.fails("jobs run-now ghost/single --yes", &["missing", "no such job"]).await;
}

#[tokio::test]
async fn c13_what_somebody_else_has_in_hand_or_cannot_be_computed_is_left_alone() {
    let site = Site::new().await;
    site.job("held", "now() + interval '1 hour'", SINGLE).await;
    site.job("spoilt", "now() + interval '1 hour'", "NULL, '30 2 * * *', 'Mars/Olympus'").await;
    let before =
        "SELECT count(*) FROM tidemill.jobs WHERE due BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour'";
    let other = site.world.sql().await;
    other.batch_execute("BEGIN; SELECT FROM tidemill.jobs WHERE name = 'held' FOR UPDATE").await.unwrap();
    for verb in ["cancel", "run-now"] {
        let (report, code) = site.json(&format!("jobs {verb} ghost/held --yes")).await;
        assert_eq!((code, outcomes(&report)), (1, vec![("ghost/held", "busy")]), "{report}");
    }
    site.fails("jobs run-now ghost/spoilt --yes", &["spoilt", "Mars/Olympus"]).await;
    assert_eq!((site.count(before).await, site.outbox_ids().await.len(), site.recorded().await.len()), (2, 0, 0));
    site.cli("jobs cancel ghost/spoilt --yes").await;
    assert_eq!(site.jobs().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_two_operators_fire_each_job_once() {
    let site = Site::new().await;
    for number in 0..300 {
        site.job(&format!("n/{number}"), "now() + interval '1 hour'", if number % 3 == 0 { HOURLY } else { SINGLE }).await;
    }
    let fire = async || {
        let filter = JobFilter { due_before: Some("2100-01-01T00:00:00Z".parse().unwrap()), all: true, ..JobFilter::default() };
        let order = Order { actor: Actor::new("ann", Via::Cli).unwrap(), filter, dry_run: false };
        site.session().await.run_jobs(&order).await.unwrap().changed
    };
    let cancel = async || {
        let filter = JobFilter { prefix: Some("n/1".to_owned()), ..JobFilter::default() };
        let order = Order { actor: Actor::new("bob", Via::Cli).unwrap(), filter, dry_run: false };
        site.session().await.cancel_jobs(&order).await.unwrap().changed
    };
    let (one, other, cancelled) = tokio::join!(fire(), fire(), cancel());
    let ids = site.outbox_ids().await;
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (one + other, one + other));
    let single = "SELECT count(*) FROM tidemill.actions WHERE action = 'jobs.cancel'";
    assert_eq!(site.count(single).await, cancelled as i64);
    let twice = "SELECT count(*) FROM (SELECT FROM tidemill.actions WHERE details->>'cron' IS NULL AND details->>'period_micros' IS NULL \
                   AND action = 'jobs.cancel' AND EXISTS (SELECT FROM tidemill.actions f WHERE f.subject = actions.subject AND f.action = 'jobs.run-now')) t";
    assert_eq!(site.count(twice).await, 0, "a single job was fired and cancelled");
}

#[tokio::test]
async fn c13_run_now_reaches_the_topic_at_once_and_the_job_does_not_fire_again() {
    let mut site = hosted(true).await;
    let topic = site.world.topic("out");
    site.put("probe", &topic, Put { name: "far/away", due: "now() + interval '3 seconds'", repeats: SINGLE }).await;
    let arrived = async |world: &World, count: usize| {
        let address = world.broker.address();
        eventually("the events are in the topic", async || {
            let records = records::all(&address, &world.topic("out")).await;
            (records.len() >= count).then_some(records)
        })
        .await
    };
    let shown = site.get("/v1/jobs/probe/far%2Faway").await;
    let fired = site.post("/v1/jobs/run-now", json!({ "ids": ["probe/far/away"], "dry_run": false })).await;
    assert_eq!((fired.status, outcomes(&fired.body)), (200, vec![("probe/far/away", "fired")]), "{fired:?}");
    let first = arrived(&site.world, 1).await;
    assert_eq!(first[0].json(), shown.body["value"]["json"]);
    // One of a later time comes after it; nothing of the first comes again.
    site.put("probe", &topic, Put { name: "later", due: "now() + interval '4 seconds'", repeats: SINGLE }).await;
    let all = arrived(&site.world, 2).await;
    assert_eq!((all.len(), site.jobs().await), (2, 0));
    assert_ne!(all[1].json()["id"], first[0].json()["id"]);
}

#[tokio::test]
async fn c14_jobs_are_worked_over_the_api() {
    let mut site = hosted(true).await;
    site.job("a/1,x", "'2040-01-01T00:00:00Z'", SINGLE).await;
    site.job("a/2", "'2040-01-02T00:00:00Z'", HOURLY).await;
    let page = site.get("/v1/jobs?app=ghost&due_before=2040-01-01T12%3A00%3A00Z&limit=1").await;
    assert_eq!((page.status, names(&page.body)), (200, vec!["ghost/a/1,x"]), "{page:?}");
    assert_eq!(names(&site.get("/v1/jobs?ids=ghost/a/1,x").await.body), ["ghost/a/1,x"]);
    let first = site.get("/v1/jobs?limit=1").await;
    let next = first.body["next"].as_str().unwrap();
    assert_eq!(names(&site.get(&format!("/v1/jobs?after={next}")).await.body), ["ghost/a/2"]);
    let whole = site.get("/v1/jobs/ghost/a/2").await;
    assert_eq!((&whole.body["value"]["json"]["data"], &whole.body["state"]), (&json!({ "n": 1 }), &json!("scheduled")));
    assert_eq!(site.get("/v1/jobs/ghost/a/3").await.problem(), "no-such-row");

    let tried = site.post("/v1/jobs/cancel", json!({ "prefix": "a/" })).await;
    assert_eq!((&tried.body["dry_run"], &tried.body["changed"]), (&json!(true), &json!(2)), "{tried:?}");
    assert_eq!(site.jobs().await, 2, "a dry run, if nothing is said");
    let done = site.post("/v1/jobs/cancel", json!({ "ids": ["ghost/a/1,x"], "dry_run": false })).await;
    assert_eq!(outcomes(&done.body), [("ghost/a/1,x", "cancelled")]);
    assert_eq!(site.recorded().await, ["carol api jobs.cancel job/ghost/a/1,x"]);

    for (path, body) in [
        ("/v1/jobs/cancel", json!({ "dry_run": false })),
        ("/v1/jobs/cancel", json!({ "ids": ["a"], "dry_run": false })),
        ("/v1/jobs/cancel", json!({ "topic": "x", "dry_run": false })),
        ("/v1/jobs/cancel", json!({ "prefix": "a\u{0}", "dry_run": false })),
        ("/v1/jobs/run-now", json!({ "due_before": "soon", "dry_run": false })),
        ("/v1/jobs/run-now", json!({ "all": true, "state": "late", "dry_run": false })),
        ("/v1/jobs/run-now", json!({ "all": true, "limit": 0, "dry_run": false })),
    ] {
        let answer = site.post(path, body.clone()).await;
        assert_eq!((answer.status, answer.problem()), (400, "invalid-request"), "{path} {body}: {answer:?}");
    }
    for path in ["/v1/jobs?after=7", "/v1/jobs?dry_run=true", "/v1/jobs?limit=x", "/v1/jobs/ghost/a%00"] {
        assert_eq!(site.get(path).await.status, 400, "{path}");
    }
    assert_eq!(site.jobs().await, 1);
}
