//! What a list of migrations leaves: tables, and names that keep something unique.

use super::super::script::{self, Statement};
use super::names::{last, part};
use crate::manifest::Migration;
use sqlparser::ast::{
    AlterTable, AlterTableOperation, ColumnDef, ColumnOption, ObjectType, RenameTableNameKind, Statement as Tree, TableConstraint,
};
use std::collections::BTreeSet;

/// The tables that a list of migrations leaves, by name without schema: those made and not dropped again.
///
/// Statements that cannot be read count as making and dropping nothing.
pub fn tables_made(migrations: &[Migration]) -> Vec<String> {
    History::of(migrations).tables.into_iter().collect()
}

/// What the migrations before one have made.
#[derive(Debug, Default, Clone)]
pub(super) struct History {
    tables: BTreeSet<String>,
    /// Constraints and indexes, by their given names, that `ON CONFLICT` may rest on.
    uniques: BTreeSet<String>,
}

impl History {
    pub(super) fn of(migrations: &[Migration]) -> Self {
        let mut history = Self::default();
        for migration in migrations {
            script::statements(&migration.text).iter().flatten().for_each(|statement| history.add(statement));
        }
        history
    }

    /// Takes one more statement in.
    pub(super) fn add(&mut self, statement: &Statement) {
        match &statement.tree {
            Ok(Tree::CreateTable(table)) => {
                self.tables.insert(last(&table.name));
                table.columns.iter().for_each(|column| self.add_column(column));
                table.constraints.iter().for_each(|constraint| self.add_constraint(constraint));
            }
            Ok(Tree::Drop { object_type: ObjectType::Table, names, .. }) => {
                names.iter().for_each(|name| _ = self.tables.remove(&last(name)));
            }
            Ok(Tree::AlterTable(table)) => self.alter(table),
            _ => {}
        }
    }

    fn alter(&mut self, table: &AlterTable) {
        for operation in &table.operations {
            match operation {
                AlterTableOperation::RenameTable { table_name } => self.rename(&last(&table.name), table_name),
                AlterTableOperation::AddColumn { column_def, .. } => self.add_column(column_def),
                AlterTableOperation::AddConstraint { constraint, .. } => self.add_constraint(constraint),
                _ => {}
            }
        }
    }

    fn rename(&mut self, table: &str, to: &RenameTableNameKind) {
        let (RenameTableNameKind::To(new) | RenameTableNameKind::As(new)) = to;
        // It may be something that no migration of this list made.
        if self.tables.remove(table) {
            self.tables.insert(last(new));
        }
    }

    fn add_column(&mut self, column: &ColumnDef) {
        let unique =
            column.options.iter().filter(|def| matches!(def.option, ColumnOption::Unique(_) | ColumnOption::PrimaryKey(_)));
        self.uniques.extend(unique.filter_map(|def| def.name.as_ref()).map(part));
    }

    fn add_constraint(&mut self, constraint: &TableConstraint) {
        let name = match constraint {
            TableConstraint::Unique(unique) => &unique.name,
            TableConstraint::PrimaryKey(key) => &key.name,
            TableConstraint::Exclude(exclude) => &exclude.name,
            TableConstraint::UniqueUsingIndex(using) | TableConstraint::PrimaryKeyUsingIndex(using) => &using.name,
            _ => &None,
        };
        self.uniques.extend(name.as_ref().map(part));
    }

    /// Whether there is such a table.
    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.contains(name)
    }

    /// Whether a constraint keeps something unique: by what made it, or by the name that PostgreSQL gives.
    pub(super) fn is_unique(&self, constraint: &str) -> bool {
        self.uniques.contains(constraint) || ["_pkey", "_key", "_excl"].iter().any(|end| constraint.ends_with(end))
    }
}
