-- Every event once. It belongs to the app's owner role: the handler has only the rights granted here.
CREATE TABLE events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      text NOT NULL,
    event_id    text NOT NULL,
    type        text NOT NULL,
    data        jsonb NOT NULL,
    occurred_at timestamptz NOT NULL,
    -- Reaches further back than the host's memory of handled events, which is as long as the topic keeps them.
    UNIQUE (event_id, source)
);

GRANT INSERT ON events TO {{role:@NAME@}};
