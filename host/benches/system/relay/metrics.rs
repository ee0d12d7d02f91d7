//! The host's `/metrics`, as far as the relay is in them.

use crate::report::ms;
use anyhow::Context;

/// The page.
pub(crate) struct Metrics {
    client: reqwest::Client,
    url: String,
}

/// What the page said at one moment, or the difference of two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// Events that the broker has acknowledged.
    pub(crate) sent: u64,
    delay_sum: f64,
    delay_count: f64,
    /// Upper bound in seconds, events at or below it.
    delays: Vec<(f64, f64)>,
}

impl Metrics {
    /// The page of an admin port.
    pub(crate) fn of(admin: &str) -> Self {
        Self { client: reqwest::Client::new(), url: format!("{admin}/metrics") }
    }

    /// Reads the page.
    pub(crate) async fn read(&self) -> anyhow::Result<Reading> {
        let page = self.client.get(&self.url).send().await?.error_for_status()?.text().await?;
        let mut reading = Reading::default();
        for line in page.lines().filter(|line| line.starts_with("tidemill_relay_")) {
            let (name, value) = line.rsplit_once(' ').context("a metric without a value")?;
            let value: f64 = value.parse().with_context(|| format!("`{line}`"))?;
            match name.split_once('{').map_or(name, |(name, _)| name) {
                "tidemill_relay_sent_total" => reading.sent += value as u64,
                "tidemill_relay_delay_seconds_sum" => reading.delay_sum = value,
                "tidemill_relay_delay_seconds_count" => reading.delay_count = value,
                "tidemill_relay_delay_seconds_bucket" => {
                    let bound = name.split('"').nth(1).and_then(|bound| bound.parse().ok());
                    reading.delays.push((bound.unwrap_or(f64::INFINITY), value));
                }
                _ => {}
            }
        }
        Ok(reading)
    }
}

impl Reading {
    /// What was added since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |n: usize| earlier.delays.get(n).map_or(0.0, |(_, count)| *count);
        Self {
            sent: self.sent - earlier.sent,
            delay_sum: self.delay_sum - earlier.delay_sum,
            delay_count: self.delay_count - earlier.delay_count,
            delays: self.delays.iter().enumerate().map(|(n, (bound, count))| (*bound, count - before(n))).collect(),
        }
    }

    /// The mean time from an outbox row to its acknowledgement, in seconds.
    pub(crate) fn mean_delay(&self) -> f64 {
        self.delay_sum / self.delay_count
    }

    /// The bucket of a quantile of that time, as text.
    pub(crate) fn delay_quantile(&self, share: f64) -> String {
        let wanted = share * self.delay_count;
        let bucket = self.delays.iter().find(|(_, count)| *count >= wanted);
        bucket.map_or("–".to_owned(), |(bound, _)| format!("≤ {}", ms(bound * 1e6)))
    }
}
