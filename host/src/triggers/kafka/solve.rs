//! From a batch that fails to the event that is at fault (promise 5).
//!
//! A failure that names events: the rest runs again without them and the later ones of their keys, then those run in their order, the named ones
//! alone. A failure that names none: halves, down to the single event. After a timeout at once one by one, so that an event that hangs costs
//! two deadlines and not one for each halving. An event that fails alone is written down (retry or dead letter); from then on the later
//! ones of its key park themselves behind it.

use super::runner::Work;
use crate::engine::Failure;
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};

/// A part of a batch that is still to run.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) works: Vec<Work>,
    /// A larger part with this one has failed and all the others of it succeeded, so running it as a whole would only fail again.
    pub(super) suspect: bool,
}

impl Part {
    pub(super) fn whole(works: Vec<Work>) -> Self {
        Self { works, suspect: false }
    }
}

/// The parts that a part was cut into, those that are still to run.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) parts: VecDeque<Part>,
    halved: bool,
    /// One of those that have run has failed.
    pub(super) failed: bool,
}

impl Pieces {
    pub(super) fn of(parts: Vec<Part>) -> Self {
        Self { halved: parts.len() == 2, parts: parts.into(), failed: false }
    }

    /// The events that are still to run.
    pub(super) fn works(&self) -> impl Iterator<Item = &Work> {
        self.parts.iter().flat_map(|part| &part.works)
    }

    /// The next part.
    pub(super) fn next(&mut self) -> Option<Part> {
        let mut part = self.parts.pop_front()?;
        part.suspect = self.halved && self.parts.is_empty() && !self.failed && part.works.len() > 1;
        Some(part)
    }
}

/// The parts that a failed part (of two events at least) is cut into, in the order in which they run.
pub(super) fn cut(works: Vec<Work>, failure: &Failure) -> Vec<Part> {
    match failure {
        Failure::Returned { events, .. } | Failure::Alone { events } | Failure::Overflow { events } if !events.is_empty() => {
            without(works, &events.iter().copied().collect())
        }
        Failure::Timeout(_) | Failure::Cpu(_) => works.into_iter().map(|work| Part::whole(vec![work])).collect(),
        _ => halves(works),
    }
}

/// Two halves. Whether the second is suspect turns out when the first has run.
pub(super) fn halves(mut works: Vec<Work>) -> Vec<Part> {
    let second = works.split_off(works.len() / 2);
    vec![Part::whole(works), Part::whole(second)]
}

/// First what neither is named nor follows a named one of its key; then the others in their order, the named ones alone.
fn without(works: Vec<Work>, named: &HashSet<usize>) -> Vec<Part> {
    let mut held: HashSet<Bytes> = HashSet::new();
    let (mut rest, mut after) = (Vec::new(), Vec::new());
    for (position, work) in works.into_iter().enumerate() {
        let is_named = named.contains(&position);
        if is_named {
            held.extend(work.record.key.clone());
        }
        match is_named || work.record.key.as_ref().is_some_and(|key| held.contains(key)) {
            true => after.push((is_named, work)),
            false => rest.push(work),
        }
    }
    let mut parts = vec![Part::whole(rest)];
    let mut joins = false;
    for (is_named, work) in after {
        match parts.last_mut() {
            Some(part) if joins && !is_named => part.works.push(work),
            _ => parts.push(Part::whole(vec![work])),
        }
        joins = !is_named;
    }
    parts.retain(|part| !part.works.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Payload;
    use crate::store::Record;

    fn works(keys: &str) -> Vec<Work> {
        let work = |(offset, key): (usize, char)| {
            let key = (key != '-').then(|| key.to_string().into_bytes().into());
            let record = Record { topic: "t".into(), offset: offset as i64, key, value: Some(Bytes::new()), ..Record::default() };
            Work::decode(record.into(), Payload::Raw).unwrap()
        };
        keys.chars().enumerate().map(work).collect()
    }

    fn offsets(parts: &[Part]) -> Vec<Vec<i64>> {
        parts.iter().map(|part| part.works.iter().map(|work| work.record.offset).collect()).collect()
    }

    #[test]
    fn c05_a_named_event_costs_two_runs_and_holds_the_later_ones_of_its_key() {
        let named = |events: &[usize]| Failure::Returned { reject: false, message: String::new(), events: events.to_vec() };
        assert_eq!(offsets(&cut(works("abc"), &named(&[1]))), [vec![0, 2], vec![1]]);
        assert_eq!(offsets(&cut(works("aabaa"), &named(&[1]))), [vec![0, 2], vec![1], vec![3, 4]]);
        assert_eq!(offsets(&cut(works("aaab"), &named(&[0, 2]))), [vec![3], vec![0], vec![1], vec![2]]);
        assert_eq!(offsets(&cut(works("---"), &named(&[1]))), [vec![0, 2], vec![1]]);
        assert_eq!(offsets(&cut(works("ab"), &named(&[0, 1]))), [vec![0], vec![1]]);
    }

    #[test]
    fn c05_after_a_timeout_every_event_runs_alone_and_else_halves_do() {
        assert_eq!(offsets(&cut(works("abc"), &Failure::Timeout(std::time::Duration::ZERO))), [vec![0], vec![1], vec![2]]);
        assert_eq!(offsets(&cut(works("abcde"), &Failure::Trap(String::new()))), [vec![0, 1], vec![2, 3, 4]]);
        assert_eq!(offsets(&cut(works("ab"), &Failure::Trap(String::new()))), [vec![0], vec![1]]);
    }

    #[test]
    fn c05_a_failure_that_names_nothing_in_the_batch_is_cut_in_halves() {
        let nobody = Failure::Returned { reject: false, message: String::new(), events: vec![] };
        assert_eq!(offsets(&cut(works("abcd"), &nobody)), [vec![0, 1], vec![2, 3]]);
    }
}
