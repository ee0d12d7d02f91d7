//! Promise 5: batches are only faster. What commits is what one-by-one handling would have committed, and the event at fault is found cheaply.

use std::collections::BTreeMap;

use crate::support::events::outgoing;
use crate::support::records::{self, Outgoing};
use crate::support::{Kind, World, on_both_brokers};

on_both_brokers!(
    c05_batches_commit_what_one_by_one_handling_would,
    c05_batches_leave_waiting_what_one_by_one_handling_would,
    c05_a_bad_event_among_256_costs_at_most_two_invocations_for_each_halving,
    c05_a_named_event_costs_two_invocations_more,
    c05_an_event_that_hangs_costs_two_deadlines,
);

/// Reproducible randomness (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// One event of a mix.
#[derive(Clone, Debug)]
struct Planned {
    key: Option<String>,
    id: String,
    kind: &'static str,
}

/// Named and not named, a trap, a limit, and a constraint that is looked at when the unit ends.
const BAD: [&str; 6] = ["probe.fail", "probe.reject", "probe.vague", "probe.trap", "probe.hog", "probe.pair"];
/// The last one publishes a copy of itself.
const GOOD: [&str; 3] = ["probe.ok", "probe.ok", "probe.republish"];
const RETRIES: i32 = 2;

/// A random mix. At most nine keys (or events without one) ever fail, or the group's breaker would have its say.
fn mix(seed: u64) -> Vec<Planned> {
    let mut dice = Dice(seed);
    let mut bad_without_key = 0;
    let mut planned = Vec::new();
    for number in 0..150 {
        let key = match dice.below(10) {
            0..2 => None,
            2..6 => Some(format!("sound-{}", dice.below(12))),
            _ => Some(format!("mixed-{}", dice.below(5))),
        };
        let may_fail = match &key {
            None => bad_without_key < 3,
            Some(key) => key.starts_with("mixed"),
        };
        let bad = may_fail && dice.below(2) == 0;
        let kind = if bad { BAD[dice.below(6) as usize] } else { GOOD[dice.below(3) as usize] };
        bad_without_key += u32::from(key.is_none() && bad);
        planned.push(Planned { key, id: format!("e{number:03}"), kind });
    }
    planned
}

/// What became of a mix.
#[derive(Debug, PartialEq, Eq, Default)]
struct Outcome {
    /// What was handled, by key in its order; events without a key in no order.
    seen: BTreeMap<Option<String>, Vec<String>>,
    /// What those published, in the same way.
    published: BTreeMap<Option<String>, Vec<String>>,
    /// Id, attempts and class.
    dead: Vec<(String, i32, String)>,
    /// Id, attempts, and whether it has a time; by key in its order, those without a key by their ids behind them.
    waiting: Vec<(String, i32, bool)>,
}

/// What one-by-one handling commits, from the contract alone. `patient`: no retry comes within the test.
fn expected(mix: &[Planned], patient: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut keys: BTreeMap<&str, (bool, Vec<(String, i32, bool)>)> = BTreeMap::new();
    let mut alone = Vec::new();
    for event in mix {
        let mut loose = (false, Vec::new());
        let (single, waiting) = match &event.key {
            Some(key) => keys.entry(key).or_default(),
            None => &mut loose,
        };
        let class = match event.kind {
            "probe.reject" => "rejected",
            "probe.trap" => "trap",
            "probe.hog" => "limit",
            "probe.pair" => "refused",
            _ => "failed",
        };
        if !waiting.is_empty() {
            waiting.push((event.id.clone(), 0, false));
        } else if GOOD.contains(&event.kind) {
            outcome.seen.entry(event.key.clone()).or_default().push(event.id.clone());
            if event.kind == "probe.republish" {
                outcome.published.entry(event.key.clone()).or_default().push(format!("copy-of-{}", event.id));
            }
            *single = false;
        } else if event.kind == "probe.reject" || *single {
            outcome.dead.push((event.id.clone(), 1, class.to_owned()));
            *single = true;
        } else if patient {
            waiting.push((event.id.clone(), 1, true));
        } else {
            outcome.dead.push((event.id.clone(), 1 + RETRIES, class.to_owned()));
            *single = true;
        }
        alone.append(&mut loose.1);
    }
    outcome.waiting = keys.into_values().flat_map(|(_, waiting)| waiting).chain(alone).collect();
    without_order(mix, &mut outcome.waiting);
    outcome
}

/// Puts waiting events without a key behind the others, by their ids: which of them failed first depends on how batches were cut.
fn without_order(mix: &[Planned], waiting: &mut [(String, i32, bool)]) {
    let is_loose = |id: &str| mix.iter().any(|event| event.key.is_none() && event.id == id);
    waiting.sort_by_key(|(id, ..)| if is_loose(id) { (true, id.clone()) } else { (false, String::new()) });
}

/// Runs a mix from one partition, in batches of at most `batch`; also says how often the handler was called.
async fn run(kind: Kind, mix: &[Planned], batch: i64, patient: bool) -> (Outcome, u64) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "batch", batch);
    world.handlers.limit("probe", "memory", "32MiB");
    world.handlers.retry("probe", "retries", i64::from(RETRIES));
    world.handlers.retry("probe", "delay", if patient { "10m" } else { "50ms" });
    world.prepared().await;
    // All of it is there before the host reads, so that batches are large.
    world.produce(&records_of(mix)).await;
    let mut world = world;
    world.start().await;
    let wanted = expected(mix, patient);
    let seen: usize = wanted.seen.values().map(Vec::len).sum();
    world.until_handled(i64::try_from(seen).unwrap()).await;
    world.until_dead(i64::try_from(wanted.dead.len()).unwrap()).await;
    world.until_waiting(i64::try_from(wanted.waiting.len()).unwrap()).await;
    // Nothing comes after that: the inbox has every event once, and an event behind all others is the last one.
    world.send_event(0, "mark", "mark", "probe.ok").await;
    world.until_seen("mark").await;
    assert_eq!(world.count("SELECT count(*) FROM tidemill.inbox").await, 151);
    world.until_count("everything is sent", "SELECT count(*) FROM tidemill.outbox", 0).await;
    let mut seen = world.seen_by_key().await;
    seen.remove(&Some("mark".to_owned()));
    let mut published: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for record in records::all(&world.broker.address(), &world.topic("out")).await {
        let id = record.json()["id"].as_str().unwrap().to_owned();
        published.entry(record.key).or_default().push(id);
    }
    for by_key in [&mut seen, &mut published] {
        if let Some(loose) = by_key.get_mut(&None) {
            loose.sort_unstable();
        }
    }
    let mut waiting = world.waiting().await;
    without_order(mix, &mut waiting);
    let outcome = Outcome { seen, published, dead: world.dead().await, waiting };
    (outcome, world.counted("tidemill_invocations_total", &[]).await)
}

fn records_of(mix: &[Planned]) -> Vec<Outgoing> {
    mix.iter().map(|event| outgoing(Some(0), event.key.as_deref(), &event.id, event.kind)).collect()
}

/// One seed: batches, one by one, and what the contract says are the same.
async fn compare(kind: Kind, seed: u64, patient: bool) {
    println!("seed {seed}, {}", if patient { "while failed events wait" } else { "to the end of all retries" });
    let mix = mix(seed);
    let ((batched, few), (single, many)) = tokio::join!(run(kind, &mix, 500, patient), run(kind, &mix, 1, patient));
    assert_eq!(single, expected(&mix, patient), "one by one, seed {seed}");
    assert_eq!(batched, single, "in batches, seed {seed}");
    assert!(few < many, "{few} invocations in batches, {many} one by one: there were no batches, seed {seed}");
}

fn seeds() -> std::ops::Range<u64> {
    let long = std::env::var_os("TIDEMILL_TEST_LONG").is_some();
    1..if long { 25 } else { 4 }
}

async fn c05_batches_commit_what_one_by_one_handling_would(kind: Kind) {
    for seed in seeds() {
        compare(kind, seed, false).await;
    }
}

async fn c05_batches_leave_waiting_what_one_by_one_handling_would(kind: Kind) {
    for seed in seeds().skip(1).step_by(2) {
        compare(kind, seed + 1_000, true).await;
    }
}

/// A world whose partitions each hold a slow event and then 256 others with keys of their own, the one at `position` a bad one.
async fn with_one_bad(kind: Kind, bad: &str, positions: &[usize], wall: &str) -> World {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "wall", wall);
    world.handlers.retry("probe", "retries", 0);
    world.prepared().await;
    for (partition, &position) in (0..).zip(positions) {
        // While the slow one runs alone or among the first, all others are read and become one batch.
        let mut events = vec![outgoing(Some(partition), Some("slow"), &format!("slow-{partition}"), "probe.slow")];
        for number in 0..256 {
            let id = format!("{partition}-{number:03}");
            let event = if number == position { bad } else { "probe.ok" };
            events.push(outgoing(Some(partition), Some(&id), &id, event));
        }
        world.produce(&events).await;
    }
    let mut world = world;
    world.start().await;
    world.until_handled(positions.len() as i64 * 256).await;
    world.until_dead(positions.len() as i64).await;
    let dead: Vec<String> = world.dead().await.into_iter().map(|(id, ..)| id).collect();
    let bad: Vec<String> = positions.iter().enumerate().map(|(partition, bad)| format!("{partition}-{bad:03}")).collect();
    assert_eq!(dead, bad);
    world
}

async fn c05_a_bad_event_among_256_costs_at_most_two_invocations_for_each_halving(kind: Kind) {
    let world = with_one_bad(kind, "probe.trap", &[0, 100, 255], "10s").await;
    // The whole batch, two for each of eight halvings; the slow event's batch, and one more where the rest was not one batch.
    let most = 3 * (1 + 2 * 8 + 2);
    let cost = world.counted("tidemill_invocations_total", &[]).await;
    assert!(cost <= most, "{cost} invocations instead of at most {most}");
}

async fn c05_a_named_event_costs_two_invocations_more(kind: Kind) {
    let world = with_one_bad(kind, "probe.fail", &[100], "10s").await;
    let cost = world.counted("tidemill_invocations_total", &[]).await;
    // The slow event's batch, the whole one, the rest, the named one, and one more where the rest was not one batch.
    assert!(cost <= 5, "{cost} invocations");
    assert!(world.counted("tidemill_invocations_total", &["outcome=\"failed\""]).await <= 2);
}

async fn c05_an_event_that_hangs_costs_two_deadlines(kind: Kind) {
    let world = with_one_bad(kind, "probe.hang", &[128], "2s").await;
    let timeouts = world.counted("tidemill_invocations_total", &["outcome=\"timeout\""]).await;
    assert_eq!(timeouts, 2, "deadlines that passed");
    assert_eq!(world.dead().await[0].2, "timeout");
}
