//! The statements of one task create, as `host/src/store` and `handlers/task-api` have them.

/// `store/unit.rs`: role and settings.
pub(crate) const ASSUME: &str = "SELECT set_config('role', $1, true), set_config('search_path', $2, true), \
     set_config('tidemill.subject', $3, true), set_config('statement_timeout', $4, true)";

/// `task-api`: the task.
pub(crate) const INSERT_TASK: &str = "INSERT INTO tasks \
    (id, user_id, title, description, priority, tags, due_date, due_time, recurrence, created_at, updated_at, version) \
    VALUES ($1, $2, $3, $4, $5, $6::text[], $7::date, $8::time, $9, $10, $11, $12)";

/// `store/unit.rs`: back to the login role.
pub(crate) const RESUME: &str = "SELECT set_config('role', 'none', true), set_config('search_path', 'pg_catalog', true)";

/// `store/outbox.rs`: the lock that orders a key's rows.
pub(crate) const KEY_LOCKS: &str = "SELECT pg_advisory_xact_lock(7001, b) FROM unnest($1::int4[]) AS b";

/// `store/outbox.rs`: the event.
pub(crate) const INSERT_EVENT: &str = "\
    INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, correlation_id, traceparent) \
    SELECT bucket, topic, key, value, ARRAY['content-type'], ARRAY[convert_to(content_type, 'UTF8')], event_id, correlation_id, traceparent \
    FROM unnest($1::int2[], $2::text[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::text[]) \
         WITH ORDINALITY AS r(bucket, topic, key, value, content_type, event_id, correlation_id, traceparent, n) \
    ORDER BY n";

/// The role of task-api in the default installation.
pub(crate) const ROLE: &str = "tidemill_h_task_api";

/// The app's search path.
pub(crate) const PATH: &str = "\"todo\", pg_temp";

/// The whole unit as a script of pgbench, in the host's two round trips. Variables: `n` (0), `title`, `tags`, `value`.
///
/// pgbench prepares the statements of a pipeline before it sends it, so the way back to the login role ends the first pipeline instead of
/// being in the second: statements and trips are the same.
pub(crate) const PGBENCH: &str = r#"\set n :n + 1
\set u random(1, 1000)
\set r random(0, 1152921504606846975)
\startpipeline
BEGIN;
SELECT set_config('role', 'tidemill_h_task_api', true), set_config('search_path', '"todo", pg_temp', true), set_config('tidemill.subject', 'user' || (:u)::text, true), set_config('statement_timeout', '5000', true);
INSERT INTO tasks (id, user_id, title, description, priority, tags, due_date, due_time, recurrence, created_at, updated_at, version) VALUES ((lpad(to_hex((:n)::int8), 12, '0') || '7' || lpad(to_hex((:client_id)::int8), 3, '0') || '8' || lpad(to_hex((:r)::int8), 15, '0'))::uuid, 'user' || (:u)::text, :title, NULL, 'medium', (:tags)::text[], NULL, NULL, NULL, now(), now(), 1);
SELECT pg_current_xact_id_if_assigned()::text;
SELECT set_config('role', 'none', true), set_config('search_path', 'pg_catalog', true);
\endpipeline
\startpipeline
SET CONSTRAINTS ALL IMMEDIATE;
SELECT pg_advisory_xact_lock(7001, b) FROM unnest(ARRAY[(:u)::int4]) AS b;
INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, correlation_id, traceparent) SELECT bucket, topic, key, value, ARRAY['content-type'], ARRAY[convert_to(content_type, 'UTF8')], event_id, correlation_id, traceparent FROM unnest(ARRAY[(:u)::int2], ARRAY['todo.task-events'], ARRAY[convert_to('user' || (:u)::text, 'UTF8')], ARRAY[convert_to((:value)::text, 'UTF8')], ARRAY['application/cloudevents+json; charset=UTF-8'], ARRAY[lpad((:r)::text, 36, '0')], ARRAY[lpad((:r)::text, 36, '0')], ARRAY['00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01']) WITH ORDINALITY AS r(bucket, topic, key, value, content_type, event_id, correlation_id, traceparent, n) ORDER BY n;
COMMIT;
\endpipeline
"#;
