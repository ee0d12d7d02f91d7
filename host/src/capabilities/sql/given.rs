//! The parameters of a statement, as they lie in the guest's memory. A guest stands still in its call, so they stay what they are.

use std::borrow::Cow;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, WasmList, WasmStr};

/// `value` of `tidemill:sql/sql`, as a parameter: its texts are not copied. The cases are those of the WIT text, in its order.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Given {
    #[component(name = "null")]
    Null,
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "float")]
    Float(f64),
    #[component(name = "text")]
    Text(WasmStr),
    #[component(name = "bytes")]
    Bytes(WasmList<u8>),
    #[component(name = "numeric")]
    Numeric(WasmStr),
    #[component(name = "json")]
    Json(WasmStr),
    #[component(name = "uuid")]
    Uuid(WasmStr),
    #[component(name = "date")]
    Date(WasmStr),
    #[component(name = "time")]
    Time(WasmStr),
    #[component(name = "timestamp")]
    Timestamp(i64),
    #[component(name = "boolean-array")]
    BooleanArray(Vec<Option<bool>>),
    #[component(name = "integer-array")]
    IntegerArray(Vec<Option<i64>>),
    #[component(name = "float-array")]
    FloatArray(Vec<Option<f64>>),
    #[component(name = "text-array")]
    TextArray(Vec<Option<WasmStr>>),
    #[component(name = "bytes-array")]
    BytesArray(Vec<Option<WasmList<u8>>>),
    #[component(name = "json-array")]
    JsonArray(Vec<Option<WasmStr>>),
    #[component(name = "uuid-array")]
    UuidArray(Vec<Option<WasmStr>>),
    #[component(name = "timestamp-array")]
    TimestampArray(Vec<Option<i64>>),
}

/// A parameter.
#[derive(Debug)]
pub(super) enum Parameter<'a> {
    Null,
    One(Scalar<'a>),
    /// An array, with the name of its case.
    Many(&'static str, Vec<Option<Scalar<'a>>>),
}

/// One value of a parameter.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    Numeric(Cow<'a, str>),
    Json(Cow<'a, str>),
    Uuid(Cow<'a, str>),
    Date(Cow<'a, str>),
    Time(Cow<'a, str>),
    Timestamp(i64),
}

impl Given {
    /// What it stands for. Text that is no UTF-8 ends the guest, as the canonical ABI says.
    pub(super) fn borrow<'a, T: 'static>(&self, store: &'a StoreContextMut<'_, T>) -> wasmtime::Result<Parameter<'a>> {
        let one = |scalar| Ok(Parameter::One(scalar));
        match self {
            Self::Null => Ok(Parameter::Null),
            Self::Boolean(value) => one(Scalar::Boolean(*value)),
            Self::Integer(value) => one(Scalar::Integer(*value)),
            Self::Float(value) => one(Scalar::Float(*value)),
            Self::Text(text) => one(Scalar::Text(text.to_str(store)?)),
            Self::Bytes(bytes) => one(Scalar::Bytes(bytes.as_le_slice(store))),
            Self::Numeric(text) => one(Scalar::Numeric(text.to_str(store)?)),
            Self::Json(text) => one(Scalar::Json(text.to_str(store)?)),
            Self::Uuid(text) => one(Scalar::Uuid(text.to_str(store)?)),
            Self::Date(text) => one(Scalar::Date(text.to_str(store)?)),
            Self::Time(text) => one(Scalar::Time(text.to_str(store)?)),
            Self::Timestamp(micros) => one(Scalar::Timestamp(*micros)),
            Self::BooleanArray(list) => many("boolean-array", list, |value| Ok(Scalar::Boolean(*value))),
            Self::IntegerArray(list) => many("integer-array", list, |value| Ok(Scalar::Integer(*value))),
            Self::FloatArray(list) => many("float-array", list, |value| Ok(Scalar::Float(*value))),
            Self::TextArray(list) => many("text-array", list, |text| Ok(Scalar::Text(text.to_str(store)?))),
            Self::BytesArray(list) => many("bytes-array", list, |bytes| Ok(Scalar::Bytes(bytes.as_le_slice(store)))),
            Self::JsonArray(list) => many("json-array", list, |text| Ok(Scalar::Json(text.to_str(store)?))),
            Self::UuidArray(list) => many("uuid-array", list, |text| Ok(Scalar::Uuid(text.to_str(store)?))),
            Self::TimestampArray(list) => many("timestamp-array", list, |micros| Ok(Scalar::Timestamp(*micros))),
        }
    }
}

fn many<'a, T>(
    name: &'static str,
    list: &[Option<T>],
    each: impl Fn(&T) -> wasmtime::Result<Scalar<'a>>,
) -> wasmtime::Result<Parameter<'a>> {
    let mut values = Vec::with_capacity(list.len());
    for value in list {
        values.push(value.as_ref().map(&each).transpose()?);
    }
    Ok(Parameter::Many(name, values))
}

impl Scalar<'_> {
    /// About how many bytes it takes on its way to the server.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) | Self::Numeric(text) => text.len() + 1,
            Self::Bytes(bytes) => bytes.len(),
            _ => 16,
        }
    }
}

impl Parameter<'_> {
    /// The name of its case in the WIT text.
    pub(super) fn case(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Many(name, _) => name,
            Self::One(scalar) => match scalar {
                Scalar::Boolean(_) => "boolean",
                Scalar::Integer(_) => "integer",
                Scalar::Float(_) => "float",
                Scalar::Text(_) => "text",
                Scalar::Bytes(_) => "bytes",
                Scalar::Numeric(_) => "numeric",
                Scalar::Json(_) => "json",
                Scalar::Uuid(_) => "uuid",
                Scalar::Date(_) => "date",
                Scalar::Time(_) => "time",
                Scalar::Timestamp(_) => "timestamp",
            },
        }
    }
}
