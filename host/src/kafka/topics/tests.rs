//! Declarations, dead-letter topics, the difference and the findings, without a broker.

use super::*;
use std::collections::BTreeSet;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

fn wanted(name: &str) -> Wanted {
    Wanted {
        name: name.to_owned(),
        partitions: 3,
        retention: 7 * DAY,
        replication: None,
        min_insync_replicas: None,
        size: Size::Default,
        derived: false,
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn declared(topics: &[Wanted]) -> Topics {
    Topics::new(topics.to_vec(), &names(&[]), &names(&[]))
}

/// Name, partitions, replicas, settings.
type Here<'a> = (&'a str, i32, i32, &'a [(&'a str, &'a str)]);

/// A cluster that has these topics, each with its settings beside those of a topic `wanted`.
fn found(brokers: usize, topics: &[Here<'_>]) -> Found {
    let topic = |partitions: i32, replication: i32, settings: &[(&str, &str)]| {
        let usual = [("retention.ms", "604800000"), ("segment.ms", "86400000"), ("max.message.bytes", "1048588")];
        let all = usual.iter().chain(&[("min.insync.replicas", "1")]).chain(settings);
        let settings = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        FoundTopic { partitions, replication, settings }
    };
    let topics =
        topics.iter().map(|(name, partitions, replicas, settings)| ((*name).to_owned(), topic(*partitions, *replicas, settings)));
    Found { brokers, default_max_message_bytes: 1_048_588, topics: topics.collect() }
}

fn steps(topic: Wanted, found: &Found) -> Vec<Step> {
    let name = topic.name.clone();
    Plan::new(&declared(&[topic]), found, false).topics.remove(&name).unwrap()
}

fn set(setting: &'static str, from: &str, to: &str) -> Step {
    Step::Set { setting, from: Some(from.to_owned()), to: to.to_owned() }
}

#[test]
fn every_topic_that_is_read_has_a_dead_letter_topic_unless_it_is_one() {
    let topics = Topics::new(vec![wanted("a"), wanted("unread")], &names(&["a", "b", "c.dlq"]), &names(&["b", "d"]));
    assert_eq!(topics.wanted().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["a", "a.dlq", "b.dlq", "unread"]);
    assert_eq!(topics.foreign().collect::<Vec<_>>(), ["b", "c.dlq", "d"]);
    let expected = Wanted {
        name: "a.dlq".to_owned(),
        partitions: 1,
        retention: 30 * DAY,
        size: Size::Above("a".to_owned()),
        derived: true,
        ..wanted("a")
    };
    assert_eq!(topics.get("a.dlq"), Some(&expected));
    let copied = Topics::new(
        vec![Wanted { replication: Some(3), min_insync_replicas: Some(2), ..wanted("a") }],
        &names(&["a"]),
        &names(&[]),
    );
    let dead_letters = copied.get("a.dlq").unwrap();
    assert_eq!((dead_letters.replication, dead_letters.min_insync_replicas), (Some(3), Some(2)));
    let one = copied.on_one_broker();
    assert!(one.wanted().all(|topic| topic.replication.is_none() && topic.min_insync_replicas.is_none()));
}

#[test]
fn a_declared_dead_letter_topic_stays_as_declared_and_large_enough() {
    let own = Wanted { partitions: 2, retention: 3 * DAY, ..wanted("a.dlq") };
    let topics = Topics::new(vec![wanted("a"), own.clone()], &names(&["a"]), &names(&["a.dlq"]));
    assert_eq!(topics.get("a.dlq"), Some(&Wanted { size: Size::Above("a".to_owned()), ..own.clone() }));
    assert_eq!(topics.foreign().count(), 0);
    let sized = Wanted { size: Size::Exactly(5), ..own };
    let topics = Topics::new(vec![wanted("a"), sized.clone()], &names(&["a"]), &names(&[]));
    assert_eq!(topics.get("a.dlq"), Some(&sized));
}

/// The size that a plan gives to the dead-letter topic of `a`.
fn dead_letter_size(declared: Vec<Wanted>, found: &Found) -> Option<String> {
    let plan = Plan::new(&Topics::new(declared, &names(&["a"]), &names(&[])), found, false);
    plan.topics["a.dlq"].iter().find_map(|step| match step {
        Step::Create { settings, .. } => settings.get("max.message.bytes").cloned(),
        Step::Set { setting: "max.message.bytes", to, .. } => Some(to.clone()),
        _ => None,
    })
}

#[test]
fn dead_letters_have_64_kib_more_room_than_their_source() {
    let large = Wanted { size: Size::Exactly(2_000_000), ..wanted("a") };
    let size = |declared: &Wanted, found: &Found| dead_letter_size(vec![declared.clone()], found);
    assert_eq!(size(&large, &found(1, &[])).as_deref(), Some("2065536"), "what is declared");
    assert_eq!(size(&wanted("a"), &found(1, &[])).as_deref(), Some("1114124"), "the broker's default");
    let here = found(1, &[("a", 3, 1, &[("max.message.bytes", "3000000")])]);
    assert_eq!(size(&wanted("a"), &here).as_deref(), Some("3065536"), "what the topic takes");
    assert_eq!(dead_letter_size(vec![], &here).as_deref(), Some("3065536"), "also of somebody else's topic");
    let kept =
        |bytes| found(1, &[("a", 3, 1, &[]), ("a.dlq", 1, 1, &[("retention.ms", "2592000000"), ("max.message.bytes", bytes)])]);
    assert_eq!(size(&wanted("a"), &kept("1114124")), None);
    assert_eq!(size(&wanted("a"), &kept("9999999")), None, "more is no fault");
    assert_eq!(size(&wanted("a"), &kept("1114123")).as_deref(), Some("1114124"));
}

#[test]
fn a_missing_topic_is_created_with_short_segments() {
    let settings = |topic: Wanted| match steps(topic, &found(3, &[])).remove(0) {
        Step::Create { partitions: 3, replication, settings } => (replication, settings.into_iter().collect::<Vec<_>>()),
        other => panic!("{other:?}"),
    };
    let text = |text: &str| text.to_owned();
    assert_eq!(settings(wanted("a")), (None, vec![("retention.ms", text("604800000")), ("segment.ms", text("86400000"))]));
    let full =
        Wanted { retention: DAY / 2, replication: Some(3), min_insync_replicas: Some(2), size: Size::Exactly(7), ..wanted("a") };
    let expected =
        [("max.message.bytes", "7"), ("min.insync.replicas", "2"), ("retention.ms", "43200000"), ("segment.ms", "43200000")];
    assert_eq!(settings(full.clone()), (Some(3), expected.map(|(name, value)| (name, text(value))).to_vec()));
    let refused = steps(full, &found(2, &[]));
    assert!(
        matches!(&refused[..], [Step::Refuse { reason }] if reason.contains("3 replicas") && reason.contains("2 broker")),
        "{refused:?}"
    );
}

#[test]
fn a_topic_as_declared_needs_nothing() {
    let here = found(1, &[("a", 3, 1, &[("segment.ms", "3600000"), ("max.message.bytes", "5"), ("retention.bytes", "77")])]);
    assert_eq!(steps(wanted("a"), &here), [], "what is not declared is nobody's fault, and shorter segments are fine");
    assert!(!Plan::new(&declared(&[wanted("a")]), &here, false).differs());
}

#[test]
fn partitions_are_added_only_with_leave_and_never_taken_away() {
    let plan = |has, allowed| {
        Plan::new(&declared(&[wanted("a")]), &found(1, &[("a", has, 1, &[])]), allowed).topics.remove("a").unwrap()
    };
    assert_eq!(plan(2, false), [Step::Grow { from: 2, to: 3, allowed: false }]);
    assert_eq!(plan(2, true), [Step::Grow { from: 2, to: 3, allowed: true }]);
    assert!(plan(2, false)[0].to_string().contains("moves keys"));
    let shrink = plan(4, true);
    assert!(matches!(&shrink[..], [Step::Refuse { reason }] if reason.contains("never taken away")), "{shrink:?}");
}

#[test]
fn settings_that_differ_are_set_and_no_others() {
    let here = |settings: &[(&str, &str)]| found(3, &[("a", 3, 3, settings)]);
    assert_eq!(steps(wanted("a"), &here(&[("retention.ms", "-1")])), [set("retention.ms", "-1", "604800000")]);
    assert_eq!(steps(wanted("a"), &here(&[("segment.ms", "604800000")])), [set("segment.ms", "604800000", "86400000")]);
    let short = Wanted { retention: Duration::from_secs(3_600), ..wanted("a") };
    assert_eq!(
        steps(short, &here(&[])),
        [set("retention.ms", "604800000", "3600000"), set("segment.ms", "86400000", "3600000")],
        "a segment is never longer than the retention"
    );
    let sized = Wanted { size: Size::Exactly(7), min_insync_replicas: Some(2), ..wanted("a") };
    assert_eq!(steps(sized, &here(&[])), [set("max.message.bytes", "1048588", "7"), set("min.insync.replicas", "1", "2")]);
}

#[test]
fn replicas_cannot_be_moved_and_nobody_is_locked_out() {
    let here = found(3, &[("a", 3, 1, &[])]);
    let reason = |topic: Wanted| match steps(topic, &here).remove(0) {
        Step::Refuse { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(Wanted { replication: Some(3), ..wanted("a") }).contains("kafka-reassign-partitions"));
    assert!(reason(Wanted { min_insync_replicas: Some(2), ..wanted("a") }).contains("nobody could write"));
}

#[test]
fn steps_read_as_sentences() {
    assert_eq!(
        set("retention.ms", "604800000", "3600000").to_string(),
        "retention.ms 7d → 1h, so the brokers drop records that are older"
    );
    assert_eq!(set("retention.ms", "3600000", "604800000").to_string(), "retention.ms 1h → 7d");
    assert!(set("retention.ms", "-1", "604800000").to_string().starts_with("retention.ms for ever → 7d, so the brokers drop"));
    assert_eq!(set("max.message.bytes", "1048576", "2097152").to_string(), "max.message.bytes 1MiB → 2MiB");
    let created = steps(wanted("a"), &found(1, &[])).remove(0).to_string();
    assert_eq!(created, "3 partition(s), retention.ms 7d, segment.ms 1d");
}

#[test]
fn findings_name_what_is_missing_or_endangers_a_promise() {
    let all = |topics: &Topics, found: &Found| findings(topics, found).iter().map(Finding::to_string).collect::<Vec<_>>();
    let one = |brokers, replicas, settings: &[(&str, &str)]| {
        let mut found = all(&declared(&[wanted("a")]), &found(brokers, &[("a", 3, replicas, settings)]));
        assert!(found.len() <= 1, "{found:?}");
        found.pop().unwrap_or_default()
    };
    assert_eq!(one(1, 1, &[]), "", "one broker cannot do better");
    assert!(one(1, 1, &[("retention.ms", "1209600000")]).contains("keeps records for 14d, declared is 7d"));
    assert!(one(1, 1, &[("retention.ms", "-1")]).contains("for ever"));
    assert_eq!(one(1, 1, &[("retention.ms", "1000")]), "", "shorter is no danger to anybody's once");
    assert!(one(1, 1, &[("segment.ms", "172800000")]).contains("fills a segment for 2d"));
    assert!(one(1, 1, &[("unclean.leader.election.enable", "true")]).contains("unclean.leader.election.enable=true"));
    assert!(one(3, 1, &[]).contains("one replica"));
    assert!(one(3, 3, &[]).contains("min.insync.replicas 1"));
    assert_eq!(one(3, 3, &[("min.insync.replicas", "2")]), "");

    let topics = Topics::new(vec![wanted("a")], &names(&["a", "b"]), &names(&[]));
    let missing = all(&topics, &found(1, &[]));
    assert_eq!(missing.len(), 4, "{missing:?}");
    for name in ["`a`", "`a.dlq`", "`b.dlq`"] {
        assert!(missing.iter().any(|line| line.contains(name) && line.contains("tidemill topics apply")), "{name}: {missing:?}");
    }
    assert!(missing.iter().any(|line| line.contains("topic `b` does not exist and no manifest declares it")), "{missing:?}");
    let small = found(1, &[("a", 3, 1, &[]), ("a.dlq", 1, 1, &[("retention.ms", "-1")]), ("b", 1, 1, &[]), ("b.dlq", 1, 1, &[])]);
    let small = all(&topics, &small);
    assert!(small.len() == 2 && small.iter().all(|line| line.contains(".dlq` takes records of")), "{small:?}");
    let warnings = Plan::new(&topics, &found(1, &[]), false).warnings;
    assert_eq!(warnings, [Finding::Undeclared("b".to_owned())], "a plan's own steps are no warnings");
}
