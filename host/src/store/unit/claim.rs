//! A unit that answers a request with an `Idempotency-Key`: the key is claimed first, the answer is kept last.

use super::{Unit, lease};
use crate::store::error::StatementError;
use crate::store::idempotency::{Claimed, KeptResponse, RequestKey, Search};
use futures_util::future;

/// The key of a unit, and its answer once there is one.
#[derive(Debug)]
pub(super) struct ClaimedKey {
    pub(super) key: RequestKey,
    pub(super) response: Option<KeptResponse>,
}

impl Unit {
    /// Claims a request's key, before anything else of the unit. Only where it is free, the unit may go on; elsewhere it has to be rolled back.
    pub async fn claim(&mut self, key: RequestKey) -> Result<Claimed, StatementError> {
        let patience = self.patience();
        let claimed = tokio::time::timeout(patience, self.claim_inner(&key)).await;
        let claimed = self.in_time(claimed, patience)?;
        if matches!(claimed, Claimed::Free) {
            self.key = Some(ClaimedKey { key, response: None });
        }
        Ok(claimed)
    }

    async fn claim_inner(&mut self, key: &RequestKey) -> Result<Claimed, StatementError> {
        let begin = self.context.begin();
        let search = Search::new(key);
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let (client, host) = (&connection.client, &connection.host);
        self.busy = true;
        // In this order: the look-up is a statement of its own behind the lock, so it sees what the lock's last holder has committed.
        let (begun, locked, found, id) = future::join4(
            client.batch_execute(&begin),
            client.query_one(&host.claim_lock, &[&search.lock]),
            client.query_opt(&host.claim_find, &[&search.identity]),
            // Keeping the answer will be a write: with its id known by now, it travels with COMMIT.
            client.query_one(&host.claim_xid, &[]),
        )
        .await;
        self.busy = false;
        self.began = true;
        begun?;
        let (locked, found) = (locked?.get(0), found?);
        self.xid = id?.get(0);
        self.wrote = true;
        Ok(Claimed::read(locked, found.as_ref(), key))
    }

    /// Whether the unit has claimed a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Keeps the response under the key that was claimed, with the unit.
    pub fn answer(&mut self, response: KeptResponse) {
        if let Some(claimed) = &mut self.key {
            claimed.response = Some(response);
        }
    }
}
