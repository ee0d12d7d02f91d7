-- Lists of a user's tasks by due date; see 0004.
CREATE INDEX CONCURRENTLY tasks_by_due_date ON tasks (user_id, due_date, id) WHERE deleted_at IS NULL;
