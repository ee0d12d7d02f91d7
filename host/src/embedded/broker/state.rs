//! What the broker itself must remember across restarts: its cluster id and which producer ids are given away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{locked, replace_file};

/// Producer ids are reserved on disk in blocks, so that giving one away costs no write; a restart skips the rest.
const BLOCK: i64 = 1_000;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    cluster_id: String,
    next_producer_id: i64,
}

/// The content of `broker.json`.
#[derive(Debug)]
pub(super) struct State {
    /// The id that clients see as the cluster's.
    pub(super) cluster_id: String,
    path: PathBuf,
    ids: Mutex<std::ops::Range<i64>>,
}

impl State {
    /// Reads the file, or makes up a new cluster.
    pub(super) fn open(folder: &Path) -> anyhow::Result<State> {
        let path = folder.join("broker.json");
        let saved = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let saved = Saved { cluster_id: Uuid::now_v7().simple().to_string(), next_producer_id: 1 };
                replace_file(&path, &serde_json::to_vec_pretty(&saved)?)?;
                saved
            }
            Err(e) => return Err(e.into()),
        };
        let next = saved.next_producer_id;
        Ok(State { cluster_id: saved.cluster_id, path, ids: Mutex::new(next..next) })
    }

    /// A producer id that was never given away before.
    pub(super) fn next_producer_id(&self) -> io::Result<i64> {
        let mut ids = locked(&self.ids);
        if ids.is_empty() {
            let saved = Saved { cluster_id: self.cluster_id.clone(), next_producer_id: ids.end + BLOCK };
            replace_file(&self.path, &serde_json::to_vec_pretty(&saved)?)?;
            *ids = ids.end..saved.next_producer_id;
        }
        let id = ids.start;
        ids.start += 1;
        Ok(id)
    }
}
