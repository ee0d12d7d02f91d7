-- Events that are published at a later time. A job's row is its only trace: firing takes it away (or moves its time, if it repeats) in the
-- transaction that writes the outbox row, so whoever finds the row finds a job that has not fired.
CREATE TABLE tidemill.jobs (
    app            text NOT NULL,
    name           text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    handler        text NOT NULL,
    incarnation    uuid NOT NULL DEFAULT gen_random_uuid(),
    due            timestamptz NOT NULL,
    period         bigint CHECK (period > 0),
    cron           text,
    time_zone      text,
    repeats        boolean NOT NULL GENERATED ALWAYS AS (period IS NOT NULL OR cron IS NOT NULL) STORED,
    missed         text NOT NULL DEFAULT 'once' CHECK (missed IN ('once', 'skip', 'all')),
    bucket         smallint NOT NULL CHECK (bucket BETWEEN 0 AND 4095),
    topic          text NOT NULL,
    key            bytea,
    event          bytea NOT NULL,
    correlation_id text,
    traceparent    text,
    scheduled_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (app, name),
    CHECK (period IS NULL OR cron IS NULL),
    CHECK ((cron IS NULL) = (time_zone IS NULL))
);

COMMENT ON COLUMN tidemill.jobs.handler IS 'who scheduled it, and whose it is';
COMMENT ON COLUMN tidemill.jobs.incarnation IS 'another one whenever the name is scheduled anew: part of the event''s id';
COMMENT ON COLUMN tidemill.jobs.due IS 'the scheduled time of the next event';
COMMENT ON COLUMN tidemill.jobs.period IS 'microseconds between two events';
COMMENT ON COLUMN tidemill.jobs.bucket IS 'tidemill.key_bucket(topic, key)';
COMMENT ON COLUMN tidemill.jobs.event IS 'the structured CloudEvent behind specversion, id and time, which are put in front when it fires';

-- Two small questions, each with an index of its own: which single jobs are due, and which repeating ones.
CREATE INDEX jobs_due ON tidemill.jobs (due) WHERE NOT repeats;
CREATE INDEX jobs_due_repeating ON tidemill.jobs (due) WHERE repeats;

-- What has fired is dead at the low end of the index; a fifth of a table with millions of waiting jobs would be a long time.
ALTER TABLE tidemill.jobs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000);

-- CloudEvents `id` of the event of a job at one scheduled time: UUID version 8 with the layout of version 7, the time's milliseconds in front,
-- behind them SHA-256 over app, name (a zero byte behind each), incarnation and microseconds since 1970. The host computes the same.
CREATE FUNCTION tidemill.job_event_id(app text, name text, incarnation uuid, due timestamptz) RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (right('000000000000' || to_hex(floor(extract(epoch FROM due) * 1000)::bigint), 12)
         || overlay(overlay(left(encode(sha256(convert_to(app, 'UTF8') || '\x00'::bytea || convert_to(name, 'UTF8') || '\x00'::bytea
                || uuid_send(incarnation) || int8send((extract(epoch FROM due) * 1000000)::bigint)), 'hex'), 20)
              PLACING '8' FROM 1) PLACING '8' FROM 5))::uuid;

-- Publishes the events of jobs, `jobs[i]` at the scheduled time `at[i]`, in the order of the times. The rows of the jobs must be locked by
-- this transaction, and nothing may be locked after it: it takes the key locks.
CREATE FUNCTION tidemill.publish_jobs(jobs tidemill.jobs[], at timestamptz[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7001, l.b)
       FROM (SELECT DISTINCT j.bucket::integer AS b FROM unnest(jobs) AS j WHERE j.key IS NOT NULL ORDER BY 1) AS l;
    INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, correlation_id, traceparent)
    -- The columns of the second array and of the numbering are named `unnest` and `ordinality`.
    SELECT f.bucket, f.topic, f.key,
           convert_to('{"specversion":"1.0","id":"' || f.id || '","time":"'
               || to_char(f.time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '",', 'UTF8') || f.event,
           ARRAY['content-type'], ARRAY['application/cloudevents+json; charset=UTF-8'::bytea], f.id, f.correlation_id, f.traceparent
      FROM (SELECT j.bucket, j.topic, j.key, j.event, j.correlation_id, j.traceparent, j.unnest AS time, j.ordinality AS n,
                   tidemill.job_event_id(j.app, j.name, j.incarnation, j.unnest)::text AS id
              FROM ROWS FROM (unnest(jobs), unnest(at)) WITH ORDINALITY AS j OFFSET 0) AS f
     ORDER BY f.time, f.n;
END
$$;

-- Fires up to `most` single jobs that are due from `since` on: takes them away and publishes their events. Jobs that another replica is firing,
-- or that a unit is changing, are left alone. Says how late each was (seconds), the time by this database, and when the next single job (from
-- `since` on) and the next repeating one are due, those that somebody else has in hand included.
CREATE FUNCTION tidemill.fire_jobs(most integer, since timestamptz,
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
            SELECT j.ctid FROM tidemill.jobs j WHERE NOT j.repeats AND j.due >= since AND j.due <= moment
             ORDER BY j.due LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING d AS job, d.due)
    SELECT array_agg(g.job ORDER BY g.due), array_agg(extract(epoch FROM moment - g.due)::double precision) INTO claimed, late FROM gone g;
    IF claimed IS NOT NULL THEN
        PERFORM tidemill.publish_jobs(claimed, ARRAY(SELECT c.due FROM unnest(claimed) AS c));
    END IF;
    SELECT j.due INTO next_single FROM tidemill.jobs j WHERE NOT j.repeats AND j.due >= since ORDER BY j.due LIMIT 1;
    SELECT j.due INTO next_repeating FROM tidemill.jobs j WHERE j.repeats ORDER BY j.due LIMIT 1;
END
$$;

-- Publishes the events of jobs that this transaction has locked, and moves the jobs on. `apps`, `names` and `nexts` belong together; a job
-- without a next time is over. The event at `at[i]` is that of the job with the number `of[i]`, counted from 1.
CREATE FUNCTION tidemill.fire_locked_jobs(apps text[], names text[], nexts timestamptz[], of integer[], at timestamptz[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    jobs tidemill.jobs[];
BEGIN
    SELECT array_agg(j ORDER BY t.n) INTO jobs
      FROM unnest(of) WITH ORDINALITY AS t(number, n)
      JOIN tidemill.jobs j ON j.app = apps[t.number] AND j.name = names[t.number];
    UPDATE tidemill.jobs j SET due = t.next
      FROM unnest(apps, names, nexts) AS t(app, name, next)
     WHERE j.app = t.app AND j.name = t.name AND t.next IS NOT NULL;
    DELETE FROM tidemill.jobs j USING unnest(apps, names, nexts) AS t(app, name, next)
     WHERE j.app = t.app AND j.name = t.name AND t.next IS NULL;
    IF jobs IS NOT NULL THEN
        PERFORM tidemill.publish_jobs(jobs, at);
    END IF;
END
$$;

-- Schedules jobs of a handler, in the order of their names, so that two units do not deadlock. Without a `due` time a job is due one period
-- from now. Returns the earliest due time of those that were not there before, in microseconds since 1970; null if all were kept.
CREATE FUNCTION tidemill.schedule_jobs(of_app text, of_handler text, names text[], dues timestamptz[], periods bigint[], crons text[], zones text[],
        misseds text[], keeps boolean[], buckets smallint[], topics text[], keys bytea[], events bytea[], correlations text[], traces text[])
    RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    i integer;
    fires timestamptz;
    earliest timestamptz;
    owner text;
BEGIN
    FOR i IN SELECT n FROM unnest(names) WITH ORDINALITY AS t(name, n) ORDER BY name COLLATE "C", n LOOP
        INSERT INTO tidemill.jobs AS j (app, name, handler, due, period, cron, time_zone, missed, bucket, topic, key, event, correlation_id, traceparent)
        VALUES (of_app, names[i], of_handler, coalesce(dues[i], clock_timestamp() + periods[i] * interval '1 microsecond'), periods[i], crons[i],
                zones[i], misseds[i], buckets[i], topics[i], keys[i], events[i], correlations[i], traces[i])
        ON CONFLICT (app, name) DO UPDATE
           SET incarnation = gen_random_uuid(), due = excluded.due, period = excluded.period, cron = excluded.cron, time_zone = excluded.time_zone,
               missed = excluded.missed, bucket = excluded.bucket, topic = excluded.topic, key = excluded.key, event = excluded.event,
               correlation_id = excluded.correlation_id, traceparent = excluded.traceparent, scheduled_at = excluded.scheduled_at
         WHERE j.handler = of_handler AND NOT keeps[i]
        RETURNING j.due INTO fires;
        IF FOUND THEN
            earliest := least(earliest, fires);
        ELSE
            SELECT j.handler INTO owner FROM tidemill.jobs j WHERE j.app = of_app AND j.name = names[i];
            IF owner <> of_handler THEN
                RAISE EXCEPTION 'job `%` of app `%` belongs to handler `%`, so `%` cannot schedule it; choose another name',
                    names[i], of_app, owner, of_handler USING ERRCODE = 'TMJ01';
            END IF;
        END IF;
    END LOOP;
    RETURN (extract(epoch FROM earliest) * 1000000)::bigint;
END
$$;

-- Cancels jobs of these handlers: true for each name that was waiting. Waits for whoever is firing one.
CREATE FUNCTION tidemill.cancel_jobs(of_app text, handlers text[], names text[]) RETURNS boolean[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    i integer;
    owner text;
    cancelled boolean[] := array_fill(false, ARRAY[cardinality(names)]);
BEGIN
    FOR i IN SELECT n FROM unnest(names) WITH ORDINALITY AS t(name, n) ORDER BY name COLLATE "C", n LOOP
        DELETE FROM tidemill.jobs j WHERE j.app = of_app AND j.name = names[i] RETURNING j.handler INTO owner;
        IF FOUND THEN
            IF owner <> ALL (handlers) THEN
                RAISE EXCEPTION 'job `%` of app `%` belongs to handler `%`, and `%` may not cancel it; add "%" to `[jobs] cancel` in handler.toml',
                    names[i], of_app, owner, handlers[1], owner USING ERRCODE = 'TMJ02';
            END IF;
            cancelled[i] := true;
        END IF;
    END LOOP;
    RETURN cancelled;
END
$$;

GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.jobs TO {{runtime}};
