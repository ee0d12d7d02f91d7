-- When the work was done, once for each time. It belongs to the app's owner role: the handler has only the rights granted here.
CREATE TABLE runs (
    event_id text PRIMARY KEY,
    for_user text NOT NULL,
    due      timestamptz NOT NULL,
    done_at  timestamptz NOT NULL DEFAULT now()
);

GRANT INSERT ON runs TO {{role:@NAME@}};
