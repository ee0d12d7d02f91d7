//! What a guest can reach: one file (or folder) for each imported WIT interface; `clock` counts how long it computes between calls.
//!
//! A capability knows its interface and the unit of work, never the engine's state type: the state lends it what it needs through a
//! `…View` trait, as the wasmtime crates do. Adding one is a WIT package, a file here, and its line in the engine's linker.

pub mod clock;
pub mod jobs;
pub mod log;
pub mod publish;
pub mod sql;
