//! What is active, and what of it would fit together with what is to come.

use super::DeployError;
use super::set::{self, Member};
use crate::store::fleet::{Desk, Revision};

/// What is active, and since which change.
pub(super) struct Standing {
    pub(super) version: i64,
    pub(super) members: Vec<Member>,
    /// Handler, revision and the reason, of what this program can't read: an older one made it, or a newer one.
    unread: Vec<(String, String, DeployError)>,
    pub(super) paused: Vec<String>,
}

impl Standing {
    pub(super) async fn read(desk: &Desk) -> Result<Self, DeployError> {
        let (version, active) = desk.active().await?;
        let paused = active.iter().filter(|(_, paused)| *paused).map(|(revision, _)| revision.handler.clone()).collect();
        let (mut members, mut unread) = (Vec::new(), Vec::new());
        for (revision, _) in active {
            let (handler, name) = (revision.handler.clone(), revision.revision.clone());
            match read(revision) {
                Ok(member) => members.push(member),
                Err(error) => unread.push((handler, name, error)),
            }
        }
        Ok(Self { version, members, unread, paused })
    }

    pub(super) fn revision(&self, handler: &str) -> Option<&str> {
        let read = self.members.iter().map(|member| (&member.manifest.name, &member.revision));
        let unread = self.unread.iter().map(|(handler, revision, _)| (handler, revision));
        read.chain(unread).find(|(name, _)| *name == handler).map(|(_, revision)| revision.as_str())
    }

    /// The active handlers.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let read = self.members.iter().map(|member| member.manifest.name.as_str());
        read.chain(self.unread.iter().map(|(handler, ..)| handler.as_str()))
    }

    /// What is active with these members instead of their earlier revisions, and without what goes, if all of it fits together.
    pub(super) fn together(&self, new: &[Member], gone: &[String]) -> Result<Vec<Member>, DeployError> {
        let leaves = |handler: &str| gone.iter().any(|gone| gone == handler);
        let replaced = |handler: &str| new.iter().any(|member| member.manifest.name == handler);
        if let Some((.., error)) = self.unread.iter().find(|(handler, ..)| !leaves(handler) && !replaced(handler)) {
            return Err(error.clone());
        }
        let stays: Vec<Member> = self.members.iter().filter(|member| !leaves(&member.manifest.name)).cloned().collect();
        set::together(&stays, new)
    }

    /// Whether the others can do without these handlers. Where they don't fit together anyway, taking something away is no worse.
    pub(super) fn without(&self, gone: &[String]) -> Result<(), DeployError> {
        if self.together(&[], &[]).is_err() {
            return Ok(());
        }
        let stays = self.together(&[], gone).map_err(|error| {
            let names = gone.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            DeployError::Refused(format!("what stays does not fit together without {names}: {error}; nothing was switched"))
        })?;
        let leaving: Vec<&Member> = self.members.iter().filter(|member| gone.contains(&member.manifest.name)).collect();
        set::declared(&stays, &leaving)
    }
}

/// A revision as this version of the program reads it.
pub(super) fn read(revision: Revision) -> Result<Member, DeployError> {
    Member::deployed(revision)
        .map_err(|error| DeployError::Refused(format!("{error:#}; this program may be older than what deployed it")))
}
