-- Lists of a user's tasks, read from a place on along an index: a page costs its own rows, whatever else is in the table. The id makes an
-- order total.
--
-- Only the orders that lists are mostly read in have an index: this one, and that of 0006. The others read the user's tasks and sort them: an
-- index on updated_at would make every change of a task write all indexes anew, and three more of them doubled what a new row costs.
--
-- It takes the place of tasks_of_user, since the newest first no longer means the highest id: that of a recurring task's successor follows
-- from the completion before it. That one goes in a later release, when no revision that reads along it can come back.
CREATE INDEX CONCURRENTLY tasks_by_created_at ON tasks (user_id, created_at, id) WHERE deleted_at IS NULL;
