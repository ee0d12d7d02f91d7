//! Durations and sizes as people write them: `500ms`, `10s`, `5m`, `7d`; `64KiB`, `1MiB`.
//!
//! The configuration and the manifests share this one parser. A number without a unit is refused, because nobody
//! remembers whether it meant seconds or milliseconds.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATIONS)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is no duration such as `500ms`, `10s`, `5m`, `12h` or `7d`"))
}

/// Reads a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| format!("`{text}` is no size such as `512B`, `64KiB`, `1MiB` or `2GiB`"))
}

/// Writes a duration in the largest unit that loses nothing; [`parse_duration`] reads it back. Below a millisecond is cut off.
pub fn display_duration(value: Duration) -> String {
    displayed(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &DURATIONS, "0s")
}

/// Writes a size in the largest unit that loses nothing; [`parse_size`] reads it back.
pub fn display_size(bytes: u64) -> String {
    displayed(bytes, &SIZES, "0B")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn displayed(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    match units.iter().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_and_written_alike() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("12h", 43_200_000), ("7d", 604_800_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
            assert_eq!(display_duration(Duration::from_millis(millis)), text);
        }
        for (text, bytes) in [("1B", 1), ("900KiB", 921_600), ("64MiB", 67_108_864), ("2GiB", 2_147_483_648)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(display_size(bytes), text);
        }
        assert_eq!(display_duration(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(display_duration(Duration::ZERO), "0s");
        assert_eq!(display_size(0), "0B");
    }

    #[test]
    fn what_is_no_number_with_a_unit_is_refused() {
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "1w", "99999999999999999999s", "9999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "10", "1MB", "1mib", "1 KiB", "-1B", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("10").unwrap_err(), "`10` is no duration such as `500ms`, `10s`, `5m`, `12h` or `7d`");
    }
}
