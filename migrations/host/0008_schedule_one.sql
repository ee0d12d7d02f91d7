-- Scheduling one job is by far the most frequent case, and a statement of its own needs a third less of the server's time than the function that
-- schedules many: no loop, no arrays. What it can't say by itself is whose the job is that it finds under its name.

-- Whether a job that is there may be replaced: its own handler may, unless it wants to keep it. For anybody else it is an error, whatever they want.
CREATE FUNCTION tidemill.may_replace_job(of_app text, name text, owner text, of_handler text, keep boolean) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF owner <> of_handler THEN
        RAISE EXCEPTION 'job `%` of app `%` belongs to handler `%`, so `%` cannot schedule it; choose another name',
            name, of_app, owner, of_handler USING ERRCODE = 'TMJ01';
    END IF;
    RETURN NOT keep;
END
$$;
