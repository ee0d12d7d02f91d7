//! Lists in pages, with a cursor that stays right while rows come and go: it names the place of the last item, not a number of items.

use serde::Serialize;
use tidemill_sdk::{Fields, Problem};

use crate::cursor::{Refused, Scope};

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// The page that a caller asks for.
#[derive(Debug, PartialEq)]
pub(crate) struct PageRequest<C> {
    limit: usize,
    /// The place after which it begins.
    pub(crate) after: Option<C>,
    scope: Scope,
}

/// One page.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    /// What asks for the next page; null on the last one. Opaque to callers.
    next_cursor: Option<String>,
}

/// Reads `limit` and `cursor` from what is left of a query, as its end. `read` turns the text of a place into the place.
pub(crate) fn requested<C>(
    mut query: Fields,
    scope: Scope,
    read: impl FnOnce(&str) -> Option<C>,
) -> Result<PageRequest<C>, Problem> {
    let list_is_known = !query.any_wrong();
    let limit = query.optional("limit", |text: String| match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(format!("must be a number from 1 to {MAX_LIMIT}")),
    });
    let after = query.optional("cursor", |text: String| match scope.open(&text) {
        Ok(place) => read(&place).map(Some).ok_or(Refused::Damaged.message()),
        // A wrong filter was named already; whether the cursor fits the right one can't be known.
        Err(Refused::OtherList) if !list_is_known => Ok(None),
        Err(refused) => Err(refused.message()),
    });
    query.finish()?;
    Ok(PageRequest { limit: limit.unwrap_or(LIMIT), after: after.flatten(), scope })
}

impl<C> PageRequest<C> {
    /// How many rows to ask for: one more than shown, since it tells whether there is a next page.
    pub(crate) fn to_fetch(&self) -> i64 {
        self.limit as i64 + 1
    }
}

impl<T> Page<T> {
    /// Makes a page of the rows that were fetched for a request; `place` is the text of a row's place.
    pub(crate) fn cut<C>(mut rows: Vec<T>, request: &PageRequest<C>, place: impl Fn(&T) -> String) -> Self {
        let more = rows.len() > request.limit;
        rows.truncate(request.limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| request.scope.seal(&place(last)));
        Self { items: rows, next_cursor }
    }

    /// The same page with its items as `show` shows them.
    pub(crate) fn map<'a, U>(&'a self, show: impl Fn(&'a T) -> U) -> Page<U> {
        Page { items: self.items.iter().map(show).collect(), next_cursor: self.next_cursor.clone() }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_sdk::testing;

    use super::*;

    fn scope() -> Scope {
        Scope::new("alice", "numbers")
    }

    fn asked(query: &str) -> Result<(usize, Option<u32>), Vec<String>> {
        let query = testing::request("GET", "/numbers").query(query).build().query();
        let read = requested(query, scope(), |text| text.parse().ok());
        read.map(|page| (page.limit, page.after))
            .map_err(|problem| problem.errors().iter().map(|e| format!("{} {}", e.field, e.message)).collect())
    }

    #[test]
    fn a_page_has_fifty_items_unless_asked_otherwise() {
        assert_eq!(asked(""), Ok((50, None)));
        assert_eq!(asked("limit=200"), Ok((200, None)));
        assert_eq!(asked(&format!("cursor={}&limit=1", scope().seal("7"))), Ok((1, Some(7))));
    }

    #[test]
    fn wrong_parameters_are_named_at_once() {
        for limit in ["0", "201", "-1", "ten", "", "99999999999999999999"] {
            assert_eq!(asked(&format!("limit={limit}")).unwrap_err(), ["limit must be a number from 1 to 200"], "{limit}");
        }
        let errors = asked("limit=0&cursor=x&colour=red").unwrap_err();
        assert_eq!((errors.len(), errors[2].as_str()), (3, "colour is not known"));
        assert!(
            errors[1].starts_with("cursor") && errors[1].ends_with("leave it out to begin with the first page"),
            "{errors:?}"
        );
        assert_eq!(asked(&format!("cursor={}", scope().seal("seven"))).unwrap_err().len(), 1, "a place that is none");
    }

    #[test]
    fn a_cursor_is_not_blamed_for_a_wrong_filter() {
        let ask = |filter: &str| {
            let cursor = Scope::new("alice", "other numbers").seal("7");
            let mut query = testing::request("GET", "/numbers").query(&format!("even={filter}&cursor={cursor}")).build().query();
            query.optional("even", |text: String| text.parse::<bool>().map_err(|_| "must be true or false".to_owned()));
            let problem = requested(query, scope(), |text| text.parse::<u32>().ok()).unwrap_err();
            problem.errors().iter().map(|e| e.field.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ask("perhaps"), ["even"]);
        assert_eq!(ask("true"), ["cursor"]);
    }

    #[test]
    fn the_cursor_is_the_last_item_shown_and_null_at_the_end() {
        let request = PageRequest::<u32> { limit: 2, after: None, scope: scope() };
        assert_eq!(request.to_fetch(), 3);
        let page = |rows: &[u32]| Page::cut(rows.to_vec(), &request, u32::to_string);
        assert_eq!(page(&[9, 8, 7]), Page { items: vec![9, 8], next_cursor: Some(scope().seal("8")) });
        assert_eq!(page(&[9, 8]), Page { items: vec![9, 8], next_cursor: None });
        assert_eq!(page(&[]), Page { items: vec![], next_cursor: None });
    }
}
