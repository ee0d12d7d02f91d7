//! A user's tasks: filtered, in an order, page by page.

mod filter;
mod sort;

use filter::Filter;
use sort::{By, Place, Sort};
use tidemill_sdk::{Problem, Request, Response, params, sql, sql::Param};

use crate::cursor::Scope;
use crate::page::{self, Page};
use crate::task::{Task, TaskRow, columns};

pub(crate) fn list(request: &Request) -> Result<Response, Problem> {
    let (user, mut query) = (request.user()?, request.query());
    let sort = query.optional("sort", Sort::read).unwrap_or(Sort::DEFAULT);
    let filter = Filter::read(&mut query);
    let scope = Scope::new(user, &format!("tasks {sort:?} {filter:?}"));
    let page = page::requested(query, scope, |text| sort.read_place(text))?;
    let (statement, params) = statement(user, &filter, sort, page.after.as_ref(), page.to_fetch());
    let rows: Vec<TaskRow> = sql::query(&statement, params)?;
    let page = Page::cut(rows, &page, |row| sort.place(row));
    Ok(Response::json(200, &page.map(Task::from)))
}

/// What selects the next rows after a place. Only conditions that were asked for are in it, so that PostgreSQL plans for just these.
fn statement<'a>(
    user: &'a str,
    filter: &'a Filter,
    sort: Sort,
    after: Option<&'a Place>,
    limit: i64,
) -> (String, Vec<Param<'a>>) {
    let mut conditions = Conditions::default();
    conditions.and("user_id = $ AND deleted_at IS NULL", params![user]);
    filter.add_to(&mut conditions);
    let limit = conditions.param(Param::Integer(limit));
    let all = conditions.text.clone();
    if let Some(place) = after {
        let (condition, params) = sort.beyond(place);
        conditions.and(&condition, params);
    }
    let (order, columns) = (sort.order(), columns!());
    let select = |conditions: &str| format!("SELECT {columns} FROM tasks WHERE {conditions} ORDER BY {order} LIMIT {limit}");
    if sort.by != By::DueDate || after.is_some_and(Place::is_undated) {
        return (select(&conditions.text), conditions.params);
    }
    // Tasks without a due date come last in either direction: first the others, then these, both in the order of one index.
    let dated = select(&format!("{} AND due_date IS NOT NULL", conditions.text));
    let undated = select(&format!("{all} AND due_date IS NULL"));
    let order = order.replacen(", ", " NULLS LAST, ", 1);
    let text = format!("SELECT {columns} FROM (({dated}) UNION ALL ({undated})) AS t ORDER BY {order} LIMIT {limit}");
    (text, conditions.params)
}

/// Conditions of a statement, with their parameters.
#[derive(Debug, Default)]
struct Conditions<'a> {
    text: String,
    params: Vec<Param<'a>>,
}

impl<'a> Conditions<'a> {
    /// Adds a parameter and returns what stands for it.
    fn param(&mut self, param: Param<'a>) -> String {
        self.params.push(param);
        format!("${}", self.params.len())
    }

    /// Adds a condition in which each `$` stands for the next of the parameters.
    fn and(&mut self, condition: &str, params: Vec<Param<'a>>) {
        if !self.text.is_empty() {
            self.text.push_str(" AND ");
        }
        let mut params = params.into_iter();
        for (n, part) in condition.split('$').enumerate() {
            if n > 0 {
                let number = self.param(params.next().unwrap_or(Param::Null));
                self.text.push_str(&number);
            }
            self.text.push_str(part);
        }
    }
}

#[cfg(test)]
mod tests;
