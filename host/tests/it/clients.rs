//! Other clients than the host's own, each a program of `host/tests/clients/`, against the embedded broker and, to check the
//! program itself, against Apache Kafka. They run with `scripts/test --long` alone, which installs what they need.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Broker, Kind, apache, handlers, on_both_brokers, process, records};

on_both_brokers!(java, kcat, kafkajs, aiokafka, confluent_kafka);

async fn java(kind: Kind) {
    run(kind, "java", &["bash".into(), file("java.sh").into()], &[apache::libs().into()]).await;
}

async fn kcat(kind: Kind) {
    run(kind, "kcat", &["bash".into(), file("kcat.sh").into()], &[]).await;
}

async fn kafkajs(kind: Kind) {
    let packages = format!("NODE_PATH={}", installed("node/node_modules").display());
    run(kind, "kafkajs", &["env".into(), packages.into(), "node".into(), file("kafkajs.js").into()], &[]).await;
}

async fn aiokafka(kind: Kind) {
    run(kind, "aiokafka", &[installed("python/bin/python").into(), file("aiokafka_client.py").into()], &[]).await;
}

async fn confluent_kafka(kind: Kind) {
    run(kind, "confluent", &[installed("python/bin/python").into(), file("confluent.py").into()], &[]).await;
}

/// Runs a program with the broker's address, a name for its topics and groups, and what else it needs. It fails by itself.
async fn run(kind: Kind, name: &'static str, program: &[OsString], more: &[OsString]) {
    if std::env::var_os("TIDEMILL_TEST_LONG").is_none() {
        println!("skipped: `scripts/test --long` runs this");
        return;
    }
    let broker = Broker::shared(kind).await;
    let topic = format!("client-{name}");
    if name == "kcat" {
        // It is the only one that cannot create topics.
        records::create_topic(&broker.address(), &topic, 4).await;
    }
    let mut command = process::mortal("TERM", "timeout");
    command.arg("300").args(program).args([broker.address(), topic]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = process::spawn(command).unwrap();
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    println!("{name} on {kind:?}\n{said}");
    assert!(ended.status.success(), "{name} on {kind:?} ended with {}:\n{said}{wrong}", ended.status);
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

fn installed(name: &str) -> PathBuf {
    handlers::target().join("clients").join(name)
}
