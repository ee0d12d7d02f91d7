//! Where a partition begins or goes on, and whether that place is still in the log.
//!
//! What the group has committed counts. A partition without a committed offset begins where the generation's start says, decided once for
//! all partitions of the topic and kept in the database: a crash before the first record skips nothing, and a partition that the topic gets
//! later begins with its first record.

use super::Group;
use super::assign::{GroupContext, Held, Turn};
use crate::kafka::offsets::{self, Offsets, TopicPartition, list};
use crate::manifest::Start;
use crate::store::{GenerationState, Order, Scope, Scopes, Target};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A place that is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// The place: the first record that the group has not read.
    pub(super) offset: i64,
    low: i64,
    high: i64,
}

impl Gone {
    /// How many records the group has missed for certain.
    pub(super) fn missed(&self) -> i64 {
        (self.low - self.offset).max(0)
    }

    /// For a person, with the way out.
    pub(super) fn reason(&self, group: &str, topic: &str, partition: i32) -> String {
        let Self { offset, low, high } = self;
        let what = match self.missed() {
            0 => format!(
                "the group's offset {offset} is beyond the end of the log ({high}): the topic was made anew, or the broker has lost records"
            ),
            missed => format!(
                "{missed} records are missed: the group's next one is {offset}, but the log begins at {low}, because retention or somebody \
                 has deleted what is before"
            ),
        };
        format!(
            "{what}. To go on: `tidemill offsets reset {group} --topic {topic} --partition {partition} --to earliest|latest|OFFSET`"
        )
    }
}

/// Whether a partition can be read from a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Yes, here.
    There(i64),
    /// No.
    Gone(Gone),
}

impl Place {
    fn check(offset: i64, (low, high): (i64, i64)) -> Self {
        match (low..=high).contains(&offset) {
            true => Self::There(offset),
            false => Self::Gone(Gone { offset, low, high }),
        }
    }
}

/// Asks the brokers and the database about the places of one consumer. An error is the words for what is away.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) client: Arc<StreamConsumer<GroupContext>>,
    pub(super) scopes: Scopes,
    pub(super) scope: Scope,
    pub(super) group: Arc<Group>,
    pub(super) held: Arc<Held>,
}

impl Places {
    /// Where newly assigned partitions begin.
    pub(super) async fn begin(&self, turns: &[Turn]) -> Result<Vec<(Turn, Place)>, String> {
        let names: Vec<TopicPartition> = turns.iter().map(|turn| turn.partition.clone()).collect();
        let asked = names.clone();
        let committed = self.ask(move |client| offsets::committed(client, &asked)).await?;
        let new: Vec<TopicPartition> = names.iter().filter(|name| !committed.contains_key(*name)).cloned().collect();
        let mut firsts = if new.is_empty() { Offsets::new() } else { self.firsts(&new).await? };
        // Those of all partitions are known: what has been committed since stands.
        firsts.retain(|name, _| !committed.contains_key(name));
        // Also of what is committed: from then on the group is known to have begun.
        self.scopes.begin(self.scope, &committed).await.map_err(|error| error.to_string())?;
        let offsets: Offsets = committed.into_iter().chain(firsts.clone()).collect();
        let asked = names.clone();
        let marks = self
            .ask(move |client| asked.iter().map(|name| offsets::watermarks(client, name)).collect::<KafkaResult<Vec<_>>>())
            .await?;
        let places = turns.iter().zip(marks).filter_map(|(turn, marks)| {
            let offset = offsets.get(&turn.partition)?;
            Some((turn.clone(), Place::check(*offset, marks)))
        });
        let places: Vec<_> = places.collect();
        let there: Offsets = places
            .iter()
            .filter_map(|(turn, place)| match place {
                Place::There(offset) if firsts.contains_key(&turn.partition) => Some((turn.partition.clone(), *offset)),
                _ => None,
            })
            .collect();
        // The database has it already; this is for those who look at the brokers.
        if let Err(error) = self.commit(there).await {
            tracing::debug!(group = &*self.group.id, error, "the first offsets are not committed yet");
        }
        Ok(places)
    }

    /// Where partitions without a committed offset begin, decided once.
    async fn firsts(&self, new: &[TopicPartition]) -> Result<Offsets, String> {
        let broken = |error: crate::store::Unavailable| error.to_string();
        let generation = self.scopes.generation(self.scope).await.map_err(broken)?.ok_or("the group's generation is gone")?;
        let building = (generation.state == GenerationState::Building).then_some(generation.begins_at);
        let known = self.scopes.starts(self.scope).await.map_err(broken)?;
        let undecided: Vec<TopicPartition> = new.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
        if undecided.is_empty() {
            return Ok(known);
        }
        let begun: BTreeSet<String> = known.keys().map(|(topic, _)| topic.clone()).collect();
        let starts = self.group.topics.clone();
        let decided = self.ask(move |client| decide(client, &undecided, &begun, building, &starts)).await?;
        self.scopes.begin(self.scope, &decided).await.map_err(broken)?;
        self.scopes.starts(self.scope).await.map_err(broken)
    }

    /// Follows an operator's word on a partition that nobody reads at the moment; none if the word has been taken back.
    pub(super) async fn obey(&self, turn: &Turn, order: &Order) -> Result<Option<Place>, String> {
        let broken = |error: crate::store::Unavailable| error.to_string();
        let asked = turn.partition.clone();
        let marks = self.ask(move |client| offsets::watermarks(client, &asked)).await?;
        let offset = match order.target {
            Target::Earliest => marks.0,
            Target::Latest => marks.1,
            Target::Offset(offset) => offset,
        };
        let place = Place::check(offset, marks);
        if let Place::Gone(_) = place {
            self.scopes.done(order, None).await.map_err(broken)?;
            return Ok(Some(place));
        }
        if !self.scopes.fix(order, offset).await.map_err(broken)? {
            return Ok(None);
        }
        self.commit(Offsets::from([(turn.partition.clone(), offset)])).await?;
        self.scopes.done(order, Some(offset)).await.map_err(broken)?;
        Ok(Some(place))
    }

    /// After librdkafka has said that a place is gone, without saying whose: the partitions that are read at a place outside their log. A
    /// partition that moves between two looks has records in memory still.
    pub(super) async fn look(&self) -> Result<Vec<(Turn, Gone)>, String> {
        let first = self.outside().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = self.outside().await?;
        let same = |turn: &Turn, gone: &Gone| first.iter().any(|(other, before)| other == turn && before.offset == gone.offset);
        Ok(second.into_iter().filter(|(turn, gone)| same(turn, gone)).collect())
    }

    /// The same without a word before, when mostly there is nothing: then one look is enough.
    pub(super) async fn check(&self) -> Result<Vec<(Turn, Gone)>, String> {
        match self.outside().await? {
            outside if outside.is_empty() => Ok(outside),
            _ => self.look().await,
        }
    }

    async fn outside(&self) -> Result<Vec<(Turn, Gone)>, String> {
        let held = self.held.clone();
        self.ask(move |client| {
            let mut outside = Vec::new();
            for (turn, offset) in positions(client, &held)? {
                // What its queue had no room for stands before the place that the next record comes from.
                if held.is_full(&turn) {
                    continue;
                }
                if let Place::Gone(gone) = Place::check(offset, offsets::watermarks(client, &turn.partition)?) {
                    outside.push((turn, gone));
                }
            }
            Ok(outside)
        })
        .await
    }

    async fn commit(&self, offsets: Offsets) -> Result<(), String> {
        if offsets.is_empty() {
            return Ok(());
        }
        let of: Vec<TopicPartition> = offsets.keys().cloned().collect();
        self.ask(move |client| client.commit(&list(&of, |name| Offset::Offset(offsets[name]))?, CommitMode::Sync)).await
    }

    /// Asks the brokers, which blocks, on a thread that may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&StreamConsumer<GroupContext>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let client = self.client.clone();
        match tokio::task::spawn_blocking(move || question(&client)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The next record that the consumer will get of each partition that is read.
pub(super) fn positions(client: &StreamConsumer<GroupContext>, held: &Held) -> KafkaResult<Vec<(Turn, i64)>> {
    let read = held.all_read();
    let positions = client.position()?;
    let one = |(turn, begin): (Turn, i64)| {
        let found = positions.find_partition(&turn.partition.0, turn.partition.1)?;
        match found.offset() {
            Offset::Offset(offset) => Some((turn, offset)),
            _ => Some((turn, begin)),
        }
    };
    Ok(read.into_iter().filter_map(one).collect())
}

/// Where partitions begin that nobody has decided on. Of a topic in which the group has begun (`begun`, or something is committed), they are
/// new ones and begin with their first record; otherwise the start decides for all partitions of the topic at once.
fn decide(
    client: &StreamConsumer<GroupContext>,
    undecided: &[TopicPartition],
    begun: &BTreeSet<String>,
    building: Option<Option<i64>>,
    starts: &BTreeMap<String, Start>,
) -> KafkaResult<Offsets> {
    let mut decided = Offsets::new();
    let topics: BTreeSet<&String> = undecided.iter().map(|(topic, _)| topic).collect();
    for topic in topics {
        let all = offsets::partitions(client, topic)?;
        let ours: Vec<TopicPartition> = undecided.iter().filter(|(name, _)| name == topic).cloned().collect();
        if ours.iter().any(|name| !all.contains(name)) {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition));
        }
        let begun = begun.contains(topic) || !offsets::committed(client, &all)?.is_empty();
        let (of, time, start) = match (begun, building) {
            (true, _) => (ours, None, Start::Earliest),
            (false, Some(time)) => (all, time, Start::Earliest),
            (false, None) => (all, None, starts.get(topic).copied().unwrap_or_default()),
        };
        let at_time = time.map(|time| offsets::at_time(client, &of, time)).transpose()?;
        for name in of {
            let (low, high) = offsets::watermarks(client, &name)?;
            let offset = match (&at_time, start) {
                (Some(found), _) => found.get(&name).copied().unwrap_or(high),
                (None, Start::Earliest) => low,
                (None, Start::Latest) => high,
            };
            decided.insert(name, offset);
        }
    }
    Ok(decided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_outside_the_log_is_gone_with_the_number_missed() {
        assert_eq!(Place::check(5, (5, 5)), Place::There(5));
        let Place::Gone(before) = Place::check(2, (5, 9)) else { panic!() };
        assert_eq!(before.missed(), 3);
        assert!(
            before.reason("g", "t", 1).contains("3 records")
                && before.reason("g", "t", 1).contains("tidemill offsets reset g --topic t --partition 1")
        );
        let Place::Gone(beyond) = Place::check(10, (5, 9)) else { panic!() };
        assert_eq!(beyond.missed(), 0);
        assert!(beyond.reason("g", "t", 1).contains("beyond the end"), "{}", beyond.reason("g", "t", 1));
    }
}
