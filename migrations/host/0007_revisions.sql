-- Deployed handlers. A revision is what one deploy brought: manifest, component and the app's migrations, named by the SHA-256 over all of
-- them. It never changes: the host may add revisions and read them, nothing else.
CREATE TABLE tidemill.revisions (
    revision          text PRIMARY KEY CHECK (revision ~ '^[0-9a-f]{64}$'),
    handler           text NOT NULL,
    app               text NOT NULL,
    manifest          text NOT NULL,
    digest            bytea NOT NULL CHECK (length(digest) = 32),
    component         bytea NOT NULL,
    migration_numbers integer[],
    migration_names   text[],
    migration_texts   text[],
    size              bigint NOT NULL,
    note              text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by        text NOT NULL
);
-- Code does not get smaller by PostgreSQL's compression, only slower.
ALTER TABLE tidemill.revisions ALTER COLUMN component SET STORAGE EXTERNAL;
CREATE INDEX revisions_handler ON tidemill.revisions (handler, created_at);

COMMENT ON COLUMN tidemill.revisions.digest IS 'SHA-256 of the component: what compiled code is kept under';
COMMENT ON COLUMN tidemill.revisions.migration_numbers IS 'null where the handler gives no migrations';

-- The pointer of each handler.
CREATE TABLE tidemill.active (
    handler    text PRIMARY KEY,
    revision   text NOT NULL REFERENCES tidemill.revisions,
    state      text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused')),
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by text NOT NULL,
    note       text
);

-- One row. The version counts every change of tidemill.active; who changes it locks the row, and so does who registers a replica: a replica
-- is either counted by a switch or loads what that switch made.
CREATE TABLE tidemill.fleet (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    version    bigint NOT NULL DEFAULT 0,
    holder     text,
    held_since timestamptz
);
INSERT INTO tidemill.fleet DEFAULT VALUES;

COMMENT ON COLUMN tidemill.fleet.holder IS 'who took the lock of deploys last (advisory lock 7010, 0)';

-- Running hosts. All times are the database's, so that nobody's clock decides who is alive.
CREATE TABLE tidemill.replicas (
    id         uuid PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    program    text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded     bigint,
    ready      boolean NOT NULL DEFAULT false,
    trouble    text
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

COMMENT ON COLUMN tidemill.replicas.loaded IS 'the version of the fleet that it works by; null: none yet, or none since others went on without it';

-- What a deploy wants to make active. At most one is under way.
CREATE TABLE tidemill.candidates (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action     text NOT NULL,
    handlers   text[] NOT NULL,
    revisions  text[] NOT NULL,
    base       bigint NOT NULL,
    state      text NOT NULL DEFAULT 'preparing' CHECK (state IN ('preparing', 'switched', 'refused', 'abandoned')),
    reason     text,
    actor      text NOT NULL,
    note       text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    CHECK (cardinality(handlers) = cardinality(revisions))
);
CREATE UNIQUE INDEX candidates_preparing ON tidemill.candidates (state) WHERE state = 'preparing';

COMMENT ON COLUMN tidemill.candidates.base IS 'the version of the fleet that it was checked against';

-- What each replica says of a candidate.
CREATE TABLE tidemill.votes (
    candidate bigint NOT NULL REFERENCES tidemill.candidates,
    replica   uuid NOT NULL,
    ok        boolean NOT NULL,
    reason    text,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (candidate, replica)
);

-- What became active when, instead of what.
CREATE TABLE tidemill.switches (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version       bigint NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    action        text NOT NULL,
    handler       text NOT NULL,
    from_revision text,
    to_revision   text,
    candidate     bigint REFERENCES tidemill.candidates,
    actor         text NOT NULL,
    note          text
);
CREATE INDEX switches_handler ON tidemill.switches (handler, id);

-- A host that deploys its folder at its start acts as well.
ALTER TABLE tidemill.actions DROP CONSTRAINT actions_via_check;
ALTER TABLE tidemill.actions ADD CONSTRAINT actions_via_check CHECK (via IN ('cli', 'api', 'host'));

GRANT SELECT, INSERT ON tidemill.revisions, tidemill.switches TO {{runtime}};
GRANT SELECT, INSERT, UPDATE, DELETE ON tidemill.active, tidemill.replicas, tidemill.votes TO {{runtime}};
GRANT SELECT, INSERT, UPDATE ON tidemill.candidates TO {{runtime}};
GRANT SELECT, UPDATE ON tidemill.fleet TO {{runtime}};
