//! Which consumers run: one for each generation of each group that is current or building. Every process looks at the generations every
//! two seconds, and when other handlers are active; what is retired or undeployed meanwhile ends after its batch. A deploy that leaves a group's
//! topics as they are leaves its consumer alone: workers take the revision that is active when they begin a batch.
//!
//! A building generation takes over when it has handled whatever the current one had handled a moment before. Whichever process sees it
//! first makes the switch, in one transaction.

use super::Group;
use super::group::Reader;
use super::runner::Runner;
use crate::config::KafkaAccess;
use crate::kafka::offsets::{Observer, Offsets, TopicPartition};
use crate::store::{Generation, GenerationState, Order, Scope, Scopes, Unavailable};
use rdkafka::error::KafkaResult;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How often the generations are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The same while a consumer ends whose place another one may want.
const SOON: Duration = Duration::from_millis(100);

/// The consumers of this process.
pub(super) struct Generations {
    runner: Arc<Runner>,
    scopes: Scopes,
    grace: Duration,
    running: BTreeMap<i32, Running>,
    /// The groups that are known to have a generation, and whose they are.
    ensured: BTreeMap<Arc<str>, Arc<str>>,
    away: bool,
}

/// The consumer of one generation.
struct Running {
    group: Group,
    stop: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    reader: JoinHandle<()>,
    /// Waits until a building generation can take over.
    watcher: Option<JoinHandle<()>>,
    ending: bool,
}

impl Generations {
    pub(super) fn new(runner: Arc<Runner>, grace: Duration) -> Self {
        let scopes = Scopes::new(runner.trigger.engine.pool().clone());
        Self { runner, scopes, grace, running: BTreeMap::new(), ensured: BTreeMap::new(), away: false }
    }

    /// Runs until told to stop, and until every consumer has ended.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.runner.trigger.registry.changes();
        while !*stop.borrow() {
            match self.look().await {
                Ok(()) => self.away = false,
                // Once: whoever needs the database says so, too.
                Err(error) if !std::mem::replace(&mut self.away, true) => {
                    tracing::warn!(%error, "the generations of the groups cannot be looked at; what runs goes on");
                }
                Err(_) => {}
            }
            let ends = self.running.values_mut().any(|running| running.ending);
            tokio::select! {
                () = tokio::time::sleep(if ends { SOON } else { LOOK }) => {}
                _ = changes.changed() => {}
                _ = stop.changed() => {}
            }
        }
        self.running.values_mut().for_each(Running::end);
        for (_, running) in std::mem::take(&mut self.running) {
            let _ = running.reader.await;
        }
    }

    async fn look(&mut self) -> Result<(), Unavailable> {
        let groups = self.runner.trigger.groups();
        let names: Vec<&str> = groups.keys().map(|name| &**name).collect();
        let owners = groups.iter().map(|(name, group)| (name.clone(), group.handler.clone())).collect();
        if self.ensured != owners {
            let handlers: Vec<&str> = groups.values().map(|group| &*group.handler).collect();
            self.scopes.ensure(&names, &handlers).await?;
            self.ensured = owners;
        }
        let (generations, orders) = self.scopes.live(&names).await?;
        let wanted: BTreeMap<i32, (Group, &Generation)> = generations
            .iter()
            .filter_map(|generation| {
                Some((generation.scope.0, (groups.get(&*generation.group)?.generation(generation), generation)))
            })
            .collect();
        self.running.retain(|_, running| !running.reader.is_finished());
        for (scope, running) in &mut self.running {
            if wanted.get(scope).is_none_or(|(group, _)| !group.reads_the_same(&running.group)) {
                running.end();
            }
        }
        for (scope, (group, generation)) in wanted {
            if !self.running.contains_key(&scope) {
                self.start(group, generation, &generations);
            }
        }
        for order in orders {
            if let Some(running) = self.running.get(&order.scope.0) {
                // A full queue has it, or gets it with the next look.
                let _ = running.orders.try_send(order);
            }
        }
        Ok(())
    }

    fn start(&mut self, group: Group, generation: &Generation, all: &[Generation]) {
        let (stop, stopped) = watch::channel(false);
        let (orders, received) = mpsc::channel(100);
        let reader = match Reader::new(self.runner.clone(), group.clone(), generation.scope, stopped) {
            Ok(reader) => tokio::spawn(reader.run(received, self.grace)),
            Err(error) => {
                tracing::error!(group = &*group.id, %error, "the consumer cannot be made");
                return;
            }
        };
        let current = all.iter().find(|other| other.group == generation.group && other.state == GenerationState::Current);
        let watcher = current.filter(|_| generation.state == GenerationState::Building).map(|current| {
            tracing::info!(group = &*group.id, from = generation.begins_at, "a new generation reads anew beside the current one");
            let (kafka, topics) = (self.runner.trigger.kafka.clone(), group.topics.keys().cloned().collect());
            let race = Race { kafka, topics, current: current.group_id(), building: generation.group_id() };
            tokio::spawn(watch(race, self.scopes.clone(), generation.scope))
        });
        self.running.insert(generation.scope.0, Running { group, stop, orders, reader, watcher, ending: false });
    }
}

impl Running {
    fn end(&mut self) {
        self.ending = true;
        let _ = self.stop.send(true);
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

/// Two generations of a group, as the brokers know them.
#[derive(Clone)]
struct Race {
    kafka: Arc<KafkaAccess>,
    topics: Vec<String>,
    current: String,
    building: String,
}

/// What both have committed.
struct Standing {
    partitions: Vec<TopicPartition>,
    current: Offsets,
    building: Offsets,
}

/// Makes the switch once the building generation has caught up.
async fn watch(race: Race, scopes: Scopes, building: Scope) {
    let mut observers = None;
    let mut before: Option<Offsets> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let asked = race.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let pair = match observers {
                Some(pair) => pair,
                None => (Observer::new(&asked.kafka, &asked.current)?, Observer::new(&asked.kafka, &asked.building)?),
            };
            let standing = asked.look(&pair);
            standing.map(|standing| (pair, standing))
        });
        let standing = match looked.await {
            Ok(Ok((pair, standing))) => {
                observers = Some(pair);
                standing
            }
            Ok(Err(error)) => {
                tracing::debug!(group = race.building, %error, "the brokers do not say how far the generations are");
                observers = None;
                continue;
            }
            Err(_) => return,
        };
        let Ok(starts) = scopes.starts(building).await else { continue };
        if before.is_some_and(|before| caught_up(&standing.partitions, &starts, &before, &standing.building)) {
            match scopes.switch(building).await {
                Ok(true) => tracing::info!(
                    group = race.building,
                    instead_of = race.current,
                    "the new generation has caught up and takes over"
                ),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(group = race.building, %error, "the generation has caught up, but the switch is not made yet");
                    before = Some(standing.current);
                    continue;
                }
            }
            return;
        }
        before = Some(standing.current);
    }
}

impl Race {
    fn look(&self, (current, building): &(Observer, Observer)) -> KafkaResult<Standing> {
        let mut partitions = Vec::new();
        for topic in &self.topics {
            partitions.extend(current.partitions(topic)?);
        }
        Ok(Standing { current: current.committed(&partitions)?, building: building.committed(&partitions)?, partitions })
    }
}

/// Whether one generation has handled what the other had handled at the last look. At one and the same moment neither of two readers under
/// load would ever have all that the other has. And the other must have come to where this one began: what is between is nobody else's.
fn caught_up(partitions: &[TopicPartition], starts: &Offsets, before: &Offsets, building: &Offsets) -> bool {
    let passed = |partition| match (starts.get(partition), before.get(partition), building.get(partition)) {
        (Some(start), Some(before), Some(now)) => before >= start && now >= before,
        _ => false,
    };
    !partitions.is_empty() && partitions.iter().all(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_must_have_been_passed() {
        let at = |offsets: &[i64]| -> Offsets {
            (0..).zip(offsets).map(|(partition, offset)| (("t".to_owned(), partition), *offset)).collect()
        };
        let both: Vec<TopicPartition> = vec![("t".into(), 0), ("t".into(), 1)];
        let zero = at(&[0, 0]);
        assert!(caught_up(&both, &zero, &at(&[3, 4]), &at(&[3, 9])));
        assert!(!caught_up(&both, &zero, &at(&[3, 4]), &at(&[3, 3])));
        assert!(!caught_up(&both, &zero, &at(&[3]), &at(&[3, 3])), "what nobody has begun is not caught up with");
        assert!(!caught_up(&both, &zero, &at(&[3, 3]), &at(&[3])));
        assert!(!caught_up(&[], &zero, &at(&[]), &at(&[])), "no topic yet");
        assert!(!caught_up(&both, &at(&[0, 5]), &at(&[3, 4]), &at(&[3, 5])), "nobody would handle what is before its start");
        assert!(caught_up(&both, &at(&[0, 5]), &at(&[3, 5]), &at(&[3, 5])));
    }
}
