//! The private server on the real programs of the machine.

use super::*;
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    str::FromStr,
};

async fn answer(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client.query_one(sql, &[]).await?.get(0))
}

#[tokio::test]
async fn a_server_starts_is_adopted_stops_and_keeps_its_data() {
    let base = tempfile::tempdir().unwrap();
    let data_dir = base.path().join("a b'c");
    let server = Postgres::start(&data_dir).await.unwrap();
    assert!(!server.adopted());
    assert_eq!(fs::metadata(server.folder()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(answer(&server.admin_url(), "SHOW listen_addresses").await.unwrap(), "");
    assert_eq!(answer(&server.admin_url(), "SHOW server_encoding").await.unwrap(), "UTF8");
    assert_eq!(
        answer(&server.admin_url(), "SELECT datcollate FROM pg_database WHERE datname = 'tidemill'").await.unwrap(),
        "C.UTF-8"
    );
    assert_eq!(answer(&server.admin_url(), "SHOW max_connections").await.unwrap(), "200");
    let psql = Command::new("sh").arg("-c").arg(format!("{} -Atc 'CREATE ROLE shop LOGIN'", server.psql_command())).status();
    assert!(psql.unwrap().success());
    assert_eq!(answer(&server.runtime_url("shop"), "SELECT current_user::text").await.unwrap(), "shop");
    sqlx::postgres::PgConnectOptions::from_str(&server.admin_url()).unwrap();
    let pool = sqlx::PgPool::connect(&server.runtime_url("shop")).await.unwrap();
    let user: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&pool).await.unwrap();
    assert_eq!(user, "shop");
    pool.close().await;

    let second = Postgres::start(&data_dir).await.unwrap_err().to_string();
    assert!(second.starts_with("another tidemill runs with the data folder "), "{second}");

    drop(server); // A killed host: nothing is stopped, the lock is free.
    let server = Postgres::start(&data_dir).await.unwrap();
    assert!(server.adopted());
    let (url, folder, pid) = (server.runtime_url("shop"), server.folder().to_owned(), server.pid().unwrap());
    server.stop().await.unwrap();
    assert!(answer(&url, "SELECT ''").await.is_err());
    assert!(!folder.join("data/postmaster.pid").exists());
    // An end that nobody waited for leaves a stale pid file.
    fs::write(folder.join("data/postmaster.pid"), format!("{pid}\n")).unwrap();
    let server = Postgres::start(&data_dir).await.unwrap();
    assert!(!server.adopted());
    assert_eq!(answer(&url, "SELECT current_user::text").await.unwrap(), "shop", "the data is kept");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_the_end_of_its_log() {
    let base = tempfile::tempdir().unwrap();
    let server = Postgres::start(base.path()).await.unwrap();
    let config = server.data().join("postgresql.conf");
    server.stop().await.unwrap();
    fs::write(&config, "work_mem = 'much'\n").unwrap();
    let error = Postgres::start(base.path()).await.unwrap_err().to_string();
    assert!(error.starts_with("the private PostgreSQL ended at its start"), "{error}");
    assert!(error.contains("server.log:\n") && error.contains("invalid value for parameter \"work_mem\": \"much\""), "{error}");
}

#[tokio::test]
async fn a_place_that_the_socket_does_not_fit_is_replaced() {
    let base = tempfile::tempdir().unwrap();
    let account = Account::find().unwrap();
    for name in ["x".repeat(100), "a,b".to_owned()] {
        let data_dir = base.path().join(name);
        fs::create_dir(&data_dir).unwrap();
        let data_dir = fs::canonicalize(data_dir).unwrap();
        let folder = place(&data_dir, &account).unwrap();
        assert!(folder.starts_with("/var/tmp") && folder.to_string_lossy().contains("/tidemill-"), "{}", folder.display());
        assert_eq!(place(&data_dir, &account).unwrap(), folder, "the same place every time");
        assert_eq!(fs::read_to_string(data_dir.join("postgres.path")).unwrap(), format!("{}\n", folder.display()));
        let found = fs::metadata(&folder).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o700, account.uid));
        fs::remove_dir(folder).unwrap();
    }
}

#[test]
fn a_closed_folder_above_is_not_passed() {
    let base = tempfile::tempdir().unwrap();
    let closed = base.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let other = |uid| Account { uid, gid: uid, root: false, setpriv: None };
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(other(54_321).reaches(&closed));
    assert!(!other(54_321).reaches(&closed.join("postgres")));
    assert!(other(fs::metadata(&closed).unwrap().uid()).reaches(&closed.join("postgres")));
}

#[test]
fn without_programs_the_error_says_where_they_were_looked_for() {
    let empty = tempfile::tempdir().unwrap();
    let error = Programs::find(Some(empty.path()), None).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "found no PostgreSQL programs (initdb, postgres, pg_ctl; version 15 or newer). Searched:\n  {}: has no program `initdb`\n\
             `apt-get install postgresql` installs them (scripts/dev does it too); TIDEMILL_POSTGRES_BIN names another folder",
            empty.path().display()
        )
    );
    let error = Programs::choose(&[], false, None).unwrap_err().to_string();
    assert!(error.contains("Searched:\n  PATH and /usr/lib/postgresql/*/bin: nothing else\n"), "{error}");
    for (said, cluster, reason) in
        [("14.9", None, "version 14, at least 15 is needed"), ("17.2", Some(15), "version 17, the data is of version 15")]
    {
        for program in ["initdb", "pg_ctl", "postgres"] {
            let file = empty.path().join(program);
            fs::write(&file, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {said} (Debian)'\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let error = Programs::choose(&[empty.path().to_owned()], true, cluster).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn urls_take_a_folder_as_host() {
    assert_eq!(encoded("/var/a b,c"), "%2Fvar%2Fa%20b%2Cc");
}
