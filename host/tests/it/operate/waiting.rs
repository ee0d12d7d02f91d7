//! Promises 8 and 9 by hand: waiting events can be run at once or given up, without harm to what is being run.

use serde_json::json;

use super::{Site, all, outcomes};

/// Which waiting events may run now.
async fn due(site: &Site) -> Vec<i64> {
    let rows = site.sql.query("SELECT id FROM tidemill.waiting WHERE due <= clock_timestamp() ORDER BY id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn c08_a_retry_brings_heads_forward_and_leaves_the_rest_alone() {
    let site = Site::new().await;
    let (head, behind) = (site.waits(Some("a"), "e1", "now() + '1h'").await, site.waits(Some("a"), "e2", "NULL").await);
    let running = site.waits(Some("b"), "e3", "now() + '1h'").await;
    let keyless = site.waits(None, "e4", "now() + '1h'").await;
    let claim = "UPDATE tidemill.waiting SET claim = gen_random_uuid() WHERE id = $1";
    site.sql.execute(claim, &[&running]).await.unwrap();
    let (page, _) = site.json("waiting list").await;
    let states: Vec<_> = page["rows"].as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!((states, &page["rows"][1]["behind"]), (vec!["scheduled", "behind", "running", "scheduled"], &json!(head)));
    assert!(site.cli("waiting list").await.contains(&format!("behind {head}")));

    site.cli("waiting retry --all").await;
    assert_eq!(due(&site).await, [0i64; 0], "a dry run changes nothing");
    site.fails(&format!("waiting retry {behind} --yes"), &[&format!("waits behind {head}")]).await;
    let (report, code) = site.json("waiting retry --all --yes").await;
    let expected = [(head, "retried"), (behind, "behind"), (running, "running"), (keyless, "retried")];
    assert_eq!((code, outcomes(&report)), (0, expected.map(|(id, outcome)| (id, outcome.to_owned())).to_vec()));
    assert_eq!(due(&site).await, [head, keyless]);
    assert_eq!(site.count("SELECT count(*) FROM tidemill.waiting WHERE attempts = 2 AND error = 'not yet'").await, 4);
    assert_eq!(site.recorded().await, [head, keyless].map(|id| format!("ann cli waiting.retry waiting/{id}")));
}

#[tokio::test]
async fn c09_an_event_that_is_given_up_becomes_a_dead_letter_and_the_next_one_goes_on() {
    let site = Site::new().await;
    let (head, next) = (site.waits(Some("a"), "e1", "now() + '1h'").await, site.waits(Some("a"), "e2", "NULL").await);
    site.cli(&format!("waiting dead-letter {head} --yes --as bob --reason hopeless")).await;
    assert_eq!(due(&site).await, [next]);
    let letter = site.sql.query_one("SELECT * FROM tidemill.dead_letters", &[]).await.unwrap();
    let text = |name: &str| letter.get::<_, String>(name);
    assert_eq!((text("error_class"), text("error")), ("operator".to_owned(), "hopeless (given up by bob)".to_owned()));
    let sent =
        site.sql.query_one("SELECT topic, key, value, header_names, header_values FROM tidemill.outbox", &[]).await.unwrap();
    assert_eq!(
        (sent.get::<_, &str>(0), sent.get::<_, &[u8]>(1), sent.get::<_, &[u8]>(2)),
        ("ghost.in.dlq", &b"a"[..], &b"{}"[..])
    );
    let (names, values): (Vec<String>, Vec<Vec<u8>>) = (sent.get(3), sent.get(4));
    let header = |name: &str| values[names.iter().position(|other| other == name).unwrap()].clone();
    assert_eq!((header("tidemill-error-class"), header("tidemill-original-offset")), (b"operator".to_vec(), b"42".to_vec()));
    assert_eq!(header("tidemill-dead-letter"), letter.get::<_, i64>("id").to_string().into_bytes());
    assert_eq!(site.recorded().await, [format!("bob cli waiting.dead-letter waiting/{head}")]);
    assert_eq!(site.count("SELECT count(*) FROM tidemill.actions WHERE details->>'reason' = 'hopeless'").await, 1);
}

#[tokio::test]
async fn c09_what_is_being_run_is_not_given_up() {
    let site = Site::new().await;
    let (claimed, locked) = (site.waits(Some("a"), "e1", "now() + '1h'").await, site.waits(Some("b"), "e2", "now()").await);
    let free = site.waits(Some("c"), "e3", "now()").await;
    site.sql.execute("UPDATE tidemill.waiting SET claim = gen_random_uuid() WHERE id = $1", &[&claimed]).await.unwrap();
    let mut other = site.world.sql().await;
    let unit = other.transaction().await.unwrap();
    unit.execute("DELETE FROM tidemill.waiting WHERE id = $1", &[&locked]).await.unwrap();
    let ended = site.fails("waiting dead-letter --all --yes", &["it is running; try again", "1 of 3"]).await;
    assert_eq!(ended.stdout.matches("it is running").count(), 2, "{}", ended.stdout);
    unit.rollback().await.unwrap();
    let left = site.sql.query("SELECT id FROM tidemill.waiting ORDER BY id", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [claimed, locked]);
    assert_eq!(site.recorded().await, [format!("ann cli waiting.dead-letter waiting/{free}")]);
}

#[tokio::test]
async fn c10_a_queued_replay_is_taken_back_and_its_letter_keeps_its_story() {
    let site = Site::new().await;
    let (first, second) = (site.letter(Some("a"), "e1").await, site.letter(Some("a"), "e2").await);
    site.cli("dlq replay --all --yes --wait 0s").await;
    let story = async || -> String {
        let sql = "SELECT string_agg(concat_ws('|', id, state, error_class, error, replays, revision, attempts), ' ' ORDER BY id) \
                     FROM tidemill.dead_letters";
        site.sql.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = story().await;
    let head = site.count(&format!("SELECT id FROM tidemill.waiting WHERE dead_letter = {first}")).await;
    let said = site.cli(&format!("waiting dead-letter {head} --yes")).await;
    assert!(said.contains("taken-back") && said.contains(&format!("the replay of dead letter {first}")), "{said}");
    assert_eq!(story().await, before);
    let next = site.count(&format!("SELECT id FROM tidemill.waiting WHERE dead_letter = {second}")).await;
    assert_eq!(due(&site).await, [next], "what waited behind it goes on");
    assert_eq!(site.count("SELECT count(*) FROM tidemill.outbox").await, 0);
}

#[tokio::test]
async fn c08_operators_who_do_everything_at_once_are_no_deadlock() {
    let site = Site::new().await;
    for key in 0..20 {
        for event in 0..5 {
            let due = if event == 0 { "now() + '1h'" } else { "NULL" };
            site.waits(Some(&format!("k{key}")), &format!("w{key}-{event}"), due).await;
            site.letter(Some(&format!("k{key}")), &format!("d{key}-{event}")).await;
        }
    }
    let rounds = async |kind: usize| {
        let mut session = site.session().await;
        for _ in 0..6 {
            let order = all(&format!("operator {kind}"));
            match kind {
                0 => drop(session.retry_waiting(&order).await.unwrap()),
                1 => drop(session.replay_dead_letters(&order).await.unwrap()),
                2 => drop(session.dead_letter_waiting(&order, &Default::default()).await.unwrap()),
                _ => drop(session.discard_dead_letters(&order).await.unwrap()),
            }
        }
    };
    tokio::join!(rounds(0), rounds(1), rounds(2), rounds(3), rounds(2), rounds(1));
    // Of each key that waits, its first event may run and no other.
    let wrong = "SELECT count(*) FROM (SELECT due, row_number() OVER (PARTITION BY scope, topic, key ORDER BY id) AS n FROM tidemill.waiting) w \
                  WHERE (n = 1) <> (due IS NOT NULL)";
    assert_eq!(site.count(wrong).await, 0);
}
