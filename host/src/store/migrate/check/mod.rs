//! Whether the migrations of an app only expand: the revision that runs goes on beside the new one, and a rollback needs no migration.
//!
//! - `kinds`: the statements that a migration may hold at all
//! - `names`: what a statement reaches, which ends at the app's own schema
//! - `rules`: what is done on purpose only, with the reason and the way out
//! - `tables`: ALTER TABLE against the rules
//! - `history`: what the migrations before have made
//!
//! A table that a file makes itself is free: nobody uses it yet.

mod history;
mod kinds;
mod names;
mod rules;
mod tables;

#[cfg(test)]
mod tests;

use super::script::{self, Statement};
use crate::manifest::Migration;
use history::History;
pub use history::tables_made;
use names::Reach;
pub(super) use names::last;
use rules::HOST_SCHEMA;
pub use rules::{Consent, Rule};
use sqlparser::ast::{
    AlterPolicyOperation, CreatePolicyType, Grant, GrantObjects, Grantee, GranteeName, Ident, Insert, ObjectName, ObjectType,
    Query, SetExpr, Statement as Tree,
};
use std::collections::BTreeSet;
use std::fmt;

/// What is wrong with one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// No migration may do it.
    Refused(String),
    /// It is done on purpose only; with the thing that it is done to.
    Breaks(Rule, String),
}

/// Something that a migration may not do, or not unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The migration's file.
    pub(super) file: String,
    /// The statement's first line.
    pub(super) line: usize,
    /// The statement, cut where it is long.
    pub(super) statement: String,
    /// What is wrong.
    pub(super) what: What,
}

/// Checks migrations that come after `earlier` ones of the same app, each after those before it. Returns also what the consent allows.
pub(super) fn check(schema: &str, earlier: &[Migration], new: &[Migration], consent: &Consent) -> Vec<Finding> {
    let mut history = History::of(earlier);
    let mut findings = Vec::new();
    for migration in new {
        let file = migration.file();
        let statements = match script::statements(&migration.text) {
            Ok(statements) => statements,
            Err(error) => {
                let what = What::Refused(format!("the file cannot be read: {error}"));
                findings.push(Finding { file, line: 1, statement: String::new(), what });
                continue;
            }
        };
        if statements.is_empty() {
            // Once it is recorded, what was meant to be in it could not come any more.
            let what = What::Refused("the file has no statement yet: write it, or remove the file".to_owned());
            findings.push(Finding { file: file.clone(), line: 1, statement: "(nothing)".to_owned(), what });
        }
        let mut check = FileCheck::new(schema, consent, &mut history);
        for statement in &statements {
            check.statement(statement, statements.len());
            findings.extend(check.found.drain(..).map(|what| Finding {
                file: file.clone(),
                line: statement.line,
                statement: statement.shown(),
                what,
            }));
        }
    }
    findings
}

/// The tables and other objects that a statement names, each with its schema if that is given.
pub(super) fn reached(statement: &Statement) -> Vec<(Option<String>, String)> {
    Reach::of(statement).objects.into_iter().map(|object| (object.schema, object.shown)).collect()
}

/// The check of one file.
struct FileCheck<'a> {
    schema: &'a str,
    consent: &'a Consent,
    history: &'a mut History,
    /// Tables, views and indexes that this file has made.
    made: BTreeSet<String>,
    /// Constraints that it has added.
    added: BTreeSet<String>,
    /// Whether it holds the lock of an ALTER TABLE on a table in use.
    holds_lock: bool,
    /// What is wrong with the statement at hand.
    found: Vec<What>,
}

impl<'a> FileCheck<'a> {
    fn new(schema: &'a str, consent: &'a Consent, history: &'a mut History) -> Self {
        let (made, added) = (BTreeSet::new(), BTreeSet::new());
        Self { schema, consent, history, made, added, holds_lock: false, found: Vec::new() }
    }

    fn refuse(&mut self, reason: impl Into<String>) {
        self.found.push(What::Refused(reason.into()));
    }

    fn breaks(&mut self, rule: Rule, thing: impl fmt::Display) {
        self.found.push(What::Breaks(rule, thing.to_string()));
    }

    /// Whether this file made the thing.
    fn is_fresh(&self, name: &ObjectName) -> bool {
        self.made.contains(&last(name))
    }

    fn statement(&mut self, statement: &Statement, of: usize) {
        if let Err(reason) = kinds::check(statement) {
            return self.refuse(reason);
        }
        if statement.is_concurrent() && of > 1 {
            self.refuse("CONCURRENTLY runs outside a transaction, so it has to stand alone: put it into a file of its own");
        }
        self.reach(statement);
        match &statement.tree {
            Ok(tree) => self.tree(tree, statement.drops_concurrently),
            Err(error) => self.breaks(Rule::Unparsed, error),
        }
        self.history.add(statement);
    }

    /// Names of other schemas and functions with effects.
    fn reach(&mut self, statement: &Statement) {
        let reach = Reach::of(statement);
        for object in reach.objects {
            match object.schema.as_deref() {
                None => {}
                Some(schema) if schema == self.schema || self.consent.opens(schema) => {}
                Some(HOST_SCHEMA) => self.refuse(format!("`{}` belongs to the host: no app's migration may touch it", object.shown)),
                Some(schema) => self.refuse(format!(
                    "`{}` is in the schema `{schema}`, not in the app's own, `{}`; whoever operates the database may consent: --allow-schema \
                     {schema}",
                    object.shown, self.schema
                )),
            }
        }
        for function in reach.functions {
            self.refuse(format!("function `{function}` is not on the list of functions without side effects"));
        }
        if reach.deletes {
            let is_fresh =
                matches!(&statement.tree, Ok(Tree::Delete(_))) && reach.relations.iter().all(|name| self.made.contains(name));
            if !is_fresh {
                self.breaks(Rule::DeleteRows, statement.shown());
            }
        }
    }

    fn tree(&mut self, tree: &Tree, drops_concurrently: bool) {
        match tree {
            Tree::CreateTable(table) if !self.history.has_table(&last(&table.name)) => {
                self.made.insert(last(&table.name));
            }
            Tree::AlterTable(table) => self.alter_table(table),
            Tree::CreateView(view) if view.or_replace => self.breaks(Rule::ReplaceView, &view.name),
            Tree::CreateView(view) => _ = self.made.insert(last(&view.name)),
            Tree::CreateIndex(index) => {
                if !index.concurrently && !self.is_fresh(&index.table_name) {
                    self.breaks(Rule::IndexWithoutConcurrently, format_args!("on {}", index.table_name));
                }
                if index.concurrently && index.name.is_none() {
                    self.refuse("an index that is made CONCURRENTLY needs a name, so that what a failed try leaves can be found");
                }
                self.made.extend(index.name.as_ref().map(last));
            }
            Tree::AlterIndex { name, .. } => self.breaks(Rule::Rename, name),
            Tree::Drop { object_type, if_exists, names, .. } => {
                let rule = match object_type {
                    ObjectType::Table => Rule::DropTable,
                    ObjectType::View => Rule::DropView,
                    _ => Rule::DropIndex,
                };
                if drops_concurrently && !if_exists {
                    self.refuse(
                        "write DROP INDEX CONCURRENTLY IF EXISTS: a try that was interrupted may have dropped it already",
                    );
                }
                names
                    .iter()
                    .filter(|name| !self.made.contains(&last(name)))
                    .for_each(|name| self.found.push(What::Breaks(rule, name.to_string())));
            }
            Tree::CreatePolicy(policy) if policy.policy_type == Some(CreatePolicyType::Restrictive) => {
                self.policy(Rule::RestrictivePolicy, &policy.name, &policy.table_name);
            }
            Tree::AlterPolicy(policy) if matches!(policy.operation, AlterPolicyOperation::Apply { .. }) => {
                self.policy(Rule::ChangePolicy, &policy.name, &policy.table_name);
            }
            Tree::DropPolicy(policy) => self.policy(Rule::DropPolicy, &policy.name, &policy.table_name),
            Tree::Grant(grant) => self.grant(grant),
            Tree::Revoke(revoke) => {
                let is_fresh =
                    matches!(&revoke.objects, Some(GrantObjects::Tables(names)) if names.iter().all(|name| self.is_fresh(name)));
                if !is_fresh {
                    self.breaks(Rule::Revoke, &revoke.privileges);
                }
            }
            tree if self.holds_lock && moves_rows(tree) => self.breaks(Rule::BackfillUnderLock, "after ALTER TABLE in this file"),
            _ => {}
        }
    }

    fn policy(&mut self, rule: Rule, policy: &Ident, table: &ObjectName) {
        if !self.is_fresh(table) {
            self.breaks(rule, format_args!("{policy} on {table}"));
        }
    }

    fn grant(&mut self, grant: &Grant) {
        if grant.with_grant_option {
            self.refuse("WITH GRANT OPTION: handlers get rights, they do not pass them on");
        }
        for grantee in grant.grantees.iter().filter(|grantee| !is_handler(grantee)) {
            self.breaks(Rule::GrantToOthers, format_args!("to {grantee}"));
        }
    }
}

/// Whether the right goes to `{{role:NAME}}`.
fn is_handler(grantee: &Grantee) -> bool {
    matches!(&grantee.name, Some(GranteeName::ObjectName(name)) if name.0.len() == 1 && last(name).starts_with("{{role:"))
}

/// Whether a statement may write many rows, unlike one that lists its rows.
fn moves_rows(tree: &Tree) -> bool {
    match tree {
        Tree::Update(_) | Tree::Delete(_) => true,
        Tree::Insert(Insert { source, .. }) => source.as_ref().is_some_and(|query| !matches!(*query.body, SetExpr::Values(_))),
        Tree::Query(query) => !matches!(&**query, Query { body, .. } if matches!(**body, SetExpr::Values(_))),
        _ => false,
    }
}

impl Finding {
    /// Whether somebody consented, or nobody could.
    pub(super) fn is_allowed(&self, consent: &Consent) -> bool {
        matches!(self.what, What::Breaks(rule, _) if consent.allows(rule))
    }

    /// The rule that it is about, if one.
    pub(super) fn rule(&self) -> Option<Rule> {
        match self.what {
            What::Breaks(rule, _) => Some(rule),
            What::Refused(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: {}\n    ", self.file, self.line, self.statement)?;
        match &self.what {
            What::Refused(reason) => f.write_str(reason),
            What::Breaks(rule, thing) => {
                write!(f, "{rule} ({thing}): {}. Way out: {}. If it is meant: --allow {rule}", rule.why(), rule.way_out())
            }
        }
    }
}
