//! What differs between two revisions.

use super::DeployError;
use crate::manifest::Migration;
use crate::store::Pool;
use crate::store::fleet::{Revision, RevisionEntry, Revisions};
use serde::Serialize;

/// What differs between two revisions.
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// The first one: 64 hex digits.
    pub from: String,
    /// Its handler.
    pub from_handler: String,
    /// The second one.
    pub to: String,
    /// Its handler.
    pub to_handler: String,
    /// The lines of the manifest.
    pub manifest: Vec<Difference>,
    /// The component's hash, size, imports and exports.
    pub component: Vec<Difference>,
    /// The migrations.
    pub migrations: Vec<Difference>,
}

/// A line that one of them has and the other has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `-`: only the first has it; `+`: only the second.
    pub sign: char,
    /// The line.
    pub line: String,
}

impl Diff {
    /// Compares two revisions, each given by the beginning of its name.
    pub async fn read(pool: &Pool, from: &str, to: &str) -> Result<Self, DeployError> {
        let (from, to) = (one(pool, from).await?, one(pool, to).await?);
        let mut component = compare(&facts(&from), &facts(&to));
        if from.digest != to.digest {
            let revisions = Revisions::new(pool.clone());
            let (a, b) = (revisions.component(&from.revision).await?, revisions.component(&to.revision).await?);
            component.extend(compare(&interfaces(&a), &interfaces(&b)));
        }
        Ok(Self {
            manifest: compare(&lines(&from.manifest), &lines(&to.manifest)),
            component,
            migrations: compare(&list(&from), &list(&to)),
            from: from.revision,
            from_handler: from.handler,
            to: to.revision,
            to_handler: to.handler,
        })
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.manifest.is_empty() && self.component.is_empty() && self.migrations.is_empty()
    }
}

async fn one(pool: &Pool, prefix: &str) -> Result<Revision, DeployError> {
    let prefix = prefix.to_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(DeployError::Invalid(format!("`{prefix}` is no revision: hex digits, as `tidemill revisions` shows them")));
    }
    let found = RevisionEntry::list(pool, None, &prefix).await?;
    let name = match found.as_slice() {
        [only] => &only.revision,
        [] => return Err(DeployError::Missing(format!("there is no revision {prefix}; `tidemill revisions` lists all"))),
        many => return Err(DeployError::Invalid(format!("{} revisions begin with {prefix}: give more digits", many.len()))),
    };
    let mut revisions = Revisions::new(pool.clone()).these(&[name]).await?;
    revisions.pop().ok_or_else(|| DeployError::Missing(format!("there is no revision {name}")))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn facts(revision: &Revision) -> Vec<String> {
    let hex: String = revision.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![format!("sha256 {hex}"), format!("{} bytes", revision.component_size)]
}

fn list(revision: &Revision) -> Vec<String> {
    let one = |migration: &Migration| {
        let hex: String = migration.checksum.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{:04}_{}.sql ({hex})", migration.number, migration.name)
    };
    revision.migrations.iter().flatten().map(one).collect()
}

/// What a component imports and exports. One that can't be read has none.
fn interfaces(component: &[u8]) -> Vec<String> {
    crate::engine::interfaces(component).unwrap_or_default()
}

/// The lines that only one side has, in their order, by the longest common sequence.
fn compare(from: &[String], to: &[String]) -> Vec<Difference> {
    let mut common = vec![vec![0usize; to.len() + 1]; from.len() + 1];
    for i in (0..from.len()).rev() {
        for j in (0..to.len()).rev() {
            common[i][j] = match from[i] == to[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut found) = (0, 0, Vec::new());
    while i < from.len() || j < to.len() {
        if i < from.len() && j < to.len() && from[i] == to[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == to.len() || (i < from.len() && common[i + 1][j] >= common[i][j + 1]) {
            found.push(Difference { sign: '-', line: from[i].clone() });
            i += 1;
        } else {
            found.push(Difference { sign: '+', line: to[j].clone() });
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_in_order() {
        let shown = |from: &str, to: &str| {
            let found = compare(&lines(from), &lines(to));
            found.iter().map(|one| format!("{}{}", one.sign, one.line)).collect::<Vec<_>>()
        };
        assert_eq!(shown("a\nb\nc", "a\nx\nc\nd"), ["-b", "+x", "+d"]);
        assert!(shown("a\nb", "a\nb").is_empty());
        assert_eq!(shown("", "a"), ["+a"]);
    }
}
