//! Committed offsets: a map in memory, and a file of one JSON line per change.
//!
//! A line is written before a commit is acknowledged. The file is rewritten without what is outdated when it is opened and
//! when it has grown far beyond that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::replace_file;

/// Growth, in bytes, after which the file is rewritten.
const GROWTH: u64 = 16 * 1024 * 1024;

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

/// One change: a commit, or nothing where it was deleted.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    #[serde(rename = "g")]
    group: std::borrow::Cow<'a, str>,
    #[serde(rename = "t")]
    topic: std::borrow::Cow<'a, str>,
    #[serde(rename = "p")]
    partition: i32,
    #[serde(rename = "c")]
    committed: Option<Committed>,
}

/// Partitions by topic.
pub(super) type ByTopic = BTreeMap<String, BTreeMap<i32, Committed>>;

/// The committed offsets of all groups.
#[derive(Debug)]
pub(super) struct Offsets {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    rewrite_at: u64,
    dirty: bool,
    groups: BTreeMap<String, ByTopic>,
}

impl Offsets {
    /// Reads the file up to its last whole line and rewrites it.
    pub(super) fn open(path: &Path) -> io::Result<Offsets> {
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
        let mut offsets = Offsets {
            path: path.to_owned(),
            file: Arc::new(OpenOptions::new().append(true).create(true).open(path)?),
            size: 0,
            rewrite_at: 0,
            dirty: false,
            groups,
        };
        offsets.rewrite()?;
        Ok(offsets)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        for (group, topics) in &self.groups {
            for (topic, partitions) in topics {
                for (partition, committed) in partitions {
                    put(&mut text, group, topic, *partition, Some(committed.clone()))?;
                }
            }
        }
        replace_file(&self.path, &text)?;
        self.file = Arc::new(OpenOptions::new().append(true).open(&self.path)?);
        self.size = text.len() as u64;
        self.rewrite_at = 2 * self.size + GROWTH;
        Ok(())
    }

    /// The groups that have committed anything.
    pub(super) fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    /// What a group has committed.
    pub(super) fn of(&self, group: &str) -> Option<&ByTopic> {
        self.groups.get(group)
    }

    /// Commits, or deletes where there is nothing to commit; all of it is in the file when this returns.
    pub(super) fn change(&mut self, group: &str, changes: Vec<(String, i32, Option<Committed>)>) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for (topic, partition, committed) in &changes {
            put(&mut text, group, topic, *partition, committed.clone())?;
        }
        if let Err(error) = (&*self.file).write_all(&text) {
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += text.len() as u64;
        self.dirty = true;
        for (topic, partition, committed) in changes {
            apply(&mut self.groups, Line { group: group.into(), topic: topic.into(), partition, committed });
        }
        if self.size > self.rewrite_at { self.rewrite() } else { Ok(()) }
    }

    /// Deletes everything that a group has committed.
    pub(super) fn forget_group(&mut self, group: &str) -> io::Result<()> {
        let Some(topics) = self.groups.get(group) else { return Ok(()) };
        let partitions = topics.iter().flat_map(|(topic, ps)| ps.keys().map(move |p| (topic.clone(), *p, None)));
        let changes = partitions.collect();
        self.change(group, changes)
    }

    /// Deletes what all groups have committed for a topic.
    pub(super) fn forget_topic(&mut self, topic: &str) -> io::Result<()> {
        let groups: Vec<String> = self.groups.iter().filter(|(_, t)| t.contains_key(topic)).map(|(g, _)| g.clone()).collect();
        for group in groups {
            let partitions = self.groups.get(&group).and_then(|t| t.get(topic)).into_iter().flat_map(BTreeMap::keys);
            let changes = partitions.map(|p| (topic.to_owned(), *p, None)).collect();
            self.change(&group, changes)?;
        }
        Ok(())
    }

    /// The file, if it was written to since the last call.
    pub(super) fn take_dirty(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| Arc::clone(&self.file))
    }
}

fn put(text: &mut Vec<u8>, group: &str, topic: &str, partition: i32, committed: Option<Committed>) -> io::Result<()> {
    serde_json::to_writer(&mut *text, &Line { group: group.into(), topic: topic.into(), partition, committed })?;
    text.push(b'\n');
    Ok(())
}

fn apply(groups: &mut BTreeMap<String, ByTopic>, line: Line<'_>) {
    let topics = groups.entry(line.group.to_string()).or_default();
    let partitions = topics.entry(line.topic.to_string()).or_default();
    match line.committed {
        Some(committed) => {
            partitions.insert(line.partition, committed);
        }
        None => {
            partitions.remove(&line.partition);
            topics.retain(|_, partitions| !partitions.is_empty());
        }
    }
    if topics.is_empty() {
        groups.remove(line.group.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Option<Committed> {
        Some(Committed { offset, leader_epoch: -1, metadata: "a \"note\"".to_owned() })
    }

    #[test]
    fn the_last_commit_of_each_partition_survives_reopening_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets.log");
        let mut offsets = Offsets::open(&path).unwrap();
        offsets.change("g", vec![("t".into(), 0, at(1)), ("t".into(), 1, at(5))]).unwrap();
        offsets.change("g", vec![("t".into(), 0, at(2))]).unwrap();
        let lines = fs::read(&path).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&lines[..20]).unwrap();
        drop(offsets);
        let mut offsets = Offsets::open(&path).unwrap();
        assert_eq!(offsets.of("g").unwrap()["t"], BTreeMap::from([(0, at(2).unwrap()), (1, at(5).unwrap())]));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2, "it was compacted");
        offsets.change("g", vec![("t".into(), 0, at(3))]).unwrap();
        assert_eq!(Offsets::open(&path).unwrap().of("g").unwrap()["t"][&0], at(3).unwrap());
    }

    #[test]
    fn offsets_of_a_deleted_topic_are_gone_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("offsets.log");
        let mut offsets = Offsets::open(&path).unwrap();
        offsets.change("g", vec![("t".into(), 0, at(1)), ("u".into(), 0, at(1))]).unwrap();
        offsets.change("h", vec![("t".into(), 0, at(1))]).unwrap();
        offsets.forget_topic("t").unwrap();
        drop(offsets);
        let offsets = Offsets::open(&path).unwrap();
        assert_eq!(offsets.groups().collect::<Vec<_>>(), ["g"]);
        assert!(!offsets.of("g").unwrap().contains_key("t"));
    }
}
