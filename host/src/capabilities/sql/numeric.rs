//! PostgreSQL's binary form of `numeric`: base-10,000 digits, a weight, a sign and a display scale
//! (`src/backend/utils/adt/numeric.c`, `numeric_recv`).

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// The decimal notation of a binary numeric.
pub(super) fn to_text(raw: &[u8]) -> Option<String> {
    let word = |i: usize| Some(u16::from_be_bytes([*raw.get(2 * i)?, *raw.get(2 * i + 1)?]));
    let (count, weight, sign, scale) = (word(0)? as usize, word(1)? as i16, word(2)?, word(3)? as usize);
    let mut text = String::new();
    match sign {
        POSITIVE => {}
        NEGATIVE => text.push('-'),
        NAN => return Some("NaN".to_owned()),
        INFINITY => return Some("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Some("-Infinity".to_owned()),
        _ => return None,
    }
    let digit = |position: i32| -> Option<u16> {
        // Digits that are not there are zeros.
        let index = i32::from(weight) - position;
        match usize::try_from(index) {
            Ok(index) if index < count => word(4 + index),
            _ => Some(0),
        }
    };
    match weight < 0 {
        true => text.push('0'),
        false => {
            for position in (0..=i32::from(weight)).rev() {
                let value = digit(position)?;
                match position == i32::from(weight) {
                    true => text.push_str(&value.to_string()),
                    false => text.push_str(&format!("{value:04}")),
                }
            }
        }
    }
    if scale > 0 {
        let mut decimals = String::new();
        let mut position = -1;
        while decimals.len() < scale {
            decimals.push_str(&format!("{:04}", digit(position)?));
            position -= 1;
        }
        text.push('.');
        text.push_str(decimals.get(..scale)?);
    }
    Some(text)
}

/// Whether a text is a number that PostgreSQL's `numeric` takes.
pub(super) fn is_numeric(text: &str) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sound = digits(whole) && digits(decimals) && !(whole.is_empty() && decimals.is_empty());
    sound
        && exponent.is_none_or(|e| {
            !e.trim_start_matches(['-', '+']).is_empty() && e.len() < 6 && digits(e.trim_start_matches(['-', '+']))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn binary_numerics_read_as_decimals() {
        assert_eq!(to_text(&raw(&[2, 0, 0, 2, 12, 5000])).as_deref(), Some("12.50"));
        assert_eq!(to_text(&raw(&[2, 1, NEGATIVE, 0, 1, 2])).as_deref(), Some("-10002"));
        assert_eq!(to_text(&raw(&[1, 0xFFFF, 0, 4, 5])).as_deref(), Some("0.0005"));
        assert_eq!(to_text(&raw(&[1, 2, 0, 0, 1])).as_deref(), Some("100000000"));
        assert_eq!(to_text(&raw(&[0, 0, 0, 0])).as_deref(), Some("0"));
        assert_eq!(to_text(&raw(&[0, 0, NAN, 0])).as_deref(), Some("NaN"));
        assert_eq!(to_text(&[0]), None);
    }

    #[test]
    fn only_numbers_are_numeric() {
        for good in ["0", "-12.50", ".5", "5.", "1e9", "+1E-3", "NaN"] {
            assert!(is_numeric(good), "{good}");
        }
        for bad in ["", "-", ".", "1,5", "0x1", "1e", "ten", "1 "] {
            assert!(!is_numeric(bad), "{bad}");
        }
    }
}
