//! The operators' commands and the admin API: waiting events, dead letters and outbox rows can be worked, and every change is recorded.
//!
//! The rows are put into the tables as consumers put them there, for a group that no host serves, so that nobody else works on them.

mod api;
mod dead_letters;
mod jobs;
mod outbox;
mod replays;
mod waiting;

use serde_json::Value as Json;
use tidemill::store::operate::{Actor, Filter, Operator, Order, Session, Via};
use tidemill::store::{Pool, PoolOptions};
use tokio_postgres::Client;

use crate::support::host::{Ended, Run, fails_naming, succeeded};
use crate::support::postgres::cluster;
use crate::support::{Kind, World, eventually};

/// A database with rows to work on.
struct Site {
    world: World,
    sql: Client,
    scope: i32,
}

impl Site {
    /// Without a host.
    async fn new() -> Self {
        let world = World::probe(Kind::Embedded).await.env("TIDEMILL_ACTOR", "ann");
        succeeded(world.command(&["migrate"]).finish().await);
        Self::of(world).await
    }

    /// In a world whose database is migrated.
    async fn of(world: World) -> Self {
        let sql = world.sql().await;
        let made = "INSERT INTO tidemill.scopes (consumer_group, handler) VALUES ('ghosts', 'ghost') RETURNING scope";
        let scope = sql.query_one(made, &[]).await.unwrap().get(0);
        Self { world, sql, scope }
    }

    fn run(&self, line: &str) -> Run {
        Run { args: line.split(' ').map(str::to_owned).collect(), ..self.world.command(&[]) }
    }

    /// A command that succeeds.
    async fn cli(&self, line: &str) -> String {
        succeeded(self.run(line).finish().await).stdout
    }

    /// A command that ends with exit code 1 and these words.
    async fn fails(&self, line: &str, words: &[&str]) -> Ended {
        let ended = self.run(line).finish().await;
        assert_eq!(ended.status.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
        fails_naming(&ended, &[]);
        for word in words {
            assert!(ended.stdout.contains(word) || ended.stderr.contains(word), "`{word}`: {}{}", ended.stdout, ended.stderr);
        }
        ended
    }

    /// The document that a command prints with `--json`, and its exit code.
    async fn json(&self, line: &str) -> (Json, i32) {
        let ended = self.run(&format!("{line} --json")).finish().await;
        let document = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr));
        (document, ended.status.code().unwrap())
    }

    /// A dead letter of an event.
    async fn letter(&self, key: Option<&str>, event: &str) -> i64 {
        let sql = "INSERT INTO tidemill.dead_letters (scope, consumer_group, handler, topic, partition, record_offset, record_time, key, value, \
                          header_names, header_values, source, event_id, type, attempts, revision, error_class, error) \
                   VALUES ($1, 'ghosts', 'ghost', 'ghost.in', 1, 42, 1700000000000, convert_to($2, 'UTF8'), convert_to('{\"id\": 1.0}', 'UTF8'), \
                          ARRAY['content-type', 'x', 'y'], ARRAY['application/json'::bytea, '\\xff'::bytea, NULL], 'src', $3, 'ghost.ok', \
                          4, 'rev1', 'trap', 'it broke') RETURNING id";
        self.sql.query_one(sql, &[&self.scope, &key, &event]).await.unwrap().get(0)
    }

    /// A waiting event. `due` is SQL, such as `now() + '1h'`.
    async fn waits(&self, key: Option<&str>, event: &str, due: &str) -> i64 {
        let sql = format!(
            "INSERT INTO tidemill.waiting (scope, consumer_group, handler, topic, partition, record_offset, record_time, key, value, \
                    header_names, header_values, source, event_id, type, attempts, due, error_class, error, revision) \
             VALUES ($1, 'ghosts', 'ghost', 'ghost.in', 1, 42, 1700000000000, convert_to($2, 'UTF8'), '{{}}', ARRAY['x'], ARRAY['\\xff'::bytea], \
                    'src', $3, 'ghost.ok', 2, {due}, 'retry', 'not yet', 'rev1') RETURNING id"
        );
        self.sql.query_one(&sql, &[&self.scope, &key, &event]).await.unwrap().get(0)
    }

    /// One number out of the database.
    async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// What is recorded: actor, via, action and row; not what a host has deployed at its start.
    async fn recorded(&self) -> Vec<String> {
        let rows = self
            .sql
            .query(
                "SELECT concat_ws(' ', actor, via, action, subject) FROM tidemill.actions WHERE via <> 'host' ORDER BY id",
                &[],
            )
            .await;
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// An operator's connection in this process.
    async fn session(&self) -> Session {
        let pool = Pool::new(&self.world.database.url(cluster().port), PoolOptions::default()).unwrap();
        Operator::new(pool).open().await.unwrap()
    }

    /// Holds the lock of a key's waiting events until it is dropped.
    async fn holding(&self, key: Option<&str>) -> Client {
        let client = self.world.sql().await;
        client.batch_execute("BEGIN").await.unwrap();
        let lock = "SELECT pg_advisory_xact_lock(7001, tidemill.key_bucket('waiting/' || $1::int4 || '/ghost.in', convert_to($2, 'UTF8')))";
        client.query(lock, &[&self.scope, &key]).await.unwrap();
        client
    }

    /// Waits until so many connections wait for an advisory lock.
    async fn until_waiting(&self, connections: i64) {
        let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                    WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted";
        eventually("the orders wait", async || (self.count(sql).await == connections).then_some(())).await;
    }
}

/// All of them, for sure.
fn all(name: &str) -> Order {
    let filter = Filter { all: true, ..Filter::default() };
    Order { actor: Actor::new(name, Via::Cli).unwrap(), filter, dry_run: false }
}

/// The outcomes of a report by row.
fn outcomes(report: &Json) -> Vec<(i64, String)> {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().map(|row| (row["id"].as_i64().unwrap(), row["outcome"].as_str().unwrap().to_owned())).collect()
}

/// The numbers of a page.
fn ids(page: &Json) -> Vec<i64> {
    page["rows"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}
