//! What one invocation may use.

use std::time::Duration;

use super::reader::Section;
use crate::config::units::{parse_duration, parse_size};

/// `[limits]` of a manifest. Exceeding one ends that invocation with an error that names the limit, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `memory`: bytes of all memories of the component together.
    pub memory: u64,
    /// `cpu`: time that the guest computes.
    pub cpu: Duration,
    /// `wall`: time from start to end, with everything that it waits for.
    pub wall: Duration,
    /// `sql_time`: time of one statement.
    pub sql_time: Duration,
    /// `sql_result`: bytes of one statement's rows.
    pub sql_result: u64,
    /// `events`: events published.
    pub events: u64,
    /// `event_size`: bytes of one published event.
    pub event_size: u64,
    /// `jobs`: jobs scheduled and cancelled.
    pub jobs: u64,
    /// `keys`: distinct keys of the published events, and of those of the scheduled jobs.
    pub keys: u64,
    /// `body`: bytes of a request's body.
    pub body: u64,
    /// `log_lines`: lines logged.
    pub log_lines: u64,
    /// `batch`: events handed over at once.
    pub batch: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            cpu: Duration::from_secs(1),
            wall: Duration::from_secs(10),
            sql_time: Duration::from_secs(5),
            sql_result: 4 << 20,
            events: 1_000,
            event_size: 900 << 10,
            jobs: 1_000,
            keys: 1_000,
            body: 1 << 20,
            log_lines: 200,
            batch: 500,
        }
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let d = Self::default();
        let memory = section.text("memory", |text| parse_size(text).and_then(|n| positive(n, text)).and_then(at_most_a_gibibyte));
        let mut size = |key| section.text(key, |text| parse_size(text).and_then(|n| positive(n, text)));
        let (sql_result, event_size, body) = (size("sql_result"), size("event_size"), size("body"));
        let mut time = |key| section.text(key, |text| parse_duration(text).and_then(|n| positive(n, text)));
        let (cpu, wall, sql_time) = (time("cpu"), time("wall"), time("sql_time"));
        let mut count = |key| section.number(key, 1..=1_000_000);
        Self {
            memory: memory.unwrap_or(d.memory),
            cpu: cpu.unwrap_or(d.cpu),
            wall: wall.unwrap_or(d.wall),
            sql_time: sql_time.unwrap_or(d.sql_time),
            sql_result: sql_result.unwrap_or(d.sql_result),
            events: count("events").unwrap_or(d.events),
            event_size: event_size.unwrap_or(d.event_size),
            jobs: count("jobs").unwrap_or(d.jobs),
            keys: count("keys").unwrap_or(d.keys),
            body: body.unwrap_or(d.body),
            log_lines: count("log_lines").unwrap_or(d.log_lines),
            batch: count("batch").unwrap_or(d.batch),
        }
    }
}

/// What a slot of the engine's pool can grow to.
fn at_most_a_gibibyte(bytes: u64) -> Result<u64, String> {
    if bytes > 1 << 30 { Err("one invocation gets at most `1GiB`".to_owned()) } else { Ok(bytes) }
}

fn positive<T: Default + PartialEq>(value: T, text: &str) -> Result<T, String> {
    if value == T::default() { Err(format!("`{text}` is nothing at all: a limit is above 0")) } else { Ok(value) }
}
