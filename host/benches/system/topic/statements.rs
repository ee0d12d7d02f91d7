//! The statements of one batch of the audit handler, as `host/src/store` and `handlers/audit` have them.

pub(super) use crate::twin::statements::{ASSUME, PATH};

/// `store/inbox.rs`: the batch's days, before they are noted. The host asks for the transaction's id with it, which this loop has no use for.
pub(super) const ENTER: &str = "SELECT tidemill.enter_day($1, $2, $3)";

/// `store/inbox.rs`: notes the identities.
pub(super) const NOTE: &str = "\
    INSERT INTO tidemill.inbox (scope, bucket, source, id) \
    SELECT $1, g.bucket, g.source, g.id \
    FROM unnest($2::int4[], $3::text[], $4::text[]) WITH ORDINALITY AS g(bucket, source, id, n) \
    WHERE NOT EXISTS (SELECT 1 FROM tidemill.inbox i \
                      WHERE i.scope = $1 AND i.source = g.source AND i.id = g.id AND i.bucket <> g.bucket OFFSET 0) \
    ORDER BY g.n \
    ON CONFLICT DO NOTHING \
    RETURNING source, id";

/// `store/inbox.rs`: the keys that must wait.
pub(super) const HELD: &str = "\
    SELECT k.n, \
           (SELECT count(*) FROM (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND sha256(w.key) = k.hash LIMIT $4) c), \
           EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND sha256(s.key) = k.hash OFFSET 0) \
    FROM unnest($3::bytea[]) WITH ORDINALITY AS k(hash, n) \
    WHERE EXISTS (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND sha256(w.key) = k.hash OFFSET 0) \
       OR EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND sha256(s.key) = k.hash OFFSET 0)";

/// `audit`: the rows. The table is named in full, so that it can be prepared before the role is taken.
pub(super) const RECORD: &str = "\
    INSERT INTO todo.audit_log (source, event_id, type, task_id, user_id, correlation_id, data, occurred_at) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::timestamptz[]) \
    ON CONFLICT DO NOTHING";

/// A generation, as the inbox knows it. Without its row no day is entered side by side.
pub(super) const SCOPE: &str = "INSERT INTO tidemill.scopes (consumer_group) VALUES ($1) RETURNING scope";

/// The role of audit in the default installation.
pub(super) const ROLE: &str = "tidemill_h_audit";
