//! What a migration may do only on purpose, each rule with a name, the reason and the way out.

use crate::config::nearest;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The schema of the host's own tables: no consent opens it to apps.
pub(super) const HOST_SCHEMA: &str = "tidemill";

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal, $why:literal, $way_out:literal;)+) => {
        /// Something that harms the revision that still runs, or a rollback, unless it is meant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $($(#[$doc])* $rule,)+ }

        impl Rule {
            /// All rules, in the order of the documentation.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)+];

            /// The name, as `--allow` takes it.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name,)+ }
            }

            /// What breaks.
            pub fn why(self) -> &'static str {
                match self { $(Rule::$rule => $why,)+ }
            }

            /// How to get there without breaking it.
            pub fn way_out(self) -> &'static str {
                match self { $(Rule::$rule => $way_out,)+ }
            }
        }
    };
}

rules! {
    /// A table goes.
    DropTable = "drop-table",
        "the running revision still uses the table, and no rollback brings its rows back",
        "drop it once no revision that you would go back to uses it";
    /// A column goes.
    DropColumn = "drop-column",
        "the running revision still reads or writes the column, and no rollback brings its values back",
        "first deploy a revision that does not name it, then drop it";
    /// A view goes.
    DropView = "drop-view",
        "the running revision may still read the view",
        "first deploy a revision that does not name it, then drop it";
    /// An index goes.
    DropIndex = "drop-index",
        "the running revision may need the index to be fast, and `ON CONFLICT` needs a unique one to work at all",
        "drop it once no revision needs it, with DROP INDEX CONCURRENTLY IF EXISTS in a file of its own";
    /// A unique, primary-key or exclusion constraint goes.
    DropConstraint = "drop-constraint",
        "`ON CONFLICT` of the running revision may name what this constraint keeps unique",
        "first deploy a revision whose statements do without it, then drop it";
    /// A policy goes.
    DropPolicy = "drop-policy",
        "the running revision sees or writes only the rows that its policies name",
        "add the new policy beside the old one, and drop the old one a release later";
    /// A policy changes.
    ChangePolicy = "change-policy",
        "the running revision lives by the policy as it is; nothing tells whether the new one is wider",
        "add another policy beside it, and drop this one a release later";
    /// A policy that takes rows away.
    RestrictivePolicy = "restrictive-policy",
        "a restrictive policy takes rows from the running revision",
        "deploy a revision that works without those rows first";
    /// Row-level security comes to a table in use.
    EnableRowSecurity = "enable-row-security",
        "until a policy shows them, the running revision finds no rows, without an error",
        "enable it in the file that makes the table; else create the policies for every role before it";
    /// Row-level security leaves.
    DisableRowSecurity = "disable-row-security",
        "the running revision counts on seeing the rows of its user only",
        "add a policy that shows more rows to the role that needs them";
    /// A right goes.
    Revoke = "revoke",
        "the running revision still uses the right",
        "first deploy a revision that does without it, then revoke it";
    /// A name changes.
    Rename = "rename",
        "the running revision uses the old name, and so does every one that you would go back to",
        "add the new one beside it, let both be written, and drop the old one a release later";
    /// A column's type changes.
    ChangeType = "change-type",
        "the running revision reads and writes the old type, and most changes rewrite the table while nobody can use it",
        "add a column of the new type, write both, fill it, read it, and drop the old one a release later";
    /// A column of old takes no NULL any more.
    SetNotNull = "set-not-null",
        "the running revision may still write NULL, and every row is read while nobody can use the table",
        "add CHECK (column IS NOT NULL) NOT VALID, validate it in a later file, then set NOT NULL and allow it here";
    /// A new column that has to be given.
    RequiredColumn = "required-column",
        "the running revision does not name the new column, so its inserts would fail",
        "give the column a DEFAULT, or let it be NULL";
    /// A default goes.
    DropDefault = "drop-default",
        "the running revision may leave the column out of its inserts",
        "keep the default until no revision counts on it";
    /// A new column whose value is computed for each row.
    RewritingColumn = "rewriting-column",
        "every row is written anew while nobody can use the table",
        "add the column without it, SET DEFAULT for new rows, and fill the old ones by UPDATE in a later file";
    /// A constraint that is checked at once.
    ConstraintAtOnce = "constraint-at-once",
        "every row is checked while nobody can write to the table, and what the running revision writes may be refused",
        "CHECK and FOREIGN KEY: add it NOT VALID, and VALIDATE CONSTRAINT in a later file; UNIQUE and PRIMARY KEY: CREATE UNIQUE INDEX \
         CONCURRENTLY in a file of its own, then ADD CONSTRAINT … USING INDEX";
    /// A constraint that is validated under the lock that added it.
    ValidateAtOnce = "validate-at-once",
        "the lock of ADD CONSTRAINT is held while every row is checked",
        "put VALIDATE CONSTRAINT into a later file";
    /// An index that keeps writers waiting.
    IndexWithoutConcurrently = "index-without-concurrently",
        "nobody can write to the table while the index is built",
        "CREATE INDEX CONCURRENTLY, in a file of its own";
    /// A view becomes another one.
    ReplaceView = "replace-view",
        "the running revision reads the view as it is",
        "create a view with another name, and drop this one a release later";
    /// Rows go.
    DeleteRows = "delete-rows",
        "no rollback brings the rows back",
        "mark them, and delete them once no revision needs them";
    /// Rows change under the lock of an ALTER TABLE.
    BackfillUnderLock = "backfill-under-lock",
        "the lock of the ALTER TABLE before it is held until all rows are written",
        "put the data into a later file";
    /// A right for somebody who is no handler of the app.
    GrantToOthers = "grant-to-others",
        "the right goes to somebody who is no handler of this app",
        "grant to {{role:NAME}}; whoever operates the database may consent";
    /// A statement that the checker cannot read.
    Unparsed = "unparsed",
        "the checker cannot read the statement, so it cannot say what it breaks",
        "write it another way, or read it yourself";
}

impl Rule {
    /// Whether it protects a revision of the app that runs already, so that an app's first migrations are free of it.
    pub fn is_about_what_runs(self) -> bool {
        !matches!(self, Self::GrantToOthers | Self::Unparsed)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|rule| rule.name());
        Self::ALL.iter().find(|rule| rule.name() == text).copied().ok_or_else(|| match nearest(text, names()) {
            Some(near) => format!("there is no rule `{text}`; did you mean `{near}`?"),
            None => format!("there is no rule `{text}`; there are {}", names().collect::<Vec<_>>().join(", ")),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an operator lets migrations do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consent {
    rules: BTreeSet<Rule>,
    schemas: BTreeSet<String>,
}

impl Consent {
    /// Consents to what these rules refuse.
    pub fn allow(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// Lets migrations name these schemas beside the app's own. The host's own schema is never one of them.
    pub fn schemas(mut self, schemas: impl IntoIterator<Item = String>) -> Result<Self, String> {
        for schema in schemas {
            if schema == HOST_SCHEMA {
                return Err(format!("the schema `{HOST_SCHEMA}` is the host's: no app's migration may touch it"));
            }
            self.schemas.insert(schema);
        }
        Ok(self)
    }

    /// For a database where nothing runs but what is being written: every rule only says what it would refuse elsewhere.
    pub fn in_development() -> Self {
        Self::default().allow(Rule::ALL.iter().copied())
    }

    pub(super) fn allows(&self, rule: Rule) -> bool {
        self.rules.contains(&rule)
    }

    pub(super) fn opens(&self, schema: &str) -> bool {
        self.schemas.contains(schema)
    }
}
