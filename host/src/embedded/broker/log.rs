//! The log of one partition: an append-only file of record batches and an index of them in memory.
//!
//! The folder of a partition holds its segment file, named like Kafka's by the offset of its first record (20 digits), and
//! `start`, the first offset that may still be read, once records have been deleted. There is one segment for now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::batch::{Batch, HEADER};
use super::producers::{Producers, Verdict};
use super::{replace_file, wire::MAX_FRAME};

const START: &str = "start";

/// Where one batch lies.
#[derive(Debug, Clone, Copy)]
struct Entry {
    batch: Batch,
    position: u64,
}

impl Entry {
    fn last_offset(&self) -> i64 {
        self.batch.base_offset + i64::from(self.batch.last_offset_delta)
    }
}

/// Whole batches in a file, to be read without the lock of the log: a batch never changes once it is written.
#[derive(Debug)]
pub(super) struct Slice {
    file: Arc<File>,
    position: u64,
    /// Bytes.
    pub(super) size: usize,
}

impl Slice {
    /// Reads the batches.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.size];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes.into())
    }
}

/// The records of one partition.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    file: Arc<File>,
    size: u64,
    index: Vec<Entry>,
    start: i64,
    end: i64,
    producers: Producers,
    dirty: bool,
}

impl Log {
    /// Opens the log in `folder`, or begins one. What follows the last whole batch with a right checksum is cut off.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn open(folder: &Path) -> io::Result<Log> {
        fs::create_dir_all(folder)?;
        let first = first_segment(folder)?.unwrap_or(0);
        let path = folder.join(format!("{first:020}.log"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut log = Log {
            folder: folder.to_owned(),
            file: Arc::new(file),
            size: 0,
            index: Vec::new(),
            start: first,
            end: first,
            producers: Producers::default(),
            dirty: false,
        };
        log.recover()?;
        if let Ok(text) = fs::read_to_string(folder.join(START)) {
            log.start = text.trim().parse().unwrap_or(first).clamp(first, log.end);
        }
        Ok(log)
    }

    fn recover(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &*self.file);
        let mut found = Vec::new();
        let mut raw = Vec::new();
        let (mut position, mut end) = (0, self.end);
        while length - position >= HEADER as u64 {
            raw.resize(HEADER, 0);
            reader.read_exact(&mut raw)?;
            let Some(batch) = Batch::read(&raw) else { break };
            if batch.base_offset != end || batch.size > MAX_FRAME || batch.size as u64 > length - position {
                break;
            }
            raw.resize(batch.size, 0);
            reader.read_exact(&mut raw[HEADER..])?;
            if !batch.is_intact(&raw) {
                break;
            }
            found.push((batch, position));
            position += batch.size as u64;
            end += i64::from(batch.last_offset_delta) + 1;
        }
        for (batch, position) in found {
            self.record(batch, position);
        }
        if position < length {
            tracing::warn!(folder = %self.folder.display(), bytes = length - position, end, "cut a torn tail off a partition's log");
            self.file.set_len(position)?;
            self.dirty = true;
        }
        Ok(())
    }

    fn record(&mut self, batch: Batch, position: u64) {
        self.producers.appended(&batch, batch.base_offset);
        self.size = position + batch.size as u64;
        let entry = Entry { batch, position };
        self.end = entry.last_offset() + 1;
        self.index.push(entry);
    }

    /// First offset that may be read.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// Offset that the next record gets: log end, high watermark and last stable offset in one, there being no replicas.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// Appends one validated batch and returns the offset of its first record; a retried batch keeps its first offset.
    ///
    /// When this returns the operating system has the bytes: they survive the process, though not yet the machine.
    pub(super) fn append(&mut self, batch: &Batch, raw: &[u8]) -> Result<i64, ResponseError> {
        if let Verdict::Duplicate(offset) = self.producers.check(batch)? {
            return Ok(offset);
        }
        let offset = self.end;
        let stored = Batch::placed(raw, offset);
        if let Err(error) = self.file.write_all_at(&stored, self.size) {
            tracing::error!(folder = %self.folder.display(), %error, "a batch could not be written");
            // The next append writes over the piece; should the process end before, recovery cuts it.
            let _ = self.file.set_len(self.size);
            return Err(ResponseError::KafkaStorageError);
        }
        self.dirty = true;
        let mut placed = *batch;
        placed.base_offset = offset;
        self.record(placed, self.size);
        Ok(offset)
    }

    /// The batches from the one that holds `offset` on, at most `limit` bytes, or one batch if `at_least_one`.
    ///
    /// # Errors
    /// `OffsetOutOfRange` before the start and after the end; the end itself is an empty slice.
    pub(super) fn slice(&self, offset: i64, limit: usize, at_least_one: bool) -> Result<Slice, ResponseError> {
        if offset < self.start || offset > self.end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let from = self.index.partition_point(|e| e.last_offset() < offset);
        let mut size = 0;
        for entry in &self.index[from..] {
            if size + entry.batch.size > limit && !(at_least_one && size == 0) {
                break;
            }
            size += entry.batch.size;
        }
        let position = self.index.get(from).map_or(self.size, |e| e.position);
        Ok(Slice { file: Arc::clone(&self.file), position, size })
    }

    /// Timestamp and offset of the first record at or after `timestamp` (milliseconds since 1970).
    pub(super) fn find(&self, timestamp: i64) -> io::Result<Option<(i64, i64)>> {
        let Some(entry) = self.index.iter().find(|e| e.last_offset() >= self.start && e.batch.max_timestamp >= timestamp) else {
            return Ok(None);
        };
        let raw = Slice { file: Arc::clone(&self.file), position: entry.position, size: entry.batch.size }.read()?;
        Ok(entry.batch.find(raw, timestamp).map(|(at, offset)| (at, offset.max(self.start))))
    }

    /// The largest timestamp in the log.
    pub(super) fn max_timestamp(&self) -> Option<i64> {
        self.index.iter().filter(|e| e.last_offset() >= self.start).map(|e| e.batch.max_timestamp).max()
    }

    /// Makes everything before `offset` unreadable (KIP-107), -1 meaning all; returns the new start.
    pub(super) fn delete_before(&mut self, offset: i64) -> Result<i64, ResponseError> {
        let offset = if offset == -1 { self.end } else { offset };
        if offset < 0 || offset > self.end {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if offset > self.start {
            replace_file(&self.folder.join(START), offset.to_string().as_bytes()).map_err(|error| {
                tracing::error!(folder = %self.folder.display(), %error, "the log's start could not be saved");
                ResponseError::KafkaStorageError
            })?;
            self.start = offset;
        }
        Ok(self.start)
    }

    /// The file, if it was written to since the last call: the caller syncs it without holding the log's lock.
    pub(super) fn take_dirty(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| Arc::clone(&self.file))
    }
}

/// The base offset in the name of the oldest segment.
fn first_segment(folder: &Path) -> io::Result<Option<i64>> {
    let mut first = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log")
            && let Some(offset) = path.file_stem().and_then(|s| s.to_str()?.parse::<i64>().ok())
        {
            first = Some(first.map_or(offset, |f: i64| f.min(offset)));
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::sent;
    use super::*;

    fn append(log: &mut Log, raw: &[u8]) -> Result<i64, ResponseError> {
        log.append(&Batch::validate(raw).unwrap(), raw)
    }

    #[test]
    fn a_reopened_log_goes_on_at_its_end_and_still_knows_its_producers() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!(append(&mut log, &sent(3, 5, 0, 0, 100)), Ok(0));
        assert_eq!(append(&mut log, &sent(2, 5, 0, 3, 200)), Ok(3));
        drop(log);
        let mut log = Log::open(folder.path()).unwrap();
        assert_eq!((log.start(), log.end()), (0, 5));
        assert_eq!(append(&mut log, &sent(2, 5, 0, 3, 200)), Ok(3), "a retry across the restart");
        assert_eq!(append(&mut log, &sent(1, 5, 0, 9, 300)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(append(&mut log, &sent(1, 5, 0, 5, 300)), Ok(5));
        assert_eq!(log.find(201).unwrap(), Some((201, 4)));
        assert_eq!(log.find(301).unwrap(), None);
    }

    #[test]
    fn a_torn_tail_is_cut_at_the_last_whole_batch() {
        for damage in [10, HEADER + 3] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = Log::open(folder.path()).unwrap();
            append(&mut log, &sent(3, 5, 0, 0, 100)).unwrap();
            let whole = log.size;
            append(&mut log, &sent(2, 5, 0, 3, 200)).unwrap();
            log.file.set_len(whole + damage as u64).unwrap();
            drop(log);
            let mut log = Log::open(folder.path()).unwrap();
            assert_eq!((log.end(), log.size, log.file.metadata().unwrap().len()), (3, whole, whole));
            assert_eq!(append(&mut log, &sent(2, 5, 0, 3, 200)), Ok(3));
        }
    }

    #[test]
    fn a_batch_with_a_wrong_checksum_ends_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        append(&mut log, &sent(1, 5, 0, 0, 100)).unwrap();
        append(&mut log, &sent(1, 5, 0, 1, 100)).unwrap();
        log.file.write_all_at(&[0xff], log.size - 1).unwrap();
        drop(log);
        assert_eq!(Log::open(folder.path()).unwrap().end(), 1);
    }

    #[test]
    fn a_slice_holds_whole_batches_within_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        for i in 0..3 {
            append(&mut log, &sent(1, 5, 0, i, 100)).unwrap();
        }
        let one = log.index[0].batch.size;
        assert_eq!(log.slice(1, 1, true).unwrap().size, one);
        assert_eq!(log.slice(1, 1, false).unwrap().size, 0);
        assert_eq!(log.slice(0, 2 * one, false).unwrap().size, 2 * one);
        assert_eq!(Batch::read(&log.slice(2, one, false).unwrap().read().unwrap()).unwrap().base_offset, 2);
        assert_eq!(log.slice(3, one, true).unwrap().size, 0);
        assert_eq!(log.slice(4, one, true).unwrap_err(), ResponseError::OffsetOutOfRange);
    }

    #[test]
    fn deleted_records_stay_deleted_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        append(&mut log, &sent(3, 5, 0, 0, 100)).unwrap();
        assert_eq!(log.delete_before(2), Ok(2));
        assert_eq!(log.delete_before(9), Err(ResponseError::OffsetOutOfRange));
        drop(log);
        let log = Log::open(folder.path()).unwrap();
        assert_eq!((log.start(), log.end()), (2, 3));
        assert_eq!(log.slice(1, 100, true).unwrap_err(), ResponseError::OffsetOutOfRange);
    }
}
