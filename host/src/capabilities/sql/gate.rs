//! The statement gate: what a guest may send to PostgreSQL at all.
//!
//! The host's login could change its role back with `SET`, `RESET` or `set_config`, and functions such as `query_to_xml` run SQL that
//! no parser sees. So only one data statement passes, and functions are a list of those known to have no side effects. The server gets
//! the re-printed tree, so that it reads what was checked. Row-level security and grants hold behind this; it is the first wall of two.

use crate::store::{StatementText, is_harmless};
use crate::telemetry::lock;
use sqlparser::ast::{Expr, ObjectName, ObjectNamePart, Select, SetExpr, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

/// Verdicts kept per handler; texts are few, unless a handler builds them from data.
const REMEMBERED: usize = 1_000;
/// Longer texts are refused: parsing takes time and stack.
const LONGEST: usize = 64 * 1024;

/// The statement to send, or why there is none.
type Checked = Result<StatementText, String>;

/// The gate of one handler, with the texts that it has seen.
#[derive(Debug, Default)]
pub struct Gate {
    seen: Mutex<HashMap<Box<str>, Checked>>,
}

impl Gate {
    /// The statement to send instead of `text`, or why it is refused.
    pub fn check(&self, text: &str) -> Result<StatementText, String> {
        if let Some(verdict) = lock(&self.seen).get(text) {
            return verdict.clone();
        }
        let verdict = check(text);
        let mut seen = lock(&self.seen);
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(text.into(), verdict.clone());
        verdict
    }
}

fn check(text: &str) -> Result<StatementText, String> {
    if text.len() > LONGEST {
        return Err(format!("the statement is longer than {LONGEST} bytes; pass data as parameters"));
    }
    let statements = Parser::parse_sql(&PostgreSqlDialect {}, text).map_err(|error| {
        format!("the statement cannot be read: {}", error.to_string().trim_start_matches("sql parser error: "))
    })?;
    let [statement] = statements.as_slice() else {
        return Err(format!("one call takes one statement, this text has {}", statements.len()));
    };
    let mut walk = Walk { writes: false };
    match statement.visit(&mut walk) {
        ControlFlow::Break(reason) => Err(*reason),
        ControlFlow::Continue(()) => Ok(StatementText { text: statement.to_string().into(), writes: walk.writes }),
    }
}

struct Walk {
    writes: bool,
}

type Verdict = ControlFlow<Box<String>>;

fn refuse(reason: String) -> Verdict {
    ControlFlow::Break(Box::new(reason))
}

impl Visitor for Walk {
    type Break = Box<String>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> Verdict {
        match statement {
            Statement::Query(_) => {}
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) => self.writes = true,
            other => {
                let text = other.to_string();
                let word = text.split_whitespace().next().unwrap_or("this").to_uppercase();
                return refuse(format!("{word} is not for handlers: one SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES is"));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &sqlparser::ast::Query) -> Verdict {
        match has_table_command(&query.body) {
            true => refuse("TABLE is not for handlers; write SELECT * FROM".to_owned()),
            false => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Verdict {
        match select.into {
            Some(_) => refuse("SELECT … INTO makes a table; handlers change data only".to_owned()),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Verdict {
        let parts: Vec<String> = relation.0.iter().map(part).collect();
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name),
            [schema, name] => (Some(schema.as_str()), name),
            _ => return refuse(format!("`{relation}` names another database")),
        };
        match schema {
            Some("pg_catalog" | "information_schema" | "tidemill" | "pg_toast" | "pg_temp") => {
                refuse(format!("`{relation}` belongs to the system, not to the app"))
            }
            None if name.starts_with("pg_") => refuse(format!("`{relation}` belongs to the system, not to the app")),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Verdict {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => function(name),
            TableFactor::Table { .. }
            | TableFactor::Derived { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            TableFactor::TableFunction { .. } => ControlFlow::Continue(()),
            other => refuse(format!("`{other}` is not PostgreSQL, or not for handlers")),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Verdict {
        match expr {
            Expr::Function(call) => function(&call.name),
            // A cast to regclass and its kin looks names up in the catalogs.
            Expr::Cast { data_type, .. } if is_catalog_type(data_type) => {
                refuse(format!("a cast to {data_type} reads the system catalogs"))
            }
            Expr::TypedString(text) if is_catalog_type(&text.data_type) => {
                refuse(format!("a cast to {} reads the system catalogs", text.data_type))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `TABLE x` carries its name as plain strings that no relation visitor sees.
fn has_table_command(body: &SetExpr) -> bool {
    match body {
        SetExpr::Table(_) => true,
        SetExpr::SetOperation { left, right, .. } => has_table_command(left) || has_table_command(right),
        _ => false,
    }
}

fn is_catalog_type(data_type: &sqlparser::ast::DataType) -> bool {
    let name = data_type.to_string().to_lowercase();
    name.trim_start_matches("pg_catalog.").trim_start_matches('"').starts_with("reg")
}

fn function(name: &ObjectName) -> Verdict {
    let parts: Vec<String> = name.0.iter().map(part).collect();
    let known = match parts.as_slice() {
        [name] => is_harmless(name),
        [schema, name] => schema == "pg_catalog" && is_harmless(name),
        _ => false,
    };
    match known {
        true => ControlFlow::Continue(()),
        false => refuse(format!("function `{name}` is not on the list of functions without side effects")),
    }
}

/// A part of a name as PostgreSQL folds it.
fn part(part: &ObjectNamePart) -> String {
    match part.as_ident() {
        Some(ident) if ident.quote_style.is_none() => ident.value.to_lowercase(),
        Some(ident) => ident.value.clone(),
        None => part.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        check(text).expect_err(text)
    }

    #[test]
    fn c15_data_statements_pass_and_say_whether_they_write() {
        for (text, writes) in [
            ("SELECT id, lower(title) FROM orders WHERE id = $1 FOR UPDATE", false),
            ("INSERT INTO orders (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id", true),
            ("WITH gone AS (DELETE FROM orders WHERE id = $1 RETURNING *) SELECT count(*) FROM gone", true),
            ("UPDATE orders SET n = n + 1 WHERE id = ANY($1::uuid[])", true),
            ("INSERT INTO seen (a, b) SELECT a, b FROM unnest($1::text[], $2::int8[]) AS t(a, b) ON CONFLICT DO NOTHING", true),
            ("VALUES (1, 2)", false),
            ("SELECT coalesce(sum(n) FILTER (WHERE ok), 0) OVER (PARTITION BY k ORDER BY t) FROM orders LIMIT $1", false),
            ("MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET n = b.n", true),
            ("SELECT now() AT TIME ZONE 'UTC', extract(epoch FROM now()), $1::jsonb ->> 'a', CAST($2 AS date)", false),
        ] {
            let checked = check(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
            assert_eq!(checked.writes, writes, "{text}");
        }
    }

    #[test]
    fn c15_everything_else_is_refused_by_name() {
        for (text, says) in [
            ("COMMIT", "COMMIT"),
            ("BEGIN", "BEGIN"),
            ("SET ROLE postgres", "SET"),
            ("RESET ROLE", "RESET"),
            ("SELECT 1; SELECT 2", "has 2"),
            ("", "has 0"),
            ("SELECT * INTO t FROM orders", "INTO"),
            ("SELECT set_config('role', 'postgres', false)", "set_config"),
            ("SELECT pg_catalog.set_config('role', 'postgres', false)", "set_config"),
            ("SELECT \"set_config\"('role', 'postgres', false)", "set_config"),
            ("SELECT SET_CONFIG('role', 'postgres', false)", "SET_CONFIG"),
            ("SELECT * FROM query_to_xml('select 1', true, true, '')", "query_to_xml"),
            ("SELECT * FROM ROWS FROM (pg_ls_dir('.')) AS t", "cannot be read"),
            ("INSERT INTO orders (id) VALUES ($1) RETURNING pg_sleep(9)", "pg_sleep"),
            ("SELECT count(*) FILTER (WHERE pg_sleep(9) IS NULL) FROM orders", "pg_sleep"),
            ("SELECT sum(n) OVER (ORDER BY pg_sleep(1)) FROM orders", "pg_sleep"),
            ("SELECT 1 LIMIT length(pg_read_file('x'))", "pg_read_file"),
            ("MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET n = nextval('s')", "nextval"),
            ("SELECT * FROM pg_authid", "pg_authid"),
            ("SELECT * FROM pg_catalog.pg_roles", "pg_roles"),
            ("SELECT * FROM information_schema.tables", "information_schema"),
            ("SELECT * FROM tidemill.outbox", "tidemill.outbox"),
            ("TABLE orders", "TABLE"),
            ("SELECT 1 UNION ALL TABLE orders", "TABLE"),
            ("SELECT 'orders'::regclass", "REGCLASS"),
            ("SELECT regclass 'orders'", "REGCLASS"),
            ("CREATE TABLE x (a int)", "CREATE"),
            ("COPY orders TO PROGRAM 'true'", "COPY"),
            ("DO $$ BEGIN END $$", "cannot be read"),
            ("CALL p()", "CALL"),
            ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN"),
            ("LISTEN x", "LISTEN"),
            ("NOTIFY x", "NOTIFY"),
            ("TRUNCATE orders", "TRUNCATE"),
            ("LOCK TABLE orders", "LOCK"),
        ] {
            let reason = reason(text);
            assert!(reason.to_lowercase().contains(&says.to_lowercase()), "{text}: {reason}");
        }
    }
}
