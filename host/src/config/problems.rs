//! Several things wrong at once, and the name that was probably meant.

use std::fmt;

/// Everything that is wrong with what a person wrote, one line each, so that one run shows all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds one line.
    pub fn add(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }

    /// Adds all lines of another list.
    pub fn extend(&mut self, other: Problems) {
        self.0.extend(other.0);
    }

    /// Keeps the value of a success, the lines of a failure.
    pub fn keep<T>(&mut self, result: Result<T, Problems>) -> Option<T> {
        result.map_err(|problems| self.extend(problems)).ok()
    }

    /// The lines, in the order in which they were found.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// `Ok` with the value if nothing was found.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl From<String> for Problems {
    fn from(line: String) -> Self {
        Self(vec![line])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The known name nearest to a mistyped one, if one is near enough to have been meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = 1 + typed.chars().count() / 4;
    known
        .into_iter()
        .map(|name| (distance(typed, name), name))
        .filter(|(distance, name)| *distance <= allowed || (typed.len() >= 3 && name.starts_with(typed)))
        .min()
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace one character, or swap two neighbours) that turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        let known = ["http", "topic", "topics", "publish", "limits", "migrations"];
        assert_eq!(nearest("topc", known), Some("topic"));
        assert_eq!(nearest("pulbish", known), Some("publish"));
        assert_eq!(nearest("Limits", known), Some("limits"));
        assert_eq!(nearest("migr", known), Some("migrations"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn problems_are_shown_one_per_line() {
        let mut problems = Problems::from("first".to_owned());
        problems.add("second");
        assert_eq!(problems.to_string(), "first\nsecond");
    }
}
