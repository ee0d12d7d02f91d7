//! The catalogue of topics, and its file.
//!
//! `topics.json` lists every topic and is replaced as a whole at each change. Records live under `logs/<topic id>/<partition>`,
//! so a topic that is deleted and created again never meets its old records; folders that no topic names are removed at open.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kafka_protocol::ResponseError;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use super::configs::Limits;
use super::log::Log;
use super::{locked, now, replace_file};

/// One partition: its log, and the signal that it changed.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) log: Mutex<Log>,
    /// Wakes the fetches that wait for records, and those of a topic that has just been deleted.
    pub(super) changed: Notify,
}

/// One topic. A change of it replaces it in the catalogue; its partitions stay the same objects.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) id: Uuid,
    /// The settings that were given; all others have Kafka's defaults.
    pub(super) configs: BTreeMap<String, String>,
    /// What the settings come to.
    pub(super) limits: Limits,
    pub(super) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    /// The partition of this number.
    pub(super) fn partition(&self, index: i32) -> Result<&Arc<Partition>, ResponseError> {
        usize::try_from(index).ok().and_then(|i| self.partitions.get(i)).ok_or(ResponseError::UnknownTopicOrPartition)
    }
}

/// A topic as `topics.json` has it.
#[derive(Serialize, Deserialize)]
struct Saved {
    name: String,
    id: Uuid,
    partitions: usize,
    configs: BTreeMap<String, String>,
}

/// All topics.
#[derive(Debug)]
pub(super) struct Topics {
    folder: PathBuf,
    by_name: Mutex<BTreeMap<String, Arc<Topic>>>,
}

impl Topics {
    /// Opens every topic of the folder and recovers its logs.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Topics> {
        let saved: Vec<Saved> = match fs::read(folder.join("topics.json")) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        let topics = Topics { folder: folder.to_owned(), by_name: Mutex::default() };
        topics.remove_orphans(&saved)?;
        for s in saved {
            let topic = topics.load(s.name, s.id, s.configs, Vec::new(), s.partitions)?;
            locked(&topics.by_name).insert(topic.name.clone(), Arc::new(topic));
        }
        Ok(topics)
    }

    fn remove_orphans(&self, saved: &[Saved]) -> io::Result<()> {
        fs::create_dir_all(self.folder.join("logs"))?;
        for entry in fs::read_dir(self.folder.join("logs"))? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|n| n.parse::<Uuid>().ok());
            if id.is_some_and(|id| saved.iter().all(|s| s.id != id)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn load(
        &self,
        name: String,
        id: Uuid,
        configs: BTreeMap<String, String>,
        mut partitions: Vec<Arc<Partition>>,
        count: usize,
    ) -> io::Result<Topic> {
        for index in partitions.len()..count {
            let log = Log::open(&self.folder.join("logs").join(id.to_string()).join(index.to_string()), now())?;
            partitions.push(Arc::new(Partition { log: Mutex::new(log), changed: Notify::new() }));
        }
        Ok(Topic { limits: Limits::of(&configs), name, id, configs, partitions })
    }

    /// The topic of this name.
    pub(super) fn get(&self, name: &str) -> Result<Arc<Topic>, ResponseError> {
        locked(&self.by_name).get(name).cloned().ok_or(ResponseError::UnknownTopicOrPartition)
    }

    /// The topic of this id (KIP-516).
    pub(super) fn get_by_id(&self, id: Uuid) -> Result<Arc<Topic>, ResponseError> {
        locked(&self.by_name).values().find(|t| t.id == id).cloned().ok_or(ResponseError::UnknownTopicId)
    }

    /// The partition of this topic and number.
    pub(super) fn partition(&self, topic: &str, index: i32) -> Result<Arc<Partition>, ResponseError> {
        self.get(topic)?.partition(index).cloned()
    }

    /// All topics, by name.
    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        locked(&self.by_name).values().cloned().collect()
    }

    /// Creates a topic whose name, settings and count have been checked.
    pub(super) fn create(
        &self,
        name: &str,
        count: usize,
        configs: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, ResponseError> {
        let mut topics = locked(&self.by_name);
        if topics.contains_key(name) {
            return Err(ResponseError::TopicAlreadyExists);
        }
        let topic = self.load(name.to_owned(), Uuid::now_v7(), configs, Vec::new(), count).map_err(storage)?;
        let topic = Arc::new(topic);
        topics.insert(name.to_owned(), Arc::clone(&topic));
        self.save(&topics).inspect_err(|_| {
            topics.remove(name);
        })?;
        Ok(topic)
    }

    /// Deletes a topic with its records.
    pub(super) fn delete(&self, name: &str) -> Result<Arc<Topic>, ResponseError> {
        let mut topics = locked(&self.by_name);
        let topic = topics.remove(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
        if let Err(error) = self.save(&topics) {
            topics.insert(name.to_owned(), topic);
            return Err(error);
        }
        for partition in &topic.partitions {
            partition.changed.notify_waiters();
        }
        if let Err(error) = fs::remove_dir_all(self.folder.join("logs").join(topic.id.to_string())) {
            tracing::warn!(topic = name, %error, "the folder of a deleted topic stays until the next start");
        }
        Ok(topic)
    }

    /// Gives a topic more partitions, other settings, or both.
    pub(super) fn change(&self, name: &str, count: usize, configs: BTreeMap<String, String>) -> Result<(), ResponseError> {
        let mut topics = locked(&self.by_name);
        let old = topics.get(name).cloned().ok_or(ResponseError::UnknownTopicOrPartition)?;
        let new = self.load(old.name.clone(), old.id, configs, old.partitions.clone(), count).map_err(storage)?;
        topics.insert(name.to_owned(), Arc::new(new));
        self.save(&topics).inspect_err(|_| {
            topics.insert(name.to_owned(), old);
        })
    }

    fn save(&self, topics: &BTreeMap<String, Arc<Topic>>) -> Result<(), ResponseError> {
        let saved: Vec<Saved> = topics
            .values()
            .map(|t| Saved { name: t.name.clone(), id: t.id, partitions: t.partitions.len(), configs: t.configs.clone() })
            .collect();
        let text = serde_json::to_vec_pretty(&saved).map_err(|e| storage(e.into()))?;
        replace_file(&self.folder.join("topics.json"), &text).map(drop).map_err(storage)
    }

    /// Writes to the disk what has been appended since the last call, and what an earlier call could not write. It blocks.
    ///
    /// # Errors
    /// The last of those that happened; everything else has been written nevertheless.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut done = Ok(());
        for partition in self.all().iter().flat_map(|topic| &topic.partitions) {
            let unsynced = locked(&partition.log).take_unsynced();
            for file in unsynced {
                if let Err(error) = file.sync_data() {
                    locked(&partition.log).still_unsynced(file);
                    done = Err(error);
                }
            }
        }
        done
    }

    /// Removes what the topics' settings no longer keep, and forgets idle producers. It blocks.
    pub(super) fn sweep(&self, now: i64) {
        for topic in self.all() {
            for (index, partition) in topic.partitions.iter().enumerate() {
                match locked(&partition.log).sweep(&topic.limits, now) {
                    Ok(0) => {}
                    Ok(bytes) => tracing::info!(topic = topic.name, partition = index, bytes, "removed old records"),
                    Err(error) => tracing::error!(topic = topic.name, partition = index, %error, "old records stay for now"),
                }
            }
        }
    }
}

fn storage(error: io::Error) -> ResponseError {
    tracing::error!(%error, "the catalogue of topics could not be changed");
    ResponseError::KafkaStorageError
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_failed_is_tried_again_and_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let topics = Topics::open(folder.path()).unwrap();
        let topic = topics.create("t", 2, BTreeMap::new()).unwrap();
        // A device that the system refuses to sync.
        let broken = Arc::new(fs::File::open("/dev/null").unwrap());
        let sound = Arc::new(fs::File::create(folder.path().join("sound")).unwrap());
        locked(&topic.partitions[0].log).still_unsynced(broken);
        locked(&topic.partitions[1].log).still_unsynced(sound);
        for _ in 0..2 {
            assert!(topics.sync().is_err());
        }
        assert_eq!(locked(&topic.partitions[0].log).take_unsynced().len(), 1);
        assert_eq!(locked(&topic.partitions[1].log).take_unsynced().len(), 0);
        assert!(topics.sync().is_ok());
    }
}
