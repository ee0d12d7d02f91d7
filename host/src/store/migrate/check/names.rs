//! What a statement reaches: schemas beside the app's own, and functions.

use super::super::script::Statement;
use crate::store::functions::is_harmless;
use sqlparser::ast::{
    AlterTableOperation, ColumnDef, ColumnOption, CreateTableLikeKind, Expr, Grant, GrantObjects, Ident, ObjectName,
    ObjectNamePart, Query, RenameTableNameKind, SetExpr, Statement as Tree, TableConstraint, TableFactor, Visit, Visitor,
};
use std::ops::ControlFlow;

/// Functions beside the handlers' that migrations may name: policies ask who the user is.
const ALSO_HARMLESS: &[&str] = &["current_setting", "current_user", "session_user"];

/// A name of an object, and the schema that it is qualified with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// The schema, if it is given.
    pub(super) schema: Option<String>,
    /// The name as it is written.
    pub(super) shown: String,
}

/// What a statement reaches.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Tables, indexes, views and types.
    pub(super) objects: Vec<Reached>,
    /// Tables that rows are read from or written to, without schema.
    pub(super) relations: Vec<String>,
    /// Functions that are not known to be harmless.
    pub(super) functions: Vec<String>,
    /// Whether it deletes rows, be it inside another statement.
    pub(super) deletes: bool,
}

impl Reach {
    /// What a statement reaches, as far as its tree tells.
    pub(super) fn of(statement: &Statement) -> Self {
        let mut reach = Self::default();
        if let Ok(tree) = &statement.tree {
            let _ = tree.visit(&mut reach);
            reach.beyond_relations(tree);
        }
        reach
    }

    fn object(&mut self, name: &ObjectName) {
        let schema = match name.0.as_slice() {
            [] | [_] => None,
            [schema, _] => Some(folded(schema)),
            // The name of a database, too.
            [_, .., schema, _] => Some(folded(schema)),
        };
        // The system's catalogs are found without their schema's name.
        let is_catalog = schema.is_none() && last(name).starts_with("pg_");
        let schema = if is_catalog { Some("pg_catalog".to_owned()) } else { schema };
        self.objects.push(Reached { schema, shown: name.to_string() });
    }

    /// Names that the parser's visitor does not take for relations.
    fn beyond_relations(&mut self, tree: &Tree) {
        match tree {
            Tree::CreateTable(table) => {
                table.columns.iter().for_each(|column| self.column(column));
                table.constraints.iter().for_each(|constraint| self.constraint(constraint));
                table.inherits.iter().flatten().for_each(|name| self.object(name));
                if let Some(CreateTableLikeKind::Parenthesized(like) | CreateTableLikeKind::Plain(like)) = &table.like {
                    self.object(&like.name);
                }
            }
            Tree::AlterTable(table) => table.operations.iter().for_each(|operation| self.operation(operation)),
            Tree::CreateIndex(index) => index.name.iter().for_each(|name| self.object(name)),
            Tree::AlterIndex { name, .. } => self.object(name),
            Tree::Drop { names, .. } => names.iter().for_each(|name| self.object(name)),
            Tree::Comment { object_type, object_name, .. } => self.commented(object_type, object_name),
            Tree::Grant(Grant { objects: Some(objects), .. }) => self.granted(objects),
            Tree::Revoke(revoke) => revoke.objects.iter().for_each(|objects| self.granted(objects)),
            _ => {}
        }
    }

    fn operation(&mut self, operation: &AlterTableOperation) {
        match operation {
            AlterTableOperation::AddColumn { column_def, .. } => self.column(column_def),
            AlterTableOperation::AddConstraint { constraint, .. } => self.constraint(constraint),
            AlterTableOperation::AlterColumn {
                op: sqlparser::ast::AlterColumnOperation::SetDataType { data_type, .. }, ..
            } => {
                self.type_name(data_type);
            }
            AlterTableOperation::RenameTable { table_name: RenameTableNameKind::To(name) | RenameTableNameKind::As(name) } => {
                self.object(name);
            }
            _ => {}
        }
    }

    fn column(&mut self, column: &ColumnDef) {
        self.type_name(&column.data_type);
        for def in &column.options {
            if let ColumnOption::ForeignKey(key) = &def.option {
                self.object(&key.foreign_table);
            }
        }
    }

    fn constraint(&mut self, constraint: &TableConstraint) {
        if let TableConstraint::ForeignKey(key) = constraint {
            self.object(&key.foreign_table);
        }
    }

    fn type_name(&mut self, data_type: &sqlparser::ast::DataType) {
        let shown = data_type.to_string();
        if let Some((schema, _)) = shown.split_once('.') {
            let schema = schema.trim_matches('"').to_lowercase();
            if schema != "pg_catalog" {
                self.objects.push(Reached { schema: Some(schema), shown });
            }
        }
    }

    /// `COMMENT ON COLUMN` names the table's schema two places before the column.
    fn commented(&mut self, kind: &sqlparser::ast::CommentObject, name: &ObjectName) {
        let is_column = matches!(kind, sqlparser::ast::CommentObject::Column);
        let parts = if is_column { &name.0[..name.0.len().saturating_sub(1)] } else { &name.0[..] };
        self.object(&ObjectName(parts.to_vec()));
    }

    fn granted(&mut self, objects: &GrantObjects) {
        match objects {
            GrantObjects::Tables(names) | GrantObjects::Views(names) | GrantObjects::Sequences(names) => {
                names.iter().for_each(|name| self.object(name));
            }
            GrantObjects::Schemas(names) => {
                let reached = |name: &ObjectName| Reached { schema: Some(last(name)), shown: name.to_string() };
                self.objects.extend(names.iter().map(reached));
            }
            _ => {}
        }
    }

    /// `TABLE x` carries its name as plain texts.
    fn table_command(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Table(table) => {
                let parts = [&table.schema_name, &table.table_name].into_iter().flatten();
                let shown = parts.map(String::as_str).collect::<Vec<_>>().join(".");
                let schema = table.schema_name.as_deref().map(str::to_lowercase);
                self.objects.push(Reached { schema, shown });
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.table_command(left);
                self.table_command(right);
            }
            _ => {}
        }
    }

    fn function(&mut self, name: &ObjectName) {
        let parts: Vec<String> = name.0.iter().map(folded).collect();
        let own = match parts.as_slice() {
            [name] => Some(name),
            [schema, name] if schema == "pg_catalog" => Some(name),
            _ => None,
        };
        if !own.is_some_and(|name| is_harmless(name) || ALSO_HARMLESS.contains(&name.as_str())) {
            self.functions.push(name.to_string());
        }
    }
}

impl Visitor for Reach {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.object(relation);
        self.relations.push(last(relation));
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Tree) -> ControlFlow<()> {
        self.deletes |= matches!(statement, Tree::Delete(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.table_command(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => self.function(name),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(call) => self.function(&call.name),
            Expr::Cast { data_type, .. } => self.type_name(data_type),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The last part of a name, as PostgreSQL folds it.
pub(in super::super) fn last(name: &ObjectName) -> String {
    name.0.last().map(folded).unwrap_or_default()
}

/// An identifier as PostgreSQL folds it.
pub(super) fn part(ident: &Ident) -> String {
    match ident.quote_style {
        None => ident.value.to_lowercase(),
        Some(_) => ident.value.clone(),
    }
}

fn folded(name: &ObjectNamePart) -> String {
    name.as_ident().map_or_else(|| name.to_string(), part)
}
