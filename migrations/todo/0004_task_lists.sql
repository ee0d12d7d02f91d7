-- Lists of a user's tasks, read from a place on along an index: a page costs its own rows, whatever else is in the table. The id makes an
-- order total.
--
-- Only the orders that lists are mostly read in have an index. The others read the user's tasks and sort them: an index on updated_at would
-- make every change of a task write all indexes anew, and three more of them doubled what a new row costs.

CREATE INDEX tasks_by_created_at ON tasks (user_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_due_date ON tasks (user_id, due_date, id) WHERE deleted_at IS NULL;

-- The newest first no longer means the highest id: that of a recurring task's successor follows from the completion before it.
DROP INDEX tasks_of_user;
