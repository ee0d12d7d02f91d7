//! JSON that PostgreSQL's jsonb does not keep.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Longer JSON is read in full: shorter JSON has no room for values within values that are too deep for a server.
const LONG: usize = 5_000;
/// A digit, the `e` of an exponent and so many more characters are a number that is read in full: jsonb keeps some 130,000 digits before the point.
const LARGE: usize = 6;

/// Why jsonb does not keep this JSON, if it does not: U+0000 or half of a surrogate pair in a text or name, a number beyond all bounds, or values
/// within values without end. A statement that meets it fails for the whole batch.
pub fn unkept(json: &str) -> Option<String> {
    // Most JSON has nothing that could be it, and then one look at its bytes is enough.
    if !is_suspect(json.as_bytes()) {
        return None;
    }
    match serde_json::from_str::<Nul>(json) {
        Ok(Nul(false)) => None,
        Ok(Nul(true)) => Some("the character U+0000 can't be recorded".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Whether there may be something: an escape, much depth, a number with a large exponent. Texts may look like it.
fn is_suspect(json: &[u8]) -> bool {
    json.len() > LONG
        || (0..).zip(json).any(|(place, byte)| match byte {
            b'\\' => true,
            b'e' | b'E' => is_large(json, place),
            _ => false,
        })
}

/// Whether an `e` is that of a large exponent.
fn is_large(json: &[u8], place: usize) -> bool {
    let before = place.checked_sub(1).and_then(|before| json.get(before));
    let behind = json.get(place + 1..place + 1 + LARGE);
    match (before, behind) {
        (Some(digit), Some([sign, digits @ ..])) if digit.is_ascii_digit() => {
            (*sign == b'+' || sign.is_ascii_digit()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// Whether U+0000 is in it. Reading JSON as this builds nothing, unlike a `serde_json::Value`.
struct Nul(bool);

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

#[cfg(test)]
mod tests {
    use super::unkept;

    #[test]
    fn what_jsonb_refuses_is_found_and_nothing_like_it_is() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for (json, is_kept) in [
            (r#"{"a":["b",{"c":"d\u0000e"}]}"#, false),
            (r#"{"a":{"b\u0000":1}}"#, false),
            (r#"{"a":"\u00001"}"#, false),
            (r#"{"a":"\ud800"}"#, false),
            (r#"{"a":"\ud83d\ude00"}"#, true),
            (r#"{"a":"\\u0000"}"#, true),
            (r#"{"a":"\u0001","b":null,"c":1.5,"d":true}"#, true),
            (r#"{"a":"u0000"}"#, true),
            (r#"{"a":1e999999}"#, false),
            (r#"{"a":-1.5E+999999}"#, false),
            (r#"{"a":1e300,"b":"019e12345-7e999999"}"#, true),
            (&deep(2_000), true),
            (&deep(10_000), false),
        ] {
            assert_eq!(unkept(json).is_none(), is_kept, "{json}");
        }
    }
}
