//! The unit of work: one invocation, one transaction (promises 1 and 2 of the contract).
//!
//! Round trips decide how long a request takes, so everything that can ride along does: BEGIN, the role and the first statement are
//! one trip; the end of the unit (constraints, jobs, key locks, outbox rows, COMMIT) is another. PostgreSQL executes a pipeline in order, and
//! in an aborted transaction everything after the error fails with 25P02, except COMMIT, which answers as if nothing were wrong. So a
//! unit counts as committed only if no statement of it failed and the one directly before COMMIT succeeded.

mod claim;
mod end;
mod jobs;
mod statements;
mod types;

pub(super) use statements::HostStatements;
pub(super) use types::IDLE;
pub use types::{Kept, Noted, Param, RawColumn, Resumed, Rows, StatementText, UnitContext};

use super::error::{StatementError, StatementErrorKind as Kind, Unavailable};
use super::inbox::{Identity, Scope};
use super::jobs::JobRow;
use super::outbox::Envelope;
use super::waiting::{Claim, Consumer, Parked};
use super::{Lease, Pool};
use claim::ClaimedKey;
use futures_util::future;
use sha2::{Digest, Sha256};
use statements::{Opening, RESUME, XID, collect};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio_postgres::{Row, Statement};
use types::WaitingChanges;

/// One invocation's transaction. It is opened at the first need, and whatever happens to it, [`Unit::commit`] or [`Unit::rollback`] says so;
/// dropping it closes its connection, which rolls back.
pub struct Unit {
    pool: Pool,
    context: UnitContext,
    lease: Option<Lease>,
    /// Before its transaction began.
    made: Instant,
    began: bool,
    assumed: bool,
    /// A statement is under way (its future was dropped if this is still set at the end).
    busy: bool,
    doomed: Option<StatementError>,
    wrote: bool,
    xid: Option<String>,
    outbox: Vec<Envelope>,
    waiting: WaitingChanges,
    /// The `Idempotency-Key` that this unit has claimed.
    key: Option<ClaimedKey>,
    jobs: Vec<JobRow>,
    /// How many jobs were scheduled and cancelled so far.
    jobs_changed: usize,
    /// The earliest due time of the jobs that are written already.
    due: Option<i64>,
    keys: HashSet<Vec<u8>>,
    bytes: usize,
}

impl Unit {
    /// A unit that has not opened anything yet.
    pub fn new(pool: Pool, context: UnitContext) -> Self {
        Self {
            pool,
            context,
            lease: None,
            made: Instant::now(),
            began: false,
            assumed: false,
            busy: false,
            doomed: None,
            wrote: false,
            xid: None,
            outbox: Vec::new(),
            waiting: WaitingChanges::default(),
            key: None,
            jobs: Vec::new(),
            jobs_changed: 0,
            due: None,
            keys: HashSet::new(),
            bytes: 0,
        }
    }

    /// The failure that doomed this unit, if one did.
    pub fn doomed(&self) -> Option<&StatementError> {
        self.doomed.as_ref()
    }

    /// Dooms the unit and returns the error, for the caller to pass on. The first failure is the one that counts.
    pub fn doom(&mut self, error: StatementError) -> StatementError {
        self.doomed.get_or_insert_with(|| error.clone());
        error
    }

    /// The handler whose unit it is.
    pub fn handler(&self) -> &str {
        &self.context.handler
    }

    /// Fails if an earlier call has failed.
    pub fn ensure_sound(&self) -> Result<(), StatementError> {
        match &self.doomed {
            None => Ok(()),
            Some(first) => Err(StatementError::new(
                Kind::TransactionFailed,
                format!("an earlier call of this invocation failed, so nothing of it will be kept: {}", first.message),
            )),
        }
    }

    /// Notes a batch of events of one topic as handled, before anything else of the unit. Says which of them were not yet, and which of the
    /// keys (each once) may not run with the batch; waiting events are counted up to `cap` for each key.
    pub async fn note(
        &mut self,
        scope: Scope,
        topic: &str,
        identities: &[&Identity],
        keys: &[&[u8]],
        cap: i64,
    ) -> Result<Noted, StatementError> {
        let patience = self.patience();
        let noted = tokio::time::timeout(patience, self.note_inner(scope, topic, identities, keys, cap)).await;
        self.in_time(noted, patience)
    }

    async fn note_inner(
        &mut self,
        scope: Scope,
        topic: &str,
        identities: &[&Identity],
        keys: &[&[u8]],
        cap: i64,
    ) -> Result<Noted, StatementError> {
        let days = (identities.iter().map(|i| i.bucket).min(), identities.iter().map(|i| i.bucket).max());
        // A copy within the batch is one as well: of one day, the index finds it; of several, nobody else would.
        let firsts = (days.0 != days.1).then(|| firsts(identities));
        let noting = firsts.as_deref().unwrap_or(identities);
        let buckets: Vec<i32> = noting.iter().map(|identity| identity.bucket).collect();
        let sources: Vec<&str> = noting.iter().map(|identity| &*identity.source).collect();
        let ids: Vec<&str> = noting.iter().map(|identity| &*identity.id).collect();

        let hashes: Vec<_> = keys.iter().map(Sha256::digest).collect();
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_slice()).collect();
        // To read a small table from end to end looks cheaper than its index, but hashes the key of each row for each key of the batch. The
        // handler's statements find it as it was: their opening says so.
        let begin = format!("{}; SET LOCAL enable_seqscan = off", self.context.begin());
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let (client, host) = (&connection.client, &connection.host);
        self.busy = true;
        let (begun, entered, rows, held) = future::join4(
            client.batch_execute(&begin),
            client.query_one(&host.enter, &[&scope.0, &days.0, &days.1]),
            client.query(&host.note, &[&scope.0, &buckets, &sources, &ids]),
            async {
                match keys.is_empty() {
                    true => Ok(Vec::new()),
                    false => client.query(&host.held, &[&scope.0, &topic, &hashes, &cap]).await,
                }
            },
        )
        .await;
        self.busy = false;
        self.began = true;
        begun?;
        self.xid = entered?.get(1);
        let (rows, held) = (rows?, held?);
        self.wrote = true;
        let new = match rows.len() == identities.len() {
            true => (0..rows.len()).collect(),
            false => {
                let mut noted: HashSet<(&str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
                let is_new = |&i: &usize| noted.remove(&(&*identities[i].source, &*identities[i].id));
                (0..identities.len()).filter(is_new).collect()
            }
        };
        let key = |row: &Row| position(row.get(0)).and_then(|position| keys.get(position)).map(|key| key.to_vec());
        Ok(Noted {
            new,
            blocked: held.iter().filter_map(|row| Some((key(row)?, row.get(1)))).filter(|(_, count)| *count > 0).collect(),
            single: held.iter().filter(|row| row.get(2)).filter_map(key).collect(),
        })
    }

    /// Takes a waiting row for this unit, before anything else of it. A successful unit ends the row.
    pub async fn resume(&mut self, claim: &Claim) -> Result<Resumed, StatementError> {
        let patience = self.patience();
        let resumed = tokio::time::timeout(patience, self.resume_inner(claim)).await;
        self.in_time(resumed, patience)
    }

    async fn resume_inner(&mut self, claim: &Claim) -> Result<Resumed, StatementError> {
        let begin = self.context.begin();
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let (client, host) = (&connection.client, &connection.host);
        self.busy = true;
        // In the order of every unit: the inbox comes first.
        let note = async {
            match &claim.anew {
                Some(identity) => host.note_one(client, claim.scope, identity).await,
                None => Ok(true),
            }
        };
        let (begun, noted, row, id) = future::join4(
            client.batch_execute(&begin),
            note,
            client.query_opt(&host.claimed, &[&claim.id, &claim.token]),
            client.query_one(&host.xid, &[]),
        )
        .await;
        self.busy = false;
        self.began = true;
        begun?;
        let (noted, found) = (noted?, row?.is_some());
        self.xid = id?.get(0);
        self.wrote = found;
        self.waiting.done = found.then(|| claim.clone());
        Ok(match (found, noted) {
            (true, true) => Resumed::Ours,
            (true, false) => Resumed::Known,
            (false, _) => Resumed::Lost,
        })
    }

    /// Lets events wait that were noted but may not run, with the unit.
    pub fn park(&mut self, consumer: &Consumer, events: Vec<Parked>) {
        if !events.is_empty() {
            self.waiting.parked = Some((consumer.clone(), events));
        }
    }

    /// A key with single attempts is trusted again, with the unit.
    pub fn trust(&mut self, scope: Scope, topic: &str, key: Vec<u8>) {
        self.waiting.trusted.push((scope, topic.to_owned(), key));
    }

    /// How long the host's own first statements of a unit may take.
    fn patience(&self) -> Duration {
        self.context.sql_time.max(self.context.outcome_patience)
    }

    fn in_time<T>(
        &mut self,
        ended: Result<Result<T, StatementError>, tokio::time::error::Elapsed>,
        patience: Duration,
    ) -> Result<T, StatementError> {
        let ended = ended.unwrap_or_else(|_| Err(Unavailable(format!("the database did not answer within {patience:?}")).into()));
        ended.map_err(|error| self.doom(error))
    }

    /// Prepares a statement of the handler, unless it is: its parameters' types are known then.
    pub async fn prepare(&mut self, statement: &StatementText) -> Result<Statement, StatementError> {
        self.ensure_sound()?;
        let prepared = self.prepare_inner(&statement.text).await;
        prepared.inspect_err(|error| self.doom_by(statement, error))
    }

    /// Runs a prepared statement of the handler. Parameters that could not be encoded fail it.
    pub async fn run(
        &mut self,
        statement: &StatementText,
        prepared: &Statement,
        params: Result<Vec<Param>, String>,
    ) -> Result<Rows, StatementError> {
        self.ensure_sound()?;
        let ran = match params {
            Ok(params) => self.run_inner(statement, prepared, &params).await,
            Err(message) => Err(StatementError::new(Kind::Parameter, message)),
        };
        ran.inspect_err(|error| self.doom_by(statement, error))
    }

    /// The operator's copy names the statement; its values are in the parameters, which nobody logs.
    fn doom_by(&mut self, statement: &StatementText, error: &StatementError) {
        let message = format!("{} in: {}", error.message, excerpt(&statement.text));
        self.doom(StatementError { message, ..error.clone() });
    }

    async fn run_inner(
        &mut self,
        statement: &StatementText,
        prepared: &Statement,
        params: &[Param],
    ) -> Result<Rows, StatementError> {
        // The transaction's id must be known before COMMIT is sent; it rides behind the first statement that may have drawn one.
        let ask_xid = statement.writes && self.xid.is_none();
        let opening = self.opening();
        let limit = self.context.sql_result;
        self.busy = true;
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let client = &connection.client;
        let xid = connection.scope(self.context.scope).filter(|_| ask_xid).map(|scope| &scope.xid);
        let asked = async {
            match xid {
                Some(xid) => client.query_one(xid, &[]).await.map(|row| row.get::<_, Option<String>>(0)),
                None => Ok(None),
            }
        };
        let (opened, rows, id) = future::join3(opening.send(connection), collect(client, prepared, params, limit), asked).await;
        self.busy = false;
        self.opened(opened)?;
        // The statement's own error says more than the 25P02 that follows from it.
        let rows = rows??;
        if ask_xid {
            self.xid = id?;
        }
        self.wrote |= statement.writes;
        Ok(rows)
    }

    /// On this unit's connection, inside the unit: names mean what they mean to its role.
    async fn prepare_inner(&mut self, text: &str) -> Result<Statement, StatementError> {
        let scope = self.context.scope;
        if let Some(prepared) = lease(&mut self.lease, &self.pool).await?.connection().cached(scope, text) {
            return Ok(prepared);
        }
        let opening = self.opening();
        self.busy = true;
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let client = &connection.client;
        let known = connection.scope(scope).is_some();
        let common = async {
            match known {
                true => Ok(None),
                false => future::try_join(client.prepare(XID), client.prepare(RESUME)).await.map(Some),
            }
        };
        let (opened, common, prepared) = future::join3(opening.send(connection), common, client.prepare(text)).await;
        if let Ok(Some((xid, resume))) = common {
            connection.keep_scope(scope, xid, resume);
        }
        if let Ok(prepared) = &prepared {
            connection.keep(scope, text, prepared.clone());
        }
        self.busy = false;
        self.opened(opened)?;
        Ok(prepared?)
    }

    /// What is still to be said before the handler's next statement.
    fn opening(&self) -> Opening {
        let assume = (!self.assumed).then(|| self.context.clone());
        Opening { begin: (!self.began).then(|| self.context.begin()), assume, lock_timeout: self.pool.lock_timeout() }
    }

    fn opened(&mut self, opened: Result<(), StatementError>) -> Result<(), StatementError> {
        // Even a failed opening may have begun: the rollback must be sent.
        self.began = true;
        opened?;
        self.assumed = true;
        Ok(())
    }

    /// Adds an event to the unit.
    pub fn publish(&mut self, event: Envelope) -> Result<(), StatementError> {
        self.ensure_sound()?;
        self.bytes += event.value.len();
        self.keys.extend(event.key.clone());
        self.outbox.push(event);
        Ok(())
    }

    /// How many bytes its events have so far.
    pub fn published_bytes(&self) -> usize {
        self.bytes
    }

    /// How many distinct keys the unit's events have so far, and whether this is one of them. Each key is a lock at the end.
    pub fn published_keys(&self, key: &[u8]) -> (usize, bool) {
        (self.keys.len(), self.keys.contains(key))
    }

    /// How many events the unit publishes so far.
    pub fn published(&self) -> usize {
        self.outbox.len()
    }
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit").field("began", &self.began).field("doomed", &self.doomed).finish_non_exhaustive()
    }
}

/// Each identity once, whatever its day: as it comes first.
fn firsts<'a>(identities: &[&'a Identity]) -> Vec<&'a Identity> {
    let mut seen = HashSet::new();
    identities.iter().copied().filter(|identity| seen.insert((&identity.source, &identity.id))).collect()
}

/// Where in an array an element is that PostgreSQL counts from 1.
fn position(ordinality: i64) -> Option<usize> {
    usize::try_from(ordinality).ok()?.checked_sub(1)
}

/// The connection of a unit, lent at the first need.
async fn lease<'a>(held: &'a mut Option<Lease>, pool: &Pool) -> Result<&'a mut Lease, Unavailable> {
    match held {
        Some(lease) => Ok(lease),
        None => Ok(held.insert(pool.lend().await?)),
    }
}

/// Enough of a statement to find it in the handler's source.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
