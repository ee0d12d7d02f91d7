-- Replicas share the relay by slices of the key buckets (bucket >> 9, so eight). Which numbers have been drawn is read from the
-- sequence: the rows of other slices may be gone before a relay could see how far they went.
GRANT SELECT ON SEQUENCE tidemill.outbox_id_seq TO {{runtime}};
