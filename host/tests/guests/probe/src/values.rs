//! JSON to SQL values and back.
//!
//! Plain JSON stands for the common cases; any case can be named: `{"uuid": "…"}`, `{"timestamp": 0}`, `{"text-array": ["a"]}`.

use serde_json::{Value as Json, json};

use crate::bindings::tidemill::sql::sql::{Error, RowSet, Value};

/// The SQL value that a JSON value stands for.
pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Integer),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::TextArray(items.iter().map(|item| item.as_str().map(str::to_owned)).collect()),
        Json::Object(object) => object.iter().next().map_or(Value::Null, |(case, value)| named(case, value)),
    }
}

fn named(case: &str, value: &Json) -> Value {
    let text = || value.as_str().unwrap_or_default().to_owned();
    let items = || value.as_array().cloned().unwrap_or_default();
    match case {
        "bytes" => Value::Bytes(text().into_bytes()),
        "numeric" => Value::Numeric(text()),
        "json" => Value::Json(value.to_string()),
        "uuid" => Value::Uuid(text()),
        "date" => Value::Date(text()),
        "time" => Value::Time(text()),
        "timestamp" => Value::Timestamp(value.as_i64().unwrap_or_default()),
        "integer-array" => Value::IntegerArray(items().iter().map(Json::as_i64).collect()),
        "uuid-array" => Value::UuidArray(items().iter().map(|item| item.as_str().map(str::to_owned)).collect()),
        _ => from_json(&Json::Array(items())),
    }
}

/// The JSON of one value of a result.
pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Bytes(value) => json!({ "bytes": value }),
        Value::Numeric(value) => json!({ "numeric": value }),
        Value::Json(value) => json!({ "json": serde_json::from_str::<Json>(value).unwrap_or(Json::Null) }),
        Value::Uuid(value) => json!({ "uuid": value }),
        Value::Date(value) => json!({ "date": value }),
        Value::Time(value) => json!({ "time": value }),
        Value::Timestamp(value) => json!({ "timestamp": value }),
        Value::BooleanArray(items) => json!({ "boolean-array": items }),
        Value::IntegerArray(items) => json!({ "integer-array": items }),
        Value::FloatArray(items) => json!({ "float-array": items }),
        Value::TextArray(items) => json!({ "text-array": items }),
        Value::BytesArray(items) => json!({ "bytes-array": items }),
        Value::JsonArray(items) => json!({ "json-array": items }),
        Value::UuidArray(items) => json!({ "uuid-array": items }),
        Value::TimestampArray(items) => json!({ "timestamp-array": items }),
    }
}

/// The JSON of a whole result.
pub(crate) fn rows_to_json(set: &RowSet) -> Json {
    let rows: Vec<Vec<Json>> = set.rows.iter().map(|row| row.iter().map(to_json).collect()).collect();
    json!({ "columns": set.columns, "rows": rows })
}

/// The JSON of a failed call, `kind` in the spelling of the WIT.
pub(crate) fn error_to_json(error: &Error) -> Json {
    json!({
        "kind": format!("{:?}", error.kind).rsplit("::").next().unwrap_or_default(),
        "message": error.message,
        "sqlstate": error.sqlstate,
        "constraint": error.constraint,
    })
}
