-- Identities are compared for nothing but equality, so their bytes will do: by the rules of a language a batch's rows cost a fifth to a third more.
-- Rebuilds the index of each day; nobody can note events meanwhile.
ALTER TABLE tidemill.inbox ALTER COLUMN source TYPE text COLLATE "C", ALTER COLUMN id TYPE text COLLATE "C";
