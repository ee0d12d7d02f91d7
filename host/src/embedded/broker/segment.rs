//! One file of a partition's log: record batches one after the other, and an index of them in memory.
//!
//! It is named like Kafka's, by the offset of its first record in 20 digits. Only the last segment of a log is appended to and
//! keeps its file open; the others are opened when they are read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{Batch, HEADER};
use super::wire::MAX_FRAME;

/// Where one batch lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) batch: Batch,
    pub(super) position: u64,
}

impl Entry {
    pub(super) fn last_offset(&self) -> i64 {
        self.batch.base_offset + i64::from(self.batch.last_offset_delta)
    }
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: i64,
    /// Bytes.
    pub(super) size: u64,
    pub(super) index: Vec<Entry>,
    path: PathBuf,
    open: Option<Arc<File>>,
    /// Largest timestamp of a record, or -1 if none has one.
    max_timestamp: i64,
    /// When this process began to know the segment, and when it was last written; milliseconds since 1970.
    opened: i64,
    written: i64,
}

impl Segment {
    /// Begins a segment, or opens one and cuts off what follows its last whole batch with a right checksum.
    pub(super) fn open(folder: &Path, base: i64, now: i64) -> io::Result<Segment> {
        let path = folder.join(format!("{base:020}.log"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let modified = file.metadata()?.modified().map_or(now, super::millis);
        let mut segment = Segment {
            base,
            size: 0,
            index: Vec::new(),
            path,
            open: Some(Arc::new(file)),
            max_timestamp: -1,
            opened: now,
            written: modified,
        };
        segment.recover()?;
        Ok(segment)
    }

    fn recover(&mut self) -> io::Result<()> {
        let file = self.file()?;
        let length = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &*file);
        let mut raw = Vec::new();
        while length - self.size >= HEADER as u64 {
            raw.resize(HEADER, 0);
            reader.read_exact(&mut raw)?;
            let Some(batch) = Batch::read(&raw) else { break };
            if batch.base_offset != self.end() || batch.size > MAX_FRAME || batch.size as u64 > length - self.size {
                break;
            }
            raw.resize(batch.size, 0);
            reader.read_exact(&mut raw[HEADER..])?;
            if !batch.is_intact(&raw) {
                break;
            }
            self.record(batch);
        }
        if self.size < length {
            tracing::warn!(file = %self.path.display(), bytes = length - self.size, "cut a torn tail off a partition's log");
            file.set_len(self.size)?;
            file.sync_data()?;
        }
        Ok(())
    }

    fn record(&mut self, batch: Batch) {
        self.index.push(Entry { batch, position: self.size });
        self.size += batch.size as u64;
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp);
    }

    /// Appends a batch that has its place already. When this returns the operating system has the bytes.
    pub(super) fn append(&mut self, batch: Batch, stored: &[u8], now: i64) -> io::Result<()> {
        let file = self.file()?;
        if let Err(error) = file.write_all_at(stored, self.size) {
            // The next append writes over the piece; should the process end before, recovery cuts it.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.written = now;
        self.record(batch);
        Ok(())
    }

    /// The offset after its last record.
    pub(super) fn end(&self) -> i64 {
        self.index.last().map_or(self.base, |entry| entry.last_offset() + 1)
    }

    /// Its file, open for reading, and while it is the last segment for writing.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        self.open.as_ref().map_or_else(|| File::open(&self.path).map(Arc::new), |file| Ok(Arc::clone(file)))
    }

    /// Nothing will be appended any more.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Removes the file. Readers that have it open go on reading.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// When it was last written, milliseconds since 1970.
    pub(super) fn written(&self) -> i64 {
        self.written
    }

    /// What retention goes by: the largest timestamp of a record, or else when the file was written.
    pub(super) fn age_from(&self) -> i64 {
        if self.max_timestamp >= 0 { self.max_timestamp } else { self.written }
    }

    /// How long it has been open, as Kafka counts it for `segment.ms`: in the time of the records, from the first batch to the
    /// one that is about to be appended, or by the clock where records have no time.
    pub(super) fn open_for(&self, timestamp: i64, now: i64) -> i64 {
        match self.index.first() {
            Some(first) if first.batch.max_timestamp >= 0 => timestamp.saturating_sub(first.batch.max_timestamp),
            _ => now - self.opened,
        }
    }

    /// The batches from the one that holds `offset` on: position, size in bytes, and whether they are all to the end.
    ///
    /// At most `limit` bytes, or one batch if `at_least_one`.
    pub(super) fn run(&self, offset: i64, limit: usize, at_least_one: bool) -> (u64, usize, bool) {
        let from = self.index.partition_point(|entry| entry.last_offset() < offset);
        let mut size = 0;
        for entry in &self.index[from..] {
            if size + entry.batch.size > limit && !(at_least_one && size == 0) {
                return (self.index[from].position, size, false);
            }
            size += entry.batch.size;
        }
        (self.index.get(from).map_or(self.size, |entry| entry.position), size, true)
    }
}
