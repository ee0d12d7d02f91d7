-- The audit trail: one row for each event, once for each identity of an event.

CREATE TABLE audit_log (
    -- In the order of recording. It makes the order of a page total; events of two topics may be recorded out of their order in time.
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source         text NOT NULL,
    event_id       text NOT NULL,
    type           text NOT NULL,
    task_id        uuid NOT NULL,
    user_id        text NOT NULL,
    correlation_id text,
    data           jsonb NOT NULL,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    -- The id first: a UUIDv7 in nearly all events, so new entries stand together.
    UNIQUE (event_id, source)
);

CREATE INDEX audit_log_of_task ON audit_log (task_id, occurred_at, id);

ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;

GRANT INSERT ON audit_log TO {{role:audit}};

CREATE POLICY audit_log_record ON audit_log FOR INSERT TO {{role:audit}} WITH CHECK (true);

GRANT SELECT ON audit_log TO {{role:task-api}};

CREATE POLICY audit_log_of_subject ON audit_log FOR SELECT TO {{role:task-api}}
    USING (user_id = current_setting('tidemill.subject', true));
