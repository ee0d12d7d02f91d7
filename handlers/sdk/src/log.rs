//! Log lines with fields. They stay when the unit of work is rolled back. Nothing secret belongs into them.
//!
//! ```
//! tidemill_sdk::log::info("task completed", &[("task_id", &42)]);
//! ```

use std::fmt::Display;

use crate::bindings::imports::tidemill::log::log as host;

pub use host::Level;

/// Writes one line.
pub fn log(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    let fields: Vec<(String, String)> = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
    write(level, message, &fields);
}

/// Writes one line at level `debug`.
pub fn debug(message: &str, fields: &[(&str, &dyn Display)]) {
    log(Level::Debug, message, fields);
}

/// Writes one line at level `info`.
pub fn info(message: &str, fields: &[(&str, &dyn Display)]) {
    log(Level::Info, message, fields);
}

/// Writes one line at level `warn`.
pub fn warn(message: &str, fields: &[(&str, &dyn Display)]) {
    log(Level::Warn, message, fields);
}

/// Writes one line at level `error`.
pub fn error(message: &str, fields: &[(&str, &dyn Display)]) {
    log(Level::Error, message, fields);
}

#[cfg(target_arch = "wasm32")]
fn write(level: Level, message: &str, fields: &[(String, String)]) {
    host::log(level, message, fields);
}

/// Natively, in unit tests, there is no host: a line goes to standard error.
#[cfg(not(target_arch = "wasm32"))]
fn write(level: Level, message: &str, fields: &[(String, String)]) {
    eprintln!("{level:?} {message} {fields:?}");
}
