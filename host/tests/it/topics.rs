//! Topics as code: `tidemill topics plan | apply` on real brokers, and what the running host says of its topics.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::{Value as Json, json};
use toml::Table;

use tidemill::config::KafkaAccess;
use tidemill::kafka::topics::Cluster;

use crate::support::host::{Ended, succeeded};
use crate::support::postgres::Database;
use crate::support::{Broker, Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    plan_shows_apply_makes_and_a_second_apply_does_nothing,
    fewer_partitions_than_there_are_are_refused_and_the_rest_is_done,
    more_partitions_are_held_back_until_keys_may_move,
    a_changed_retention_is_set_in_place_and_settings_of_others_stay,
    a_dead_letter_topic_has_64_kib_more_room_than_its_source,
    two_applies_at_once_both_succeed,
    serve_says_what_is_missing_until_it_is_made,
    serve_says_which_settings_endanger_a_promise,
    retentions_are_told_for_those_that_exist,
);

fn admin(address: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", address).set("log_level", "0").create().unwrap()
}

/// A topic made by hand.
async fn make(address: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let made = admin(address).create_topics(&[new], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "creating {topic}: {made:?}");
    eventually("the topic is there", async || (records::partition_count(address, topic).await > 0).then_some(())).await;
}

/// What holds for a topic.
async fn settings(address: &str, topic: &str) -> BTreeMap<String, String> {
    let told = admin(address).describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await.unwrap();
    let entries = told.into_iter().next().unwrap().unwrap().entries;
    entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

/// Some settings of a topic, in the order asked for.
async fn told<const N: usize>(address: &str, topic: &str, names: [&str; N]) -> [String; N] {
    let all = settings(address, topic).await;
    names.map(|name| all.get(name).cloned().unwrap_or_default())
}

async fn topics(world: &World, args: &[&str]) -> Ended {
    world.command(&[&["topics"], args].concat()).finish().await
}

/// A run that ends with this code.
fn ends_with(ended: Ended, code: i32) -> String {
    assert_eq!(ended.status.code(), Some(code), "{}{}", ended.stdout, ended.stderr);
    ended.stdout
}

/// The line of the answer that begins with this word and is about this topic.
fn line<'a>(answer: &'a str, word: &str, topic: &str) -> &'a str {
    let found = answer.lines().find(|line| line.starts_with(word) && line.split_whitespace().any(|part| part == topic));
    found.unwrap_or_else(|| panic!("no line `{word} … {topic}` in:\n{answer}"))
}

/// Changes the declaration of one of the probe's topics.
fn declare(world: &World, end: &str, change: impl FnOnce(&mut Table)) {
    let topic = world.topic(end);
    world.handlers.change("probe", |manifest| {
        let topics = manifest["topics"].as_table_mut().unwrap();
        let declared = topics.entry(topic).or_insert_with(|| Table::new().into());
        change(declared.as_table_mut().unwrap());
    });
}

async fn plan_shows_apply_makes_and_a_second_apply_does_nothing(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let dead_letters = format!("{topic}.dlq");
    let plan = ends_with(topics(&world, &["plan"]).await, 2);
    assert!(line(&plan, "create", &topic).contains("3 partition(s), retention.ms 1d, segment.ms 1d"), "{plan}");
    assert!(line(&plan, "create", &dead_letters).contains("1 partition(s)"), "{plan}");
    assert!(plan.contains("warning") && plan.contains(&world.topic("missing")), "nobody declares it: {plan}");
    assert_eq!(records::partition_count(&address, &topic).await, 0, "a plan makes nothing");

    let json: Json = serde_json::from_str(&ends_with(topics(&world, &["plan", "--json"]).await, 2)).unwrap();
    assert_eq!(json["differs"], true, "{json}");
    let first = &json["topics"][0];
    assert_eq!((&first["topic"], &first["steps"][0]["action"]), (&json!(topic), &json!("create")), "{json}");
    assert_eq!(first["steps"][0]["settings"]["retention.ms"], "86400000", "{json}");

    let applied = ends_with(topics(&world, &["apply"]).await, 0);
    line(&applied, "created", &topic);
    assert_eq!(records::partition_count(&address, &topic).await, 3);
    assert_eq!(told(&address, &topic, ["retention.ms", "segment.ms"]).await, ["86400000", "86400000"]);
    assert_eq!(records::partition_count(&address, &dead_letters).await, 1);
    let expected = ["2592000000", "86400000", "1114124"];
    assert_eq!(told(&address, &dead_letters, ["retention.ms", "segment.ms", "max.message.bytes"]).await, expected);

    let before = settings(&address, &topic).await;
    let again = ends_with(topics(&world, &["apply"]).await, 0);
    assert!(again.contains("nothing to do"), "{again}");
    line(&again, "unchanged", &topic);
    assert_eq!(settings(&address, &topic).await, before);
    assert!(ends_with(topics(&world, &["plan"]).await, 0).contains("nothing to do"));
    let json: Json = serde_json::from_str(&ends_with(topics(&world, &["apply", "--json"]).await, 0)).unwrap();
    assert_eq!((&json["complete"], &json["topics"][0]["steps"]), (&json!(true), &json!([])), "{json}");
}

async fn fewer_partitions_than_there_are_are_refused_and_the_rest_is_done(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    make(&address, &topic, 5, &[("retention.ms", "5000000")]).await;
    let plan = ends_with(topics(&world, &["plan", "--allow-key-moves"]).await, 2);
    assert!(line(&plan, "refused", &topic).contains("3 partitions are declared, it has 5"), "{plan}");
    let applied = ends_with(topics(&world, &["apply", "--allow-key-moves"]).await, 1);
    assert!(line(&applied, "refused", &topic).contains("never taken away"), "{applied}");
    assert_eq!(records::partition_count(&address, &topic).await, 5);
    assert_eq!(told(&address, &topic, ["retention.ms"]).await, ["86400000"]);
    assert_eq!(records::partition_count(&address, &world.topic("out")).await, 3, "the rest is done");
}

async fn more_partitions_are_held_back_until_keys_may_move(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    make(&address, &topic, 1, &[]).await;
    for (command, code) in [("plan", 2), ("apply", 1)] {
        let answer = ends_with(topics(&world, &[command]).await, code);
        let line = line(&answer, "held back", &topic);
        assert!(
            line.contains("1 → 3 partitions") && line.contains("another partition") && line.contains("--allow-key-moves"),
            "{line}"
        );
    }
    assert_eq!(records::partition_count(&address, &topic).await, 1);
    let applied = ends_with(topics(&world, &["apply", "--allow-key-moves"]).await, 0);
    line(&applied, "grown", &topic);
    assert_eq!(records::partition_count(&address, &topic).await, 3);
    ends_with(topics(&world, &["plan"]).await, 0);
}

async fn a_changed_retention_is_set_in_place_and_settings_of_others_stay(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let by_hand =
        [("retention.ms", "604800000"), ("segment.ms", "60000"), ("retention.bytes", "777777"), ("segment.bytes", "2000000")];
    make(&address, &topic, 3, &by_hand).await;
    let plan = ends_with(topics(&world, &["plan"]).await, 2);
    assert!(line(&plan, "change", &topic).contains("retention.ms 7d → 1d, so the brokers drop records that are older"), "{plan}");
    ends_with(topics(&world, &["apply"]).await, 0);
    let expected = ["86400000", "60000", "777777", "2000000"];
    assert_eq!(told(&address, &topic, by_hand.map(|(name, _)| name)).await, expected);
    declare(&world, "in", |topic| drop(topic.insert("retention".into(), "2d".into())));
    line(&ends_with(topics(&world, &["apply"]).await, 0), "changed", &topic);
    let expected = ["172800000", "60000", "777777", "2000000"];
    assert_eq!(told(&address, &topic, by_hand.map(|(name, _)| name)).await, expected);
}

async fn a_dead_letter_topic_has_64_kib_more_room_than_its_source(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let dead_letters = format!("{topic}.dlq");
    let sizes = async || {
        ends_with(topics(&world, &["apply"]).await, 0);
        let size = ["max.message.bytes"];
        let [source] = told(&address, &topic, size).await;
        let [copy] = told(&address, &dead_letters, size).await;
        (source.parse::<i64>().unwrap(), copy.parse::<i64>().unwrap())
    };
    declare(&world, "in", |topic| drop(topic.insert("max_message_bytes".into(), "2MiB".into())));
    assert_eq!(sizes().await, (2 << 20, (2 << 20) + (64 << 10)));
    declare(&world, "in", |topic| drop(topic.insert("max_message_bytes".into(), "3MiB".into())));
    assert_eq!(sizes().await, (3 << 20, (3 << 20) + (64 << 10)));
    declare(&world, "in.dlq", |topic| {
        topic.insert("partitions".into(), 1.into());
        topic.insert("retention".into(), "3d".into());
    });
    assert_eq!(sizes().await, (3 << 20, (3 << 20) + (64 << 10)), "its own declaration says nothing of its size");
    assert_eq!(told(&address, &dead_letters, ["retention.ms"]).await, ["259200000"]);
    assert_eq!(records::partition_count(&address, &format!("{}.dlq", world.topic("out"))).await, 0, "nobody reads it");
}

async fn two_applies_at_once_both_succeed(kind: Kind) {
    let world = World::probe(kind).await;
    let (one, two) = tokio::join!(topics(&world, &["apply"]), topics(&world, &["apply"]));
    ends_with(one, 0);
    ends_with(two, 0);
    ends_with(topics(&world, &["plan"]).await, 0);
}

/// The note about the topics, while it stands.
async fn note(world: &World) -> Option<String> {
    let ready = world.readyz().await;
    assert_eq!(ready.status, 200, "topics are no reason not to answer requests: {ready:?}");
    ready.body["notes"]["topics"].as_str().map(str::to_owned)
}

async fn serve_says_what_is_missing_until_it_is_made(kind: Kind) {
    let mut world = World::probe(kind).await;
    let missing = world.topic("missing");
    world.handlers.change("probe", |manifest| {
        manifest["publish"]["topics"].as_array_mut().unwrap().retain(|topic| topic.as_str() != Some(&missing));
    });
    succeeded(world.command(&["migrate"]).finish().await);
    world.start().await;
    let said = eventually("the note is there", async || note(&world).await).await;
    for topic in [world.topic("in"), world.topic("out"), format!("{}.dlq", world.topic("in"))] {
        let sentence = format!("topic `{topic}` does not exist: run `tidemill topics apply`");
        assert!(said.contains(&sentence), "{said}");
        assert_eq!(world.log().matches(&sentence).count(), 1, "one line each");
    }
    assert_eq!(world.steps("insert", json!({ "id": "meanwhile" })).await.status, 200);
    ends_with(topics(&world, &["apply"]).await, 0);
    eventually("the note is gone", async || note(&world).await.is_none().then_some(())).await;
}

async fn serve_says_which_settings_endanger_a_promise(kind: Kind) {
    let mut world = World::probe(kind).await;
    let address = world.broker.address();
    make(&address, &world.topic("in"), 3, &[("retention.ms", "1209600000"), ("segment.ms", "172800000")]).await;
    make(
        &address,
        &world.topic("out"),
        3,
        &[("retention.ms", "-1"), ("segment.ms", "1000"), ("unclean.leader.election.enable", "true")],
    )
    .await;
    make(&address, &world.topic("missing"), 1, &[("segment.ms", "3600000")]).await;
    succeeded(world.command(&["migrate"]).finish().await);
    world.start().await;
    let said = eventually("the note is there", async || note(&world).await).await;
    for part in [
        format!("topic `{}` keeps records for 14d, declared is 1d", world.topic("in")),
        format!("topic `{}` fills a segment for 2d", world.topic("in")),
        format!("topic `{}` keeps records for ever", world.topic("out")),
        format!("topic `{}` has unclean.leader.election.enable=true", world.topic("out")),
    ] {
        assert!(said.contains(&part), "`{part}` is missing in: {said}");
    }
    assert!(!said.contains(&format!("`{}`", world.topic("missing"))), "it is there, and fine: {said}");
    ends_with(topics(&world, &["apply"]).await, 0);
    let left = format!("topic `{}` has unclean", world.topic("out"));
    let only = async || note(&world).await.filter(|note| note.starts_with(&left) && !note.contains("; topic"));
    eventually("what only a person can mend is left", only).await;
}

async fn retentions_are_told_for_those_that_exist(kind: Kind) {
    let world = World::probe(kind).await;
    let (address, name) = (world.broker.address(), |end: &str| world.topic(end));
    make(&address, &name("day"), 1, &[("retention.ms", "86400000")]).await;
    make(&address, &name("ever"), 1, &[("retention.ms", "-1")]).await;
    let asked = ["day", "ever", "never"].map(name);
    let told = Cluster::connect(&KafkaAccess::plaintext(address.clone())).unwrap().retentions(&asked).await.unwrap();
    let day = std::time::Duration::from_secs(86_400);
    assert_eq!(told, BTreeMap::from([(name("day"), Some(day)), (name("ever"), None)]));
    assert_eq!(records::partition_count(&address, &name("never")).await, 0, "asking makes nothing");
}

#[tokio::test]
async fn the_product_gets_the_topics_of_its_table() {
    let world = World::new(Database::create().await, Broker::dedicated(Kind::Embedded).await);
    world.handlers.add_todo();
    ends_with(topics(&world, &["apply"]).await, 0);
    let address = world.broker.address();
    for (topic, partitions, retention) in [
        ("todo.task-events", 3, "604800000"),
        ("todo.task-updates", 3, "604800000"),
        ("todo.task-events.dlq", 1, "2592000000"),
        ("todo.task-updates.dlq", 1, "2592000000"),
        ("todo.reminders", 1, "259200000"),
        ("todo.reminders.dlq", 1, "2592000000"),
    ] {
        assert_eq!(records::partition_count(&address, topic).await, partitions, "{topic}");
        assert_eq!(told(&address, topic, ["retention.ms", "segment.ms"]).await, [retention, "86400000"], "{topic}");
    }
}

#[tokio::test]
async fn topics_without_a_command_or_a_broker_names_what_to_give() {
    let world = World::new(Database::create().await, Broker::shared(Kind::Embedded).await);
    let bare = crate::support::host::Run::new(&["topics", "plan"]).finish().await;
    crate::support::host::fails_naming(&bare, &["tidemill topics", "--handlers", "--kafka-brokers"]);
    let misspelt = topics(&world, &["aply"]).await;
    assert!(!misspelt.status.success() && misspelt.stderr.contains("apply"), "{}", misspelt.stderr);
}
