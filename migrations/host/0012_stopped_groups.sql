-- A group that has stopped because many keys fail on a revision: the retries of all replicas rest as well while that is so. Whoever has stopped
-- says so again from time to time; one that ends without a word holds nobody up for long.
ALTER TABLE tidemill.scopes ADD COLUMN stopped_on text, ADD COLUMN stopped_until timestamptz;
