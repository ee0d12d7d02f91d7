//! Apache Kafka, one node in KRaft mode, from the jars that `scripts/test` fetches.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process;

const HEAP: &str = "-Xmx330m";
const CLUSTER_ID: &str = "dGlkZW1pbGwtdGVzdHM4Mw";

/// Listeners beside the open one, and the settings that they need.
#[derive(Default)]
pub struct Listeners {
    /// Name, protocol and port.
    pub listeners: Vec<(&'static str, &'static str, u16)>,
    /// Lines of `server.properties`.
    pub settings: String,
}

/// Formats a new data folder for a broker that will listen on `port`, and on the others, with these SCRAM logins. A short session lets it
/// come back soon after it was killed.
pub fn format(folder: &Path, port: u16, others: &Listeners, scram: &[String]) {
    let controller = process::free_port();
    let each = |text: &dyn Fn(&str, &str, u16) -> String| -> String {
        others.listeners.iter().map(|(name, protocol, port)| text(name, protocol, *port)).collect()
    };
    let more = each(&|name, _, port| format!(",{name}://127.0.0.1:{port}"));
    let protocols = each(&|name, protocol, _| format!(",{name}:{protocol}"));
    let settings = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         broker.heartbeat.interval.ms=300\n\
         broker.session.timeout.ms=1500\n\
         log.retention.check.interval.ms=1000\n\
         log.initial.task.delay.ms=100\n\
         auto.create.topics.enable=false\n{}",
        folder.join("data").display(),
        others.settings
    );
    make(folder, &settings, scram);
}

/// The same for a second node of the cluster of another folder, a broker alone.
pub fn format_second(folder: &Path, port: u16, first: &Path) {
    let own = |line: &str| match line.split_once('=').map_or("", |(name, _)| name) {
        "process.roles" => "process.roles=broker".to_owned(),
        "node.id" => "node.id=2".to_owned(),
        name @ ("listeners" | "advertised.listeners") => format!("{name}=PLAINTEXT://127.0.0.1:{port}"),
        "log.dirs" => format!("log.dirs={}", folder.join("data").display()),
        _ => line.to_owned(),
    };
    let settings: Vec<String> = std::fs::read_to_string(settings_file(first)).unwrap().lines().map(own).collect();
    make(folder, &settings.join("\n"), &[]);
}

fn make(folder: &Path, settings: &str, scram: &[String]) {
    std::fs::write(settings_file(folder), settings).unwrap();
    let mut tool = Command::new("java");
    tool.args(["-Xmx128m", "-cp"]).arg(class_path()).args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
    tool.arg(settings_file(folder)).args(scram.iter().flat_map(|login| ["--add-scram", login]));
    let done = tool.stdin(Stdio::null()).output().expect("`java` cannot be run: install a JRE 17");
    assert!(done.status.success(), "formatting failed: {}", String::from_utf8_lossy(&done.stderr));
}

/// Starts the broker of a formatted folder.
pub fn start(folder: &Path) -> Child {
    let mut server = process::mortal("KILL", "java");
    server.args([HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(class_path());
    server.arg("kafka.Kafka").arg(settings_file(folder));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    process::spawn(server).unwrap()
}

fn settings_file(folder: &Path) -> PathBuf {
    folder.join("server.properties")
}

fn class_path() -> String {
    format!("{}/*", libs().display())
}

/// The folder of Apache Kafka's jars.
pub fn libs() -> PathBuf {
    let libs =
        std::env::var_os("TIDEMILL_TEST_KAFKA_LIBS").map_or_else(|| super::handlers::target().join("kafka/libs"), PathBuf::from);
    let any = std::fs::read_dir(&libs).is_ok_and(|mut files| files.next().is_some());
    assert!(
        any,
        "Apache Kafka's jars are not in {}: run `scripts/test`, which fetches them, or set TIDEMILL_TEST_KAFKA_LIBS",
        libs.display()
    );
    libs
}
