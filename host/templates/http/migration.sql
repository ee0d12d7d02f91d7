-- What users have written. It belongs to the app's owner role: the handler has only the rights granted here.
CREATE TABLE entries (
    id     uuid PRIMARY KEY,
    author text NOT NULL,
    text   text NOT NULL CHECK (char_length(text) BETWEEN 1 AND 1000)
);

-- A list is the newest entries of one author.
CREATE INDEX entries_of_author ON entries (author, id);

-- A request sees the rows of its user, the subject of the verified token, and no others.
ALTER TABLE entries ENABLE ROW LEVEL SECURITY;

CREATE POLICY own ON entries TO {{role:@NAME@}} USING (author = current_setting('tidemill.subject', true));

GRANT SELECT, INSERT ON entries TO {{role:@NAME@}};
