//! Firing one job by name, whatever its time: an operator's word.

use super::due::{Claimed, FIRE_LOCKED, Round};
use crate::store::Pool;
use crate::store::error::{Unavailable, describe};
use tokio_postgres::Client;
use uuid::Uuid;

/// The columns of a claim, and the id of the event. `due` stands for `now()` as well: the event is that of the next scheduled time and no other.
const CLAIM_ONE: &str = "\
    SELECT app, name, due, period, cron, time_zone, missed, due, tidemill.job_event_id(app, name, incarnation, due) \
    FROM tidemill.jobs WHERE app = $1 AND name = $2 FOR UPDATE";

/// Publishes the next event of a waiting job at once, as if its time had come: with the id and the `time` of the scheduled time, which is
/// thereby done. Returns the event's id; none if there is no such job.
pub async fn run_now(pool: &Pool, app: &str, name: &str) -> Result<Option<Uuid>, Unavailable> {
    let mut lease = pool.lend().await?;
    let patience = pool.patience();
    let ran = tokio::time::timeout(patience, fire(lease.client(), app, name)).await;
    let ran = ran.map_err(|_| Unavailable(format!("the database did not answer within {patience:?}")))?;
    let id = ran.map_err(|error| Unavailable(describe(&error)))?;
    lease.give_back();
    Ok(id)
}

async fn fire(client: &Client, app: &str, name: &str) -> Result<Option<Uuid>, tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    let Some(row) = client.query_opt(CLAIM_ONE, &[&app, &name]).await? else {
        client.batch_execute("ROLLBACK").await?;
        return Ok(None);
    };
    let mut round = Round::default();
    round.add(Claimed::read(&row));
    let statement = client.prepare(FIRE_LOCKED).await?;
    round.write(client, &statement).await?;
    client.batch_execute("COMMIT").await?;
    Ok(Some(row.get(8)))
}
