-- Tasks of the todo product, one row each; a deleted task keeps its row for its history.
--
-- Every table of the app belongs to its owner role. Handlers have only the rights granted here, and row-level security
-- decides about rows: a request sees those of the token's subject, an event handler those that a policy of its role names.

CREATE TABLE tasks (
    id               uuid PRIMARY KEY,
    user_id          text NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    title            text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    description      text CHECK (char_length(description) <= 4000),
    priority         text NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high')),
    tags             text[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 20),
    due_date         date,
    due_time         time,
    recurrence       text CHECK (recurrence IN ('daily', 'weekly', 'monthly', 'yearly', 'weekdays')),
    -- For a task that followed another: the first of its series, the day of the month that the series keeps, its predecessor.
    -- Unique by the predecessor, so that completing twice, a redelivery and a replay create one next task.
    series_id        uuid,
    anchor_day       smallint CHECK (anchor_day BETWEEN 1 AND 31),
    previous_task_id uuid UNIQUE,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    completed_at     timestamptz,
    deleted_at       timestamptz,
    version          integer NOT NULL DEFAULT 1,
    CHECK (due_time IS NULL OR due_date IS NOT NULL)
);

-- A user's list, newest first: ids are UUIDv7.
CREATE INDEX tasks_of_user ON tasks (user_id, id DESC) WHERE deleted_at IS NULL;

ALTER TABLE tasks ENABLE ROW LEVEL SECURITY;

GRANT SELECT, INSERT, UPDATE ON tasks TO {{role:task-api}};

CREATE POLICY tasks_of_subject ON tasks TO {{role:task-api}}
    USING (user_id = current_setting('tidemill.subject', true))
    WITH CHECK (user_id = current_setting('tidemill.subject', true));
