-- The claims of processes that are gone are looked for now and then: few rows, among many that wait.
CREATE INDEX waiting_claimed ON tidemill.waiting (owner) WHERE claim IS NOT NULL;
