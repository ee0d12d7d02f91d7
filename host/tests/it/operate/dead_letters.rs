//! Promise 10: dead letters can be listed, shown, replayed and discarded, once, whoever asks and however often.

use serde_json::json;

use super::{Site, all, ids, outcomes};
use crate::support::{Kind, World, eventually};

/// The queued replays: dead letter, due or not, and whether the row is the dead letter's copy.
async fn queued(site: &Site) -> Vec<(i64, bool, bool)> {
    let sql = "SELECT d.id, w.due IS NOT NULL, \
                      w.attempts = 0 AND w.ordered_by = 'ann' AND w.claim IS NULL AND w.scope = $1 \
                      AND (w.consumer_group, w.handler, w.topic, w.partition, w.record_offset, w.record_time, w.value, w.header_names, \
                           w.source, w.event_id, w.type) \
                        = (d.consumer_group, d.handler, d.topic, d.partition, d.record_offset, d.record_time, d.value, d.header_names, \
                           d.source, d.event_id, d.type) \
                      AND w.key IS NOT DISTINCT FROM d.key AND w.header_values IS NOT DISTINCT FROM d.header_values \
                 FROM tidemill.waiting w JOIN tidemill.dead_letters d ON d.id = w.dead_letter ORDER BY w.id";
    let rows = site.sql.query(sql, &[&site.scope]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn c10_a_replay_is_queued_whole_at_the_end_of_its_key_once() {
    let site = Site::new().await;
    // The group's letters are of an earlier generation; it reads in another one now.
    let retire = "UPDATE tidemill.scopes SET state = 'retired' WHERE consumer_group = 'ghosts'";
    let (first, second) = (site.letter(Some("a"), "e1").await, site.letter(Some("a"), "e2").await);
    let (behind, keyless) = (site.letter(Some("b"), "e3").await, site.letter(None, "e4").await);
    site.sql.batch_execute(retire).await.unwrap();
    let next = "INSERT INTO tidemill.scopes (consumer_group, generation) VALUES ('ghosts', 2) RETURNING scope";
    let site = Site { scope: site.sql.query_one(next, &[]).await.unwrap().get(0), ..site };
    site.waits(Some("b"), "e0", "now() + '1h'").await;

    let tried = site.cli("dlq replay --all").await;
    assert!(tried.contains("Dry run, nothing was changed: 4 of 4") && tried.contains("--yes"), "{tried}");
    assert_eq!((queued(&site).await, site.recorded().await), (vec![], vec![]), "a dry run changes nothing");

    let (report, code) = site.json("dlq replay --all --yes --wait 0s").await;
    assert_eq!((code, &report["dry_run"], &report["changed"]), (0, &json!(false), &json!(4)), "{report}");
    let expected = vec![(first, true, true), (second, false, true), (behind, false, true), (keyless, true, true)];
    assert_eq!(queued(&site).await, expected);
    let subject = |id| format!("ann cli dead-letters.replay dead-letter/{id}");
    assert_eq!(site.recorded().await, [first, second, behind, keyless].map(subject));

    let (report, code) = site.json(&format!("dlq replay {first} {keyless} --yes --wait 0s")).await;
    assert_eq!((code, report["changed"].as_i64()), (0, Some(0)));
    assert_eq!(outcomes(&report), [(first, "already-queued".to_owned()), (keyless, "already-queued".to_owned())]);
    assert_eq!((queued(&site).await, site.recorded().await.len()), (expected, 4), "asking again does nothing");
}

#[tokio::test]
async fn c10_replays_at_once_queue_one_row_each() {
    let site = Site::new().await;
    for key in [Some("k"), None, Some("l")] {
        for event in ["1", "2"] {
            site.letter(key, &format!("{key:?}{event}")).await;
        }
    }
    // Both have made their choice before either may go on.
    let held = site.holding(Some("k")).await;
    let replays = ["ann", "bob"].map(async |name| site.session().await.replay_dead_letters(&all(name)).await.unwrap());
    let [ann, bob] = replays;
    let released = async {
        site.until_waiting(2).await;
        drop(held);
    };
    let (ann, bob, ()) = tokio::join!(ann, bob, released);
    assert_eq!((ann.changed + bob.changed, ann.failed + bob.failed), (6, 0), "{ann:?} {bob:?}");
    assert_eq!(site.count("SELECT count(*) FROM tidemill.waiting").await, 6);
    assert_eq!(site.count("SELECT count(*) FROM tidemill.waiting WHERE due IS NOT NULL").await, 4, "one of a key may run");
    assert_eq!(site.recorded().await.len(), 6);
}

#[tokio::test]
async fn c10_of_a_replay_and_a_discard_at_once_exactly_one_wins() {
    let site = Site::new().await;
    for round in 0..5 {
        for key in [Some("k"), None] {
            site.letter(key, &format!("{key:?}{round}")).await;
        }
        let held = site.holding(Some("k")).await;
        let replay = async { site.session().await.replay_dead_letters(&all("ann")).await.unwrap() };
        let discard = async { site.session().await.discard_dead_letters(&all("bob")).await.unwrap() };
        let released = async {
            site.until_waiting(2).await;
            drop(held);
        };
        let (replay, discard, ()) = tokio::join!(replay, discard, released);
        let both = "SELECT count(*) FROM tidemill.dead_letters d JOIN tidemill.waiting w ON w.dead_letter = d.id WHERE d.state <> 'dead'";
        assert_eq!(site.count(both).await, 0, "{replay:?} {discard:?}");
        let open = "SELECT count(*) FROM tidemill.dead_letters d WHERE d.state = 'dead' \
                    AND NOT EXISTS (SELECT 1 FROM tidemill.waiting w WHERE w.dead_letter = d.id)";
        assert_eq!(site.count(open).await, 0, "{replay:?} {discard:?}");
        assert_eq!(replay.changed + discard.changed, 2, "{replay:?} {discard:?}");
        site.sql.batch_execute("TRUNCATE tidemill.waiting, tidemill.dead_letters").await.unwrap();
    }
}

#[tokio::test]
async fn c10_a_discard_ends_a_letter_and_leaves_a_queued_one_alone() {
    let site = Site::new().await;
    let (unwanted, queued) = (site.letter(Some("k"), "e1").await, site.letter(Some("k"), "e2").await);
    site.cli(&format!("dlq replay {queued} --yes --wait 0s")).await;
    let ended = site.fails("dlq discard --all --yes --as bob", &["its replay waits", "tidemill waiting dead-letter"]).await;
    assert!(ended.stdout.contains("1 of 2 discarded"), "{}", ended.stdout);
    let (letter, _) = site.json(&format!("dlq show {unwanted}")).await;
    assert_eq!((&letter["state"], &letter["ended_by"]), (&json!("discarded"), &json!("bob")));
    assert!(letter["ended_at"].is_string());
    assert_eq!(site.json(&format!("dlq show {queued}")).await.0["state"], "queued");
    // It stays discarded, for replays as well.
    site.fails(&format!("dlq replay {unwanted} --yes"), &["it was discarded at", "by bob"]).await;
    site.fails("dlq discard 4711 --yes", &["there is no such dead letter"]).await;
    assert_eq!(site.recorded().await.len(), 2);
}

#[tokio::test]
async fn c10_letters_are_found_by_number_key_time_error_and_handler_and_in_pages() {
    let site = Site::new().await;
    let mut all = Vec::new();
    for (key, event) in [(Some("a"), "e1"), (Some("b"), "e2"), (None, "e3")] {
        all.push(site.letter(key, event).await);
    }
    let change = format!(
        "UPDATE tidemill.dead_letters SET died_at = now() - interval '3 hours', error_class = 'timeout', error = 'took too long' WHERE id = {}; \
         UPDATE tidemill.dead_letters SET handler = 'other', consumer_group = 'others', topic = 'other.in', key = '\\xff00' WHERE id = {}",
        all[0], all[2]
    );
    site.sql.batch_execute(&change).await.unwrap();
    for (condition, found) in [
        (format!("{} {}", all[0], all[2]), vec![0, 2]),
        ("--key a".to_owned(), vec![0]),
        ("--key-base64 /wA=".to_owned(), vec![2]),
        ("--since 2h".to_owned(), vec![1, 2]),
        ("--until 2h".to_owned(), vec![0]),
        ("--error-class timeout".to_owned(), vec![0]),
        ("--error broke".to_owned(), vec![1, 2]),
        ("--handler other".to_owned(), vec![2]),
        ("--group ghosts --topic ghost.in".to_owned(), vec![0, 1]),
        ("--state replayed".to_owned(), vec![]),
        ("--limit 2".to_owned(), vec![0, 1]),
        (format!("--after {}", all[1]), vec![2]),
    ] {
        let (page, _) = site.json(&format!("dlq list {condition}")).await;
        assert_eq!(ids(&page), found.into_iter().map(|n: usize| all[n]).collect::<Vec<_>>(), "{condition}");
    }
    assert_eq!(site.json("dlq list --limit 2").await.0["next"], all[1]);
    let text = site.cli("dlq list").await;
    assert!(text.starts_with("ID") && text.contains("timeout: took too long") && text.contains("base64:/wA="), "{text}");
    assert_eq!(site.run("dlq replay --yes").finish().await.status.code(), Some(2), "which ones must be said");
}

#[tokio::test]
async fn c10_a_letter_is_shown_whole() {
    let site = Site::new().await;
    let id = site.letter(Some("ann"), "e1").await;
    let (letter, _) = site.json(&format!("dlq show {id}")).await;
    let expected = json!({
        "id": id, "state": "dead", "waiting": null, "group": "ghosts", "handler": "ghost", "topic": "ghost.in", "partition": 1, "offset": 42,
        "record_time": "2023-11-14T22:13:20.000Z", "key": { "text": "ann" }, "source": "src", "event_id": "e1", "type": "ghost.ok",
        "attempts": 4, "revision": "rev1", "error_class": "trap", "error": "it broke", "died_at": letter["died_at"], "replays": 0,
        "ended_at": null, "ended_by": null, "value_bytes": 11, "value": { "json": { "id": 1.0 } },
        "headers": [{ "name": "content-type", "value": { "text": "application/json" } }, { "name": "x", "value": { "base64": "/w==" } },
                    { "name": "y", "value": null }],
    });
    assert_eq!(letter, expected);
    let text = site.cli(&format!("dlq show {id}")).await;
    assert!(text.contains("it broke") && text.contains("x: base64:/w==") && text.contains("{\"id\": 1.0}"), "{text}");
    site.fails("dlq show 4711", &["there is no dead letter 4711"]).await;
}

#[tokio::test]
async fn c10_a_replay_says_what_became_of_it() {
    let site = Site::new().await;
    let (good, bad) = (site.letter(Some("a"), "e1").await, site.letter(Some("b"), "e2").await);
    let run = site.run("dlq replay --all --yes --json");
    let consumers = async {
        eventually("both are queued", async || (site.count("SELECT count(*) FROM tidemill.waiting").await == 2).then_some(()))
            .await;
        // What consumers do at the end of a replay that went well, and of one that did not.
        let end = format!(
            "BEGIN; UPDATE tidemill.dead_letters SET state = 'replayed', ended_at = clock_timestamp(), \
                           ended_by = (SELECT ordered_by FROM tidemill.waiting WHERE dead_letter = {good}) WHERE id = {good}; \
                    DELETE FROM tidemill.waiting WHERE dead_letter = {good}; COMMIT; \
             SELECT tidemill.bury(id, 'reject', 'still no good', 'rev2') FROM tidemill.waiting WHERE dead_letter = {bad}"
        );
        site.sql.batch_execute(&end).await.unwrap();
    };
    let (ended, ()) = tokio::join!(run.finish(), consumers);
    let report = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (ended.status.code(), outcomes(&report)),
        (Some(1), vec![(good, "replayed".into()), (bad, "failed-again".into())])
    );
    assert_eq!(report["rows"][1]["detail"], "reject: still no good");
    let (letter, _) = site.json(&format!("dlq show {good}")).await;
    assert_eq!((&letter["state"], &letter["ended_by"]), (&json!("replayed"), &json!("ann")));
    assert_eq!(site.json(&format!("dlq replay {good} --yes")).await.1, 0, "nothing is left to do");

    let ended = site.fails(&format!("dlq replay {bad} --yes --wait 300ms"), &["still-queued", "no host is connected"]).await;
    assert!(ended.stdout.contains("0 of 1 replayed"), "{}", ended.stdout);
    site.sql.batch_execute("DELETE FROM tidemill.waiting; UPDATE tidemill.scopes SET state = 'retired'").await.unwrap();
    site.fails(&format!("dlq replay {bad} --yes"), &["nobody reads as the group `ghosts`"]).await;
}

#[tokio::test]
async fn c10_a_replay_whose_wait_is_cut_off_says_what_is_queued() {
    let mut world = World::probe(Kind::Embedded).await.started().await;
    world.send_event(0, "k", "bad", "probe.reject").await;
    world.until_dead(1).await;
    assert!(world.take_host().sigterm().await.success());
    let tool = world.tool(&["dlq", "replay", "--key", "k", "--yes"]);
    let cut = async {
        world.until_waiting(1).await;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        world.count(sql).await;
    };
    let (ended, ()) = tokio::join!(tool.finish(), cut);
    assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("1 of 1 queued for replay"), "{}", ended.stdout);
    assert!(ended.stderr.contains("`tidemill dlq list --state all` will say it"), "{}", ended.stderr);
    world.start().await;
    world.until_waiting(0).await;
}
