use tidemill_sdk::testing;

use super::*;
use crate::task::tests::{ID, plain};

fn read(query: &str) -> Result<(Sort, Filter), Vec<String>> {
    let mut query = testing::request("GET", "/api/tasks").query(query).build().query();
    let sort = query.optional("sort", Sort::read).unwrap_or(Sort::DEFAULT);
    let filter = Filter::read(&mut query);
    let finished = query.finish();
    finished
        .map(|()| (sort, filter))
        .map_err(|problem| problem.errors().iter().map(|e| format!("{} {}", e.field, e.message)).collect())
}

/// The statement of a query's first page, or of the one after a place.
fn sql_of(query: &str, place: Option<&str>) -> (String, Vec<Param<'static>>) {
    let (sort, filter) = read(query).unwrap();
    let place = place.map(|text| sort.read_place(text).unwrap());
    let (filter, place) = Box::leak(Box::new((filter, place)));
    let (text, params) = statement("alice", filter, sort, place.as_ref(), 51);
    (text.replace(columns!(), "*"), params)
}

#[test]
fn without_filters_a_list_has_all_tasks_the_newest_first() {
    let (text, params) = sql_of("", None);
    let expected = "SELECT * FROM tasks WHERE user_id = $1 AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT $2";
    assert_eq!((text.as_str(), params), (expected, params!["alice", 51]));
    assert_eq!(read("status=all&sort=-created_at"), read(""));
}

#[test]
fn every_filter_is_a_condition() {
    let query = "status=open&priority=high&tag=b&tag=a&tag=b&due_before=2026-03-01&due_after=2026-02-01&text=Milk&sort=title";
    let (text, params) = sql_of(query, Some(&format!("[\"Buy\", \"{ID}\"]")));
    let expected = "SELECT * FROM tasks WHERE user_id = $1 AND deleted_at IS NULL AND completed_at IS NULL AND priority = $2 \
        AND tags @> $3::text[] AND due_date < $4::date AND due_date > $5::date \
        AND (strpos(lower(title), lower($6::text)) > 0 OR strpos(lower(description), lower($7::text)) > 0) \
        AND (lower(title), id) > (lower($9::text), $10::uuid) ORDER BY lower(title) ASC, id ASC LIMIT $8";
    assert_eq!(text, expected);
    let id: tidemill_sdk::Uuid = ID.parse().unwrap();
    let tags = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(params, params!["alice", "high", tags, "2026-03-01", "2026-02-01", "Milk", "Milk", 51, "Buy", id]);
    assert!(sql_of("status=completed", None).0.contains("completed_at IS NOT NULL"));
}

#[test]
fn tasks_without_a_due_date_are_last_in_both_directions() {
    for (sort, direction, sign) in [("due_date", "ASC", '>'), ("-due_date", "DESC", '<')] {
        let (first, _) = sql_of(&format!("sort={sort}"), None);
        assert!(first.ends_with(&format!("ORDER BY due_date {direction} NULLS LAST, id {direction} LIMIT $2")), "{first}");
        let (dated, _) = sql_of(&format!("sort={sort}"), Some(&format!("[\"2026-02-10\", \"{ID}\"]")));
        assert!(
            dated.contains(&format!("(due_date, id) {sign} ($3::date, $4::uuid)")) && dated.contains("due_date IS NULL"),
            "{dated}"
        );
        let (undated, _) = sql_of(&format!("sort={sort}"), Some(&format!("[null, \"{ID}\"]")));
        assert!(undated.contains(&format!("due_date IS NULL AND id {sign} $3::uuid")) && !undated.contains("UNION"), "{undated}");
    }
}

#[test]
fn a_place_is_read_back_in_every_order_and_nothing_else_is() {
    let task = TaskRow { due_date: Some("2026-02-10".into()), title: "Zoë's \"[]\"".into(), ..plain() };
    for sort in ["created_at", "-due_date", "priority", "-title", "updated_at"] {
        let sort = Sort::read(sort.to_owned()).unwrap();
        let place = sort.read_place(&sort.place(&task)).unwrap_or_else(|| panic!("{sort:?}"));
        assert!(!place.is_undated() && sort.beyond(&place).1.len() == 2, "{sort:?}");
        for text in ["", "[]", "[1]", "{}", "[true, 1]", &format!("[{{}}, \"{ID}\"]"), &format!("[\"a\\u0000b\", \"{ID}\"]")] {
            assert_eq!(sort.read_place(text), None, "{sort:?} {text}");
        }
    }
    let due = Sort::read("due_date".to_owned()).unwrap();
    assert!(due.read_place(&due.place(&plain())).unwrap().is_undated());
    for (sort, key) in
        [("created_at", "9223372036854775807"), ("due_date", "\"2026-02-30\""), ("priority", "3"), ("title", "null")]
    {
        let sort = Sort::read(sort.to_owned()).unwrap();
        assert_eq!(sort.read_place(&format!("[{key}, \"{ID}\"]")), None, "{key}");
    }
}

#[test]
fn all_wrong_parameters_are_named_at_once() {
    let long = "x".repeat(201);
    let query = format!(
        "status=done&priority=urgent&tag=&tag={long}&due_before=soon&due_after=2026-02-30&text={long}&sort=-age&completed=true&limit=5"
    );
    let errors = read(&query).unwrap_err();
    assert_eq!(
        errors,
        [
            "sort must be one of created_at, due_date, priority, title, updated_at, or one of them with - in front for descending",
            "status must be one of open, completed, all",
            "tag must not be empty",
            "tag must have at most 50 characters, has 201",
            "priority must be one of low, medium, high",
            "due_before must be a date as YYYY-MM-DD",
            "due_after must be a date as YYYY-MM-DD",
            "text must have at most 200 characters, has 201",
            "completed is not known",
            "limit is not known",
        ]
    );
    assert_eq!(read("text=").unwrap_err(), ["text must not be empty"]);
    assert_eq!(read("status=open&status=all").unwrap_err(), ["status is given twice"]);
}
