//! Encrypted connections and logins: Kafka by each way in, PostgreSQL with TLS, and what is said when one is refused.

use serde_json::json;

use crate::support::host::{fails_naming, succeeded};
use crate::support::postgres::Database;
use crate::support::secure::{PASSWORD, USER, Ways, authorities, encrypted_cluster, ways};
use crate::support::{Broker, Kind, World, eventually, records};

/// What the database's login has for a password in these tests.
const DATABASE_PASSWORD: &str = "not-so-secret";

/// A world that logs in over this listener; everything that can be logged is.
async fn world_over(ways: &Ways, address: &str, protocol: &str, mechanism: &str) -> World {
    let world = World::probe_on(ways.broker.clone())
        .await
        .env("TIDEMILL_KAFKA_BROKERS", address)
        .env("TIDEMILL_KAFKA_SECURITY_PROTOCOL", protocol)
        .env("TIDEMILL_LOG", "debug");
    let world = if protocol.to_lowercase().contains("ssl") { trusting(world) } else { world };
    match mechanism {
        "" => world,
        _ => world
            .env("TIDEMILL_KAFKA_SASL_MECHANISM", mechanism)
            .env("TIDEMILL_KAFKA_USER", USER)
            .env("TIDEMILL_KAFKA_PASSWORD", PASSWORD),
    }
}

fn trusting(world: World) -> World {
    world.env("TIDEMILL_KAFKA_CA_FILE", &authorities().good.file.display().to_string())
}

/// A row and an event of a request, which comes back through the topic, and an event from outside: all of it, and no secret in the log.
async fn all_of_it_works(world: &mut World) {
    let topic = world.topic("in");
    let body = json!({ "id": "row", "event_id": "back", "topic": topic, "key": "k" });
    assert_eq!(world.steps("insert-then-publish", body).await.status, 200);
    world.send_event(1, "k", "outside", "probe.x").await;
    for id in ["back", "outside"] {
        world.until_seen(id).await;
        assert_eq!(world.seen(id).await, 1);
    }
    world.until_outbox_is_empty().await;
    assert_eq!(notes(world).await, Vec::<String>::new());
    tells_no_secret(world);
}

/// What the board says of the clients of Kafka.
async fn notes(world: &World) -> Vec<String> {
    let notes = world.readyz().await.body["notes"].clone();
    ["consumers", "relay"].iter().filter_map(|name| Some(notes[name].as_str()?.to_owned())).collect()
}

fn tells_no_secret(world: &mut World) {
    let shown = world.host().shown();
    assert!(!shown.contains(PASSWORD) && !shown.contains(DATABASE_PASSWORD), "secrets are in no log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_runs_over_scram_and_plain_unencrypted() {
    let ways = ways().await;
    for (address, mechanism) in [(&ways.scram, "SCRAM-SHA-512"), (&ways.scram, "scram-sha-256"), (&ways.plain, "PLAIN")] {
        let mut world = world_over(ways, address, "sasl_plaintext", mechanism).await.started().await;
        all_of_it_works(&mut world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_runs_over_tls_with_each_login() {
    let ways = ways().await;
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        let mut world = world_over(ways, &ways.sasl_ssl, "SASL_SSL", mechanism).await.started().await;
        all_of_it_works(&mut world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_runs_with_a_client_certificate() {
    let ways = ways().await;
    let world = world_over(ways, &ways.mutual, "ssl", "").await;
    let refused = world.command(&["topics", "apply"]).finish().await;
    fails_naming(&refused, &[&ways.mutual, "client certificate", "TIDEMILL_KAFKA_CERTIFICATE_FILE", "TIDEMILL_KAFKA_KEY_FILE"]);
    let client = &authorities().client;
    let world = world
        .env("TIDEMILL_KAFKA_CERTIFICATE_FILE", &client.certificate.display().to_string())
        .env("TIDEMILL_KAFKA_KEY_FILE", &client.key.display().to_string());
    all_of_it_works(&mut world.started().await).await;
}

/// Runs a world with one setting wrong: the fault is said with these words, and after a start with the right one nothing is lost.
async fn refused_and_mended(wrong: (&str, &str), words: &[&str]) {
    let ways = ways().await;
    let world = world_over(ways, &ways.sasl_ssl, "sasl_ssl", "SCRAM-SHA-512").await;
    world.prepared().await;
    let refused = world.command(&["topics", "apply"]).env(wrong.0, wrong.1).finish().await;
    fails_naming(&refused, words);
    assert!(!refused.stderr.contains(wrong.1) || wrong.0 != "TIDEMILL_KAFKA_PASSWORD", "{}", refused.stderr);
    let right = world.command(&[]).env.get(wrong.0).unwrap().clone();
    let mut world = world.env(wrong.0, wrong.1);
    world.start().await;
    let body = json!({ "id": "row", "event_id": "early", "topic": world.topic("in"), "key": "k" });
    assert_eq!(world.steps("insert-then-publish", body).await.status, 200, "requests are answered all the same");
    eventually("the board says why, for relay and consumers", async || {
        let notes = world.readyz().await.body["notes"].clone();
        let said = |name: &str| words.iter().all(|word| notes[name].as_str().is_some_and(|note| note.contains(word)));
        (said("relay") && said("consumers")).then_some(())
    })
    .await;
    let log = world.log();
    assert!(words.iter().all(|word| log.contains(word)), "the log says it, too");
    assert!(!log.contains("no Kafka broker of"), "a broker that refuses is not away");
    tells_no_secret(&mut world);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 1, "the event waits");
    assert!(world.host().sigterm().await.success());
    let mut world = world.env(wrong.0, &right);
    world.start().await;
    world.until_seen("early").await;
    world.until_outbox_is_empty().await;
    assert_eq!(world.seen("early").await, 1);
    tells_no_secret(&mut world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_and_loses_nothing() {
    let words = [USER, "SCRAM-SHA-512", "TIDEMILL_KAFKA_USER", "TIDEMILL_KAFKA_PASSWORD", "invalid credentials"];
    refused_and_mended(("TIDEMILL_KAFKA_PASSWORD", "hush-but-wrong"), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_authority_is_said_and_loses_nothing() {
    let file = authorities().other.file.display().to_string();
    let words = [&ways().await.sasl_ssl, "not signed by an authority", "TIDEMILL_KAFKA_CA_FILE", &file];
    refused_and_mended(("TIDEMILL_KAFKA_CA_FILE", &file), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_host_is_said_and_loses_nothing() {
    let address = &ways().await.elsewhere;
    let words = [address.as_str(), "for another host", "TIDEMILL_KAFKA_BROKERS", "advertised.listeners"];
    refused_and_mended(("TIDEMILL_KAFKA_BROKERS", address), &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_protocol_or_mechanism_is_said_by_its_setting() {
    let ways = ways().await;
    let open = ways.broker.address();
    let cases = [
        (&ways.sasl_ssl, "sasl_plaintext", "PLAIN", &["TIDEMILL_KAFKA_SECURITY_PROTOCOL", "`sasl_ssl`"][..]),
        (&ways.scram, "plaintext", "", &["TIDEMILL_KAFKA_SECURITY_PROTOCOL", "`sasl_plaintext`"]),
        (&open, "ssl", "", &["TIDEMILL_KAFKA_SECURITY_PROTOCOL", "no TLS connection"]),
        (&ways.plain, "sasl_plaintext", "SCRAM-SHA-512", &["TIDEMILL_KAFKA_SASL_MECHANISM", "PLAIN"]),
    ];
    for (address, protocol, mechanism, words) in cases {
        let world = world_over(ways, address, protocol, mechanism).await;
        fails_naming(&world.command(&["topics", "apply"]).finish().await, words);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_back_is_taken_off_the_board_without_traffic() {
    let mut world = World::probe_on(Broker::dedicated(Kind::Embedded).await).await.started().await;
    world.send_event(0, "k", "first", "probe.x").await;
    world.until_seen("first").await;
    world.broker.stop().await;
    let away = async || notes(&world).await.iter().filter(|note| note.contains("can be reached")).count() == 2;
    eventually("the board says that the broker is away", async || away().await.then_some(())).await;
    world.broker.start().await;
    eventually("the board is clean again", async || notes(&world).await.is_empty().then_some(())).await;
    tells_no_secret(&mut world);
}

/// A world whose database is in the cluster with TLS, not started; `parameters` are those of its URLs.
async fn world_in_encrypted(name: &str, parameters: &str) -> World {
    let database = Database::create_in(encrypted_cluster(), name).await;
    let world = World::new(database, Broker::shared(Kind::Embedded).await);
    world.handlers.add_probe(name);
    let port = world.database.port;
    let url = format!("{}?{parameters}", world.database.url(port));
    world.env("TIDEMILL_DATABASE_URL", &url).env("TIDEMILL_LOG", "debug")
}

fn verified(mode: &str) -> String {
    format!("sslmode={mode}&sslrootcert={}", authorities().good.file.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_world_runs_over_verify_full_from_a_file_and_cancels_statements() {
    let world = world_in_encrypted("verified", &verified("verify-full")).await;
    let slow = "SELECT count(*) FROM generate_series(1, 100000) AS a, generate_series(1, 100000) AS b";
    world.handlers.limit("probe", "wall", "3s");
    world.handlers.limit("probe", "sql_time", "10m");
    // The URL from a file, as a secret is mounted.
    let url = world.command(&[]).env["TIDEMILL_DATABASE_URL"].clone();
    let file = world.handlers.folder.join("url");
    std::fs::write(&file, url + "\n").unwrap();
    let admin = format!("{}?{}", world.database.admin_url(), verified("verify-ca"));
    let mut world = world
        .env("TIDEMILL_DATABASE_URL", "")
        .env("TIDEMILL_DATABASE_URL_FILE", &file.display().to_string())
        .env("TIDEMILL_ADMIN_DATABASE_URL", &admin)
        .started()
        .await;
    all_of_it_works(&mut world).await;
    let login = world.database.login();
    let sessions = |what: &str| {
        format!("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{login}' AND {what}")
    };
    assert!(world.count(&sessions("ssl")).await > 1, "the pool's connections and the relay's are encrypted");
    assert_eq!(world.count(&sessions("NOT ssl")).await, 0);
    let answer = world.steps("sql", json!({ "sql": slow })).await;
    assert!(answer.status >= 500, "{answer:?}");
    let running = sessions("state = 'active' AND query LIKE '%generate_series%'");
    eventually("the statement is cancelled over TLS", async || (world.count(&running).await == 0).then_some(())).await;
    tells_no_secret(&mut world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sslmode_a_server_with_tls_is_spoken_to_encrypted() {
    let mut world = world_in_encrypted("preferred", "").await.started().await;
    all_of_it_works(&mut world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_the_database() {
    let world = world_in_encrypted("certificates", &verified("verify-full")).await;
    succeeded(world.command(&["migrate"]).finish().await);
    says_unready(&world, &["certificate", "TIDEMILL_DATABASE_URL"]).await;
    let client = &authorities().client;
    let files = format!("&sslcert={}&sslkey={}", client.certificate.display(), client.key.display());
    let url = world.command(&[]).env["TIDEMILL_DATABASE_URL"].clone() + &files;
    all_of_it_works(&mut world.env("TIDEMILL_DATABASE_URL", &url).started().await).await;
}

/// Starts the host and waits until its readiness gives a reason with all of these words.
async fn says_unready(world: &World, words: &[&str]) {
    let run = world.command(&["serve"]);
    let readyz = format!("http://{}/readyz", run.env["TIDEMILL_ADMIN_ADDR"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let said = eventually("readiness says why", async || {
        let text = client.get(&readyz).send().await.ok()?.text().await.ok()?;
        (words.iter().all(|word| text.contains(word)) && !text.contains(DATABASE_PASSWORD)).then_some(())
    });
    tokio::select! {
        _ = run.serve() => panic!("the host got ready over a connection that it must refuse"),
        () = said => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_who_it_should_be_is_refused_by_name() {
    let good = verified("verify-full");
    let world = world_in_encrypted("doubted", &good).await;
    world.prepared().await;
    let (login, port, name) = (world.database.login(), world.database.port, world.database.name.clone());
    let at = |host: &str, port: u16, parameters: &str| {
        format!("postgres://{login}:{DATABASE_PASSWORD}@{host}:{port}/{name}?{parameters}")
    };
    let other = good.replace(&authorities().good.file.display().to_string(), &authorities().other.file.display().to_string());
    let plain = crate::support::postgres::cluster().port;
    let elsewhere = at("elsewhere.example", port, &format!("hostaddr=127.0.0.1&{good}"));
    let place = format!("127.0.0.1:{port}");
    let cases = [
        (at("127.0.0.1", port, &other), vec!["certificate of PostgreSQL", &place, "sslrootcert"]),
        (at("127.0.0.1", port, "sslmode=verify-full"), vec!["certificate of PostgreSQL", &place, "sslrootcert"]),
        (elsewhere, vec!["for another host", "elsewhere.example", "verify-full"]),
        (at("127.0.0.1", plain, "sslmode=require"), vec!["has no TLS", "sslmode=require", "ssl = on"]),
    ];
    for (url, words) in cases {
        let words = [&words[..], &["TIDEMILL_ADMIN_DATABASE_URL"]].concat();
        let ended = world.command(&["migrate"]).env("TIDEMILL_ADMIN_DATABASE_URL", &url).finish().await;
        fails_naming(&ended, &words);
        assert!(!ended.stderr.contains(DATABASE_PASSWORD), "{}", ended.stderr);
    }
    let lost = world
        .command(&["migrate"])
        .env("TIDEMILL_ADMIN_DATABASE_URL", at("127.0.0.1", port, "sslrootcert=/no/ca&sslmode=verify-ca"));
    fails_naming(&lost.finish().await, &["TIDEMILL_ADMIN_DATABASE_URL", "sslrootcert", "/no/ca"]);
    let world = world.env("TIDEMILL_DATABASE_URL", &at("127.0.0.1", port, &other));
    says_unready(&world, &["certificate of PostgreSQL", &place, "sslrootcert", "TIDEMILL_DATABASE_URL"]).await;
    assert_eq!(records::all(&world.broker.address(), &world.topic("out")).await.len(), 0);
}
