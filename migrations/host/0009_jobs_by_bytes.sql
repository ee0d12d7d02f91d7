-- Firing takes jobs by their bytes as well as by their number: what is claimed at once lies in the server's memory several times over, as one
-- array, and no value of PostgreSQL is larger than 1 GB. A batch that can never be fired would hold up the jobs of all apps.

-- Fires up to `most` single jobs that are due from `since` on, of about 16 MiB together and at least one: takes them away and publishes their
-- events. Jobs that another replica is firing, or that a unit is changing, are left alone. Says how late each was (seconds), the time by this
-- database, and when the next single job (from `since` on) and the next repeating one are due, those that were left and those that somebody else
-- has in hand included.
CREATE OR REPLACE FUNCTION tidemill.fire_jobs(most integer, since timestamptz,
        OUT late double precision[], OUT moment timestamptz, OUT next_single timestamptz, OUT next_repeating timestamptz)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    claimed tidemill.jobs[];
BEGIN
    -- Before the rows are looked at: a job that is due by then is due.
    moment := clock_timestamp();
    WITH gone AS (
        DELETE FROM tidemill.jobs d WHERE d.ctid = ANY (ARRAY(
            SELECT s.place
              FROM (SELECT f.place, sum(f.size) OVER (ORDER BY f.due ROWS UNBOUNDED PRECEDING) - f.size AS before
                      -- The size is in the row itself, also where the event is kept elsewhere.
                      FROM (SELECT j.ctid AS place, j.due, octet_length(j.event) AS size FROM tidemill.jobs j
                             WHERE NOT j.repeats AND j.due >= since AND j.due <= moment
                             ORDER BY j.due LIMIT most FOR UPDATE SKIP LOCKED) f) s
             WHERE s.before < 16 * 1024 * 1024))
        RETURNING d AS job, d.due)
    SELECT array_agg(g.job ORDER BY g.due), array_agg(extract(epoch FROM moment - g.due)::double precision) INTO claimed, late FROM gone g;
    IF claimed IS NOT NULL THEN
        PERFORM tidemill.publish_jobs(claimed, ARRAY(SELECT c.due FROM unnest(claimed) AS c));
    END IF;
    SELECT j.due INTO next_single FROM tidemill.jobs j WHERE NOT j.repeats AND j.due >= since ORDER BY j.due LIMIT 1;
    SELECT j.due INTO next_repeating FROM tidemill.jobs j WHERE j.repeats ORDER BY j.due LIMIT 1;
END
$$;
