//! ALTER TABLE against the rules.

use super::names::{last, part};
use super::{FileCheck, Rule};
use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation as Operation, ColumnDef, ColumnOption, Expr, GeneratedExpressionMode,
    Ident, TableConstraint, visit_expressions,
};
use std::ops::ControlFlow;

/// Harmless functions whose value differs from row to row: a default with one of them writes every row.
const VOLATILE: &[&str] = &["random", "gen_random_uuid", "clock_timestamp"];

impl FileCheck<'_> {
    pub(super) fn alter_table(&mut self, table: &AlterTable) {
        let is_fresh = self.is_fresh(&table.name);
        for operation in &table.operations {
            self.operation(operation, is_fresh);
            if is_fresh && let Operation::RenameTable { table_name } = operation {
                let (sqlparser::ast::RenameTableNameKind::To(name) | sqlparser::ast::RenameTableNameKind::As(name)) = table_name;
                self.made.insert(last(name));
            }
        }
        let is_light = |operation: &Operation| {
            matches!(operation, Operation::ValidateConstraint { .. } | Operation::SetOptionsParens { .. })
        };
        self.holds_lock |= !is_fresh && !table.operations.iter().all(is_light);
    }

    fn operation(&mut self, operation: &Operation, is_fresh: bool) {
        let before = self.found.len();
        match operation {
            Operation::AddColumn { column_def, .. } => self.add_column(column_def),
            Operation::AddConstraint { constraint, not_valid } => self.add_constraint(constraint, *not_valid),
            Operation::ValidateConstraint { name } if self.added.contains(&part(name)) => self.breaks(Rule::ValidateAtOnce, name),
            Operation::ValidateConstraint { .. } | Operation::SetOptionsParens { .. } => {}
            Operation::DropColumn { column_names, .. } => {
                column_names.iter().for_each(|name| self.breaks(Rule::DropColumn, name))
            }
            Operation::DropConstraint { name, .. } if self.history.is_unique(&part(name)) => {
                self.breaks(Rule::DropConstraint, name)
            }
            Operation::DropConstraint { .. } => {}
            Operation::AlterColumn { column_name, op } => self.alter_column(column_name, op),
            Operation::RenameColumn { old_column_name, .. } => {
                self.breaks(Rule::Rename, format_args!("column {old_column_name}"))
            }
            Operation::RenameConstraint { old_name, .. } => self.breaks(Rule::Rename, format_args!("constraint {old_name}")),
            Operation::RenameTable { .. } => self.breaks(Rule::Rename, "the table"),
            Operation::EnableRowLevelSecurity | Operation::ForceRowLevelSecurity => {
                self.breaks(Rule::EnableRowSecurity, "the table")
            }
            Operation::DisableRowLevelSecurity | Operation::NoForceRowLevelSecurity => {
                self.breaks(Rule::DisableRowSecurity, "the table")
            }
            other => return self.refuse(format!("ALTER TABLE … {other} is not for migrations")),
        }
        // Nobody uses the table yet, so nobody is harmed.
        if is_fresh {
            self.found.truncate(before);
        }
    }

    fn add_column(&mut self, column: &ColumnDef) {
        let options = || column.options.iter().map(|def| &def.option);
        let default = options().find_map(|option| match option {
            ColumnOption::Default(value) if !value.to_string().eq_ignore_ascii_case("null") => Some(value),
            _ => None,
        });
        let is_serial = column.data_type.to_string().to_lowercase().contains("serial");
        let generated = options().find_map(|option| match option {
            ColumnOption::Generated { generation_expr_mode, .. } => Some(*generation_expr_mode),
            _ => None,
        });
        let must_be_given = options().any(|option| matches!(option, ColumnOption::NotNull | ColumnOption::PrimaryKey(_)));
        if must_be_given && default.is_none() && generated.is_none() && !is_serial {
            self.breaks(Rule::RequiredColumn, &column.name);
        }
        let is_stored = generated.is_some_and(|mode| mode != Some(GeneratedExpressionMode::Virtual));
        if is_stored || is_serial || default.is_some_and(is_volatile) {
            self.breaks(Rule::RewritingColumn, &column.name);
        }
        // A reference of a column that is NULL everywhere has nothing to check.
        let checked = |option: &ColumnOption| match option {
            ColumnOption::Check(_) | ColumnOption::Unique(_) | ColumnOption::PrimaryKey(_) => true,
            ColumnOption::ForeignKey(_) => default.is_some(),
            _ => false,
        };
        if options().any(checked) {
            self.breaks(Rule::ConstraintAtOnce, &column.name);
        }
    }

    fn add_constraint(&mut self, constraint: &TableConstraint, not_valid: bool) {
        let name = match constraint {
            TableConstraint::Check(check) => &check.name,
            TableConstraint::ForeignKey(key) => &key.name,
            TableConstraint::UniqueUsingIndex(_) | TableConstraint::PrimaryKeyUsingIndex(_) => return,
            _ => &None,
        };
        match not_valid {
            true => self.added.extend(name.as_ref().map(part)),
            false => self.breaks(Rule::ConstraintAtOnce, constraint),
        }
    }

    fn alter_column(&mut self, column: &Ident, operation: &AlterColumnOperation) {
        match operation {
            AlterColumnOperation::SetNotNull => self.breaks(Rule::SetNotNull, column),
            AlterColumnOperation::DropDefault => self.breaks(Rule::DropDefault, column),
            AlterColumnOperation::SetDataType { .. } => self.breaks(Rule::ChangeType, column),
            AlterColumnOperation::DropNotNull | AlterColumnOperation::SetDefault { .. } => {}
            // GENERATED ALWAYS refuses what the running revision inserts.
            AlterColumnOperation::AddGenerated { .. } => self.breaks(Rule::ChangeType, column),
        }
    }
}

fn is_volatile(value: &Expr) -> bool {
    let is_volatile = |expr: &Expr| match expr {
        Expr::Function(call) if VOLATILE.contains(&last(&call.name).as_str()) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    visit_expressions(value, is_volatile).is_break()
}
