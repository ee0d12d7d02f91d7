//! Guest values to and from PostgreSQL's wire formats. The server's type decides; what does not fit is refused by `$n`.

use super::given::{Parameter, Scalar};
use super::numeric;
use crate::bindings::sql::{RowSet, Value};
use crate::store::{Param, RawColumn, Rows};
use bytes::{BufMut, BytesMut};
use postgres_protocol::types as wire;
use tokio_postgres::types::{Kind, Type};

/// Microseconds from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DATE: jiff::civil::Date = jiff::civil::date(2000, 1, 1);
const MIDNIGHT: jiff::civil::Time = jiff::civil::time(0, 0, 0, 0);

/// The parameters of one statement, for the types that the server inferred.
pub(super) fn encode(values: Vec<Parameter<'_>>, types: &[Type]) -> Result<Vec<Param>, String> {
    if values.len() != types.len() {
        return Err(format!("the statement has {} parameters, {} were given", types.len(), values.len()));
    }
    let encoded = values.iter().zip(types).enumerate().map(|(i, (value, ty))| {
        parameter(value, base(ty)).map_err(|reason| {
            let why = reason.map(|r| format!(": {r}")).unwrap_or_default();
            format!("parameter ${} is of type {}, and the {} given does not fit{why}", i + 1, ty.name(), value.case())
        })
    });
    encoded.collect()
}

/// `None`: the case does not go with the type; `Some`: it does, but this value does not.
type Misfit = Option<String>;

fn parameter(value: &Parameter<'_>, ty: &Type) -> Result<Param, Misfit> {
    match (value, ty.kind()) {
        (Parameter::Null, _) => Ok(Param::Null),
        (_, Kind::Array(element)) if *base(element) == Type::NUMERIC => {
            Err(Some("numeric arrays cannot be passed; pass text[] and cast in the statement ($1::text[]::numeric[])".to_owned()))
        }
        (Parameter::Many(_, values), Kind::Array(element)) => array(values, base(element)).map(Param::Binary),
        (Parameter::One(value), kind) if !matches!(kind, Kind::Array(_)) => match *ty == Type::NUMERIC {
            true => numeric_text(value).map(Param::Text),
            false => {
                let mut out = BytesMut::with_capacity(value.size());
                scalar(value, ty, &mut out)?;
                Ok(Param::Binary(out))
            }
        },
        _ => Err(None),
    }
}

fn numeric_text(value: &Scalar<'_>) -> Result<String, Misfit> {
    match value {
        Scalar::Integer(n) => Ok(n.to_string()),
        Scalar::Float(n) if n.is_finite() => Ok(n.to_string()),
        Scalar::Numeric(text) | Scalar::Text(text) => match numeric::is_numeric(text) {
            true => Ok(text.to_string()),
            false => Err(Some("it is no decimal number".to_owned())),
        },
        _ => Err(None),
    }
}

fn scalar(value: &Scalar<'_>, ty: &Type, out: &mut BytesMut) -> Result<(), Misfit> {
    match (ty, value) {
        (&Type::BOOL, Scalar::Boolean(b)) => out.put_u8(u8::from(*b)),
        (&Type::INT2, Scalar::Integer(n)) => out.put_slice(&i16::try_from(*n).map_err(|_| range(n))?.to_be_bytes()),
        (&Type::INT4, Scalar::Integer(n)) => out.put_slice(&i32::try_from(*n).map_err(|_| range(n))?.to_be_bytes()),
        (&Type::INT8, Scalar::Integer(n)) => out.put_slice(&n.to_be_bytes()),
        (&Type::FLOAT8, Scalar::Float(n)) => out.put_slice(&n.to_be_bytes()),
        (&Type::FLOAT8, Scalar::Integer(n)) => out.put_slice(&(*n as f64).to_be_bytes()),
        (&Type::FLOAT4, Scalar::Float(n)) => out.put_slice(&(*n as f32).to_be_bytes()),
        (&Type::FLOAT4, Scalar::Integer(n)) => out.put_slice(&(*n as f32).to_be_bytes()),
        (&Type::TEXT | &Type::VARCHAR | &Type::BPCHAR | &Type::NAME | &Type::UNKNOWN, Scalar::Text(text)) => plain(text, out)?,
        // What has a text form of its own may go where text is wanted.
        (
            &Type::TEXT | &Type::VARCHAR,
            Scalar::Uuid(text) | Scalar::Json(text) | Scalar::Numeric(text) | Scalar::Date(text) | Scalar::Time(text),
        ) => {
            plain(text, out)?;
        }
        (&Type::BYTEA, Scalar::Bytes(bytes)) => out.put_slice(bytes),
        (&Type::UUID, Scalar::Uuid(text) | Scalar::Text(text)) => {
            let id = uuid::Uuid::parse_str(text).map_err(|_| Some(format!("`{}` is no UUID", short(text))))?;
            out.put_slice(id.as_bytes());
        }
        (&Type::JSON | &Type::JSONB, Scalar::Json(text) | Scalar::Text(text)) => {
            // Whether it is JSON is for the server to say, which has to read it anyway, and names the parameter as well.
            // jsonb's binary format is a version byte and the text.
            if *ty == Type::JSONB {
                out.put_u8(1);
            }
            out.put_slice(text.as_bytes());
        }
        (&Type::DATE, Scalar::Date(text) | Scalar::Text(text)) => {
            let date: jiff::civil::Date = text.parse().map_err(|_| Some(format!("`{}` is no date (YYYY-MM-DD)", short(text))))?;
            out.put_slice(&EPOCH_DATE.until(date).map_err(|error| Some(error.to_string()))?.get_days().to_be_bytes());
        }
        (&Type::TIME, Scalar::Time(text) | Scalar::Text(text)) => {
            let time: jiff::civil::Time = text.parse().map_err(|_| Some(format!("`{}` is no time (HH:MM:SS)", short(text))))?;
            let micros = MIDNIGHT.duration_until(time).as_micros();
            out.put_slice(&i64::try_from(micros).map_err(|_| None)?.to_be_bytes());
        }
        (&Type::TIMESTAMPTZ | &Type::TIMESTAMP, Scalar::Timestamp(micros)) => {
            out.put_slice(&micros.checked_sub(EPOCH_MICROS).ok_or_else(|| range(micros))?.to_be_bytes());
        }
        (&Type::TIMESTAMPTZ, Scalar::Text(text)) => {
            let at: jiff::Timestamp = text.parse().map_err(|_| Some(format!("`{}` is no RFC 3339 time", short(text))))?;
            out.put_slice(&(at.as_microsecond() - EPOCH_MICROS).to_be_bytes());
        }
        (ty, Scalar::Text(text)) if matches!(ty.kind(), Kind::Enum(_)) => plain(text, out)?,
        _ => return Err(None),
    }
    Ok(())
}

fn plain(text: &str, out: &mut BytesMut) -> Result<(), Misfit> {
    if text.contains('\0') {
        return Err(Some("PostgreSQL's text holds no NUL character".to_owned()));
    }
    out.put_slice(text.as_bytes());
    Ok(())
}

fn range(n: &i64) -> Misfit {
    Some(format!("{n} is out of range"))
}

fn array(values: &[Option<Scalar<'_>>], element: &Type) -> Result<BytesMut, Misfit> {
    // Each element has its length in front.
    let size: usize = values.iter().map(|value| 4 + value.as_ref().map_or(0, Scalar::size)).sum();
    let mut out = BytesMut::with_capacity(20 + size);
    let dimension = wire::ArrayDimension { len: i32::try_from(values.len()).map_err(|_| None)?, lower_bound: 1 };
    let mut misfit = None;
    let wrote = wire::array_to_sql(
        [dimension],
        element.oid(),
        values,
        |value, out| {
            let Some(value) = value else {
                return Ok(postgres_protocol::IsNull::Yes);
            };
            scalar(value, element, out).map_err(|reason| {
                misfit = Some(reason);
                "misfit"
            })?;
            Ok(postgres_protocol::IsNull::No)
        },
        &mut out,
    );
    match (wrote, misfit) {
        (Ok(()), _) => Ok(out),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Parameter<'_> {
        Parameter::One(Scalar::Text(text.into()))
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_with_both_types() {
        let error = encode(vec![Parameter::One(Scalar::Boolean(true)), text("x")], &[Type::BOOL, Type::UUID]).unwrap_err();
        assert_eq!(error, "parameter $2 is of type uuid, and the text given does not fit: `x` is no UUID");
        let error = encode(vec![text("x")], &[Type::BOOL]).unwrap_err();
        assert_eq!(error, "parameter $1 is of type bool, and the text given does not fit");
        let error = encode(vec![text("x")], &[Type::TEXT_ARRAY]).unwrap_err();
        assert_eq!(error, "parameter $1 is of type _text, and the text given does not fit");
        let error = encode(vec![Parameter::Many("text-array", vec![])], &[Type::TEXT]).unwrap_err();
        assert_eq!(error, "parameter $1 is of type text, and the text-array given does not fit");
        let error = encode(vec![Parameter::One(Scalar::Integer(40_000))], &[Type::INT2]).unwrap_err();
        assert!(error.contains("out of range"), "{error}");
        assert!(encode(vec![], &[Type::BOOL]).unwrap_err().contains("1 parameters, 0 were given"));
    }

    #[test]
    fn what_goes_out_comes_back() {
        let (one, id) = (Parameter::One, "0191c7a0-0000-7000-8000-000000000001");
        let cases = [
            (one(Scalar::Date("2024-02-29".into())), Type::DATE, Value::Date("2024-02-29".into())),
            (one(Scalar::Time("23:59:59.000001".into())), Type::TIME, Value::Time("23:59:59.000001".into())),
            (one(Scalar::Timestamp(-5)), Type::TIMESTAMPTZ, Value::Timestamp(-5)),
            (one(Scalar::Uuid(id.into())), Type::UUID, Value::Uuid(id.into())),
            (one(Scalar::Json("{\"a\":[1]}".into())), Type::JSONB, Value::Json("{\"a\":[1]}".into())),
            (
                Parameter::Many("text-array", vec![Some(Scalar::Text("a".into())), None]),
                Type::TEXT_ARRAY,
                Value::TextArray(vec![Some("a".into()), None]),
            ),
            (Parameter::Many("integer-array", vec![]), Type::INT4_ARRAY, Value::IntegerArray(vec![])),
            (
                Parameter::Many("uuid-array", vec![Some(Scalar::Uuid(id.into()))]),
                Type::UUID_ARRAY,
                Value::UuidArray(vec![Some(id.into())]),
            ),
        ];
        for (given, ty, expected) in cases {
            let Ok(Param::Binary(raw)) = parameter(&given, &ty) else { panic!("{given:?}") };
            assert_eq!(format!("{:?}", column(&raw, &ty).unwrap()), format!("{expected:?}"));
        }
    }
}
