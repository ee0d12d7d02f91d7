-- What the tests look at to see whether an invocation happened.
CREATE TABLE rows (
    id text PRIMARY KEY,
    note text NOT NULL DEFAULT ''
);

-- One row for each time that an event was handled; nothing is unique, so that a double effect shows.
CREATE TABLE seen (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    event_id text NOT NULL,
    source text NOT NULL,
    type text NOT NULL,
    topic text NOT NULL,
    part integer NOT NULL,
    off bigint NOT NULL,
    subject_key text,
    data jsonb
);

-- A switch that is on lets an event pass that would fail.
CREATE TABLE switches (
    name text PRIMARY KEY,
    is_on boolean NOT NULL
);

-- Whether a pair is whole is checked only at the end of the transaction.
CREATE TABLE pairs (
    id text PRIMARY KEY,
    partner text NOT NULL REFERENCES pairs (id) DEFERRABLE INITIALLY DEFERRED
);

-- Rows of their subject only.
CREATE TABLE owned (
    subject text NOT NULL,
    note text NOT NULL
);
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON owned USING (subject = current_setting('tidemill.subject', true));

-- Granted to nobody.
CREATE TABLE secrets (
    secret text NOT NULL
);

GRANT USAGE ON SCHEMA probe TO {{role:probe}};
GRANT SELECT, INSERT, UPDATE, DELETE ON rows, seen, pairs, owned TO {{role:probe}};
GRANT SELECT ON switches TO {{role:probe}};
