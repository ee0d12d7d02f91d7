use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::*;

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn cell<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    from_row(&columns(&["x"]), vec![value])
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Priority {
    Low,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Inner {
    n: u8,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Task {
    id: Uuid,
    priority: Priority,
    tags: Vec<String>,
    due_date: Option<String>,
    created_at: Timestamp,
    data: Inner,
    version: i32,
}

#[test]
fn a_struct_takes_the_columns_by_name_whatever_their_order() {
    let names = columns(&["version", "id", "priority", "tags", "due_date", "created_at", "data", "not_asked_for"]);
    let id = Uuid::now_v7();
    let row = vec![
        Value::Integer(3),
        Value::Uuid(id.to_string()),
        Value::Text("low".into()),
        Value::TextArray(vec![Some("a".into()), Some("b".into())]),
        Value::Null,
        Value::Timestamp(7),
        Value::Json(r#"{"n": 5}"#.into()),
        Value::Bytes(vec![0]),
    ];
    let expected = Task {
        id,
        priority: Priority::Low,
        tags: vec!["a".into(), "b".into()],
        due_date: None,
        created_at: Timestamp::from_micros(7),
        data: Inner { n: 5 },
        version: 3,
    };
    assert_eq!(from_row::<Task>(&names, row).unwrap(), expected);
}

#[test]
fn a_tuple_takes_them_by_place_and_a_scalar_the_only_one() {
    let names = columns(&["a", "b"]);
    let row = || vec![Value::Integer(1), Value::Text("x".into())];
    assert_eq!(from_row::<(i64, String)>(&names, row()).unwrap(), (1, "x".to_owned()));
    assert!(from_row::<i64>(&names, row()).unwrap_err().message.contains("one column"));
    assert_eq!(cell::<i64>(Value::Integer(1)).unwrap(), 1);
    assert_eq!(cell::<Option<String>>(Value::Null).unwrap(), None);
    assert_eq!(cell::<Timestamp>(Value::Timestamp(9)).unwrap(), Timestamp::from_micros(9));
    assert_eq!(cell::<(Timestamp,)>(Value::Timestamp(9)).unwrap(), (Timestamp::from_micros(9),));
    assert_eq!(cell::<Vec<Option<i64>>>(Value::IntegerArray(vec![None, Some(2)])).unwrap(), [None, Some(2)]);
    assert_eq!(cell::<Vec<u8>>(Value::Bytes(vec![1, 2])).unwrap(), [1, 2]);
}

#[test]
fn values_can_be_read_as_what_they_mean() {
    assert_eq!(cell::<String>(Value::Timestamp(0)).unwrap(), "1970-01-01T00:00:00Z");
    assert_eq!(cell::<i64>(Value::Timestamp(12)).unwrap(), 12);
    assert_eq!(cell::<f64>(Value::Numeric("-12.50".into())).unwrap(), -12.5);
    assert_eq!(cell::<String>(Value::Numeric("-12.50".into())).unwrap(), "-12.50");
    assert_eq!(cell::<u32>(Value::Numeric("12".into())).unwrap(), 12);
    assert_eq!(cell::<String>(Value::Json("[1]".into())).unwrap(), "[1]");
    assert_eq!(cell::<(serde_json::Value,)>(Value::Json("[1]".into())).unwrap().0, json!([1]));
    let all: serde_json::Value = from_row(&columns(&["t", "n"]), vec![Value::Timestamp(0), Value::Null]).unwrap();
    assert_eq!(all, json!({"t": "1970-01-01T00:00:00Z", "n": null}));
}

#[test]
fn what_does_not_fit_is_named_by_its_column() {
    let error = from_row::<Inner>(&columns(&["n"]), vec![Value::Integer(300)]).unwrap_err();
    assert!(error.message.starts_with("column `n`: "), "{error}");
    assert!(from_row::<Inner>(&columns(&["m"]), vec![Value::Integer(3)]).unwrap_err().message.contains("missing field `n`"));
    assert!(cell::<i64>(Value::Null).is_err());
    assert!(cell::<u32>(Value::Numeric("1.5".into())).is_err());
}
