//! Promise 15: a handler cannot leave its transaction, its role, its rows or its sandbox.

use serde_json::{Value as Json, json};

use crate::support::{Answer, World};

/// Runs one statement as the guest.
async fn run(world: &World, statement: &str) -> Answer {
    world.steps("sql", json!({ "sql": statement })).await
}

/// Each of these must be refused before the server sees it, and change nothing.
async fn all_refused(statements: &[&str]) {
    let world = World::with_probe().await;
    world.sql().await.batch_execute("INSERT INTO probe.rows VALUES ('kept', 'as it was')").await.unwrap();
    for statement in statements {
        let answer = run(&world, statement).await;
        assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("Refused")), "{statement}: {answer:?}");
        assert!(answer.body["message"].as_str().is_some_and(|message| message.len() > 10), "{statement}: {answer:?}");
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.rows WHERE note = 'as it was'").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM pg_class WHERE relname = 'stolen'").await, 0);
}

#[tokio::test]
async fn c15_no_statement_ends_or_changes_the_transaction() {
    all_refused(&[
        "COMMIT",
        "commit;",
        "ROLLBACK",
        "BEGIN",
        "START TRANSACTION",
        "END",
        "ABORT",
        "SAVEPOINT a",
        "ROLLBACK TO SAVEPOINT a",
        "RELEASE SAVEPOINT a",
        "PREPARE TRANSACTION 'x'",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "/* SELECT 1 */ COMMIT",
        "-- nothing\nCOMMIT",
    ])
    .await;
}

#[tokio::test]
async fn c15_no_statement_leaves_the_role_or_changes_a_setting() {
    all_refused(&[
        "RESET ROLE",
        "SET ROLE postgres",
        "SET LOCAL ROLE NONE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
        "SET search_path = tidemill",
        "SET tidemill.subject = 'bob'",
        "SELECT set_config('role', 'postgres', true)",
        "SELECT set_config('tidemill.subject', 'bob', true)",
        "SELECT pg_catalog.set_config('role', 'none', false)",
        "SELECT \"set_config\"('role', 'none', false)",
        "INSERT INTO rows VALUES ('a', 'b') RETURNING set_config('role', 'none', false)",
        "SELECT count(*) FILTER (WHERE set_config('role', 'none', false) = '') FROM rows",
        "SELECT 1 LIMIT length(set_config('role', 'none', false))",
        "SELECT 1 FROM rows ORDER BY set_config('role', 'none', false)",
        "WITH a AS (SELECT set_config('role', 'none', false)) SELECT * FROM a",
        "DISCARD ALL",
        "SHOW role",
    ])
    .await;
}

#[tokio::test]
async fn c15_only_one_data_statement_passes() {
    all_refused(&[
        "SELECT 1; SELECT 2",
        "INSERT INTO rows VALUES ('a', 'b'); COMMIT",
        "SELECT 1; DROP TABLE rows",
        "SELECT * INTO stolen FROM rows",
        "SELECT 1 AS a INTO TEMP stolen",
        "WITH a AS (SELECT 1) SELECT * INTO stolen FROM a",
        "CREATE TABLE stolen (a int)",
        "CREATE TABLE stolen AS SELECT 1",
        "CREATE TEMP TABLE stolen (a int)",
        "DROP TABLE rows",
        "ALTER TABLE rows DISABLE ROW LEVEL SECURITY",
        "TRUNCATE rows",
        "GRANT ALL ON rows TO PUBLIC",
        "COPY rows TO PROGRAM 'true'",
        "COPY rows FROM STDIN",
        "DO $$ BEGIN END $$",
        "CALL something()",
        "PREPARE x AS SELECT 1",
        "EXECUTE x",
        "DEALLOCATE ALL",
        "LOCK TABLE rows",
        "LISTEN a",
        "NOTIFY a",
        "VACUUM",
        "EXPLAIN ANALYZE SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1",
        "",
        "   ",
        "no SQL at all",
    ])
    .await;
}

#[tokio::test]
async fn c15_functions_with_side_effects_are_refused() {
    all_refused(&[
        "SELECT pg_sleep(10)",
        "SELECT * FROM pg_sleep(10)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_create(1)",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "SELECT * FROM ts_stat('SELECT to_tsvector(note) FROM rows')",
        "SELECT database_to_xml(true, true, '')",
        "SELECT dblink('', 'SELECT 1')",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "SELECT pg_cancel_backend(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_notify('a', 'b')",
        "SELECT generate_series(1, 10), pg_sleep(1)",
        "SELECT * FROM ROWS FROM (pg_sleep(1)) AS a",
        "SELECT (SELECT pg_sleep(1))",
        "UPDATE rows SET note = pg_read_file('/etc/passwd')",
        "DELETE FROM rows USING pg_sleep(1)",
        "VALUES (pg_sleep(1))",
        "MERGE INTO rows USING (SELECT 'a' AS id) s ON rows.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, pg_read_file('/etc/passwd'))",
    ])
    .await;
}

#[tokio::test]
async fn c15_the_catalogs_and_the_hosts_tables_are_out_of_sight() {
    all_refused(&[
        "SELECT * FROM pg_catalog.pg_authid",
        "SELECT * FROM pg_roles",
        "SELECT * FROM pg_class",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM tidemill.outbox",
        "DELETE FROM tidemill.inbox",
        "INSERT INTO tidemill.outbox (topic) VALUES ('x')",
        "SELECT 1 FROM rows WHERE EXISTS (SELECT FROM tidemill.outbox)",
    ])
    .await;
}

#[tokio::test]
async fn c15_ordinary_statements_pass() {
    let world = World::with_probe().await;
    for (statement, rows) in [
        ("SELECT 1", 1),
        ("INSERT INTO rows (id, note) VALUES ('a', 'x'), ('b', 'y') RETURNING id", 2),
        ("INSERT INTO rows (id) VALUES ('a') ON CONFLICT DO NOTHING RETURNING id", 0),
        ("INSERT INTO rows (id, note) VALUES ('a', 'z') ON CONFLICT (id) DO UPDATE SET note = excluded.note RETURNING note", 1),
        ("UPDATE rows SET note = upper(note) WHERE id = 'a' RETURNING *", 1),
        ("WITH gone AS (DELETE FROM rows WHERE id = 'b' RETURNING id) SELECT * FROM gone", 1),
        ("SELECT id, row_number() OVER (ORDER BY id), count(*) OVER () FROM rows", 1),
        ("SELECT coalesce(max(note), ''), now() FROM rows GROUP BY id HAVING count(*) > 0 ORDER BY 1 LIMIT 5", 1),
        ("SELECT id FROM rows WHERE note ILIKE '%z%' AND id = ANY (ARRAY['a', 'b']) FOR UPDATE", 1),
        ("VALUES (1), (2)", 2),
        ("SELECT * FROM unnest(ARRAY['a', 'b']) AS u (v)", 2),
        ("SELECT jsonb_build_object('a', 1) ->> 'a', gen_random_uuid()", 1),
        ("SELECT 'a;b' AS \"COMMIT\" -- COMMIT", 1),
    ] {
        let answer = run(&world, statement).await;
        assert_eq!(answer.status, 200, "{statement}: {answer:?}");
        assert_eq!(answer.body["rows"].as_array().map(Vec::len), Some(rows), "{statement}: {answer:?}");
    }
}

#[tokio::test]
async fn c15_what_is_not_granted_is_refused_by_the_server() {
    let world = World::with_probe().await;
    for statement in ["SELECT * FROM secrets", "UPDATE switches SET is_on = true", "SELECT * FROM probe.secrets"] {
        let answer = run(&world, statement).await;
        assert_eq!((answer.status, &answer.body["sqlstate"]), (409, &json!("42501")), "{statement}: {answer:?}");
    }
}

#[tokio::test]
async fn c15_the_hosts_login_is_no_superuser_and_the_guests_role_sees_nothing_of_the_host() {
    let world = World::with_probe().await;
    let sql = world.sql().await;
    let (name, login) = (&world.database.name, world.database.login());
    let query =
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication FROM pg_roles WHERE rolname = $1";
    for role in [login.clone(), format!("{name}_h_probe"), format!("{name}_owner_probe")] {
        let strong: bool = sql.query_one(query, &[&role]).await.unwrap_or_else(|error| panic!("{role}: {error}")).get(0);
        assert!(!strong, "{role} has an attribute that no role of the host needs");
    }
    let guest = format!("{name}_h_probe");
    let member = "SELECT count(*) FROM pg_auth_members WHERE member = $1::text::regrole";
    assert_eq!(sql.query_one(member, &[&guest]).await.unwrap().get::<_, i64>(0), 0, "the guest's role is a member of nothing");
    let can_log_in: bool = sql.query_one("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", &[&guest]).await.unwrap().get(0);
    assert!(!can_log_in);
    let visible =
        "SELECT count(*) FROM pg_class c WHERE relnamespace = 'tidemill'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
        AND has_schema_privilege($1, 'tidemill', 'USAGE') AND has_table_privilege($1, c.oid, 'SELECT, INSERT, UPDATE, DELETE')";
    assert_eq!(sql.query_one(visible, &[&guest]).await.unwrap().get::<_, i64>(0), 0);
    let temporary = "SELECT has_database_privilege($1, current_database(), 'TEMP') OR has_database_privilege($1, current_database(), 'CREATE')";
    assert!(!sql.query_one(temporary, &[&guest]).await.unwrap().get::<_, bool>(0));
    let owner = "SELECT tableowner::text FROM pg_tables WHERE schemaname = 'probe' AND tablename = 'rows'";
    assert_eq!(sql.query_one(owner, &[]).await.unwrap().get::<_, String>(0), format!("{name}_owner_probe"));
}

#[tokio::test]
async fn c21_row_level_security_sees_the_tokens_subject() {
    let world = World::with_probe().await;
    for user in ["alice", "bob", "o'neil; RESET ROLE"] {
        let body = json!({ "sql": "INSERT INTO owned VALUES ($1, 'mine')", "params": [user] });
        let answer = Answer::read(world.request(user, "POST", "/probe/sql").json(&body).send().await.unwrap()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let body = json!({ "sql": "SELECT subject FROM owned" });
    for user in ["alice", "bob", "o'neil; RESET ROLE"] {
        let answer = Answer::read(world.request(user, "POST", "/probe/sql").json(&body).send().await.unwrap()).await;
        assert_eq!(answer.body["rows"], json!([[user]]));
    }
    let foreign = json!({ "sql": "INSERT INTO owned VALUES ('bob', 'forged')" });
    let answer = world.steps("sql", foreign).await;
    assert_eq!((answer.status, &answer.body["sqlstate"]), (409, &Json::from("42501")));
}
