//! Promise 11 by hand: stuck rows can be tried again or given up; what is given up is kept in the record.

use serde_json::json;

use super::{Site, ids, outcomes};

impl Site {
    /// An outbox row.
    async fn published(&self, event: &str, stuck: bool) -> i64 {
        let sql = "INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, stuck_since, stuck_reason) \
                   VALUES (0, 'ghost.gone', 'k', '\\xff00', ARRAY['h', 'none'], ARRAY['v'::bytea, NULL], $1, \
                           CASE WHEN $2 THEN now() END, CASE WHEN $2 THEN 'no such topic' END) RETURNING id";
        self.sql.query_one(sql, &[&event, &stuck]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn c11_stuck_rows_are_listed_tried_again_and_given_up() {
    let site = Site::new().await;
    let (first, second) = (site.published("e1", true).await, site.published("e2", true).await);
    let waiting = site.published("e3", false).await;
    assert_eq!(ids(&site.json("outbox list").await.0), [first, second, waiting]);
    assert_eq!(ids(&site.json("outbox list --stuck").await.0), [first, second]);
    assert!(site.cli("outbox list --stuck").await.contains("no such topic"));
    let (row, _) = site.json(&format!("outbox show {first}")).await;
    assert_eq!(
        (&row["state"], &row["value"], &row["key"]),
        (&json!("stuck"), &json!({ "base64": "/wA=" }), &json!({ "text": "k" }))
    );

    let (report, code) = site.json(&format!("outbox retry {first} {waiting} --yes")).await;
    assert_eq!((code, outcomes(&report)), (0, vec![(first, "retried".to_owned()), (waiting, "not-stuck".to_owned())]));
    assert_eq!(ids(&site.json("outbox list --stuck").await.0), [second]);

    site.cli("outbox discard --topic ghost.gone --error topic --yes").await;
    site.fails(&format!("outbox discard {waiting} --yes"), &["the broker does not refuse it"]).await;
    assert_eq!(ids(&site.json("outbox list").await.0), [first, waiting]);
    site.cli(&format!("outbox discard {waiting} --not-stuck --yes")).await;
    let kept = "SELECT count(*) FROM tidemill.actions WHERE action = 'outbox.discard' AND details @> \
                '{\"topic\": \"ghost.gone\", \"key_base64\": \"aw==\", \"value_base64\": \"/wA=\", \
                  \"headers\": [{\"name\": \"h\", \"value_base64\": \"dg==\"}, {\"name\": \"none\", \"value_base64\": null}]}'";
    assert_eq!(site.count(kept).await, 2, "what is given up is not lost for ever");
    let subject = |action: &str, id| format!("ann cli outbox.{action} outbox/{id}");
    let recorded = [subject("retry", first), subject("discard", second), subject("discard", waiting)];
    assert_eq!(site.recorded().await, recorded);
    let (actions, _) = site.json("actions list --limit 2").await;
    assert_eq!((actions["rows"][1]["subject"].as_str(), actions["next"].is_i64()), (Some(&*format!("outbox/{waiting}")), true));
    assert!(site.cli("actions list --actor ann --action outbox.retry").await.contains("ghost.gone"));
}

#[tokio::test]
async fn a_change_of_many_rows_leaves_out_what_it_cannot_change_and_goes_on_where_it_ended() {
    let site = Site::new().await;
    let mut stuck = Vec::new();
    for n in 0..3 {
        site.published(&format!("waits-{n}"), false).await;
        stuck.push(site.published(&format!("stuck-{n}"), true).await);
    }
    let (report, code) = site.json("outbox retry --topic ghost.gone --limit 2").await;
    let retried = |id: i64| (id, "retried".to_owned());
    assert_eq!((code, outcomes(&report)), (0, vec![retried(stuck[0]), retried(stuck[1])]), "{report}");
    assert_eq!((&report["more"], &report["next"]), (&json!(true), &json!(stuck[1])), "{report}");
    assert!(site.cli("outbox retry --topic ghost.gone --limit 2").await.contains(&format!("--after {}", stuck[1])));
    let (report, _) = site.json(&format!("outbox retry --topic ghost.gone --limit 2 --after {}", stuck[1])).await;
    assert_eq!((outcomes(&report), &report["next"]), (vec![retried(stuck[2])], &json!(null)), "{report}");
    let (report, code) = site.json("outbox discard --topic ghost.gone --yes").await;
    assert_eq!((code, ids(&report).len(), ids(&site.json("outbox list").await.0).len()), (0, 3, 3), "{report}");
}

#[tokio::test]
async fn what_is_misused_exits_with_2_and_what_cannot_be_done_with_1() {
    let site = Site::new().await;
    for line in ["outbox discard --yes", "outbox list --handler h", "waiting list --since yesterday", "dlq"] {
        assert_eq!(site.run(line).finish().await.status.code(), Some(2), "{line}");
    }
    let away = site.run("dlq list").env("TIDEMILL_DATABASE_URL", "postgres://nobody:hush@127.0.0.1:1/none").finish().await;
    assert_eq!(away.status.code(), Some(1));
    assert!(away.stderr.contains("TIDEMILL_DATABASE_URL") && !away.stderr.contains("hush"), "{}", away.stderr);
    let unprepared = crate::support::postgres::Database::create().await;
    let run = site.run("dlq list").env("TIDEMILL_DATABASE_URL", unprepared.admin_url()).finish().await;
    assert_eq!(run.status.code(), Some(1));
    assert!(run.stderr.contains("run `tidemill migrate`"), "{}", run.stderr);
}
