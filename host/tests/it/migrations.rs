//! Migrations of apps: only what lets the running revision live is applied, and what fails leaves nothing.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::host::{Ended, fails_naming, succeeded};
use crate::support::{Kind, World};

/// A world with the probe whose first migration is applied.
async fn migrated() -> World {
    let world = World::probe(Kind::Embedded).await;
    migrate(&world, &[]).await;
    world
}

fn write(world: &World, file: &str, text: &str) {
    std::fs::write(world.handlers.folder.join("probe/migrations").join(file), text).unwrap();
}

async fn try_migrate(world: &World, flags: &[&str]) -> Ended {
    world.command(&[&["migrate"], flags].concat()).finish().await
}

async fn migrate(world: &World, flags: &[&str]) -> String {
    succeeded(try_migrate(world, flags).await).stdout
}

/// How many migrations of the probe are applied.
async fn applied(world: &World) -> i64 {
    world.count("SELECT count(*) FROM tidemill.migrations WHERE app = 'probe'").await
}

async fn has_table(world: &World, table: &str) -> bool {
    world.count(&format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('probe.{table}')")).await == 1
}

async fn has_column(world: &World, column: &str) -> bool {
    let query = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'probe.rows'::regclass AND NOT attisdropped AND attname";
    world.count(&format!("{query} = '{column}'")).await == 1
}

/// Whether the probe's index is there and valid.
async fn index(world: &World) -> Option<bool> {
    let query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('probe.rows_by_note')";
    world.sql().await.query_opt(query, &[]).await.unwrap().map(|row| row.get(0))
}

const UNIQUE_INDEX: &str = "CREATE UNIQUE INDEX CONCURRENTLY rows_by_note ON rows (note);";

async fn insert_twins(sql: &Client) {
    sql.batch_execute("INSERT INTO probe.rows VALUES ('a', 'same'), ('b', 'same')").await.unwrap();
}

#[tokio::test]
async fn c18_what_breaks_the_running_revision_changes_nothing_until_it_is_allowed() {
    let world = migrated().await;
    write(&world, "0002_more.sql", "CREATE TABLE more (a int);");
    write(&world, "0003_less.sql", "-- Nobody needs it.\nALTER TABLE rows DROP COLUMN note;\nCREATE INDEX ON rows (id);");
    let refused = try_migrate(&world, &[]).await;
    fails_naming(
        &refused,
        &["0003_less.sql, line 2", "drop-column (note)", "--allow drop-column", "line 3", "index-without-concurrently"],
    );
    assert!(refused.stderr.contains("nothing was changed"), "{}", refused.stderr);
    assert!(!has_table(&world, "more").await && has_column(&world, "note").await, "not even what is harmless was applied");
    assert_eq!(applied(&world).await, 1);
    fails_naming(&try_migrate(&world, &["--check"]).await, &["0003_less.sql, line 2"]);
    let would = migrate(&world, &["--check", "--allow", "drop-column,index-without-concurrently"]).await;
    assert!(would.contains("would apply 0002_more.sql of `probe`\nwould apply 0003_less.sql of `probe`\n"), "{would}");
    assert_eq!(applied(&world).await, 1, "a check changes nothing");
    let typo = try_migrate(&world, &["--allow", "drop-colum"]).await;
    assert!(!typo.status.success() && typo.stderr.contains("did you mean `drop-column`"), "{}", typo.stderr);
    fails_naming(&try_migrate(&world, &["--allow", "drop-column"]).await, &["index-without-concurrently"]);
    let said = migrate(&world, &["--allow", "drop-column,index-without-concurrently"]).await;
    assert!(said.contains("allowed drop-column in 0003_less.sql of `probe`, line 2"), "{said}");
    assert!(has_table(&world, "more").await && !has_column(&world, "note").await);
    assert_eq!(migrate(&world, &[]).await, "nothing to do: the database is up to date\n", "the consent is needed once");
}

#[tokio::test]
async fn c18_the_first_migrations_of_an_app_break_nothing_and_say_what_they_would_break() {
    let world = World::probe(Kind::Embedded).await;
    write(&world, "0002_less.sql", "ALTER TABLE rows DROP COLUMN note;");
    let said = migrate(&world, &[]).await;
    assert!(said.contains("note: drop-column in 0002_less.sql of `probe`, line 1"), "{said}");
    let other = World::probe(Kind::Embedded).await;
    write(&other, "0002_grant.sql", "GRANT SELECT ON rows TO PUBLIC;");
    fails_naming(&try_migrate(&other, &[]).await, &["0002_grant.sql", "--allow grant-to-others"]);
    assert!(!has_table(&other, "rows").await, "nothing was changed");
}

#[tokio::test]
async fn c18_a_lock_that_is_not_free_ends_the_migration_and_harms_nobody() {
    let world = migrated().await;
    write(&world, "0002_more.sql", "CREATE TABLE more (a int);\nALTER TABLE rows ADD COLUMN other text;");
    let sql = world.sql().await;
    sql.batch_execute("SET application_name = 'a report'; BEGIN; SELECT * FROM probe.rows").await.unwrap();
    let holder: i32 = sql.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let begun = Instant::now();
    let refused = try_migrate(&world, &["--migration-lock-timeout", "300ms"]).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let (process, limit) = (format!("process {holder} (`a report`"), "--migration-lock-timeout");
    fails_naming(&refused, &["0002_more.sql", "line 2", "300ms", &process, limit]);
    assert!(!has_table(&world, "more").await && !has_column(&world, "other").await && applied(&world).await == 1);
    sql.batch_execute("COMMIT").await.unwrap();
    migrate(&world, &["--migration-lock-timeout", "300ms"]).await;
    assert!(has_column(&world, "other").await);
    let odd = try_migrate(&world, &["--migration-lock-timeout", "0s"]).await;
    fails_naming(&odd, &["migration-lock-timeout", "for ever"]);
}

#[tokio::test]
async fn c18_a_file_that_fails_leaves_nothing_and_those_before_it_stay() {
    let world = migrated().await;
    write(&world, "0002_before.sql", "CREATE TABLE before (a int);");
    write(&world, "0003_half.sql", "CREATE TABLE half (a int);\nINSERT INTO half\n  VALUES (1 / 0);");
    write(&world, "0004_after.sql", "CREATE TABLE after (a int);");
    let failed = try_migrate(&world, &[]).await;
    fails_naming(
        &failed,
        &["0003_half.sql", "line 2", "division by zero", "nothing of this file was changed", "applied 0002_before.sql"],
    );
    assert!(has_table(&world, "before").await && !has_table(&world, "half").await && !has_table(&world, "after").await);
    assert_eq!(applied(&world).await, 2);
    // It was never applied, so it may be mended.
    write(&world, "0003_half.sql", "CREATE TABLE half (a int);\nINSERT INTO half VALUES (1);");
    assert_eq!(migrate(&world, &[]).await, "applied 0003_half.sql of `probe`\napplied 0004_after.sql of `probe`\n");
    // What is checked at the end of a transaction only, too.
    let late = "CREATE TABLE late (a int PRIMARY KEY, b int REFERENCES late DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1, 2);";
    write(&world, "0005_late.sql", late);
    fails_naming(&try_migrate(&world, &[]).await, &["0005_late.sql", "foreign key"]);
    assert!(!has_table(&world, "late").await && applied(&world).await == 4);
}

#[tokio::test]
async fn c18_a_concurrent_index_that_fails_leaves_nothing_and_the_next_try_works() {
    let world = migrated().await;
    let sql = world.sql().await;
    insert_twins(&sql).await;
    write(&world, "0002_unique.sql", UNIQUE_INDEX);
    fails_naming(&try_migrate(&world, &[]).await, &["0002_unique.sql", "rows_by_note", "same", "nothing of it is left"]);
    assert_eq!(
        (index(&world).await, applied(&world).await),
        (None, 1),
        "an invalid unique index would refuse what the old revision writes"
    );
    sql.batch_execute("DELETE FROM probe.rows WHERE id = 'b'").await.unwrap();
    assert_eq!(migrate(&world, &[]).await, "applied 0002_unique.sql of `probe`\n");
    assert_eq!(index(&world).await, Some(true));
    write(&world, "0003_gone.sql", "DROP INDEX CONCURRENTLY IF EXISTS rows_by_note;");
    fails_naming(&try_migrate(&world, &[]).await, &["drop-index"]);
    migrate(&world, &["--allow", "drop-index"]).await;
    assert_eq!(index(&world).await, None);
}

#[tokio::test]
async fn c18_what_an_interrupted_concurrent_index_left_is_cleared_away_or_kept() {
    let world = migrated().await;
    let sql = world.sql().await;
    insert_twins(&sql).await;
    sql.batch_execute(&UNIQUE_INDEX.replace("rows (", "probe.rows (")).await.unwrap_err();
    assert_eq!(index(&world).await, Some(false), "what a run leaves that ended in the midst");
    sql.batch_execute("DELETE FROM probe.rows").await.unwrap();
    write(&world, "0002_unique.sql", UNIQUE_INDEX);
    let said = migrate(&world, &[]).await;
    assert!(said.contains("dropped the invalid index `rows_by_note`"), "{said}");
    assert_eq!(index(&world).await, Some(true));
    // The index is whole, and the run ended before it could say so.
    sql.batch_execute("DELETE FROM tidemill.migrations WHERE app = 'probe' AND number = 2").await.unwrap();
    let said = migrate(&world, &[]).await;
    assert!(said.contains("kept the index `rows_by_note`") && said.contains("applied 0002_unique.sql"), "{said}");
    // Another index of that name is nobody's to keep.
    sql.batch_execute("DELETE FROM tidemill.migrations WHERE app = 'probe' AND number = 2").await.unwrap();
    sql.batch_execute("DROP INDEX probe.rows_by_note; CREATE INDEX rows_by_note ON probe.seen (topic)").await.unwrap();
    fails_naming(&try_migrate(&world, &[]).await, &["0002_unique.sql", "another index `rows_by_note`", "`seen`"]);
}

#[tokio::test]
async fn c18_two_migrations_at_once_wait_for_each_other_also_with_a_concurrent_index() {
    let world = migrated().await;
    write(&world, "0002_index.sql", "CREATE INDEX CONCURRENTLY rows_by_note ON rows (note);");
    // What holds the index up until both are under way.
    let sql = world.sql().await;
    sql.batch_execute("BEGIN; INSERT INTO probe.rows VALUES ('x', 'y')").await.unwrap();
    let release = async {
        crate::support::eventually("both runs are connected", async || {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemill migrate' AND datname = current_database()";
            (world.count(query).await == 2).then_some(())
        })
        .await;
        // PostgreSQL looks for deadlocks after a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        sql.batch_execute("COMMIT").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let (one, two, ()) = tokio::join!(migrate(&world, &[]), migrate(&world, &[]), release);
    let mut said = [one.as_str(), two.as_str()];
    said.sort_unstable();
    assert_eq!(said, ["applied 0002_index.sql of `probe`\n", "nothing to do: the database is up to date\n"]);
    assert_eq!(index(&world).await, Some(true));
}

#[tokio::test]
async fn c15_migrations_end_at_their_apps_schema_unless_the_operator_consents() {
    let world = migrated().await;
    let sql = world.sql().await;
    sql.batch_execute("CREATE SCHEMA reports; CREATE TABLE reports.countries (id int PRIMARY KEY)").await.unwrap();
    write(&world, "0002_country.sql", "ALTER TABLE rows ADD COLUMN country int REFERENCES reports.countries;");
    fails_naming(&try_migrate(&world, &[]).await, &["0002_country.sql", "`reports.countries`", "--allow-schema reports"]);
    let consent = ["--allow-schema", "reports"];
    fails_naming(&try_migrate(&world, &consent).await, &["0002_country.sql", "permission denied for schema reports"]);
    let owner: String =
        sql.query_one("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'probe'", &[]).await.unwrap().get(0);
    sql.batch_execute(&format!("GRANT USAGE ON SCHEMA reports TO {owner}; GRANT REFERENCES ON reports.countries TO {owner}"))
        .await
        .unwrap();
    migrate(&world, &consent).await;
    assert!(has_column(&world, "country").await);
    write(&world, "0003_host.sql", "DELETE FROM tidemill.outbox;");
    fails_naming(&try_migrate(&world, &["--allow", "delete-rows"]).await, &["0003_host.sql", "belongs to the host"]);
    fails_naming(&try_migrate(&world, &["--allow-schema", "tidemill"]).await, &["--allow-schema", "`tidemill` is the host's"]);
    write(&world, "0003_host.sql", "DO $$ BEGIN RESET ROLE; DELETE FROM tidemill.outbox; END $$;");
    fails_naming(&try_migrate(&world, &[]).await, &["0003_host.sql, line 1", "DO is not for migrations"]);
}
