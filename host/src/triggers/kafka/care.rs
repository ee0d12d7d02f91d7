//! After a process has ended in the middle of a partition's work, the records that it may have been running are run one by one, each announced
//! in the database first. So an event that ends processes is told from those that happened to be beside it, and given up (promise 8).

use super::runner::Work;
use super::solve::Part;
use super::worker::{Closed, DEATHS, Worker};
use crate::store::Found;

/// A process may have been running so many events at least, whatever the limit of today says.
const LEAST: usize = 500;

/// What is left to be run with care.
#[derive(Debug)]
pub(super) struct Care {
    left: usize,
    /// The record that was announced when the last process ended, and how many ended with it before.
    announced: Option<(i64, i32)>,
}

impl Care {
    /// How to go on after what was found; a process may have been running a whole batch.
    pub(super) fn after(found: Found, batch: usize) -> Self {
        let batch = batch.max(LEAST);
        match found {
            Found::Order => Self { left: 0, announced: None },
            Found::Left => Self { left: batch, announced: None },
            Found::LeftAt(offset, deaths) => Self { left: batch, announced: Some((offset, deaths)) },
        }
    }

    /// Takes the events that need care off the front. Those that are done need none, and there may be many: offsets are committed later.
    pub(super) async fn share(&mut self, worker: &mut Worker, works: &mut Vec<Work>) -> Result<Vec<Work>, Closed> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        worker.leave_out_done(works).await?;
        Ok(works.drain(..self.left.min(works.len())).collect())
    }

    /// Runs one of them.
    pub(super) async fn run(&mut self, worker: &mut Worker, work: Work) -> Result<(), Closed> {
        let offset = work.record.offset;
        let deaths = match self.announced {
            Some((at, deaths)) if at == offset => deaths + 1,
            _ => 1,
        };
        if deaths >= DEATHS {
            let reason = format!("{deaths} processes ended while they ran this event");
            worker.give_up(&work.parked(), "host-crash", reason).await?;
        } else {
            while let Err(error) = worker.runner.running.announce(&worker.place, offset, deaths).await {
                worker.host_fault(offset, &error.to_string()).await?;
            }
            worker.solve(Part::whole(vec![work])).await?;
        }
        self.left -= 1;
        if self.left == 0 {
            // A mark that stays only costs care once more.
            let _ = worker.runner.running.recovered(&worker.place).await;
        }
        Ok(())
    }
}
