//! Committed offsets in a real file, with time as an argument.

use super::*;

fn at(offset: i64) -> Option<Committed> {
    Some(Committed { offset, leader_epoch: -1, metadata: "a \"note\"".to_owned() })
}

#[test]
fn the_last_commit_of_each_partition_survives_reopening_and_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets.log");
    let mut offsets = Offsets::open(&path, 0).unwrap();
    offsets.change("g", vec![("t".into(), 0, at(1)), ("t".into(), 1, at(5))], 0).unwrap();
    offsets.change("g", vec![("t".into(), 0, at(2))], 0).unwrap();
    let lines = fs::read(&path).unwrap();
    fs::write(&path, [&lines[..], &lines[..20]].concat()).unwrap();
    drop(offsets);
    let mut offsets = Offsets::open(&path, 0).unwrap();
    assert_eq!(offsets.of("g").unwrap()["t"], BTreeMap::from([(0, at(2).unwrap()), (1, at(5).unwrap())]));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2, "it was compacted");
    offsets.change("g", vec![("t".into(), 0, at(3))], 0).unwrap();
    assert_eq!(Offsets::open(&path, 0).unwrap().of("g").unwrap()["t"][&0], at(3).unwrap());
}

#[test]
fn offsets_of_a_deleted_topic_are_gone_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets.log");
    let mut offsets = Offsets::open(&path, 0).unwrap();
    offsets.change("g", vec![("t".into(), 0, at(1)), ("u".into(), 0, at(1))], 0).unwrap();
    offsets.change("h", vec![("t".into(), 0, at(1))], 0).unwrap();
    offsets.forget_topic("t", 0).unwrap();
    drop(offsets);
    let offsets = Offsets::open(&path, 0).unwrap();
    assert_eq!(offsets.groups().collect::<Vec<_>>(), ["g"]);
    assert!(!offsets.of("g").unwrap().contains_key("t"));
}

#[test]
fn a_group_is_forgotten_after_seven_days_without_members_and_commits_also_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets.log");
    let mut offsets = Offsets::open(&path, 0).unwrap();
    for group in ["idle", "alive", "commits"] {
        offsets.change(group, vec![("t".into(), 0, at(1))], 1).unwrap();
    }
    offsets.expire(|group| group == "alive", HOUR).unwrap();
    offsets.expire(|group| group == "alive", 2 * HOUR).unwrap();
    offsets.change("commits", vec![("t".into(), 1, at(1))], 3 * HOUR).unwrap();
    drop(offsets);
    let mut offsets = Offsets::open(&path, 4 * HOUR).unwrap();
    offsets.expire(|_| false, RETENTION).unwrap();
    assert_eq!(offsets.groups().collect::<Vec<_>>(), ["alive", "commits", "idle"]);
    offsets.expire(|_| false, RETENTION + 1).unwrap();
    assert_eq!(offsets.groups().collect::<Vec<_>>(), ["alive", "commits"]);
    offsets.expire(|_| false, RETENTION + 2 * HOUR).unwrap();
    assert_eq!(offsets.groups().collect::<Vec<_>>(), ["commits"]);
    offsets.expire(|_| false, RETENTION + 3 * HOUR).unwrap();
    drop(offsets);
    assert_eq!(Offsets::open(&path, 0).unwrap().groups().count(), 0);
}

#[test]
fn the_file_is_rewritten_when_it_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets.log");
    let mut offsets = Offsets::open(&path, 0).unwrap();
    offsets.rewrite_at = 1000;
    for offset in 0..100 {
        offsets.change("g", vec![("t".into(), 0, at(offset))], 0).unwrap();
        offsets.rewrite_at = 1000;
    }
    assert!(fs::metadata(&path).unwrap().len() < 1200);
    drop(offsets);
    assert_eq!(Offsets::open(&path, 0).unwrap().of("g").unwrap()["t"][&0], at(99).unwrap());
}
