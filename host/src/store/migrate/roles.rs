//! The roles: the host's login, each app's owner, each handler's own.

use super::{AppPlan, HandlerRole, literal, quote};
use crate::store::error::describe;
use anyhow::ensure;
use tokio_postgres::Transaction;

/// The runtime login: no superuser, and NOINHERIT, so that being a member of the handlers' roles gives it nothing until it assumes one.
pub(super) async fn make_login(
    transaction: &Transaction<'_>,
    login: &str,
    password: Option<&[u8]>,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    let known = transaction.query_opt("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1", &[&login]).await?;
    if let Some(row) = known {
        let (superuser, bypass): (bool, bool) = (row.get(0), row.get(1));
        ensure!(
            !superuser && !bypass,
            "TIDEMILL_DATABASE_URL logs in as `{login}`, which is a superuser or bypasses row-level security: guests could do anything. \
             Name another user there; `tidemill migrate` makes it"
        );
        let admin: String = transaction.query_one("SELECT current_user::text", &[]).await?.get(0);
        ensure!(
            admin != login,
            "TIDEMILL_DATABASE_URL and TIDEMILL_ADMIN_DATABASE_URL log in as the same user `{login}`, which would own the tables that guests \
             are walled off from; give the host a user of its own"
        );
        return Ok(());
    }
    // The server gets the SCRAM verifier, not the password, so that the password is in no log of the server.
    let secret = match password {
        Some(password) => format!("PASSWORD {}", literal(&postgres_protocol::password::scram_sha_256(password))),
        None => String::new(),
    };
    let sql = format!("CREATE ROLE {} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE {secret}", quote(login));
    transaction
        .batch_execute(&sql)
        .await
        .map_err(|error| anyhow::anyhow!("cannot make the login `{login}`: {}", describe(&error)))?;
    done.push(format!("made the login `{login}`"));
    Ok(())
}

async fn make_role(transaction: &Transaction<'_>, role: &str, done: &mut Vec<String>) -> anyhow::Result<()> {
    if transaction.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role]).await?.is_none() {
        transaction.batch_execute(&format!("CREATE ROLE {} NOLOGIN", quote(role))).await?;
        done.push(format!("made the role `{role}`"));
    }
    Ok(())
}

/// Makes an app's schema and roles, and lets the handlers into the schema.
pub(super) async fn prepare_app(
    transaction: &Transaction<'_>,
    app: &AppPlan,
    login: &str,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    let (schema, owner) = (quote(&app.app), quote(&app.owner));
    make_role(transaction, &app.owner, done).await?;
    // Before PostgreSQL 16 a role that makes another is no member of it; changing into the owner needs that.
    let setup = format!(
        "GRANT {owner} TO CURRENT_USER; CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}; REVOKE ALL ON SCHEMA {schema} FROM PUBLIC"
    );
    transaction.batch_execute(&setup).await?;
    for HandlerRole { role, .. } in &app.handlers {
        make_role(transaction, role, done).await?;
        let role = quote(role);
        transaction.batch_execute(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT {role} TO {login}")).await?;
    }
    Ok(())
}
