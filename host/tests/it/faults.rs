//! Bad input and missing parts: each gets a message that names the thing and the way out, and no panic.

use std::path::Path;

use serde_json::json;

use crate::support::handlers::Handlers;
use crate::support::host::{Run, fails_naming, succeeded};
use crate::support::http::KEY;
use crate::support::postgres::{Database, WITH_PASSWORD, cluster};
use crate::support::{Answer, Broker, Kind, World, eventually, process, records};

#[tokio::test]
async fn a_taken_port_is_named_with_its_variable() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for variable in ["TIDEMILL_HTTP_ADDR", "TIDEMILL_ADMIN_ADDR"] {
        let ended = world.command(&["serve"]).env(variable, &address).finish().await;
        fails_naming(&ended, &[&address, variable]);
    }
}

#[tokio::test]
async fn a_missing_or_weak_setting_is_named() {
    let world = World::probe(Kind::Embedded).await;
    for variable in ["TIDEMILL_DATABASE_URL", "TIDEMILL_KAFKA_BROKERS", "TIDEMILL_JWT_HS256_KEY"] {
        let mut run = world.command(&["serve"]);
        run.env.remove(variable);
        fails_naming(&run.finish().await, &[variable]);
    }
    let weak = world.command(&["serve"]).env("TIDEMILL_JWT_HS256_KEY", "too short").finish().await;
    fails_naming(&weak, &["TIDEMILL_JWT_HS256_KEY", "32"]);
    assert!(!weak.stderr.contains("too short"), "secrets are in no error");
    let odd = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "nowhere").finish().await;
    fails_naming(&odd, &["TIDEMILL_HTTP_ADDR", "nowhere"]);
}

#[tokio::test]
async fn without_postgresql_programs_dev_says_what_to_install() {
    let empty = process::folder("empty");
    // A search path with the system's own programs and nothing else.
    let path = process::folder("path");
    for program in ["id", "setpriv", "chown", "sh"] {
        std::os::unix::fs::symlink(process::program(program), path.join(program)).unwrap();
    }
    let data = process::folder("dev-data");
    let handlers = Handlers::none();
    handlers.add_probe("dev");
    let run = Run::new(&["dev", "--handlers", handlers.folder.to_str().unwrap()])
        .env("TIDEMILL_DATA_DIR", data.display().to_string())
        .env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_KAFKA_ADDR", "127.0.0.1:0")
        .env("PATH", path.display().to_string());
    let named = run.clone().env("TIDEMILL_POSTGRES_BIN", empty.display().to_string()).finish().await;
    fails_naming(&named, &["TIDEMILL_POSTGRES_BIN", empty.to_str().unwrap()]);
    if let Some(wrapper) = without_postgresql(&empty) {
        fails_naming(&Run { wrapper, ..run }.finish().await, &["PostgreSQL", "install"]);
    }
}

/// Programs to put in front of a run so that it finds no PostgreSQL in Debian's place: an empty folder is mounted over it in a mount
/// namespace of its own. Nothing where this machine does not allow that.
fn without_postgresql(empty: &Path) -> Option<Vec<String>> {
    let namespace = if process::is_root() { "-m" } else { "-rm" };
    let hide = format!("/bin/mount --bind '{}' /usr/lib/postgresql && exec \"$@\"", empty.display());
    let wrapper = ["/usr/bin/unshare", namespace, "/bin/sh", "-c", &hide, "sh"].map(str::to_owned).to_vec();
    let tried = std::process::Command::new(&wrapper[0]).args(&wrapper[1..]).arg("/bin/true").output();
    tried.is_ok_and(|tried| tried.status.success()).then_some(wrapper)
}

#[tokio::test]
async fn a_database_that_is_away_fails_migrate_by_name_and_without_its_password() {
    let world = World::probe(Kind::Embedded).await;
    let nowhere = format!("127.0.0.1:{}", process::free_port());
    let url = format!("postgres://postgres:hidden-word@{nowhere}/x");
    let ended = world.command(&["migrate"]).env("TIDEMILL_ADMIN_DATABASE_URL", url).finish().await;
    fails_naming(&ended, &["TIDEMILL_ADMIN_DATABASE_URL", &nowhere]);
    assert!(!ended.stderr.contains("hidden-word"));
}

#[tokio::test]
async fn a_database_that_is_not_migrated_keeps_the_host_unready_and_is_said_so() {
    let other = World::probe(Kind::Embedded).await;
    other.prepared().await;
    let world = World::probe(Kind::Embedded).await;
    let url = format!("postgres://{}:not-so-secret@127.0.0.1:{}/{}", other.database.login(), cluster().port, world.database.name);
    let world = world.env("TIDEMILL_DATABASE_URL", &url);
    let run = world.command(&["serve"]);
    let readyz = format!("http://{}/readyz", run.env["TIDEMILL_ADMIN_ADDR"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let migrate = async {
        eventually("readiness says what to do", async || {
            let answer = Answer::read(client.get(&readyz).send().await.ok()?).await;
            (answer.status == 503 && answer.body["reasons"].to_string().contains("tidemill migrate")).then_some(())
        })
        .await;
        world.prepared().await;
    };
    let (host, ()) = tokio::join!(run.serve(), migrate);
    assert!(host.log().contains("tidemill migrate"), "the log says so, too");
}

#[tokio::test]
async fn a_superusers_login_is_refused() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let ended = world.command(&["serve"]).env("TIDEMILL_DATABASE_URL", world.database.admin_url()).finish().await;
    fails_naming(&ended, &["TIDEMILL_DATABASE_URL", "superuser"]);
}

#[tokio::test]
async fn a_database_that_is_away_at_start_is_waited_for_unready() {
    let world = World::probe(Kind::Embedded).await.proxied().await;
    world.prepared().await;
    world.proxy().refuse(true);
    let mut world = world;
    let proxy = world.proxy.take().unwrap();
    let run = world.command(&["serve"]);
    let back = async {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        proxy.refuse(false);
    };
    // Whether the ready line waits for the database or readiness alone does, the host must not give up.
    let (host, ()) = tokio::join!(run.serve(), back);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/readyz", host.admin);
    eventually("the host gets ready", async || {
        client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_is_away_at_start_holds_up_no_request() {
    let broker = Broker::dedicated(Kind::Embedded).await;
    let mut world = World::probe_on(broker).await;
    world.prepared().await;
    world.broker.stop().await;
    world.start().await;
    let topic = world.topic("in");
    let answer =
        world.steps("insert-then-publish", json!({ "id": "early", "event_id": "early", "topic": topic, "key": "k" })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.readyz().await.status, 200, "readiness is about answering requests");
    world.broker.start().await;
    world.until_seen("early").await;
    assert_eq!(world.seen("early").await, 1);
}

#[tokio::test]
async fn a_broker_that_is_away_fails_topics_apply_by_name() {
    let world = World::probe(Kind::Embedded).await;
    let nowhere = format!("127.0.0.1:{}", process::free_port());
    let ended = world.command(&["topics", "apply"]).env("TIDEMILL_KAFKA_BROKERS", &nowhere).finish().await;
    fails_naming(&ended, &["TIDEMILL_KAFKA_BROKERS", &nowhere]);
}

#[tokio::test]
async fn migrate_and_topics_apply_can_be_repeated_and_refuse_changed_history() {
    let world = World::probe(Kind::Apache).await;
    world.prepared().await;
    world.prepared().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    assert_eq!(records::partition_count(&address, &topic).await, 3);
    let query = "SELECT count(*) FROM tidemill.migrations WHERE app = 'probe'";
    assert_eq!(world.count(query).await, 1);
    let migrations = world.handlers.folder.join("probe/migrations");
    std::fs::write(migrations.join("0002_more.sql"), "CREATE TABLE more (a int);").unwrap();
    succeeded(world.command(&["migrate"]).finish().await);
    assert_eq!(world.count(query).await, 2);
    std::fs::write(migrations.join("0002_more.sql"), "CREATE TABLE other (a int);").unwrap();
    fails_naming(&world.command(&["migrate"]).finish().await, &["0002_more.sql", "probe"]);
    std::fs::write(migrations.join("0002_more.sql"), "CREATE TABLE more (a int);").unwrap();
    std::fs::write(migrations.join("0003_bad.sql"), "CREATE TABLE half (a int); INSERT INTO half VALUES (broken);").unwrap();
    fails_naming(&world.command(&["migrate"]).finish().await, &["0003_bad.sql", "broken"]);
    assert_eq!(world.count("SELECT count(*) FROM pg_class WHERE relname = 'half'").await, 0, "a migration is all or nothing");
}

#[tokio::test]
async fn the_login_that_migrate_makes_has_the_urls_password() {
    let database = Database::create_named(WITH_PASSWORD).await;
    let world = World::new(database, Broker::shared(Kind::Embedded).await);
    world.handlers.add_probe(WITH_PASSWORD);
    // The administrator needs a password there, too.
    Database::administer("ALTER ROLE postgres PASSWORD 'not-so-secret'").await;
    let admin = format!("postgres://postgres:not-so-secret@127.0.0.1:{}/{WITH_PASSWORD}", cluster().port);
    let world = world.env("TIDEMILL_ADMIN_DATABASE_URL", &admin).started().await;
    assert_eq!(world.steps("insert", json!({ "id": "a" })).await.status, 200);
    assert!(!world.log().contains("not-so-secret") && !world.log().contains(KEY));
}

#[tokio::test]
async fn with_port_0_the_ready_line_names_the_ports() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let run = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
    let host = run.serve().await;
    assert!(host.http.starts_with("http://127.0.0.1:") && !host.http.ends_with(":0"), "{}", host.http);
    assert_ne!(host.http, host.admin);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(client.get(format!("{}/open", host.http)).send().await.unwrap().status(), 200);
}
