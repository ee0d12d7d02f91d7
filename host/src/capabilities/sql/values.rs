//! Guest values to and from PostgreSQL's wire formats. The server's type decides; what does not fit is refused by `$n`.

use super::numeric;
use crate::bindings::sql::{RowSet, Value};
use crate::store::{Param, RawColumn, Rows};
use postgres_protocol::types as wire;
use tokio_postgres::types::{Kind, Type};

/// Microseconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DATE: jiff::civil::Date = jiff::civil::date(2000, 1, 1);
const MIDNIGHT: jiff::civil::Time = jiff::civil::time(0, 0, 0, 0);

/// The parameters of one statement, for the types that the server inferred.
pub(super) fn encode(values: Vec<Value>, types: &[Type]) -> Result<Vec<Param>, String> {
    if values.len() != types.len() {
        return Err(format!("the statement has {} parameters, {} were given", types.len(), values.len()));
    }
    let encoded = values.into_iter().zip(types).enumerate().map(|(i, (value, ty))| {
        let given = describe(&value);
        parameter(value, base(ty)).map_err(|reason| {
            let why = reason.map(|r| format!(": {r}")).unwrap_or_default();
            format!("parameter ${} is of type {}, and the {given} given does not fit{why}", i + 1, ty.name())
        })
    });
    encoded.collect()
}

/// `None`: the case does not go with the type; `Some`: it does, but this value does not.
type Misfit = Option<String>;

fn parameter(value: Value, ty: &Type) -> Result<Param, Misfit> {
    if matches!(value, Value::Null) {
        return Ok(Param::Null);
    }
    match ty.kind() {
        Kind::Array(element) => array(value, base(element)).map(Param::Binary),
        _ if *ty == Type::NUMERIC => numeric_text(value).map(Param::Text),
        _ => {
            let mut out = Vec::new();
            scalar(&value, ty, &mut out)?;
            Ok(Param::Binary(out))
        }
    }
}

fn numeric_text(value: Value) -> Result<String, Misfit> {
    match value {
        Value::Integer(n) => Ok(n.to_string()),
        Value::Float(n) if n.is_finite() => Ok(n.to_string()),
        Value::Numeric(text) | Value::Text(text) => match numeric::is_numeric(&text) {
            true => Ok(text),
            false => Err(Some("it is no decimal number".to_owned())),
        },
        _ => Err(None),
    }
}

fn scalar(value: &Value, ty: &Type, out: &mut Vec<u8>) -> Result<(), Misfit> {
    match (ty, value) {
        (&Type::BOOL, Value::Boolean(b)) => out.push(u8::from(*b)),
        (&Type::INT2, Value::Integer(n)) => out.extend(i16::try_from(*n).map_err(|_| range(n))?.to_be_bytes()),
        (&Type::INT4, Value::Integer(n)) => out.extend(i32::try_from(*n).map_err(|_| range(n))?.to_be_bytes()),
        (&Type::INT8, Value::Integer(n)) => out.extend(n.to_be_bytes()),
        (&Type::FLOAT8, Value::Float(n)) => out.extend(n.to_be_bytes()),
        (&Type::FLOAT8, Value::Integer(n)) => out.extend((*n as f64).to_be_bytes()),
        (&Type::FLOAT4, Value::Float(n)) => out.extend((*n as f32).to_be_bytes()),
        (&Type::FLOAT4, Value::Integer(n)) => out.extend((*n as f32).to_be_bytes()),
        (&Type::TEXT | &Type::VARCHAR | &Type::BPCHAR | &Type::NAME | &Type::UNKNOWN, Value::Text(text)) => plain(text, out)?,
        // What has a text form of its own may go where text is wanted.
        (
            &Type::TEXT | &Type::VARCHAR,
            Value::Uuid(text) | Value::Json(text) | Value::Numeric(text) | Value::Date(text) | Value::Time(text),
        ) => {
            plain(text, out)?;
        }
        (&Type::BYTEA, Value::Bytes(bytes)) => out.extend(bytes),
        (&Type::UUID, Value::Uuid(text) | Value::Text(text)) => {
            let id = uuid::Uuid::parse_str(text).map_err(|_| Some(format!("`{}` is no UUID", short(text))))?;
            out.extend(id.as_bytes());
        }
        (&Type::JSON | &Type::JSONB, Value::Json(text) | Value::Text(text)) => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| Some(format!("it is no JSON ({error})")))?;
            // jsonb's binary format is a version byte and the text.
            if *ty == Type::JSONB {
                out.push(1);
            }
            out.extend(text.as_bytes());
        }
        (&Type::DATE, Value::Date(text) | Value::Text(text)) => {
            let date: jiff::civil::Date = text.parse().map_err(|_| Some(format!("`{}` is no date (YYYY-MM-DD)", short(text))))?;
            out.extend(EPOCH_DATE.until(date).map_err(|error| Some(error.to_string()))?.get_days().to_be_bytes());
        }
        (&Type::TIME, Value::Time(text) | Value::Text(text)) => {
            let time: jiff::civil::Time = text.parse().map_err(|_| Some(format!("`{}` is no time (HH:MM:SS)", short(text))))?;
            let micros = MIDNIGHT.duration_until(time).as_micros();
            out.extend(i64::try_from(micros).map_err(|_| None)?.to_be_bytes());
        }
        (&Type::TIMESTAMPTZ | &Type::TIMESTAMP, Value::Timestamp(micros)) => {
            out.extend(micros.checked_sub(EPOCH_MICROS).ok_or_else(|| range(micros))?.to_be_bytes());
        }
        (&Type::TIMESTAMPTZ, Value::Text(text)) => {
            let at: jiff::Timestamp = text.parse().map_err(|_| Some(format!("`{}` is no RFC 3339 time", short(text))))?;
            out.extend((at.as_microsecond() - EPOCH_MICROS).to_be_bytes());
        }
        (ty, Value::Text(text)) if matches!(ty.kind(), Kind::Enum(_)) => plain(text, out)?,
        _ => return Err(None),
    }
    Ok(())
}

fn plain(text: &str, out: &mut Vec<u8>) -> Result<(), Misfit> {
    if text.contains('\0') {
        return Err(Some("PostgreSQL's text holds no NUL character".to_owned()));
    }
    out.extend(text.as_bytes());
    Ok(())
}

fn range(n: &i64) -> Misfit {
    Some(format!("{n} is out of range"))
}

fn array(value: Value, element: &Type) -> Result<Vec<u8>, Misfit> {
    if *element == Type::NUMERIC {
        return Err(Some(
            "numeric arrays cannot be passed; pass text[] and cast in the statement ($1::text[]::numeric[])".to_owned(),
        ));
    }
    macro_rules! elements {
        ($list:expr, $case:expr) => {
            $list.into_iter().map(|element| element.map($case)).collect()
        };
    }
    let elements: Vec<Option<Value>> = match value {
        Value::BooleanArray(list) => elements!(list, Value::Boolean),
        Value::IntegerArray(list) => elements!(list, Value::Integer),
        Value::FloatArray(list) => elements!(list, Value::Float),
        Value::TextArray(list) => elements!(list, Value::Text),
        Value::BytesArray(list) => elements!(list, Value::Bytes),
        Value::JsonArray(list) => elements!(list, Value::Json),
        Value::UuidArray(list) => elements!(list, Value::Uuid),
        Value::TimestampArray(list) => elements!(list, Value::Timestamp),
        _ => return Err(None),
    };
    let mut out = bytes::BytesMut::new();
    let dimension = wire::ArrayDimension { len: i32::try_from(elements.len()).map_err(|_| None)?, lower_bound: 1 };
    let (mut misfit, mut one) = (None, Vec::new());
    let wrote = wire::array_to_sql(
        [dimension],
        element.oid(),
        elements,
        |value, out| {
            let Some(value) = value else {
                return Ok(postgres_protocol::IsNull::Yes);
            };
            one.clear();
            scalar(&value, element, &mut one).map_err(|reason| {
                misfit = Some(reason);
                "misfit"
            })?;
            out.extend_from_slice(&one);
            Ok(postgres_protocol::IsNull::No)
        },
        &mut out,
    );
    match (wrote, misfit) {
        (Ok(()), _) => Ok(out.into()),
        (Err(_), Some(reason)) => Err(reason),
        (Err(error), None) => Err(Some(error.to_string())),
    }
}

/// The rows of a statement as the guest sees them.
pub(super) fn decode(rows: &Rows) -> Result<RowSet, String> {
    let columns: Vec<String> = rows.columns.iter().map(|(name, _)| name.clone()).collect();
    let decoded = rows.rows.iter().map(|row| {
        let values = rows.columns.iter().enumerate().map(|(i, (name, ty))| {
            let raw: Option<RawColumn<'_>> = row.try_get(i).map_err(|error| error.to_string())?;
            match raw {
                None => Ok(Value::Null),
                Some(RawColumn(raw)) => column(raw, base(ty)).ok_or_else(|| {
                    format!("column `{name}` is of type {}, which handlers cannot read; cast it to text", ty.name())
                }),
            }
        });
        values.collect::<Result<Vec<_>, String>>()
    });
    Ok(RowSet { columns, rows: decoded.collect::<Result<_, _>>()? })
}

fn column(raw: &[u8], ty: &Type) -> Option<Value> {
    if let Kind::Array(element) = ty.kind() {
        return array_column(raw, base(element));
    }
    let int = |n: i64| Some(Value::Integer(n));
    match *ty {
        Type::BOOL => Some(Value::Boolean(*raw.first()? != 0)),
        Type::INT2 => int(i16::from_be_bytes(raw.try_into().ok()?).into()),
        Type::INT4 => int(i32::from_be_bytes(raw.try_into().ok()?).into()),
        Type::INT8 => int(i64::from_be_bytes(raw.try_into().ok()?)),
        Type::FLOAT4 => Some(Value::Float(f32::from_be_bytes(raw.try_into().ok()?).into())),
        Type::FLOAT8 => Some(Value::Float(f64::from_be_bytes(raw.try_into().ok()?))),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => Some(Value::Text(text(raw)?)),
        Type::BYTEA => Some(Value::Bytes(raw.to_vec())),
        Type::NUMERIC => Some(Value::Numeric(numeric::to_text(raw)?)),
        Type::JSON => Some(Value::Json(text(raw)?)),
        Type::JSONB => Some(Value::Json(text(raw.get(1..)?)?)),
        Type::UUID => Some(Value::Uuid(uuid::Uuid::from_slice(raw).ok()?.to_string())),
        Type::DATE => {
            let days = i32::from_be_bytes(raw.try_into().ok()?);
            Some(Value::Date(EPOCH_DATE.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?.to_string()))
        }
        Type::TIME => {
            let micros = i64::from_be_bytes(raw.try_into().ok()?);
            Some(Value::Time(MIDNIGHT.checked_add(jiff::SignedDuration::from_micros(micros)).ok()?.to_string()))
        }
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            Some(Value::Timestamp(i64::from_be_bytes(raw.try_into().ok()?).saturating_add(EPOCH_MICROS)))
        }
        _ if matches!(ty.kind(), Kind::Enum(_)) => Some(Value::Text(text(raw)?)),
        _ => None,
    }
}

fn array_column(raw: &[u8], element: &Type) -> Option<Value> {
    use postgres_protocol::types::array_from_sql;
    let array = array_from_sql(raw).ok()?;
    let mut dimensions = array.dimensions();
    // One dimension, or none where it is empty.
    if fallible_iterator::FallibleIterator::count(&mut dimensions).ok()? > 1 {
        return None;
    }
    let mut elements = Vec::new();
    let mut values = array.values();
    while let Some(value) = fallible_iterator::FallibleIterator::next(&mut values).ok()? {
        elements.push(match value {
            Some(raw) => Some(column(raw, element)?),
            None => None,
        });
    }
    macro_rules! flat {
        ($case:path, $array:path) => {
            Some($array(
                elements
                    .into_iter()
                    .map(|e| match e {
                        Some($case(value)) => Some(value),
                        _ => None,
                    })
                    .collect(),
            ))
        };
    }
    match *element {
        Type::BOOL => flat!(Value::Boolean, Value::BooleanArray),
        Type::INT2 | Type::INT4 | Type::INT8 => flat!(Value::Integer, Value::IntegerArray),
        Type::FLOAT4 | Type::FLOAT8 => flat!(Value::Float, Value::FloatArray),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => flat!(Value::Text, Value::TextArray),
        Type::BYTEA => flat!(Value::Bytes, Value::BytesArray),
        Type::JSON | Type::JSONB => flat!(Value::Json, Value::JsonArray),
        Type::UUID => flat!(Value::Uuid, Value::UuidArray),
        Type::TIMESTAMPTZ | Type::TIMESTAMP => flat!(Value::Timestamp, Value::TimestampArray),
        _ if matches!(element.kind(), Kind::Enum(_)) => flat!(Value::Text, Value::TextArray),
        _ => None,
    }
}

/// A domain counts as what it is made of.
fn base(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(inner) => base(inner),
        _ => ty,
    }
}

fn text(raw: &[u8]) -> Option<String> {
    String::from_utf8(raw.to_vec()).ok()
}

/// Enough of a text to recognise it in an error.
fn short(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) => "integer",
        Value::Float(_) => "float",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Numeric(_) => "numeric",
        Value::Json(_) => "json",
        Value::Uuid(_) => "uuid",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::Timestamp(_) => "timestamp",
        Value::BooleanArray(_) => "boolean-array",
        Value::IntegerArray(_) => "integer-array",
        Value::FloatArray(_) => "float-array",
        Value::TextArray(_) => "text-array",
        Value::BytesArray(_) => "bytes-array",
        Value::JsonArray(_) => "json-array",
        Value::UuidArray(_) => "uuid-array",
        Value::TimestampArray(_) => "timestamp-array",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_does_not_fit_is_named_with_both_types() {
        let error = encode(vec![Value::Boolean(true), Value::Text("x".into())], &[Type::BOOL, Type::UUID]).unwrap_err();
        assert_eq!(error, "parameter $2 is of type uuid, and the text given does not fit: `x` is no UUID");
        let error = encode(vec![Value::Text("x".into())], &[Type::BOOL]).unwrap_err();
        assert_eq!(error, "parameter $1 is of type bool, and the text given does not fit");
        let error = encode(vec![Value::Integer(40_000)], &[Type::INT2]).unwrap_err();
        assert!(error.contains("out of range"), "{error}");
        assert!(encode(vec![], &[Type::BOOL]).unwrap_err().contains("1 parameters, 0 were given"));
    }

    #[test]
    fn what_goes_out_comes_back() {
        let cases = [
            (Value::Date("2024-02-29".into()), Type::DATE),
            (Value::Time("23:59:59.000001".into()), Type::TIME),
            (Value::Timestamp(-5), Type::TIMESTAMPTZ),
            (Value::Uuid("0191c7a0-0000-7000-8000-000000000001".into()), Type::UUID),
            (Value::Json("{\"a\":[1]}".into()), Type::JSONB),
            (Value::TextArray(vec![Some("a".into()), None]), Type::TEXT_ARRAY),
            (Value::IntegerArray(vec![]), Type::INT4_ARRAY),
            (Value::UuidArray(vec![Some("0191c7a0-0000-7000-8000-000000000001".into())]), Type::UUID_ARRAY),
        ];
        for (value, ty) in cases {
            let expected = format!("{value:?}");
            let Ok(Param::Binary(raw)) = parameter(value, &ty) else { panic!("{expected}") };
            assert_eq!(format!("{:?}", column(&raw, &ty).unwrap()), expected);
        }
    }
}
