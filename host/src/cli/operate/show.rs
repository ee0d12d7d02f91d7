//! How rows are printed: aligned columns for people, one document with `--json`.

use crate::store::operate::{Bytes, Detail, Page, Report, Time};
use jiff::Timestamp;
use serde::Serialize;
use std::fmt::Display;
use std::io::Write as _;

/// Rows of a report that people see; those that failed are all shown.
const SHOWN: usize = 50;
/// Characters of a cell; the last one of a line, and what became of a row, have more room.
const CELL: usize = 40;
const LAST_CELL: usize = 120;

/// A row in columns.
pub(super) trait Columns: Serialize {
    /// The names of the columns after the number.
    const NAMES: &'static [&'static str];

    /// The cells under them.
    fn cells(&self) -> Vec<String>;

    /// What the row is known by: its number, or its name.
    fn id(&self) -> String;

    /// Everything of it, for one alone.
    fn fields(&self) -> Vec<(&'static str, String)>;
}

/// Prints a page; `next` is the flag that leads on.
pub(super) fn page<T: Columns, N: Display + Serialize>(
    page: &Page<T, N>,
    json: bool,
    what: &str,
    next: &str,
) -> anyhow::Result<()> {
    if json {
        return document(page);
    }
    if page.rows.is_empty() {
        return print(&format!("no {what}\n"));
    }
    let rows = page.rows.iter().map(|row| [vec![row.id()], row.cells()].concat());
    let mut text = table(&[&["ID"], T::NAMES].concat(), rows);
    if let Some(id) = &page.next {
        text += &format!("there are more: {next} {id}\n");
    }
    print(&text)
}

/// Prints one row whole.
pub(super) fn detail<T: Columns>(detail: &Detail<T>, json: bool) -> anyhow::Result<()> {
    if json {
        return document(detail);
    }
    let mut fields = detail.row.fields();
    fields.retain(|(_, value)| !value.is_empty());
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in fields {
        text += &format!("{name:width$}  {}\n", clean(&value));
    }
    if !detail.headers.is_empty() {
        text += "\nheaders\n";
    }
    for header in &detail.headers {
        let value = header.value.as_ref().map_or("(none)".to_owned(), Bytes::to_string);
        text += &format!("  {}: {}\n", clean(&header.name), clean(&value));
    }
    let value = detail.value.as_ref().map_or("(none)".to_owned(), |value| Bytes(value.clone()).to_string());
    let value: Vec<_> = value.lines().map(clean).collect();
    print(&format!("{text}\nvalue\n{}\n", value.join("\n")))
}

/// Prints what became of an order, and fails if something was not done that should have been. `done` says what was done, such as
/// `discarded`.
pub(super) fn report<T: Columns, I: Display + Serialize>(report: &Report<T, I>, json: bool, done: &str) -> anyhow::Result<()> {
    if json {
        document(report)?;
    } else {
        print(&reported(report, done))?;
    }
    match report.failed {
        0 => Ok(()),
        failed => anyhow::bail!(
            "{failed} of {} rows {}",
            report.rows.len(),
            match report.dry_run {
                true => "would not be done; the table says why",
                false => "are not done; the table says why",
            }
        ),
    }
}

fn reported<T: Columns, I: Display>(report: &Report<T, I>, done: &str) -> String {
    if report.rows.is_empty() {
        return "no such row: nothing to do\n".to_owned();
    }
    let shown = report.rows.iter().enumerate().filter(|(n, row)| *n < SHOWN || row.failed).map(|(_, row)| row);
    let lines: Vec<_> = shown
        .map(|row| {
            let cells = row.row.as_ref().map_or_else(|| vec![String::new(); T::NAMES.len()], Columns::cells);
            let outcome = vec![row.id.to_string(), row.outcome.to_owned(), row.detail.clone().unwrap_or_default()];
            [outcome, cells].concat()
        })
        .collect();
    let hidden = report.rows.len() - lines.len();
    let mut text = table(&[&["ID", "OUTCOME", "DETAIL"], T::NAMES].concat(), lines.into_iter());
    if hidden > 0 {
        text += &format!("… and {hidden} more\n");
    }
    let (changed, all) = (report.changed, report.rows.len());
    text += &match report.dry_run {
        true => {
            format!("\nDry run, nothing was changed: {changed} of {all} would be {done}. To do it: the same command with --yes\n")
        }
        false => format!("\n{changed} of {all} {done}\n"),
    };
    text += &match &report.next {
        Some(next) => format!("There are more rows than one call changes: go on with --after {next}\n"),
        None if report.more => "There are more rows than one call changes: repeat it.\n".to_owned(),
        None => String::new(),
    };
    text
}

/// Prints one JSON document.
pub(in crate::cli) fn document(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A reader that has gone away (`| head`) is no failure.
pub(in crate::cli) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Columns as wide as their widest cell.
pub(in crate::cli) fn table(names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.map(|row| {
        let roomy = |n: usize| n + 1 == names.len() || names[n] == "DETAIL";
        row.iter().enumerate().map(|(n, cell)| cut(&clean(cell), if roomy(n) { LAST_CELL } else { CELL })).collect()
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |line: &Vec<String>| {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// Data of others must not move the cursor, nor anything else that control characters do on a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// A key as a cell.
pub(super) fn key(key: &Option<Bytes>) -> String {
    key.as_ref().map_or("(none)".to_owned(), Bytes::to_string)
}

/// A moment or nothing.
pub(super) fn time(time: &Option<Time>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// A text or nothing.
pub(in crate::cli) fn or_nothing<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(T::to_string).unwrap_or_default()
}

/// How far away a moment is, in its largest unit.
pub(in crate::cli) fn distance(time: Time) -> String {
    let seconds = Timestamp::now().duration_since(time.0).as_secs().unsigned_abs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3_600 => (seconds / 60, "m"),
        3_600..86_400 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{count}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_moves_the_cursor() {
        let rows =
            [vec!["1".to_owned(), "ann\u{1b}[2J".to_owned(), "x".to_owned()], vec!["22".into(), "b".repeat(50), String::new()]];
        let text = table(&["ID", "KEY", "ERROR"], rows.into_iter());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], format!("1   ann\u{fffd}[2J{}x", " ".repeat(40 - 7 + 2)));
        assert_eq!(lines[2], format!("22  {}…", "b".repeat(39)));
        assert_eq!(lines[0].find("ERROR"), Some(46));
    }
}
