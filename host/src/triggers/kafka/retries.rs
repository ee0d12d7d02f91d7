//! Runs the events that wait in the database when their time has come. Every replica does; each row is one's at a time, and a key's rows run one
//! after the other, since only the first of them is ever due.
//!
//! They run on the active revision, as far as it asks for them: one of a topic that it does not read in this group waits on, for a revision that
//! does; one of a type that it does not want is skipped like a record of that type, so that the later ones of its key are not held up.

use super::CUT;
use super::runner::{Cut, Runner, Work, subscription, wants};
use super::worker::DEATHS;
use crate::engine::{Failure, Fence, Handler};
use crate::store::fleet::Term;
use crate::store::{Attempt, Consumer, Due, Parked, Unavailable};
use crate::telemetry::{HandlerLabels, PartitionLabels};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Rows that run at once, unless there are more handlers: one of each can always run, so that a handler whose events hang holds up no other.
const AT_ONCE: usize = 8;
/// The longest sleep: other replicas park rows as well.
const POLL: Duration = Duration::from_secs(1);
/// The shortest: a row that is due may be somebody else's for a moment.
const REST: Duration = Duration::from_millis(10);
/// On top of the handler's `wall`: how long a run is this process's.
const LEASE: Duration = Duration::from_secs(30);
/// How often waiting events and dead letters are counted.
const COUNT: Duration = Duration::from_secs(5);
/// The note on the board about events that no revision asks for.
const UNREAD: &str = "waiting events";

/// Runs due rows until `stop` turns true, and ends what is under way within `grace`.
pub(super) async fn run(runner: Arc<Runner>, mut stop: watch::Receiver<bool>, grace: Duration) {
    let mut slots = Slots::default();
    let mut tasks = JoinSet::new();
    let mut next_count = Instant::now();
    let mut unread = Unread::default();
    let mut gone = HashSet::new();
    let (mut stopped, mut next_look) = (Stopped::default(), Instant::now());
    let cut = Cut::new();
    while !*stop.borrow() {
        tokio::select! {
            () = runner.gate.pass() => {}
            _ = stop.changed() => continue,
        }
        if Instant::now() >= next_count {
            count(&runner).await;
            unread.show(&runner).await;
            // If it fails, their time ends them.
            gone = runner.journal.free(&gone).await.unwrap_or_default();
            next_count = Instant::now() + COUNT;
        }
        if Instant::now() >= next_look {
            // If it fails, what was so is taken to be so still.
            stopped = runner.journal.stopped().await.unwrap_or(stopped);
            next_look = Instant::now() + POLL;
        }
        let (wait, full) = match start(&runner, (&mut slots, &stopped, &cut), &mut tasks).await {
            Ok(found) => found,
            Err(error) => {
                runner.gate.fault(&error.to_string());
                continue;
            }
        };
        // A run that makes another one possible rings the bell: its end by itself tells only who had no room.
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = runner.bell.notified() => {}
            Some(_) = tasks.join_next(), if full => {}
            _ = stop.changed() => {}
        }
        while tasks.try_join_next().is_some() {}
    }
    let mut over = async || while tasks.join_next().await.is_some() {};
    if tokio::time::timeout(grace, over()).await.is_err() {
        tracing::warn!("retries under way did not end in time; they are rolled back and run again");
        cut.now();
        let _ = tokio::time::timeout(CUT, over()).await;
    }
}

/// Starts what is due and there is room for; says how long nothing else will be, and whether somebody has no room.
async fn start(
    runner: &Arc<Runner>,
    (slots, stopped, cut): (&mut Slots, &Stopped, &Cut),
    tasks: &mut JoinSet<()>,
) -> Result<(Duration, bool), Unavailable> {
    let Ok(term) = runner.trigger.engine.term() else { return Ok((REST, false)) };
    let handlers: Vec<_> =
        runner.trigger.registry.running().into_iter().filter(|handler| runs(runner, handler, stopped)).collect();
    let names: Vec<_> = handlers.iter().map(|handler| handler.name.clone()).collect();
    for handler in &handlers {
        let room = slots.room(&handler.name, &names);
        if room == 0 {
            continue;
        }
        let lease = handler.manifest.limits.wall + LEASE;
        let read = read_by(handler);
        // One that may end the process runs beside the others.
        let suspects = i64::from(!slots.suspected());
        for due in runner.journal.claim(&read, lease, room as i64, suspects).await? {
            let (runner, handler, cut) = (runner.clone(), handler.clone(), cut.clone());
            let slot = (slots.take(&handler.name), due.suspect.then(|| slots.suspect.clone()));
            tasks.spawn(async move {
                one(&runner, (term, &handler), due, &cut).await;
                drop(slot);
            });
        }
    }
    // Who has no room is looked at when one of its runs has ended.
    let (roomy, full): (Vec<_>, Vec<_>) = handlers.iter().partition(|handler| slots.room(&handler.name, &names) > 0);
    let read: Vec<_> = roomy.iter().flat_map(|handler| read_by(handler)).collect();
    let wait = runner.journal.next(&read, !slots.suspected()).await?.unwrap_or(POLL).clamp(REST, POLL);
    Ok((wait, !full.is_empty()))
}

/// Who runs how much.
#[derive(Debug, Default)]
struct Slots {
    handlers: HashMap<Arc<str>, Arc<()>>,
    /// Held by the run of an event that processes have ended with.
    suspect: Arc<()>,
}

impl Slots {
    /// Room for more runs of a handler, beside these others. One place is kept for each that runs nothing.
    fn room(&self, handler: &Arc<str>, handlers: &[Arc<str>]) -> usize {
        let idle = handlers.iter().filter(|other| *other != handler && self.runs(other) == 0).count();
        let all: usize = self.handlers.keys().map(|name| self.runs(name)).sum();
        let free = AT_ONCE.saturating_sub(all + idle);
        if self.runs(handler) == 0 { free.max(1) } else { free }
    }

    fn runs(&self, handler: &Arc<str>) -> usize {
        self.handlers.get(handler).map_or(0, |slot| Arc::strong_count(slot) - 1)
    }

    /// Whether an event runs that may end the process: no second one is begun beside it, or both would look alike.
    fn suspected(&self) -> bool {
        Arc::strong_count(&self.suspect) > 1
    }

    /// A place, until it is dropped.
    fn take(&mut self, handler: &Arc<str>) -> Arc<()> {
        self.handlers.entry(handler.clone()).or_default().clone()
    }
}

/// The groups and topics that a revision reads.
fn read_by(handler: &Handler) -> Vec<(&str, &str)> {
    handler.manifest.topics.iter().map(|topic| (topic.group.as_str(), topic.name.as_str())).collect()
}

/// Groups that have stopped, here or on another replica, with the revision.
type Stopped = HashSet<(String, String)>;

/// Whether a handler has events at all, and none of its groups has stopped.
fn runs(runner: &Runner, handler: &Handler, stopped: &Stopped) -> bool {
    let open = |group: &str| {
        let elsewhere = stopped.iter().any(|(name, revision)| name == group && *revision == *handler.revision);
        elsewhere || runner.breaker(&group.into()).is_open(&handler.revision)
    };
    !handler.manifest.topics.is_empty() && !handler.manifest.topics.iter().any(|topic| open(&topic.group))
}

async fn one(runner: &Arc<Runner>, (term, handler): (Term, &Arc<Handler>), due: Due, cut: &Cut) {
    let consumer = Consumer { scope: due.claim.scope, group: due.group.as_str().into(), handler: handler.name.clone() };
    runner.trigger.metrics.retry_lateness.observe(due.late.as_secs_f64());
    if due.deaths >= DEATHS {
        let reason = format!("{} processes ended while they ran this event", due.deaths);
        return give_up(runner, handler, &consumer, &due, "host-crash", reason).await;
    }
    if !wants(handler, &due.group, &due.claim.topic)(&due.type_) {
        return skip(runner, handler, &consumer, &due).await;
    }
    let work = match Work::decode(due.record.clone(), runner.payload(&due.claim.topic)) {
        Ok(work) => [work],
        Err(reason) => {
            let reason = format!("the record is no event: {reason}");
            return give_up(runner, handler, &consumer, &due, "not-an-event", reason).await;
        }
    };
    match runner.invoke((term, handler), &consumer, Fence::Waiting(Box::new(due.claim.clone())), &work, (false, cut)).await {
        Ok(done) => {
            runner.trigger.metrics.events_handled.get_or_create(&labels(&due)).inc_by(done.handled as u64);
            // The next one of its key may run now.
            runner.bell.notify_one();
        }
        Err(failure) if failure.is_host_fault() => put_back(runner, &due, &failure).await,
        Err(failure) => {
            let attempt = runner.attempt(handler, &failure, u32::try_from(due.attempts).unwrap_or(0) + 1);
            failed(runner, &consumer, &due, &attempt).await;
        }
    }
}

fn labels(due: &Due) -> PartitionLabels {
    PartitionLabels { group: due.group.clone(), topic: due.claim.topic.clone(), partition: due.record.partition }
}

/// The active revision does not want events of this type. The replay of a dead letter is none then: that one stays dead.
async fn skip(runner: &Runner, handler: &Handler, consumer: &Consumer, due: &Due) {
    if due.replays {
        let reason = format!("revision {} does not handle events of type `{}`", handler.revision, due.type_);
        return give_up(runner, handler, consumer, due, "skipped", reason).await;
    }
    match runner.journal.skip(&due.claim).await {
        Ok(skipped) => {
            let (handler, revision, id, type_) = (&*handler.name, &*handler.revision, &*due.identity.id, &due.type_);
            tracing::info!(handler, revision, id, type_, "a waiting event is skipped: the revision does not handle its type");
            runner.trigger.metrics.events_skipped.get_or_create(&labels(due)).inc_by(u64::from(skipped));
            runner.bell.notify_one();
        }
        Err(error) => put_back(runner, due, &Failure::Unavailable(error.to_string())).await,
    }
}

async fn give_up(runner: &Runner, handler: &Handler, consumer: &Consumer, due: &Due, class: &'static str, reason: String) {
    failed(runner, consumer, due, &Attempt::last(class, reason, handler.revision.to_string())).await;
}

/// Writes a failed attempt down. Where the database is away, the lease ends by itself and the event runs once more.
async fn failed(runner: &Runner, consumer: &Consumer, due: &Due, attempt: &Attempt) {
    let parked = Parked { record: due.record.clone(), identity: due.identity.clone(), type_: due.type_.clone() };
    match runner.journal.failed_again(&due.claim, attempt).await {
        Ok(outcome) => runner.record(consumer, &parked, attempt, outcome),
        Err(error) => put_back(runner, due, &Failure::Unavailable(error.to_string())).await,
    }
}

/// A fault of the host's own parts: the row waits for another run, and this one was no attempt.
async fn put_back(runner: &Runner, due: &Due, failure: &Failure) {
    runner.gate.fault(&failure.to_string());
    runner.gate.pass().await;
    if let Err(error) = runner.journal.release(&due.claim, Duration::from_millis(100)).await {
        tracing::warn!(row = due.claim.id, %error, "a waiting event could not be given back; it runs again when its lease ends");
    }
    runner.bell.notify_one();
}

/// Waiting events of topics that the active revisions do not read any more.
#[derive(Default)]
struct Unread {
    /// As it was logged.
    said: String,
}

impl Unread {
    /// Says on the board which there are, and once in the log.
    async fn show(&mut self, runner: &Runner) {
        let Ok(waiting) = runner.journal.by_topic().await else { return };
        let handlers = runner.trigger.registry.handlers();
        let unread = waiting.into_iter().filter_map(|(group, topic, count)| {
            let read = handlers.iter().any(|handler| subscription(handler, &group, &topic).is_some());
            (!read).then(|| {
                format!(
                    "{count} events of topic `{topic}` wait in group `{group}`, where no active handler reads it: they run again on a revision that \
                     does; see `tidemill waiting list --group {group}`"
                )
            })
        });
        let text = unread.collect::<Vec<_>>().join("; ");
        if text.is_empty() {
            runner.trigger.board.clear(UNREAD);
        } else {
            runner.trigger.board.note(UNREAD, text.clone());
        }
        if !text.is_empty() && text != self.said {
            tracing::warn!("{text}");
        }
        self.said = text;
    }
}

async fn count(runner: &Runner) {
    let Ok(counts) = runner.journal.counts().await else { return };
    let metrics = &runner.trigger.metrics;
    metrics.waiting.clear();
    metrics.dead.clear();
    let mut letters = Vec::new();
    for (handler, waiting, dead) in counts {
        metrics.waiting.get_or_create(&HandlerLabels { handler: handler.clone() }).set(waiting);
        metrics.dead.get_or_create(&HandlerLabels { handler: handler.clone() }).set(dead);
        if dead > 0 {
            letters.push(format!("{dead} of handler `{handler}`"));
        }
    }
    match letters.is_empty() {
        true => runner.trigger.board.clear("dead letters"),
        false => runner.trigger.board.note("dead letters", format!("{}; see `tidemill dlq list`", letters.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c06_a_handler_whose_events_hang_leaves_room_for_every_other() {
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        let mut slots = Slots::default();
        let rooms = |slots: &Slots| names.iter().map(|name| slots.room(name, &names)).collect::<Vec<_>>();
        assert_eq!(rooms(&slots), [6, 6, 6], "one is kept for each of the others");
        let hanging: Vec<_> = (0..6).map(|_| slots.take(&names[0])).collect();
        assert_eq!(rooms(&slots), [0, 1, 1]);
        let one = slots.take(&names[1]);
        assert_eq!(rooms(&slots), [0, 0, 1]);
        drop((hanging, one));
        assert_eq!(rooms(&slots), [6, 6, 6]);
        let many: Vec<Arc<str>> = (0..20).map(|n| n.to_string().into()).collect();
        let held: Vec<_> = many.iter().take(19).map(|name| slots.take(name)).collect();
        assert_eq!((slots.room(&many[19], &many), slots.room(&many[0], &many), held.len()), (1, 0, 19), "also beyond the number");
    }
}
