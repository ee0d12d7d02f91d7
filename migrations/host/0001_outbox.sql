-- What a unit of work publishes, until the relay has the broker's acknowledgement. Empty in a healthy installation.
-- Numbers of one key follow the commits, because the key's lock (see tidemill.key_bucket) is taken before the number is drawn and
-- held to the commit. Across keys they do not: whoever reads `id > last` loses rows.
CREATE TABLE tidemill.outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket         smallint NOT NULL CHECK (bucket BETWEEN 0 AND 4095),
    topic          text NOT NULL,
    key            bytea,
    value          bytea,
    header_names   text[] NOT NULL DEFAULT '{}',
    header_values  bytea[] NOT NULL DEFAULT '{}',
    event_id       text,
    correlation_id text,
    traceparent    text,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    stuck_since    timestamptz,
    stuck_reason   text,
    CHECK (cardinality(header_names) = cardinality(header_values))
);

COMMENT ON COLUMN tidemill.outbox.created_at IS 'also the timestamp of the Kafka record, so that sending it twice changes nothing';

-- Autovacuum must not wait for a fifth of a table that is empty most of the time.
ALTER TABLE tidemill.outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, fillfactor = 100);

-- The lock bucket (0 to 4095) of a key within its topic: the first twelve bits of SHA-256 over topic, a zero byte and key.
-- The host computes the same; a writer of its own takes pg_advisory_xact_lock(7001, bucket) before it inserts.
CREATE FUNCTION tidemill.key_bucket(topic text, key bytea) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((get_byte(sha256(convert_to(topic, 'UTF8') || '\x00'::bytea || coalesce(key, ''::bytea)), 0) << 4)
          | (get_byte(sha256(convert_to(topic, 'UTF8') || '\x00'::bytea || coalesce(key, ''::bytea)), 1) >> 4))::smallint;

GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.outbox TO {{runtime}};
GRANT EXECUTE ON FUNCTION tidemill.key_bucket TO {{runtime}};
