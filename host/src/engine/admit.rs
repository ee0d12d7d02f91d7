//! Which events of a batch the guest gets: what the inbox knows is left out, what waits behind an earlier event of its key is parked.

use super::failure::Failure;
use super::invoke::{Batch, Fence};
use crate::store::{Resumed, Unit};
use std::collections::{HashMap, HashSet};

/// A batch, sorted out.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Positions of the events that the guest gets.
    pub(super) run: Vec<usize>,
    /// How many events were parked with this unit.
    pub(super) parked: usize,
    /// A waiting row ends with this unit, though its event does not run.
    pub(super) ends: bool,
}

/// Notes the batch in the unit, or takes its waiting row. Fails without a failure of the handler's if the batch must be cut first.
pub(super) async fn admit(unit: &mut Unit, batch: &Batch, cap: i64) -> Result<Admitted, Failure> {
    match &batch.fence {
        Fence::Inbox => note(unit, batch, cap).await,
        Fence::Waiting(claim) => {
            let resumed = unit.resume(claim).await?;
            let run = (0..batch.items.len()).filter(|_| resumed == Resumed::Ours).collect();
            Ok(Admitted { run, parked: 0, ends: resumed == Resumed::Known })
        }
    }
}

async fn note(unit: &mut Unit, batch: &Batch, cap: i64) -> Result<Admitted, Failure> {
    let Batch { consumer, items, .. } = batch;
    let Some(topic) = items.first().map(|item| item.record.topic.clone()) else {
        return Ok(Admitted::default());
    };
    let identities: Vec<_> = items.iter().map(|item| &item.identity).collect();
    let keys: HashSet<&[u8]> = items.iter().filter_map(|item| item.record.key.as_deref()).collect();
    let keys: Vec<&[u8]> = keys.into_iter().collect();
    let noted = unit.note(consumer.scope, &topic, &identities, &keys, cap).await?;

    let (mut run, mut parked) = (Vec::with_capacity(noted.new.len()), Vec::new());
    let mut waiting = noted.blocked;
    let mut overflow = Vec::new();
    for (position, item) in noted.new.iter().filter_map(|&position| Some((position, items.get(position)?))) {
        match item.record.key.as_deref().and_then(|key| waiting.get_mut(key)) {
            None => run.push(position),
            Some(count) if *count >= cap => overflow.push(position),
            Some(count) => {
                *count += 1;
                parked.push(item.parked());
            }
        }
    }
    if !overflow.is_empty() {
        return Err(Failure::Overflow { events: overflow });
    }
    alone(unit, batch, &topic, &run, &noted.single)?;
    let count = parked.len();
    unit.park(consumer, parked);
    Ok(Admitted { run, parked: count, ends: false })
}

/// Events of keys with single attempts run alone, so that their failure is theirs; one that succeeds restores the trust in its key.
fn alone(unit: &mut Unit, batch: &Batch, topic: &str, run: &[usize], single: &HashSet<Vec<u8>>) -> Result<(), Failure> {
    if single.is_empty() {
        return Ok(());
    }
    let mut found: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for &position in run {
        let key = batch.items.get(position).and_then(|item| item.record.key.as_deref());
        if let Some(key) = key.filter(|key| single.contains(*key)) {
            found.entry(key).or_default().push(position);
        }
    }
    if run.len() > 1 && !found.is_empty() {
        // The first of each key: once it has succeeded, the rest of the key is trusted again.
        let mut events: Vec<usize> = found.values().filter_map(|positions| positions.first().copied()).collect();
        events.sort_unstable();
        return Err(Failure::Alone { events });
    }
    for key in found.keys() {
        unit.trust(batch.consumer.scope, topic, key.to_vec());
    }
    Ok(())
}
