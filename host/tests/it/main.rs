//! What Tidemill promises, tested from outside: the built program, real PostgreSQL, and both the embedded broker and Apache Kafka.
//!
//! A test's name begins with the promise of the contract that it proves (`c01_…`), or says which fault it is about.
#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail by panicking, and nobody imports it"
)]

mod bad_input;
mod c01_unit_of_work;
mod c02_answers;
mod c03_idempotency;
mod c03_keys;
mod c04_identity;
mod c05_batches;
mod c06_order;
mod c06_owners;
mod c07_offsets;
mod c08_faults;
mod c08_retries;
mod c08_stopped;
mod c08_subscriptions;
mod c11_relay;
mod c12_raw;
mod c12_trace;
mod c13_faults;
mod c13_jobs;
mod c13_repeating;
mod c14_cancel;
mod c17_events;
mod c18_bad_input;
mod c18_deploys;
mod c18_faults;
mod c18_fleet;
mod c18_frozen;
mod c18_groups;
mod c18_matrix;
mod c18_tables;
mod c19_rollback;
mod c19_urgent;
mod c22_shutdown;
mod clients;
mod dev;
mod faults;
mod gate;
mod harness;
mod host_faults;
mod http_edge;
mod inbox_days;
mod inner_loop;
mod isolation;
mod kill;
mod ledger;
mod manifests;
mod migrations;
mod operate;
mod partitions;
mod recurrence;
mod reminders;
mod replicas;
mod reprocess;
mod retention;
mod secure;
mod structure;
mod support;
mod task_api;
mod todo;
mod topics;
