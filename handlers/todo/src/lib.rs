//! What the todo product's handlers agree on: what a task may be, when it comes again, when its user is reminded, and what tells of it.
//!
//! A library, no handler: two components that publish the same event, or that state the same date, must not each have their own idea of it.

pub mod calendar;
pub mod events;
mod jsonb;
pub mod reminders;

pub use jsonb::unkept;

/// Characters of a user's id, at most; at least one.
pub const USER_LENGTH: usize = 128;
/// Characters of a title, at most; at least one.
pub const TITLE_LENGTH: usize = 200;
/// Characters of a description, at most.
pub const DESCRIPTION_LENGTH: usize = 4_000;
/// Tags of a task, at most.
pub const TAGS: usize = 20;
/// Characters of a tag, at most.
pub const TAG_LENGTH: usize = 50;
/// The priorities.
pub const PRIORITIES: [&str; 3] = ["low", "medium", "high"];
/// The priority of a task that has none of its own.
pub const DEFAULT_PRIORITY: &str = "medium";

/// A date as tasks have them: `YYYY-MM-DD` from year 1 on, since PostgreSQL knows no year 0.
pub fn date(text: &str) -> Option<jiff::civil::Date> {
    match digits(text, "YYYY-MM-DD")?[..] {
        [year, month, day] if year > 0 => jiff::civil::Date::new(year, month.try_into().ok()?, day.try_into().ok()?).ok(),
        _ => None,
    }
}

/// Whether a text is a time of day as tasks have them: `HH:MM`.
pub fn is_time(text: &str) -> bool {
    matches!(digits(text, "HH:MM").as_deref(), Some([0..=23, 0..=59]))
}

/// The numbers of a text that has digits where the pattern has letters, and the pattern's signs between them.
fn digits(text: &str, pattern: &str) -> Option<Vec<i16>> {
    let fits = |(digit, place): (u8, u8)| {
        if place.is_ascii_alphabetic() { digit.is_ascii_digit() } else { digit == place }
    };
    if text.len() != pattern.len() || !text.bytes().zip(pattern.bytes()).all(fits) {
        return None;
    }
    text.split(|sign: char| !sign.is_ascii_digit()).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_exact() {
        for text in ["0001-01-01", "2028-02-29", "9999-12-31"] {
            assert_eq!(date(text).map(|date| date.to_string()).as_deref(), Some(text));
        }
        for text in ["2026-02-29", "2026-13-01", "0000-01-01", "2026-2-10", "2026-02-10T00:00", "2026-02-1é", "-026-02-10", ""] {
            assert_eq!(date(text), None, "{text}");
        }
        assert!(is_time("00:00") && is_time("23:59"));
        for text in ["24:00", "12:60", "9:30", "09:30:00", "09.30", "+9:30", ""] {
            assert!(!is_time(text), "{text}");
        }
    }
}
