//! What came of a change of what is deployed.

use serde::Serialize;

/// What came of a change.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `deploy`, `rollback`, `undeploy`, `pause` or `resume`.
    pub action: &'static str,
    /// Whether anything was switched.
    pub changed: bool,
    /// The version of the fleet now.
    pub version: i64,
    /// The handlers, in the order in which they were given.
    pub handlers: Vec<HandlerOutcome>,
    /// What was done to the database.
    pub migrations: Vec<String>,
    /// The running hosts, and how fast each was.
    pub replicas: Vec<ReplicaOutcome>,
    /// From the proposal to the last replica's agreement, in milliseconds.
    pub prepared_ms: f64,
    /// The switch itself, up to its commit, in milliseconds.
    pub switched_ms: f64,
    /// From the switch's commit until the last replica worked by it, in milliseconds.
    pub loaded_ms: f64,
    /// What is worth a thought.
    pub warnings: Vec<String>,
}

/// What became of one handler.
#[derive(Debug, Clone, Serialize)]
pub struct HandlerOutcome {
    /// Its name.
    pub handler: String,
    /// `deployed`, `unchanged`, `rolled back`, `undeployed`, `paused` or `resumed`.
    pub outcome: &'static str,
    /// What it ran before.
    pub from: Option<String>,
    /// What it runs now.
    pub revision: Option<String>,
}

/// What one running host did.
#[derive(Debug, Clone, Serialize)]
pub struct ReplicaOutcome {
    /// `HOST/PID`.
    pub replica: String,
    /// Whether it works by the new version.
    pub loaded: bool,
    /// What keeps it from that.
    pub trouble: Option<String>,
}

impl Report {
    pub(super) fn new(action: &'static str, version: i64) -> Self {
        Self {
            action,
            changed: false,
            version,
            handlers: Vec::new(),
            migrations: Vec::new(),
            replicas: Vec::new(),
            prepared_ms: 0.0,
            switched_ms: 0.0,
            loaded_ms: 0.0,
            warnings: Vec::new(),
        }
    }
}
