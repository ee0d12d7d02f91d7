//! Compiled revisions in memory. What was active a moment ago is what a rollback wants.

use crate::engine::Handler;
use std::collections::HashMap;
use std::sync::Arc;

/// How many revisions of a handler are kept beside the active one.
const KEPT: usize = 3;

/// The revisions, the last used ones at the end.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    handlers: Vec<Arc<Handler>>,
}

impl Shelf {
    /// A revision by its name, which counts as a use.
    pub(super) fn take(&mut self, revision: &str) -> Option<Arc<Handler>> {
        let at = self.handlers.iter().position(|handler| &*handler.id == revision)?;
        let handler = self.handlers.remove(at);
        self.handlers.push(handler.clone());
        Some(handler)
    }

    /// Whether it is there.
    pub(super) fn has(&self, revision: &str) -> bool {
        self.handlers.iter().any(|handler| &*handler.id == revision)
    }

    /// Adds a revision and forgets what was not used for longest, of the same handler.
    pub(super) fn put(&mut self, handler: Arc<Handler>) {
        if !self.has(&handler.id) {
            self.handlers.push(handler);
        }
        let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
        let mut kept: Vec<Arc<Handler>> = Vec::new();
        for handler in self.handlers.drain(..).rev() {
            let count = counts.entry(handler.name.clone()).or_default();
            *count += 1;
            if *count <= KEPT + 1 {
                kept.push(handler);
            }
        }
        kept.reverse();
        self.handlers = kept;
    }
}
