//! Committed offsets: a map in memory, and a file of one JSON line per change.
//!
//! A line is written before a commit is acknowledged. The file is rewritten without what is outdated when it is opened and
//! when it has grown far beyond that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::replace_file;

/// Growth, in bytes, after which the file is rewritten.
const GROWTH: u64 = 16 * 1024 * 1024;

const HOUR: i64 = 60 * 60 * 1000;

/// How long offsets of a group without members are kept, in milliseconds: Kafka's `offsets.retention.minutes`.
const RETENTION: i64 = 7 * 24 * HOUR;

/// What a group has committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Committed {
    /// The next record to read.
    #[serde(rename = "o")]
    pub(super) offset: i64,
    /// Leader epoch of the last record read, or -1.
    #[serde(rename = "e")]
    pub(super) leader_epoch: i32,
    /// Whatever the client added.
    #[serde(rename = "m")]
    pub(super) metadata: String,
}

/// One change: a commit, or nothing where it was deleted. Without a topic it says that the group had members then.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    #[serde(rename = "g")]
    group: Cow<'a, str>,
    /// When, in milliseconds since 1970.
    #[serde(rename = "w", default)]
    when: i64,
    #[serde(rename = "t")]
    topic: Cow<'a, str>,
    #[serde(rename = "p")]
    partition: i32,
    #[serde(rename = "c")]
    committed: Option<Committed>,
}

/// Partitions by topic.
pub(super) type ByTopic = BTreeMap<String, BTreeMap<i32, Committed>>;

/// What is known of one group.
#[derive(Debug, Default)]
struct Known {
    topics: ByTopic,
    /// When it committed last, or had members, the latter within an hour; milliseconds since 1970.
    seen: i64,
}

/// The committed offsets of all groups.
#[derive(Debug)]
pub(super) struct Offsets {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    rewrite_at: u64,
    dirty: bool,
    groups: BTreeMap<String, Known>,
}

impl Offsets {
    /// Reads the file up to its last whole line and rewrites it.
    pub(super) fn open(path: &Path, now: i64) -> io::Result<Offsets> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut groups = BTreeMap::new();
        let mut read = 0;
        for line in text.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n")) {
            let Ok(line_read) = serde_json::from_slice(line) else { break };
            apply(&mut groups, line_read);
            read += line.len();
        }
        if read < text.len() {
            tracing::warn!(bytes = text.len() - read, "cut a torn tail off the committed offsets");
        }
        // Lines of before there was a time in them.
        groups.values_mut().filter(|known| known.seen == 0).for_each(|known| known.seen = now);
        let text = whole(&groups)?;
        let file = Arc::new(replace_file(path, &text)?);
        let size = text.len() as u64;
        Ok(Offsets { path: path.to_owned(), file, size, rewrite_at: 2 * size + GROWTH, dirty: false, groups })
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let text = whole(&self.groups)?;
        self.file = Arc::new(replace_file(&self.path, &text)?);
        self.size = text.len() as u64;
        Ok(())
    }

    /// The groups that have committed anything.
    pub(super) fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    /// What a group has committed.
    pub(super) fn of(&self, group: &str) -> Option<&ByTopic> {
        self.groups.get(group).map(|known| &known.topics)
    }

    /// Commits, or deletes where there is nothing to commit; all of it is in the file when this returns.
    pub(super) fn change(&mut self, group: &str, changes: Vec<(String, i32, Option<Committed>)>, when: i64) -> io::Result<()> {
        let line = |(topic, partition, committed): (String, i32, Option<Committed>)| Line {
            group: group.into(),
            when,
            topic: topic.into(),
            partition,
            committed,
        };
        self.write(changes.into_iter().map(line).collect())
    }

    fn write(&mut self, lines: Vec<Line<'_>>) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        lines.iter().try_for_each(|line| put(&mut text, line))?;
        if let Err(error) = self.file.write_all_at(&text, self.size) {
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += text.len() as u64;
        self.dirty = true;
        lines.into_iter().for_each(|line| apply(&mut self.groups, line));
        if self.size > self.rewrite_at {
            if let Err(error) = self.rewrite() {
                tracing::warn!(%error, "the file of committed offsets could not be rewritten and grows on");
            }
            self.rewrite_at = 2 * self.size + GROWTH;
        }
        Ok(())
    }

    /// Deletes everything that a group has committed.
    pub(super) fn forget_group(&mut self, group: &str, when: i64) -> io::Result<()> {
        let topics = self.of(group).into_iter().flatten();
        let partitions = topics.flat_map(|(topic, ps)| ps.keys().map(move |p| (topic.clone(), *p, None)));
        let changes = partitions.collect();
        self.change(group, changes, when)
    }

    /// Deletes what all groups have committed for a topic.
    pub(super) fn forget_topic(&mut self, topic: &str, when: i64) -> io::Result<()> {
        let groups: Vec<String> = self.groups().cloned().collect();
        for group in groups {
            let partitions = self.of(&group).and_then(|topics| topics.get(topic)).into_iter().flat_map(BTreeMap::keys);
            let changes = partitions.map(|p| (topic.to_owned(), *p, None)).collect();
            self.change(&group, changes, when)?;
        }
        Ok(())
    }

    /// Forgets the groups that have neither had members nor committed for as long as Kafka keeps them (KIP-211), and notes
    /// which ones are `alive`, so that their time does not run out while the broker is down.
    pub(super) fn expire(&mut self, alive: impl Fn(&str) -> bool, now: i64) -> io::Result<()> {
        let mut over = Vec::new();
        let mut noted = Vec::new();
        for (group, known) in &self.groups {
            let idle = now - known.seen;
            if alive(group) {
                let none = Line { group: group.clone().into(), when: now, topic: "".into(), partition: -1, committed: None };
                noted.extend((idle >= HOUR).then_some(none));
            } else if idle >= RETENTION {
                over.push(group.clone());
            }
        }
        self.write(noted)?;
        for group in over {
            tracing::info!(group, "removed the offsets of a group that nobody has used for seven days");
            self.forget_group(&group, now)?;
        }
        Ok(())
    }

    /// The file, if it was written to since the last call.
    pub(super) fn take_dirty(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| Arc::clone(&self.file))
    }

    /// It could not be synced.
    pub(super) fn still_dirty(&mut self) {
        self.dirty = true;
    }
}

/// The text of a file that has nothing outdated in it.
fn whole(groups: &BTreeMap<String, Known>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for (group, known) in groups {
        for (topic, partitions) in &known.topics {
            for (&partition, committed) in partitions {
                let committed = Some(committed.clone());
                put(&mut text, &Line { group: group.into(), when: known.seen, topic: topic.into(), partition, committed })?;
            }
        }
    }
    Ok(text)
}

fn put(text: &mut Vec<u8>, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

fn apply(groups: &mut BTreeMap<String, Known>, line: Line<'_>) {
    let known = groups.entry(line.group.to_string()).or_default();
    known.seen = known.seen.max(line.when);
    match line.committed {
        Some(committed) => {
            known.topics.entry(line.topic.into_owned()).or_default().insert(line.partition, committed);
        }
        None => {
            if let Some(partitions) = known.topics.get_mut(line.topic.as_ref()) {
                partitions.remove(&line.partition);
            }
            known.topics.retain(|_, partitions| !partitions.is_empty());
        }
    }
    if known.topics.is_empty() {
        groups.remove(line.group.as_ref());
    }
}

#[cfg(test)]
#[path = "offsets_tests.rs"]
mod tests;
