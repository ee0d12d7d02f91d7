//! Where settings come from: flag over environment over file over default.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Problems, nearest,
    settings::{CONFIG_ENV, CONFIG_FILE, CONFIG_FLAG, Command, SETTINGS, Setting},
};

/// Looks a name up: an environment variable, or a flag by the setting's key.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The outside of the configuration, so that tests need neither process environment nor current folder.
pub struct Sources<'a> {
    /// Flags by the key of their setting; `config` is the file's flag.
    pub flag: Lookup<'a>,
    /// Environment variables by name.
    pub env: Lookup<'a>,
    /// Where `tidemill.toml` is looked for.
    pub folder: &'a Path,
}

/// A value with the place that it came from, for errors.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) place: String,
}

/// The text of every setting that the command reads.
pub(super) struct Values {
    found: BTreeMap<&'static str, Found>,
}

impl Values {
    pub(super) fn read(command: Command, sources: &Sources<'_>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let file = problems.keep(File::read(sources)).unwrap_or_default();
        let mut found = BTreeMap::new();
        for setting in SETTINGS.iter().filter(|setting| setting.commands.contains(&command)) {
            match find(setting, sources, &file) {
                Ok(Some(value)) => {
                    found.insert(setting.key, value);
                }
                Ok(None) if setting.required.contains(&command) => problems.add(missing(setting, command)),
                Ok(None) => {}
                Err(found) => problems.extend(found),
            }
        }
        problems.into_result(Some(Self { found }))
    }

    /// The value of one setting, parsed; a failure becomes a problem that names the place and, unless it is a secret, the value.
    pub(super) fn parse<T>(&self, key: &str, problems: &mut Problems, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        debug_assert!(SETTINGS.iter().any(|setting| setting.key == key), "`{key}` is in no table");
        let found = self.found.get(key)?;
        parse(&found.text).map_err(|error| problems.add(format!("{}: {error}", found.place))).ok()
    }
}

impl Values {
    /// Where the setting was given, for errors; nothing if it was not.
    pub(super) fn place(&self, key: &str) -> Option<&str> {
        debug_assert!(SETTINGS.iter().any(|setting| setting.key == key), "`{key}` is in no table");
        self.found.get(key).map(|found| found.place.as_str())
    }
}

/// All keys that the file may have.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| [Some(setting.key), setting.file.map(|file| file.key)]).flatten()
}

/// What a command says that lacks a required setting.
pub(super) fn missing(setting: &Setting, command: Command) -> String {
    format!("`tidemill {}` needs `{}`: give {}", command.name(), setting.key, setting.ways())
}

/// The first place that has the setting.
fn find(setting: &Setting, sources: &Sources<'_>, file: &File) -> Result<Option<Found>, Problems> {
    let flag = |key: &str| (sources.flag)(key).map(|text| Found { text, place: format!("--{}", key.replace('_', "-")) });
    let env = |name: &str| {
        // An orchestrator that can't leave a variable out gives an empty one.
        let text = (sources.env)(name).filter(|text| !text.is_empty())?;
        Some(Found { text, place: name.to_owned() })
    };
    let file = |key: &str| {
        let (text, line) = file.entries.get(key)?;
        Some(Found { text: text.clone(), place: format!("{}:{line}: `{key}`", file.path.display()) })
    };
    let named = setting.file.as_ref();
    let levels = [
        (flag(setting.key), named.and_then(|form| flag(form.key))),
        (env(setting.env), named.and_then(|form| env(form.env))),
        (file(setting.key), named.and_then(|form| file(form.key))),
    ];
    for (value, path) in levels {
        match (value, path) {
            (Some(value), Some(path)) => {
                return Err(format!("{} and {} are both given: give one", value.place, path.place).into());
            }
            (Some(value), None) => return Ok(Some(value)),
            (None, Some(path)) => return content(path).map(Some).map_err(Problems::from),
            (None, None) => {}
        }
    }
    Ok(setting.default.map(|text| Found { text: text.to_owned(), place: format!("default of `{}`", setting.key) }))
}

/// The value that stands in the file that was named. A failure does not repeat the name: often it is the secret itself, put into the
/// wrong variable.
fn content(path: Found) -> Result<Found, String> {
    match std::fs::read_to_string(&path.text) {
        Ok(text) => Ok(Found { text: text.trim_end().to_owned(), place: format!("{} ({})", path.place, path.text) }),
        Err(error) => Err(format!("{}: can't read the file that it names: {error}", path.place)),
    }
}

/// The entries of `tidemill.toml` with their lines.
#[derive(Default)]
struct File {
    path: PathBuf,
    entries: BTreeMap<String, (String, usize)>,
}

impl File {
    fn read(sources: &Sources<'_>) -> Result<Self, Problems> {
        let named = (sources.flag)(CONFIG_FLAG)
            .map(|path| (path, "--config"))
            .or_else(|| (sources.env)(CONFIG_ENV).filter(|path| !path.is_empty()).map(|path| (path, CONFIG_ENV)));
        let (path, place) = match named {
            Some((path, place)) => (PathBuf::from(path), place),
            None if sources.folder.join(CONFIG_FILE).exists() => {
                // Without `./` in front when it is the current folder.
                (
                    if sources.folder == Path::new(".") { CONFIG_FILE.into() } else { sources.folder.join(CONFIG_FILE) },
                    "configuration",
                )
            }
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Problems::from(format!("{place}: can't read {}: {error}", path.display())))?;
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, Problems> {
        let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let at = |offset: usize| format!("{}:{}", path.display(), line(offset));
        let table = toml::de::DeTable::parse(text).map_err(|error| {
            // Only the message: the error's own display quotes the line, which may hold a secret.
            Problems::from(format!("{}: {}", at(error.span().map_or(0, |span| span.start)), error.message()))
        })?;
        let mut problems = Problems::default();
        let mut entries = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let (name, place) = (key.get_ref().as_ref(), at(key.span().start));
            if !keys().any(|key| key == name) {
                let meant = nearest(name, keys());
                let meant = meant.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
                problems.add(format!("{place}: there is no setting `{name}`{meant}"));
                continue;
            }
            let value = match value.get_ref() {
                toml::de::DeValue::String(text) => text.to_string(),
                toml::de::DeValue::Integer(number) => number.as_str().to_owned(),
                other => {
                    problems.add(format!("{place}: `{name}` is a text or a whole number, not {}", other.type_str()));
                    continue;
                }
            };
            entries.insert(name.to_owned(), (value, line(key.span().start)));
        }
        problems.into_result(Some(Self { path, entries }))
    }
}
