//! How fast the relay empties a full outbox.

use super::metrics::Metrics;
use crate::machine::{Meter, Spent, cpu};
use crate::process::Process;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often the counter is read.
const SAMPLE: Duration = Duration::from_millis(20);
/// A relay that needs longer for all events is given up on.
const PATIENCE: Duration = Duration::from_secs(150);

/// How it went.
pub(super) struct Drain {
    /// Events sent.
    pub(super) sent: u64,
    /// Seconds from the first acknowledgement to the last.
    pub(super) time: f64,
    /// Events a second of the first tenth.
    pub(super) first: Option<f64>,
    /// Events a second of the last tenth.
    pub(super) last: Option<f64>,
    /// CPU microseconds an event.
    pub(super) cpu: Spent,
    /// The same of this process, which is the broker.
    pub(super) broker_cpu: f64,
}

/// Starts the host and watches until all events are sent, or for as long as patience lasts.
pub(super) async fn drain(
    starting: impl Future<Output = anyhow::Result<Process>>,
    metrics: &Metrics,
    postmaster: u32,
    events: u64,
) -> anyhow::Result<(Process, Drain)> {
    let postgres = Meter::start(None, postmaster)?;
    let broker = cpu(std::process::id())?;
    let mut samples: Vec<(f64, u64)> = Vec::new();
    let started = Instant::now();
    // The relay begins before the host says that it is ready.
    let watching = async {
        loop {
            // Nobody listens yet at first.
            let sent = metrics.read().await.map_or(0, |reading| reading.sent);
            let time = started.elapsed().as_secs_f64();
            if sent == 0 {
                samples.clear();
            }
            samples.push((time, sent));
            if sent >= events || started.elapsed() > PATIENCE {
                return;
            }
            tokio::time::sleep(SAMPLE).await;
        }
    };
    let (host, ()) = tokio::join!(starting, watching);
    let host = host?;
    let sent = samples.last().map_or(0, |(_, sent)| *sent);
    anyhow::ensure!(sent > 0, "the relay sent nothing within {PATIENCE:?}");
    let mut each = postgres.each(sent as f64)?;
    each.server = cpu(host.pid()?)? * 1e6 / sent as f64;
    let at = |count: u64| moment(&samples, count);
    let rate = |from: u64, to: u64| Some((to - from) as f64 / (at(to)? - at(from)?));
    let drain = Drain {
        sent,
        time: at(sent).unwrap_or(f64::NAN) - at(0).unwrap_or(0.0),
        first: rate(0, events / 10),
        last: rate(events - events / 10, events),
        cpu: each,
        broker_cpu: (cpu(std::process::id())? - broker) * 1e6 / sent as f64,
    };
    Ok((host, drain))
}

/// When so many events were sent, between the samples around it.
fn moment(samples: &[(f64, u64)], count: u64) -> Option<f64> {
    let after = samples.iter().position(|(_, sent)| *sent >= count)?;
    let (late, more) = samples[after];
    match after.checked_sub(1).and_then(|before| samples.get(before)) {
        Some((early, fewer)) if more > *fewer => Some(early + (late - early) * (count - fewer) as f64 / (more - fewer) as f64),
        _ => Some(late),
    }
}
