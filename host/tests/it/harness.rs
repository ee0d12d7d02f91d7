//! The harness itself: what the other tests stand on does what it says.

use serde_json::json;

use crate::support::postgres::{Database, cluster};
use crate::support::{Broker, Cut, Fault, Kind, Proxy, on_both_brokers, process, records};

on_both_brokers!(records_are_read_back_also_after_a_restart);

async fn records_are_read_back_also_after_a_restart(kind: Kind) {
    let broker = Broker::dedicated(kind).await;
    records::create_topic(&broker.address(), "t", 1).await;
    let event = records::event("1", "x", &json!({}));
    let (partition, offset) = records::produce_event(&broker.address(), "t", None, "key", &event).await;
    broker.stop().await;
    assert!(!records::answers(&broker.address()).await);
    broker.start().await;
    let all = records::all(&broker.address(), "t").await;
    assert_eq!((all.len(), all[0].partition, all[0].offset), (1, partition, offset));
    assert_eq!(all[0].key.as_deref(), Some("key"));
    assert_eq!(all[0].json()["id"], "1");
    assert_eq!(all[0].header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
    assert!(records::all(&broker.address(), "no-such-topic").await.is_empty());
    records::rewind(&broker.address(), "some-group", "t").await;
}

/// A connection by way of the proxy.
async fn through(proxy: &Proxy, database: &Database) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let options = format!("host=127.0.0.1 port={} user=postgres dbname={}", proxy.port, database.name);
    let (client, connection) = tokio_postgres::connect(&options, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs one transaction that inserts into `marked`, COMMIT as a prepared statement or not, and says whether COMMIT was answered.
async fn transaction(client: &tokio_postgres::Client, prepared: bool) -> bool {
    let statement = client.prepare("INSERT INTO marked SELECT 1").await.unwrap();
    let commit = client.prepare("COMMIT").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.execute(&statement, &[]).await.unwrap();
    let committed = if prepared { client.execute(&commit, &[]).await.map(drop) } else { client.batch_execute("COMMIT").await };
    committed.is_ok()
}

async fn rows(database: &Database) -> i64 {
    database.connect().await.query_one("SELECT count(*) FROM marked", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_proxy_cuts_before_and_after_commit_once() {
    let database = Database::create().await;
    database.connect().await.batch_execute("CREATE TABLE marked (a int)").await.unwrap();
    let proxy = Proxy::start(cluster().port).await;
    let mut expected = 0;
    for prepared in [false, true] {
        for (cut, kept) in [(Cut::BeforeCommit, 0), (Cut::AfterCommit, 1)] {
            proxy.arm(Fault::Cut(cut), "into marked");
            let client = through(&proxy, &database).await.unwrap();
            client.batch_execute("BEGIN; SELECT 1; COMMIT").await.unwrap();
            assert!(!transaction(&client, prepared).await);
            expected += kept;
            assert_eq!(rows(&database).await, expected);
            let client = through(&proxy, &database).await.unwrap();
            assert!(transaction(&client, prepared).await, "the fault happens once");
            expected += 1;
        }
    }
    assert_eq!(proxy.hits(), 4);
}

#[tokio::test]
async fn the_proxy_aborts_unseen_refuses_and_breaks() {
    let database = Database::create().await;
    database.connect().await.batch_execute("CREATE TABLE marked (a int)").await.unwrap();
    let proxy = Proxy::start(cluster().port).await;
    let client = through(&proxy, &database).await.unwrap();
    proxy.arm(Fault::AbortUnseen, "into marked");
    assert!(transaction(&client, false).await, "PostgreSQL answers COMMIT of an aborted transaction with a silent ROLLBACK");
    assert_eq!((proxy.hits(), rows(&database).await), (1, 0));
    proxy.refuse(true);
    assert!(through(&proxy, &database).await.is_err());
    assert!(client.batch_execute("SELECT 1").await.is_ok());
    proxy.break_all();
    assert!(client.batch_execute("SELECT 1").await.is_err());
    proxy.refuse(false);
    assert!(through(&proxy, &database).await.is_ok());
}

#[tokio::test]
async fn children_get_a_folder_that_others_may_pass_through() {
    let folder = process::folder("x");
    assert!(folder.is_dir());
    assert_ne!(folder, process::folder("x"));
}
