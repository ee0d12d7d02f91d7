-- Answers of requests that came with an `Idempotency-Key`: written in the unit that they are the answer of, so whoever finds one knows that the
-- request took effect. Units of one key run one at a time, by pg_try_advisory_xact_lock(first eight bytes of `identity`); that lock space is
-- this purpose's alone (all others have two integers).
--
-- A row is good for 24 hours. `slot` is the day of the database's clock (days since 1970-01-01) modulo 3, so that there is a partition for
-- every time there is: rows of today and yesterday lie in two of them, and the third is emptied before tomorrow needs it.
CREATE TABLE tidemill.idempotency (
    identity      bytea NOT NULL,
    slot          smallint NOT NULL,
    fingerprint   bytea NOT NULL,
    subject       text NOT NULL,
    route         text NOT NULL,
    key           text NOT NULL,
    stored_at     timestamptz NOT NULL,
    status        smallint NOT NULL,
    header_names  text[] NOT NULL,
    header_values text[] NOT NULL,
    body          bytea NOT NULL,
    PRIMARY KEY (identity, slot)
) PARTITION BY LIST (slot);

CREATE TABLE tidemill.idempotency_0 PARTITION OF tidemill.idempotency FOR VALUES IN (0);
CREATE TABLE tidemill.idempotency_1 PARTITION OF tidemill.idempotency FOR VALUES IN (1);
CREATE TABLE tidemill.idempotency_2 PARTITION OF tidemill.idempotency FOR VALUES IN (2);

COMMENT ON COLUMN tidemill.idempotency.identity IS 'SHA-256 over subject, method, route pattern and key';
COMMENT ON COLUMN tidemill.idempotency.fingerprint IS 'SHA-256 over what the request asked for: method, path, query, content-type, body';
COMMENT ON COLUMN tidemill.idempotency.subject IS 'the user; empty on routes without authentication';
COMMENT ON COLUMN tidemill.idempotency.route IS 'method and pattern; this, subject and key are for people, `identity` is what is looked up';

-- Days since 1970 by the database's clock.
CREATE FUNCTION tidemill.idempotency_day() RETURNS integer
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN floor(extract(epoch FROM clock_timestamp()) / 86400)::integer;

-- Empties the partition that tomorrow needs, whose rows are a day old and more; true if there were any. Its lock is waited for a moment only:
-- whoever waits for a lock on it holds up all units behind it.
CREATE FUNCTION tidemill.idempotency_forget() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms'
AS $$
DECLARE
    today  integer := tidemill.idempotency_day();
    tomorrows text := format('tidemill.idempotency_%s', (today + 1) % 3);
    filled boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', tomorrows) INTO filled;
    IF NOT filled THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', tomorrows);
    -- Midnight may have come while the lock was waited for: then the first rows of the new day are in there.
    IF tidemill.idempotency_day() <> today THEN
        RETURN false;
    END IF;
    EXECUTE format('TRUNCATE %s', tomorrows);
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION tidemill.idempotency_forget FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tidemill.idempotency_forget, tidemill.idempotency_day TO {{runtime}};
GRANT SELECT, INSERT, UPDATE ON tidemill.idempotency TO {{runtime}};
