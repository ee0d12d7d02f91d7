-- A consumer group's memory of what it has handled. A scope is one generation of one group.
CREATE TABLE tidemill.scopes (
    scope          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group text NOT NULL,
    generation     integer NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (consumer_group, generation)
);

-- The fence: the row is written first in the unit that handles the event, so a second handling waits for, then yields to, it.
-- `bucket` is the day of the record's own timestamp (days since 1970-01-01), not of its arrival: a redelivery has the same one.
-- Old days are forgotten by dropping their partition; absurd timestamps go to the default partition.
CREATE TABLE tidemill.inbox (
    scope  integer NOT NULL,
    bucket integer NOT NULL,
    source text NOT NULL,
    id     text NOT NULL,
    -- The bucket comes last, so that one probe finds an identity in a partition whatever its day.
    PRIMARY KEY (scope, source, id, bucket)
) PARTITION BY RANGE (bucket);

CREATE TABLE tidemill.inbox_other PARTITION OF tidemill.inbox DEFAULT;

-- Makes the missing partitions for the days from `first` to `last`. A day that already has rows in the default partition stays there.
CREATE FUNCTION tidemill.inbox_prepare(first integer, last integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    day integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7002, 0);
    FOR day IN SELECT d FROM generate_series(first, last) d
                WHERE to_regclass(format('tidemill.inbox_%s', d)) IS NULL
    LOOP
        IF NOT EXISTS (SELECT 1 FROM tidemill.inbox_other WHERE bucket = day) THEN
            EXECUTE format('CREATE TABLE tidemill.inbox_%s PARTITION OF tidemill.inbox FOR VALUES FROM (%s) TO (%s)', day, day, day + 1);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION tidemill.inbox_prepare FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tidemill.inbox_prepare TO {{runtime}};
GRANT SELECT, INSERT ON tidemill.scopes, tidemill.inbox TO {{runtime}};
