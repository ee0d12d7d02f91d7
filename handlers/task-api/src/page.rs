//! Lists in pages, with a cursor that stays right while rows come and go: it names the place of the last item, not a number of items.

use std::{fmt::Display, str::FromStr};

use serde::Serialize;
use tidemill_sdk::{Fields, Problem};

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// The page that a caller asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct PageRequest<C> {
    pub(crate) limit: usize,
    /// The place after which it begins.
    pub(crate) after: Option<C>,
}

/// One page.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    /// What asks for the next page; null on the last one. Opaque to callers.
    next_cursor: Option<String>,
}

/// Reads `limit` and `cursor` from a query.
pub(crate) fn requested<C: FromStr>(mut query: Fields) -> Result<PageRequest<C>, Problem> {
    let limit = query.optional("limit", |text: String| match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {MAX_LIMIT}")),
    });
    let after =
        query.optional("cursor", |text: String| text.parse().map_err(|_| "must be the next_cursor of a page before".to_owned()));
    query.finish()?;
    Ok(PageRequest { limit: limit.unwrap_or(LIMIT), after })
}

impl<C> PageRequest<C> {
    /// How many rows to ask for: one more than shown, since it tells whether there is a next page.
    pub(crate) fn to_fetch(&self) -> i64 {
        self.limit as i64 + 1
    }
}

impl<T> Page<T> {
    /// Makes a page of the rows that were fetched for a request.
    pub(crate) fn cut<C: Display>(mut rows: Vec<T>, request: &PageRequest<C>, place: impl Fn(&T) -> C) -> Self {
        let more = rows.len() > request.limit;
        rows.truncate(request.limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| place(last).to_string());
        Self { items: rows, next_cursor }
    }

    /// The same page with its items as `show` shows them.
    pub(crate) fn map<'a, U>(&'a self, show: impl Fn(&'a T) -> U) -> Page<U> {
        Page { items: self.items.iter().map(show).collect(), next_cursor: self.next_cursor.clone() }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_sdk::{Uuid, testing};

    use super::*;
    use crate::task::tests::ID;

    fn asked(query: &str) -> Result<PageRequest<Uuid>, Vec<String>> {
        let query = testing::request("GET", "/api/tasks").query(query).build().query();
        requested(query).map_err(|problem| problem.errors().iter().map(|e| e.field.clone()).collect())
    }

    #[test]
    fn a_page_has_fifty_items_unless_asked_otherwise() {
        assert_eq!(asked(""), Ok(PageRequest { limit: 50, after: None }));
        assert_eq!(asked("limit=200"), Ok(PageRequest { limit: 200, after: None }));
        assert_eq!(asked(&format!("cursor={ID}&limit=1")), Ok(PageRequest { limit: 1, after: Some(ID.parse().unwrap()) }));
    }

    #[test]
    fn wrong_parameters_are_named_at_once() {
        for limit in ["0", "201", "-1", "ten", "", "99999999999999999999"] {
            assert_eq!(asked(&format!("limit={limit}")), Err(vec!["limit".to_owned()]), "{limit}");
        }
        assert_eq!(
            asked("limit=0&cursor=x&status=done"),
            Err(vec!["limit".to_owned(), "cursor".to_owned(), "status".to_owned()])
        );
    }

    #[test]
    fn the_cursor_is_the_last_item_shown_and_null_at_the_end() {
        let request = PageRequest::<u32> { limit: 2, after: None };
        assert_eq!(request.to_fetch(), 3);
        let page = |rows: &[u32]| Page::cut(rows.to_vec(), &request, |n| *n);
        assert_eq!(page(&[9, 8, 7]), Page { items: vec![9, 8], next_cursor: Some("8".to_owned()) });
        assert_eq!(page(&[9, 8]), Page { items: vec![9, 8], next_cursor: None });
        assert_eq!(page(&[]), Page { items: vec![], next_cursor: None });
    }
}
