//! Points in time with the precision that PostgreSQL keeps.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time in microseconds since 1970-01-01T00:00:00Z.
///
/// In JSON it is RFC 3339 text in UTC, without a fraction for a whole second and with all six digits otherwise, as the host writes the
/// time of an event; in SQL it is a `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Now, by the host's clock.
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

impl Timestamp {
    /// The name under which it asks a row's deserializer for microseconds instead of text.
    pub(crate) const SERDE_NAME: &'static str = "$tidemill::Timestamp";

    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since 1970-01-01T00:00:00Z, as Kafka has them.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whether PostgreSQL has such a time; a statement with another fails. Its first year is 4713 BC, its last 294276.
    pub const fn is_storable(self) -> bool {
        -200_000_000_000_000_000 <= self.0 && self.0 < 9_000_000_000_000_000_000
    }

    /// As a [`jiff::Timestamp`]; beyond the years that it knows, its end.
    pub fn to_jiff(self) -> jiff::Timestamp {
        let end = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(end)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.to_jiff();
        // Never five digits for what ends in a zero: texts of one column then have one width, and sort like their times.
        if time.subsec_nanosecond() == 0 { time.fmt(f) } else { write!(f, "{time:.6}") }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(Self::SERDE_NAME, Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time in RFC 3339, such as 2026-02-10T09:30:00Z")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Timestamp, D::Error> {
        deserializer.deserialize_str(self)
    }

    fn visit_i64<E: de::Error>(self, micros: i64) -> Result<Timestamp, E> {
        Ok(Timestamp(micros))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_rfc_3339_in_utc_with_microseconds() {
        let time = Timestamp::from_micros(1_770_715_800_123_456);
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-02-10T09:30:00.123456Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>("\"2026-02-10T10:30:00.123456+01:00\"").unwrap(), time);
        assert_eq!(Timestamp::from_micros(1_770_715_800_123_450).to_string(), "2026-02-10T09:30:00.123450Z");
        assert_eq!(Timestamp::from_micros(1_770_715_800_100_000).to_string(), "2026-02-10T09:30:00.100000Z");
        assert_eq!(Timestamp::from_micros(1_770_715_800_000_000).to_string(), "2026-02-10T09:30:00Z");
        assert!(serde_json::from_str::<Timestamp>("\"soon\"").is_err());
        assert!(serde_json::from_str::<Timestamp>("17").is_err());
    }

    #[test]
    fn what_postgresql_has_no_time_for_is_known() {
        assert!(Timestamp::from_micros(0).is_storable() && Timestamp::from_micros(-200_000_000_000_000_000).is_storable());
        assert!(!Timestamp::from_micros(i64::MAX).is_storable() && !Timestamp::from_micros(i64::MIN).is_storable());
    }

    #[test]
    fn any_number_of_microseconds_can_be_shown() {
        assert!(Timestamp::from_micros(i64::MAX).to_string().starts_with("9999-"));
        assert!(Timestamp::from_micros(i64::MIN).to_string().starts_with('-'));
    }
}
