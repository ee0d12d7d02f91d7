//! The log of one partition: segments of record batches, of which the last is appended to.
//!
//! The folder of a partition holds its segments and, once records have been deleted by request, `start`: the first offset that
//! may still be read. Segments are closed when they are full or old, and removed when nothing in them is to be kept.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::batch::Batch;
use super::configs::Limits;
use super::producers::{Producers, Verdict};
use super::replace_file;
use super::segment::{Entry, Segment};

const START: &str = "start";
/// What was written a moment ago stays that long, whatever its records say of their age: Kafka looks every five minutes only, and a record
/// that is old when it comes shall be read all the same.
const SETTLE: i64 = 30_000;

/// Whole batches in files, to be read without the lock of the log: a batch never changes once it is written.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pieces: Vec<(Arc<File>, u64, usize)>,
    /// Bytes.
    pub(super) size: usize,
}

impl Slice {
    fn push(&mut self, file: Arc<File>, position: u64, size: usize) {
        self.pieces.push((file, position, size));
        self.size += size;
    }

    /// Reads the batches.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.size];
        let mut rest = &mut bytes[..];
        for (file, position, size) in &self.pieces {
            let (piece, behind) = rest.split_at_mut(*size);
            file.read_exact_at(piece, *position)?;
            rest = behind;
        }
        Ok(bytes.into())
    }
}

/// The records of one partition.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    /// Never empty, without gaps; the last one is open for writing.
    segments: Vec<Segment>,
    start: i64,
    producers: Producers,
    /// Whether the last segment was written to since it was synced, and closed segments that still have to be.
    dirty: bool,
    unsynced: Vec<Arc<File>>,
}

impl Log {
    /// Opens the log in `folder`, or begins one. What follows the last whole batch with a right checksum is cut off.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn open(folder: &Path, now: i64) -> io::Result<Log> {
        fs::create_dir_all(folder)?;
        let mut segments: Vec<Segment> = Vec::new();
        let mut producers = Producers::default();
        for base in bases(folder)? {
            let segment = Segment::open(folder, base, now)?;
            match segments.last_mut() {
                Some(last) if last.end() != base => {
                    tracing::warn!(folder = %folder.display(), base, bytes = segment.size, "removed a segment behind a torn one");
                    segment.remove()?;
                    continue;
                }
                Some(last) => last.close(),
                None => {}
            }
            segment.index.iter().for_each(|entry| producers.appended(&entry.batch, entry.batch.base_offset, now));
            segments.push(segment);
        }
        if segments.is_empty() {
            segments.push(Segment::open(folder, 0, now)?);
        }
        let first = segments[0].base;
        let mut log = Log { folder: folder.to_owned(), segments, start: first, producers, dirty: false, unsynced: Vec::new() };
        if let Ok(text) = fs::read_to_string(folder.join(START)) {
            log.start = text.trim().parse().unwrap_or(first).clamp(first, log.end());
        }
        Ok(log)
    }

    /// First offset that may be read.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// Offset that the next record gets: log end, high watermark and last stable offset in one, there being no replicas.
    pub(super) fn end(&self) -> i64 {
        self.segments.last().map_or(0, Segment::end)
    }

    /// Appends one validated batch and returns the offset of its first record; a retried batch keeps its first offset.
    ///
    /// When this returns the operating system has the bytes: they survive the process, though not yet the machine.
    pub(super) fn append(&mut self, batch: &Batch, raw: &[u8], limits: &Limits, now: i64) -> Result<i64, ResponseError> {
        if let Verdict::Duplicate(offset) = self.producers.check(batch)? {
            return Ok(offset);
        }
        let offset = self.end();
        let mut placed = *batch;
        placed.base_offset = offset;
        self.write(placed, &Batch::placed(raw, offset), limits, now)
            .map_err(|error| self.storage(&error, "a batch could not be written"))?;
        self.producers.appended(batch, offset, now);
        Ok(offset)
    }

    fn write(&mut self, batch: Batch, stored: &[u8], limits: &Limits, now: i64) -> io::Result<()> {
        let full = |last: &Segment| {
            let (size, open_for) = (last.size + batch.size as u64, last.open_for(batch.max_timestamp, now));
            last.size > 0 && (size > limits.segment_bytes || open_for > limits.segment_ms)
        };
        if self.segments.last().is_some_and(full) {
            self.roll(now)?;
        }
        self.dirty = true;
        self.segments.last_mut().map_or(Ok(()), |last| last.append(batch, stored, now))
    }

    /// Closes the last segment and begins another.
    fn roll(&mut self, now: i64) -> io::Result<()> {
        let next = Segment::open(&self.folder, self.end(), now)?;
        if let Some(last) = self.segments.last_mut() {
            if std::mem::take(&mut self.dirty) {
                self.unsynced.push(last.file()?);
            }
            last.close();
        }
        self.segments.push(next);
        Ok(())
    }

    /// Removes the segments that retention no longer keeps or that nobody may read, oldest first, and forgets idle producers.
    /// The last segment is closed for that like any other. Returns how many bytes that freed.
    ///
    /// # Errors
    /// A file cannot be removed or begun; what is left is removed by a later call.
    pub(super) fn sweep(&mut self, limits: &Limits, now: i64) -> io::Result<u64> {
        self.producers.expire(now);
        let doomed = self.doomed(limits, now);
        if doomed == self.segments.len() {
            self.roll(now)?;
        }
        let mut freed = 0;
        for _ in 0..doomed {
            self.segments[0].remove()?;
            freed += self.segments.remove(0).size;
            self.start = self.start.max(self.segments[0].base);
        }
        Ok(freed)
    }

    fn doomed(&self, limits: &Limits, now: i64) -> usize {
        let size: u64 = self.segments.iter().map(|segment| segment.size).sum();
        let mut excess = limits.retention_bytes.map_or(0, |kept| size.saturating_sub(kept));
        let gone = |segment: &&Segment| {
            let old = limits
                .retention_ms
                .is_some_and(|kept| now - segment.age_from() > kept && now - segment.written() > kept.min(SETTLE));
            let beyond = limits.retention_bytes.is_some() && excess >= segment.size;
            excess = excess.saturating_sub(segment.size);
            segment.size > 0 && (old || beyond || segment.end() <= self.start)
        };
        self.segments.iter().take_while(gone).count()
    }

    /// The batches from the one that holds `offset` on, at most `limit` bytes, or one batch if `at_least_one`.
    ///
    /// # Errors
    /// `OffsetOutOfRange` before the start and after the end; the end itself is an empty slice.
    pub(super) fn slice(&self, offset: i64, limit: usize, at_least_one: bool) -> Result<Slice, ResponseError> {
        if offset < self.start || offset > self.end() {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let mut slice = Slice::default();
        let first = self.segments.partition_point(|segment| segment.end() <= offset);
        for segment in &self.segments[first..] {
            let (position, size, whole) = segment.run(offset, limit.saturating_sub(slice.size), at_least_one && slice.size == 0);
            if size > 0 {
                let file = segment.file().map_err(|error| self.storage(&error, "a segment could not be opened"))?;
                slice.push(file, position, size);
            }
            if !whole {
                break;
            }
        }
        Ok(slice)
    }

    /// What may be read, batch by batch.
    fn readable(&self) -> impl Iterator<Item = (&Segment, &Entry)> {
        let entries = self.segments.iter().flat_map(|segment| segment.index.iter().map(move |entry| (segment, entry)));
        entries.filter(|(_, entry)| entry.last_offset() >= self.start)
    }

    /// Timestamp and offset of the first record at or after `timestamp` (milliseconds since 1970).
    pub(super) fn find(&self, timestamp: i64) -> io::Result<Option<(i64, i64)>> {
        let Some((segment, entry)) = self.readable().find(|(_, entry)| entry.batch.max_timestamp >= timestamp) else {
            return Ok(None);
        };
        let mut slice = Slice::default();
        slice.push(segment.file()?, entry.position, entry.batch.size);
        Ok(entry.batch.find(slice.read()?, timestamp).map(|(at, offset)| (at, offset.max(self.start))))
    }

    /// The largest timestamp in the log.
    pub(super) fn max_timestamp(&self) -> Option<i64> {
        self.readable().map(|(_, entry)| entry.batch.max_timestamp).max()
    }

    /// Makes everything before `offset` unreadable (KIP-107), -1 meaning all; returns the new start. A sweep frees the disk.
    pub(super) fn delete_before(&mut self, offset: i64) -> Result<i64, ResponseError> {
        let offset = if offset == -1 { self.end() } else { offset };
        if offset < 0 || offset > self.end() {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if offset > self.start {
            replace_file(&self.folder.join(START), offset.to_string().as_bytes())
                .map_err(|error| self.storage(&error, "the log's start could not be saved"))?;
            self.start = offset;
        }
        Ok(self.start)
    }

    /// The files that were written to since the last call: the caller syncs them without holding the log's lock.
    pub(super) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        let mut files = std::mem::take(&mut self.unsynced);
        if std::mem::take(&mut self.dirty) {
            files.extend(self.segments.last().and_then(|last| last.file().ok()));
        }
        files
    }

    /// Takes back a file that could not be synced.
    pub(super) fn still_unsynced(&mut self, file: Arc<File>) {
        self.unsynced.push(file);
    }

    fn storage(&self, error: &io::Error, what: &'static str) -> ResponseError {
        tracing::error!(folder = %self.folder.display(), %error, "{what}");
        ResponseError::KafkaStorageError
    }
}

/// The offsets that the segments of a folder are named by, in order.
fn bases(folder: &Path) -> io::Result<Vec<i64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") {
            bases.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<i64>().ok()));
        }
    }
    bases.sort_unstable();
    Ok(bases)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
