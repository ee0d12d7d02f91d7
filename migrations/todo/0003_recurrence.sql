-- The next task of a series. Its columns are there since 0001; this lets the recurrence handler make it.
--
-- Tasks of any user, since an event handler serves all of them; but only ones that follow another, and none that is over.

GRANT SELECT, INSERT ON tasks TO {{role:recurrence}};

CREATE POLICY tasks_read_by_recurrence ON tasks FOR SELECT TO {{role:recurrence}} USING (true);

CREATE POLICY tasks_made_by_recurrence ON tasks FOR INSERT TO {{role:recurrence}}
    WITH CHECK (previous_task_id IS NOT NULL AND series_id IS NOT NULL AND completed_at IS NULL AND deleted_at IS NULL);
