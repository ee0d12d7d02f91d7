//! One partition's log on a real disk, with time as an argument.

use super::super::batch::HEADER;
use super::super::batch::tests::sent;
use super::*;

const DAY: i64 = 24 * 60 * 60 * 1000;

fn opened(folder: &Path) -> Log {
    Log::open(folder, 0).unwrap()
}

/// No limits but those of a test.
fn limits() -> Limits {
    Limits { max_message_bytes: 1 << 20, segment_bytes: 1 << 30, segment_ms: DAY, retention_bytes: None, retention_ms: None }
}

fn append_within(log: &mut Log, raw: &[u8], limits: &Limits) -> Result<i64, ResponseError> {
    log.append(&Batch::validate(raw).unwrap(), raw, limits, 0)
}

fn append(log: &mut Log, raw: &[u8]) -> Result<i64, ResponseError> {
    append_within(log, raw, &limits())
}

/// A log of four segments with one batch of one record each, at the times 0, 1000, 2000 and 3000; and the size of a segment.
fn four(folder: &Path) -> (Log, u64) {
    let mut log = opened(folder);
    let size = sent(1, 5, 0, 0, 0).len() as u64;
    for i in 0..4 {
        append_within(&mut log, &sent(1, 5, 0, i, i64::from(i) * 1000), &Limits { segment_bytes: size, ..limits() }).unwrap();
    }
    assert_eq!(files(folder), [0, 1, 2, 3]);
    (log, size)
}

/// Base offsets of the segments on the disk.
fn files(folder: &Path) -> Vec<i64> {
    bases(folder).unwrap()
}

fn read(log: &Log, offset: i64) -> Vec<u8> {
    log.slice(offset, usize::MAX, true).unwrap().read().unwrap().to_vec()
}

#[test]
fn a_reopened_log_goes_on_at_its_end_and_still_knows_its_producers() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = opened(folder.path());
    assert_eq!(append(&mut log, &sent(3, 5, 0, 0, 100)), Ok(0));
    assert_eq!(append(&mut log, &sent(2, 5, 0, 3, 200)), Ok(3));
    drop(log);
    let mut log = opened(folder.path());
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
        let mut log = opened(folder.path());
        append(&mut log, &sent(3, 5, 0, 0, 100)).unwrap();
        let whole = log.segments[0].size;
        append(&mut log, &sent(2, 5, 0, 3, 200)).unwrap();
        log.segments[0].file().unwrap().set_len(whole + damage as u64).unwrap();
        drop(log);
        let mut log = opened(folder.path());
        let length = log.segments[0].file().unwrap().metadata().unwrap().len();
        assert_eq!((log.end(), log.segments[0].size, length), (3, whole, whole));
        assert_eq!(append(&mut log, &sent(2, 5, 0, 3, 200)), Ok(3));
    }
}

#[test]
fn a_batch_with_a_wrong_checksum_ends_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = opened(folder.path());
    append(&mut log, &sent(1, 5, 0, 0, 100)).unwrap();
    append(&mut log, &sent(1, 5, 0, 1, 100)).unwrap();
    log.segments[0].file().unwrap().write_all_at(&[0xff], log.segments[0].size - 1).unwrap();
    drop(log);
    assert_eq!(opened(folder.path()).end(), 1);
}

#[test]
fn a_torn_segment_ends_the_log_and_those_behind_it_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    drop(four(folder.path()));
    fs::write(folder.path().join(format!("{:020}.log", 1)), b"torn").unwrap();
    let mut log = opened(folder.path());
    assert_eq!((log.start(), log.end(), files(folder.path())), (0, 1, vec![0, 1]));
    assert_eq!(append(&mut log, &sent(1, 5, 0, 1, 100)), Ok(1));
}

#[test]
fn a_slice_holds_whole_batches_within_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = opened(folder.path());
    for i in 0..3 {
        append(&mut log, &sent(1, 5, 0, i, 100)).unwrap();
    }
    let one = log.segments[0].index[0].batch.size;
    assert_eq!(log.slice(1, 1, true).unwrap().size, one);
    assert_eq!(log.slice(1, 1, false).unwrap().size, 0);
    assert_eq!(log.slice(0, 2 * one, false).unwrap().size, 2 * one);
    assert_eq!(Batch::read(&log.slice(2, one, false).unwrap().read().unwrap()).unwrap().base_offset, 2);
    assert_eq!(log.slice(3, one, true).unwrap().size, 0);
    assert_eq!(log.slice(4, one, true).unwrap_err(), ResponseError::OffsetOutOfRange);
}

#[test]
fn a_slice_and_a_timestamp_are_found_across_segments_also_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (log, size) = four(folder.path());
    let one = usize::try_from(size).unwrap();
    for log in [log, opened(folder.path())] {
        assert_eq!(read(&log, 1).len(), 3 * one);
        let offsets: Vec<i64> = read(&log, 1).chunks(one).map(|raw| Batch::read(raw).unwrap().base_offset).collect();
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!(log.slice(0, 2 * one + 1, true).unwrap().size, 2 * one);
        assert_eq!(log.find(1500).unwrap(), Some((2000, 2)));
        assert_eq!(log.max_timestamp(), Some(3000));
    }
}

#[test]
fn a_segment_is_closed_when_its_records_span_more_than_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = opened(folder.path());
    let limits = Limits { segment_ms: 1000, ..limits() };
    for (sequence, timestamp) in [(0, 5000), (1, 6000), (2, 6001)] {
        append_within(&mut log, &sent(1, 5, 0, sequence, timestamp), &limits).unwrap();
    }
    assert_eq!(files(folder.path()), [0, 2]);
}

#[test]
fn retention_by_time_goes_by_the_largest_timestamp_and_closes_the_last_segment() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, size) = four(folder.path());
    let limits = Limits { retention_ms: Some(1000), ..limits() };
    assert_eq!(log.sweep(&limits, 1000).unwrap(), 0, "not a millisecond too early");
    assert_eq!(log.sweep(&limits, 2001).unwrap(), 2 * size);
    assert_eq!((log.start(), log.end(), files(folder.path())), (2, 4, vec![2, 3]));
    assert_eq!(log.slice(1, 100, true).unwrap_err(), ResponseError::OffsetOutOfRange);
    assert_eq!(log.sweep(&limits, 4001).unwrap(), 2 * size);
    assert_eq!(log.sweep(&limits, 9999).unwrap(), 0, "an empty segment stays");
    drop(log);
    let mut log = opened(folder.path());
    assert_eq!((log.start(), log.end(), files(folder.path())), (4, 4, vec![4]));
    assert_eq!(log.slice(3, 100, true).unwrap_err(), ResponseError::OffsetOutOfRange);
    assert_eq!(log.slice(4, 100, true).unwrap().size, 0);
    assert_eq!(append(&mut log, &sent(1, 6, 0, 0, 100)), Ok(4));
}

#[test]
fn retention_by_size_keeps_at_least_that_much() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, size) = four(folder.path());
    let keeping = |bytes| Limits { retention_bytes: Some(bytes), ..limits() };
    assert_eq!(log.sweep(&keeping(3 * size + 1), 0).unwrap(), 0);
    assert_eq!(log.sweep(&keeping(3 * size), 0).unwrap(), size);
    assert_eq!((log.start(), files(folder.path())), (1, vec![1, 2, 3]));
    assert_eq!(log.sweep(&keeping(0), 0).unwrap(), 3 * size);
    assert_eq!((log.start(), log.end(), files(folder.path())), (4, 4, vec![4]));
}

#[test]
fn deleted_records_stay_deleted_and_their_whole_segments_leave_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, size) = four(folder.path());
    assert_eq!(log.delete_before(2), Ok(2));
    assert_eq!(log.delete_before(9), Err(ResponseError::OffsetOutOfRange));
    let reader = {
        let log = opened(folder.path());
        assert_eq!((log.start(), log.end()), (2, 4), "before the sweep");
        assert_eq!(log.slice(1, 100, true).unwrap_err(), ResponseError::OffsetOutOfRange);
        log.slice(2, usize::MAX, true).unwrap()
    };
    assert_eq!(log.sweep(&limits(), 0).unwrap(), 2 * size);
    assert_eq!(files(folder.path()), [2, 3]);
    assert_eq!(log.delete_before(-1), Ok(4));
    assert_eq!(log.sweep(&limits(), 0).unwrap(), 2 * size);
    assert_eq!(files(folder.path()), [4]);
    assert_eq!(reader.read().unwrap().len() as u64, 2 * size, "who has begun to read goes on");
}

#[test]
fn a_closed_segment_is_synced_as_well_and_again_if_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = four(folder.path());
    let mut files = log.take_unsynced();
    assert_eq!((files.len(), log.take_unsynced().len()), (4, 0));
    log.still_unsynced(files.remove(0));
    assert_eq!(log.take_unsynced().len(), 1);
}
