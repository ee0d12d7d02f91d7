-- Reminders of tasks: when to remind, and what became of it.
--
-- A reminder is PENDING, and then TRIGGERED or CANCELLED for good: no handler's policy lets a change see a row that is not PENDING. Its
-- times are those of the database's clock, which also decides when its job fires.

CREATE TABLE reminders (
    id           uuid PRIMARY KEY,
    task_id      uuid NOT NULL REFERENCES tasks,
    user_id      text NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    -- As it was given, and in seconds. With the due date the time moves, the lead time stays.
    lead_time    text NOT NULL CHECK (char_length(lead_time) BETWEEN 1 AND 50),
    lead_seconds bigint NOT NULL CHECK (lead_seconds > 0),
    remind_at    timestamptz NOT NULL,
    state        text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'TRIGGERED', 'CANCELLED')),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it was asked for last, and the version that its task had then: whether that was before or after the task's completion or
    -- deletion decides whether those cancel it. A version is exact, since it is read under the task's lock; the time is for events of
    -- publishers that send none.
    set_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    task_version integer NOT NULL,
    triggered_at timestamptz,
    cancelled_at timestamptz,
    CHECK ((state = 'TRIGGERED') = (triggered_at IS NOT NULL)),
    CHECK ((state = 'CANCELLED') = (cancelled_at IS NOT NULL)),
    -- One waiting reminder for each time of a task. Checked when a statement ends, not at each of its rows: when the reminders of a task
    -- move together, one may come where another was.
    CONSTRAINT reminders_one_for_each_time EXCLUDE USING btree (task_id WITH =, remind_at WITH =)
        WHERE (state = 'PENDING') DEFERRABLE INITIALLY IMMEDIATE
);

-- A user's list, newest first, and that of one task: ids are UUIDv7.
CREATE INDEX reminders_of_user ON reminders (user_id, id DESC);
CREATE INDEX reminders_of_task ON reminders (task_id, id DESC);

ALTER TABLE reminders ENABLE ROW LEVEL SECURITY;

GRANT SELECT, INSERT, UPDATE (remind_at, state, set_at, task_version, cancelled_at) ON reminders TO {{role:task-api}};

CREATE POLICY reminders_seen_by_subject ON reminders FOR SELECT TO {{role:task-api}}
    USING (user_id = current_setting('tidemill.subject', true));

CREATE POLICY reminders_set_by_subject ON reminders FOR INSERT TO {{role:task-api}}
    WITH CHECK (user_id = current_setting('tidemill.subject', true) AND state = 'PENDING');

CREATE POLICY reminders_changed_by_subject ON reminders FOR UPDATE TO {{role:task-api}}
    USING (user_id = current_setting('tidemill.subject', true) AND state = 'PENDING')
    WITH CHECK (user_id = current_setting('tidemill.subject', true) AND state IN ('PENDING', 'CANCELLED'));

-- The reminder handler: decides what becomes of a reminder whose time has come, and writes it into the trail.

GRANT SELECT, UPDATE (state, triggered_at, cancelled_at) ON reminders TO {{role:reminder}};

CREATE POLICY reminders_read_by_reminder ON reminders FOR SELECT TO {{role:reminder}} USING (true);

CREATE POLICY reminders_decided_by_reminder ON reminders FOR UPDATE TO {{role:reminder}}
    USING (state = 'PENDING') WITH CHECK (state IN ('TRIGGERED', 'CANCELLED'));

-- FOR SHARE needs the right to update a column and a policy that shows the row. With a check that nothing passes it locks and can change
-- nothing; without the policy it would find no row, and say nothing.
GRANT SELECT, UPDATE (version) ON tasks TO {{role:reminder}};

CREATE POLICY tasks_read_by_reminder ON tasks FOR SELECT TO {{role:reminder}} USING (true);

CREATE POLICY tasks_locked_by_reminder ON tasks FOR UPDATE TO {{role:reminder}} USING (true) WITH CHECK (false);

GRANT INSERT ON audit_log TO {{role:reminder}};

CREATE POLICY audit_log_of_reminders ON audit_log FOR INSERT TO {{role:reminder}} WITH CHECK (type = 'reminder.triggered');

-- The suppression handler: cancels the waiting reminders of tasks that are over.

GRANT SELECT, UPDATE (state, cancelled_at) ON reminders TO {{role:suppression}};

CREATE POLICY reminders_read_by_suppression ON reminders FOR SELECT TO {{role:suppression}} USING (true);

CREATE POLICY reminders_cancelled_by_suppression ON reminders FOR UPDATE TO {{role:suppression}}
    USING (state = 'PENDING') WITH CHECK (state = 'CANCELLED');

GRANT SELECT ON tasks TO {{role:suppression}};

CREATE POLICY tasks_read_by_suppression ON tasks FOR SELECT TO {{role:suppression}} USING (true);

-- What an operator may set: one row, and no second.

CREATE TABLE settings (
    id               boolean PRIMARY KEY DEFAULT true CHECK (id),
    -- When a task with a due date and no due time is due, in UTC. It counts for reminders that are set or moved from then on.
    default_due_time time NOT NULL DEFAULT '10:00'
);

INSERT INTO settings DEFAULT VALUES;

ALTER TABLE settings ENABLE ROW LEVEL SECURITY;

GRANT SELECT ON settings TO {{role:task-api}};

CREATE POLICY settings_read_by_task_api ON settings FOR SELECT TO {{role:task-api}} USING (true);
