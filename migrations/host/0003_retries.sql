-- Events that wait in the database instead of holding up their partition: one that failed and will run again, and the later ones of its key
-- behind it. The order of a key is that of `id`. A row is written in the unit that notes the event in the inbox; from then on the row, not
-- the record, is the event, and the change of the row in the same transaction as its effects is the fence against a second one.
CREATE TABLE tidemill.waiting (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope          integer NOT NULL,
    consumer_group text NOT NULL,
    handler        text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    record_offset  bigint NOT NULL,
    record_time    bigint NOT NULL,
    key            bytea,
    value          bytea,
    header_names   text[] NOT NULL DEFAULT '{}',
    header_values  bytea[] NOT NULL DEFAULT '{}',
    source         text NOT NULL,
    event_id       text NOT NULL,
    type           text NOT NULL,
    attempts       integer NOT NULL DEFAULT 0,
    due            timestamptz,
    claim          uuid,
    owner          uuid,
    deaths         integer NOT NULL DEFAULT 0,
    revision       text,
    error_class    text,
    error          text,
    parked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    failed_at      timestamptz,
    dead_letter    bigint UNIQUE,
    ordered_by     text,
    CHECK (cardinality(header_names) = cardinality(header_values))
);

COMMENT ON COLUMN tidemill.waiting.record_time IS 'the record''s timestamp, milliseconds since 1970';
COMMENT ON COLUMN tidemill.waiting.attempts IS 'how often the handler has failed it alone';
COMMENT ON COLUMN tidemill.waiting.due IS 'when it may run; null: behind an earlier row of its key; while it runs: when its claim ends';
COMMENT ON COLUMN tidemill.waiting.claim IS 'names the run under way; whoever holds another one changes nothing';
COMMENT ON COLUMN tidemill.waiting.owner IS 'the process of the last run that was begun';
COMMENT ON COLUMN tidemill.waiting.deaths IS 'how many processes ended while they ran it';
COMMENT ON COLUMN tidemill.waiting.dead_letter IS 'the dead letter that this row replays';
COMMENT ON COLUMN tidemill.waiting.ordered_by IS 'who ordered the replay';

-- By the key's hash: an index takes no more than a third of a page, and a key may be as long as a record.
CREATE INDEX waiting_key ON tidemill.waiting (scope, topic, sha256(key), id);
CREATE INDEX waiting_due ON tidemill.waiting (due) WHERE due IS NOT NULL;
ALTER TABLE tidemill.waiting SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Keys whose last event became a dead letter: their next ones get one attempt each, until one succeeds.
CREATE TABLE tidemill.single_attempts (
    scope integer NOT NULL,
    topic text NOT NULL,
    key   bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX single_attempts_key ON tidemill.single_attempts (scope, topic, sha256(key));

-- Events that a group has given up. The topic `<topic>.dlq` has a copy for outside tools; this is the truth.
CREATE TABLE tidemill.dead_letters (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state          text NOT NULL DEFAULT 'dead' CHECK (state IN ('dead', 'replayed', 'discarded')),
    scope          integer NOT NULL,
    consumer_group text NOT NULL,
    handler        text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    record_offset  bigint NOT NULL,
    record_time    bigint NOT NULL,
    key            bytea,
    value          bytea,
    header_names   text[] NOT NULL DEFAULT '{}',
    header_values  bytea[] NOT NULL DEFAULT '{}',
    source         text NOT NULL,
    event_id       text NOT NULL,
    type           text NOT NULL,
    attempts       integer NOT NULL,
    revision       text,
    error_class    text NOT NULL,
    error          text NOT NULL,
    died_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    replays        integer NOT NULL DEFAULT 0,
    ended_at       timestamptz,
    ended_by       text,
    CHECK (cardinality(header_names) = cardinality(header_values)),
    CHECK ((state = 'dead') = (ended_at IS NULL))
);

COMMENT ON COLUMN tidemill.dead_letters.type IS 'empty where the bytes are no event; source and event_id then name the record';
COMMENT ON COLUMN tidemill.dead_letters.replays IS 'how often a replay was tried and failed';

CREATE INDEX dead_letters_dead ON tidemill.dead_letters (handler, died_at) WHERE state = 'dead';

-- Who works which partition. A row that its owner did not take away says that a process ended in the middle of its work: what it was
-- running is run with care (one by one, each announced here first), so that an event that ends processes can be told from the others.
CREATE TABLE tidemill.running (
    scope        integer NOT NULL,
    topic        text NOT NULL,
    partition    integer NOT NULL,
    owner        uuid NOT NULL,
    since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The record that is run with care, and how many processes have ended while they ran it.
    record_offset bigint,
    deaths       integer NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, topic, partition)
);

-- Generations of a group: the current one, and one beside it that reads everything anew until it has caught up.
ALTER TABLE tidemill.scopes
    ADD COLUMN handler text,
    ADD COLUMN state text NOT NULL DEFAULT 'current' CHECK (state IN ('current', 'building', 'retired')),
    -- Where a building generation begins, milliseconds since 1970; null: with the oldest record.
    ADD COLUMN begins_at bigint,
    ADD COLUMN ended_at timestamptz,
    -- The day (as in the inbox) whose events units may note side by side; see tidemill.enter_day.
    ADD COLUMN day integer DEFAULT floor(extract(epoch FROM now()) / 86400)::integer;
CREATE UNIQUE INDEX scopes_current ON tidemill.scopes (consumer_group) WHERE state = 'current';
CREATE UNIQUE INDEX scopes_building ON tidemill.scopes (consumer_group) WHERE state = 'building';

-- Where a generation began to read a partition; an operator's word moves it. It decides once, whichever replica asks first, and it stands in
-- when the broker has no committed offset.
CREATE TABLE tidemill.group_starts (
    scope        integer NOT NULL,
    topic        text NOT NULL,
    partition    integer NOT NULL,
    start_offset bigint NOT NULL,
    PRIMARY KEY (scope, topic, partition)
);

-- An operator's word on where a paused partition goes on; taken away by the replica that has followed it.
CREATE TABLE tidemill.offset_orders (
    scope         integer NOT NULL,
    topic         text NOT NULL,
    partition     integer NOT NULL,
    target        text NOT NULL CHECK (target IN ('earliest', 'latest') OR target ~ '^[0-9]{1,18}$'),
    ordered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ordered_by    text NOT NULL,
    PRIMARY KEY (scope, topic, partition)
);

-- Who did what, through the command line or the admin API.
CREATE TABLE tidemill.actions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text NOT NULL,
    via     text NOT NULL CHECK (via IN ('cli', 'api')),
    action  text NOT NULL,
    subject text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);

-- Makes the building generation the group's current one and retires that; false if it is building no more.
CREATE FUNCTION tidemill.switch_generation(building integer) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_group text;
BEGIN
    SELECT consumer_group INTO of_group FROM tidemill.scopes WHERE scope = building AND state = 'building' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE tidemill.scopes SET state = 'retired', ended_at = clock_timestamp() WHERE consumer_group = of_group AND state = 'current';
    UPDATE tidemill.scopes SET state = 'current' WHERE scope = building;
    RETURN true;
END
$$;

-- Which days of the inbox have been forgotten: those from `low` to below `forgotten_below` had partitions once. A record of such a day may
-- have been handled, and nobody can tell.
CREATE TABLE tidemill.inbox_span (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    low             integer,
    forgotten_below integer
);
INSERT INTO tidemill.inbox_span (low)
SELECT min(substring(c.relname FROM '^inbox_([0-9]+)$')::integer)
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'tidemill.inbox'::regclass AND c.relname ~ '^inbox_[0-9]+$';

-- As before, and the span is kept. Locks are waited for a moment only: whoever waits for a lock on the inbox holds up all units behind it.
CREATE OR REPLACE FUNCTION tidemill.inbox_prepare(first integer, last integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms'
AS $$
DECLARE
    day integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);
    FOR day IN SELECT d FROM generate_series(first, last) d
                WHERE to_regclass(format('tidemill.inbox_%s', d)) IS NULL
    LOOP
        IF NOT EXISTS (SELECT 1 FROM tidemill.inbox_other WHERE bucket = day)
           AND day >= coalesce((SELECT forgotten_below FROM tidemill.inbox_span), day) THEN
            EXECUTE format('CREATE TABLE tidemill.inbox_%s PARTITION OF tidemill.inbox FOR VALUES FROM (%s) TO (%s)', day, day, day + 1);
            UPDATE tidemill.inbox_span SET low = least(low, day);
        END IF;
    END LOOP;
END
$$;

-- Forgets the oldest day below `before`, by dropping its partition, and returns it; null when there is none. From then on the database itself
-- refuses to note an event of a forgotten day: whoever has not heard of it fails, and can't take a second handling for the first.
CREATE FUNCTION tidemill.inbox_forget(before integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms'
AS $$
DECLARE
    day integer;
    span tidemill.inbox_span;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);
    SELECT min(substring(c.relname FROM '^inbox_([0-9]+)$')::integer) INTO day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'tidemill.inbox'::regclass AND c.relname ~ '^inbox_[0-9]+$';
    IF day IS NULL OR day >= before THEN
        -- Forgotten days whose rows came before their partition was made; a part at a time.
        DELETE FROM tidemill.inbox_other WHERE ctid = ANY (ARRAY(
            SELECT o.ctid FROM tidemill.inbox_other o, tidemill.inbox_span s
             WHERE o.bucket >= s.low AND o.bucket < s.forgotten_below LIMIT 10000));
        RETURN NULL;
    END IF;
    EXECUTE format('DROP TABLE tidemill.inbox_%s', day);
    UPDATE tidemill.inbox_span SET forgotten_below = greatest(forgotten_below, day + 1) RETURNING * INTO span;
    -- Without its partition, a row of that day belongs to the default one.
    EXECUTE format('ALTER TABLE tidemill.inbox_other DROP CONSTRAINT IF EXISTS inbox_forgotten,
                    ADD CONSTRAINT inbox_forgotten CHECK (bucket < %s OR bucket >= %s) NOT VALID', span.low, span.forgotten_below);
    RETURN day;
END
$$;

-- Called by a unit before it notes events of the days from `low` to `high`. A unique key holds within a day only: copies of an event
-- on two days would not meet if their units ran side by side, since neither sees the other's row. So units of one scope run side by side
-- while they are of one day, the scope's; a unit of another day, or of several, runs alone in its scope.
CREATE FUNCTION tidemill.enter_day(of_scope integer, low integer, high integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    current integer;
BEGIN
    SELECT day INTO current FROM tidemill.scopes WHERE scope = of_scope;
    IF low = high AND current = low THEN
        PERFORM pg_advisory_xact_lock_shared(7005, of_scope);
        SELECT day INTO current FROM tidemill.scopes WHERE scope = of_scope;
        IF current = low THEN
            RETURN;
        END IF;
        -- No lock is exchanged for a stronger one: two that did would wait for each other.
        RAISE EXCEPTION 'the day of scope % has changed meanwhile', of_scope USING ERRCODE = '40001';
    END IF;
    PERFORM pg_advisory_xact_lock(7005, of_scope);
    IF low = high THEN
        UPDATE tidemill.scopes SET day = low WHERE scope = of_scope AND day IS DISTINCT FROM low;
    END IF;
END
$$;

-- Both functions below are called with the locks of the keys held (pg_advisory_xact_lock(7001, …), sorted): that of the waiting key,
-- tidemill.key_bucket('waiting/' || scope || '/' || topic, key), and for `bury` that of the dead-letter topic's key as well. A row may be
-- locked before the key's lock only by whoever runs it.

-- Lets the first row of a key run, if it waits behind nothing any more.
CREATE FUNCTION tidemill.promote(of_scope integer, of_topic text, of_key bytea) RETURNS void
    LANGUAGE sql
BEGIN ATOMIC
    UPDATE tidemill.waiting SET due = clock_timestamp()
     WHERE due IS NULL
       AND id = (SELECT id FROM tidemill.waiting
                  WHERE scope = of_scope AND topic = of_topic AND sha256(key) = sha256(of_key) ORDER BY id LIMIT 1);
END;

-- Ends the retries of a waiting row: it becomes a dead letter with a copy for `<topic>.dlq`, its key's next events get one attempt each, and
-- the next of them may run. The failed replay of a dead letter goes back to that one instead. Returns the dead letter's number.
CREATE FUNCTION tidemill.bury(waiting_id bigint, class text, reason text, by_revision text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w tidemill.waiting;
    letter bigint;
BEGIN
    DELETE FROM tidemill.waiting WHERE id = waiting_id RETURNING * INTO w;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF w.key IS NOT NULL THEN
        PERFORM tidemill.promote(w.scope, w.topic, w.key);
    END IF;
    IF w.dead_letter IS NOT NULL THEN
        UPDATE tidemill.dead_letters
           SET replays = replays + 1, error_class = class, error = reason, revision = coalesce(by_revision, revision)
         WHERE id = w.dead_letter AND state = 'dead';
        RETURN w.dead_letter;
    END IF;
    -- One that found no room among the waiting says nothing of its key: the one at the head keeps its retries.
    IF w.key IS NOT NULL AND w.type <> '' AND class <> 'waiting-cap' THEN
        INSERT INTO tidemill.single_attempts (scope, topic, key) VALUES (w.scope, w.topic, w.key) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO tidemill.dead_letters (scope, consumer_group, handler, topic, partition, record_offset, record_time, key, value,
                header_names, header_values, source, event_id, type, attempts, revision, error_class, error)
    VALUES (w.scope, w.consumer_group, w.handler, w.topic, w.partition, w.record_offset, w.record_time, w.key, w.value,
                w.header_names, w.header_values, w.source, w.event_id, w.type, w.attempts, coalesce(by_revision, w.revision), class, reason)
    RETURNING id INTO letter;
    IF w.topic NOT LIKE '%.dlq' THEN
        INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id)
        VALUES (tidemill.key_bucket(w.topic || '.dlq', w.key), w.topic || '.dlq', w.key, w.value,
            w.header_names || ARRAY['tidemill-original-topic', 'tidemill-original-partition', 'tidemill-original-offset',
                'tidemill-original-timestamp', 'tidemill-consumer-group', 'tidemill-handler', 'tidemill-revision', 'tidemill-attempts',
                'tidemill-error-class', 'tidemill-error-message', 'tidemill-dead-letter'],
            w.header_values || ARRAY(SELECT convert_to(t, 'UTF8') FROM unnest(ARRAY[w.topic, w.partition::text, w.record_offset::text,
                w.record_time::text, w.consumer_group, w.handler, coalesce(by_revision, w.revision, ''), w.attempts::text,
                class, reason, letter::text]) WITH ORDINALITY AS h(t, n) ORDER BY n),
            w.event_id);
    END IF;
    RETURN letter;
END
$$;

-- One more failure of a waiting row, which ran under this claim (null: its first failure, in the transaction that parked it): it waits for
-- its next attempt, or becomes a dead letter where there is none: the retries are `exhausted`, it was a replay, or its key has single
-- attempts. Returns what became of it.
CREATE FUNCTION tidemill.fail(waiting_id bigint, run uuid, class text, reason text, by_revision text, delay_ms bigint, exhausted boolean)
    RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w tidemill.waiting;
BEGIN
    UPDATE tidemill.waiting
       SET attempts = attempts + 1, revision = by_revision, error_class = class, error = reason, failed_at = clock_timestamp(),
           due = CASE WHEN due IS NOT NULL THEN clock_timestamp() + delay_ms * interval '1 millisecond' END,
           claim = NULL, owner = NULL, deaths = 0
     WHERE id = waiting_id AND claim IS NOT DISTINCT FROM run
     RETURNING * INTO w;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    IF exhausted OR w.dead_letter IS NOT NULL
       OR EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = w.scope AND s.topic = w.topic AND sha256(s.key) = sha256(w.key)) THEN
        PERFORM tidemill.bury(waiting_id, class, reason, by_revision);
        RETURN 'dead';
    END IF;
    RETURN 'retry';
END
$$;

-- A waiting row has been handled, in this transaction: it goes, the next one of its key may run, the key is trusted again, and the dead
-- letter that it replayed is no longer dead.
CREATE FUNCTION tidemill.done(waiting_id bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w tidemill.waiting;
BEGIN
    DELETE FROM tidemill.waiting WHERE id = waiting_id RETURNING * INTO w;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'waiting row % was taken while it ran', waiting_id USING ERRCODE = '40001';
    END IF;
    IF w.key IS NOT NULL THEN
        PERFORM tidemill.promote(w.scope, w.topic, w.key);
        DELETE FROM tidemill.single_attempts WHERE scope = w.scope AND topic = w.topic AND sha256(key) = sha256(w.key);
    END IF;
    IF w.dead_letter IS NOT NULL THEN
        UPDATE tidemill.dead_letters SET state = 'replayed', ended_at = clock_timestamp(), ended_by = coalesce(w.ordered_by, '')
         WHERE id = w.dead_letter AND state = 'dead';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'dead letter % is not dead any more', w.dead_letter USING ERRCODE = '40001';
        END IF;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION tidemill.inbox_forget FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tidemill.inbox_forget TO {{runtime}};
GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.waiting, tidemill.single_attempts, tidemill.dead_letters, tidemill.running,
    tidemill.offset_orders TO {{runtime}};
GRANT SELECT, INSERT, UPDATE ON tidemill.group_starts TO {{runtime}};
GRANT SELECT, INSERT ON tidemill.actions TO {{runtime}};
GRANT SELECT ON tidemill.inbox_span TO {{runtime}};
GRANT UPDATE ON tidemill.scopes TO {{runtime}};
