-- Lists of a user's tasks, in every order that the API offers, each read from its place on along an index of its own: a page costs its
-- rows, whatever else is in the table. The id makes each order total.
--
-- Conditions that an index is to serve under row-level security must be leakproof; lower() is not, so what titles are sorted by is a column.

ALTER TABLE tasks ADD COLUMN title_key text NOT NULL GENERATED ALWAYS AS (lower(title)) STORED;

-- Newest first no longer means the id: that of a recurring task's successor follows from the completion before it.
DROP INDEX tasks_of_user;

CREATE INDEX tasks_by_created_at ON tasks (user_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_due_date ON tasks (user_id, due_date, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_priority ON tasks
    (user_id, (CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END), id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_title ON tasks (user_id, title_key, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_updated_at ON tasks (user_id, updated_at, id) WHERE deleted_at IS NULL;
