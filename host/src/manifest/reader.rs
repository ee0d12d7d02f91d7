//! Reads a TOML text section by section. A wrong key or value becomes a problem with file and line, and reading goes on, so that one
//! run shows all of them (a derived `Deserialize` stops at the first).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    ops::{Range, RangeInclusive},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::{Problems, nearest};

/// The text that is read, and what was found wrong in it.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, found: RefCell::default() }
    }

    /// A problem at a place of the text.
    pub(super) fn problem(&self, span: &Range<usize>, message: impl Display) {
        let start = span.start.min(self.text.len());
        let line = self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        self.found.borrow_mut().push((line, message.to_string()));
    }

    /// The problems by line.
    pub(super) fn problems(self) -> Problems {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(line, _)| *line);
        let mut problems = Problems::default();
        for (line, message) in found {
            problems.add(format!("{}:{line}: {message}", self.name));
        }
        problems
    }
}

type Entry<'a> = (Range<usize>, Spanned<DeValue<'a>>);

/// One table of the text. Keys that nobody asked for are unknown ones: [`Section::end`] reports them.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    title: String,
    span: Range<usize>,
    entries: BTreeMap<String, Entry<'a>>,
    asked: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole text; `None` if it is no TOML.
    pub(super) fn root(source: &'a Source<'a>) -> Option<Self> {
        match DeTable::parse(source.text) {
            Ok(table) => Some(Self::new(source, String::new(), 0..0, table.into_inner())),
            Err(error) => {
                source.problem(&error.span().unwrap_or(0..0), error.message());
                None
            }
        }
    }

    fn new(source: &'a Source<'a>, title: String, span: Range<usize>, table: DeTable<'a>) -> Self {
        let entries = table.into_iter().map(|(key, value)| {
            let span = key.span();
            (key.into_inner().into_owned(), (span, value))
        });
        Self { source, title, span, entries: entries.collect(), asked: BTreeSet::new() }
    }

    /// The heading, for messages.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// A problem with the section as a whole.
    pub(super) fn problem(&self, message: impl Display) {
        self.source.problem(&self.span, message);
    }

    fn take(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.asked.insert(key);
        self.entries.remove(key)
    }

    fn wrong(&self, key: &str, entry: &Entry<'a>, wanted: &str) {
        let (span, value) = entry;
        self.source.problem(span, format!("`{key}` must be {wanted}, not {}", kind(value.get_ref())));
    }

    /// A text, parsed further; a failure is a problem at its line.
    pub(super) fn text<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let entry = self.take(key)?;
        match entry.1.get_ref() {
            DeValue::String(text) => parse(text).map_err(|error| self.source.problem(&entry.0, format!("`{key}`: {error}"))).ok(),
            _ => {
                self.wrong(key, &entry, "a text");
                None
            }
        }
    }

    /// Like [`Section::text`], and absence is a problem.
    pub(super) fn need_text<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.lacks(key);
        }
        self.text(key, parse)
    }

    fn lacks(&mut self, key: &'static str) {
        let title = if self.title.is_empty() { String::new() } else { format!("{}: ", self.title) };
        self.problem(format!("{title}`{key}` is missing"));
    }

    /// A whole number of a range.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let entry = self.take(key)?;
        let DeValue::Integer(number) = entry.1.get_ref() else {
            self.wrong(key, &entry, "a whole number");
            return None;
        };
        let digits = number.as_str().replace('_', "");
        let value = u64::from_str_radix(&digits, number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let (from, to) = range.into_inner();
            self.source.problem(&entry.0, format!("`{key}`: {digits} is not between {from} and {to}"));
        }
        value
    }

    /// Like [`Section::number`], and absence is a problem.
    pub(super) fn need_number(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        if !self.entries.contains_key(key) {
            self.lacks(key);
        }
        self.number(key, range)
    }

    /// A list of texts, each parsed further; the good ones.
    pub(super) fn texts(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<String, String>) -> Option<Vec<String>> {
        let entry = self.take(key)?;
        let DeValue::Array(items) = entry.1.get_ref() else {
            self.wrong(key, &entry, "a list of texts");
            return None;
        };
        let mut good = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => match parse(text) {
                    Ok(text) => good.push(text),
                    Err(error) => self.source.problem(&item.span(), format!("`{key}`: {error}")),
                },
                other => self.source.problem(&item.span(), format!("`{key}` must be a list of texts, not of {}", kind(other))),
            }
        }
        Some(good)
    }

    /// A table `[key]`.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let (span, value) = self.take(key)?;
        match value.into_inner() {
            DeValue::Table(table) => Some(Self::new(self.source, format!("[{key}]"), span, table)),
            other => {
                self.source.problem(&span, format!("`{key}` must be a section `[{key}]`, not {}", kind(&other)));
                None
            }
        }
    }

    /// Tables `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some((span, value)) = self.take(key) else {
            return Vec::new();
        };
        let wrong = |span: &Range<usize>, found: &DeValue<'_>| {
            self.source.problem(span, format!("`{key}` must be sections `[[{key}]]` with two brackets, not {}", kind(found)));
        };
        let DeValue::Array(items) = value.get_ref() else {
            wrong(&span, value.get_ref());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Self::new(self.source, format!("[[{key}]]"), item.span(), table.clone()));
                }
                other => wrong(&item.span(), other),
            }
        }
        sections
    }

    /// Tables `[key."name"]` under names that the author chose.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(String, Section<'a>)> {
        let Some(section) = self.section(key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, (span, value)) in section.entries {
            match value.into_inner() {
                DeValue::Table(table) => {
                    let title = format!("[{key}.\"{name}\"]");
                    sections.push((name, Self::new(self.source, title, span, table)));
                }
                other => {
                    let found = kind(&other);
                    self.source.problem(&span, format!("`{key}` has sections `[{key}.\"name\"]`; `{name}` is {found}"));
                }
            }
        }
        sections
    }

    /// A key that a later version will read.
    pub(super) fn reserved(&mut self, key: &'static str) {
        if let Some((span, _)) = self.take(key) {
            self.source.problem(&span, format!("`{key}` comes with a later version: remove it for now"));
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn end(self) {
        let title = if self.title.is_empty() { "a manifest".to_owned() } else { format!("`{}`", self.title) };
        for (key, (span, _)) in &self.entries {
            let known = || self.asked.iter().copied();
            let hint = match nearest(key, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.asked.is_empty() => "it has none".to_owned(),
                None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
            };
            self.source.problem(span, format!("{title} has no key `{key}`; {hint}"));
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
