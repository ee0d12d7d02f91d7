//! The character U+0000, which PostgreSQL keeps neither in text nor in jsonb.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Whether a JSON value has U+0000 in any text or name. Reading it as this builds nothing, unlike a `serde_json::Value`.
pub struct Nul(pub bool);

impl<'de> Deserialize<'de> for Nul {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NulVisitor)
    }
}

struct NulVisitor;

macro_rules! never {
    ($($method:ident $type:ty;)*) => {$(
        fn $method<E: de::Error>(self, _: $type) -> Result<Nul, E> {
            Ok(Nul(false))
        }
    )*};
}

impl<'de> Visitor<'de> for NulVisitor {
    type Value = Nul;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    never! { visit_bool bool; visit_i64 i64; visit_u64 u64; visit_f64 f64; }

    fn visit_unit<E: de::Error>(self) -> Result<Nul, E> {
        Ok(Nul(false))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Nul, E> {
        Ok(Nul(text.contains('\0')))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Nul, A::Error> {
        let mut found = false;
        while let Some(Nul(nul)) = items.next_element()? {
            found |= nul;
        }
        Ok(Nul(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Nul, A::Error> {
        let mut found = false;
        while let Some((Nul(name), Nul(value))) = members.next_entry()? {
            found |= name | value;
        }
        Ok(Nul(found))
    }
}
