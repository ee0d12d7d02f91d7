//! `handler.toml` → what starts a handler, what it may do and how much it may use.
//!
//! - `reader`: TOML section by section, every problem with its line
//! - `names`: what names may look like, and the database roles that follow from them
//! - `limits`: what one invocation may use
//! - `retry`: what happens to an event that fails
//! - `migrations`: the numbered SQL files of an app
//! - `load`: all manifests below a folder, checked against each other

mod limits;
mod load;
mod migrations;
mod names;
mod reader;
mod retry;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::config::Problems;
use crate::config::units::{parse_duration, parse_size};
pub use limits::Limits;
pub use load::{Loaded, MANIFEST_FILE, Part, check_together, load_dir, load_paths, manifest_files, migrations_by_app};
pub use migrations::{MIGRATIONS_DIR, Migration};
pub use names::{check_name, check_topic, owner_role, role, shape};
use reader::{Section, Source};
pub use retry::Retry;

/// Kafka counts them in 31 bits, and a dead letter needs more than its source.
const MAX_MESSAGE_BYTES: u64 = 1 << 30;

/// One handler as its author declares it; paths are as written, [`load_dir`] resolves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name, unique in an installation.
    pub name: String,
    /// The app that it belongs to: the database schema. By default the name, with `_` for `-`.
    pub app: String,
    /// The compiled component, relative to the manifest.
    pub component: PathBuf,
    /// The folder of the app's migrations, relative to the manifest.
    pub migrations: Option<PathBuf>,
    /// The requests that start it.
    pub http: Vec<Route>,
    /// The topics that start it.
    pub topics: Vec<Subscription>,
    /// The topics that it may publish to.
    pub publish: Vec<String>,
    /// The topics that it owns, by name.
    pub declares: BTreeMap<String, Topic>,
    /// Whether it may use SQL.
    pub sql: bool,
    /// `[jobs]`: whether and how it may use jobs.
    pub jobs: Option<Jobs>,
    /// Commands that `tidemill dev` shows.
    pub dev_try: Vec<String>,
    /// The command that makes the component, run by a shell in the manifest's folder; `None`: cargo, if there is a `Cargo.toml`.
    pub dev_build: Option<String>,
    /// What one invocation may use.
    pub limits: Limits,
    /// What happens to an event that it fails.
    pub retry: Retry,
}

/// `[[http]]`: a kind of request that starts the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method, in capitals.
    pub method: String,
    /// The path: `/a/{id}`, `/a/{*rest}`.
    pub path: String,
    /// Who may call.
    pub auth: Auth,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Auth {
    /// The holder of a verified token.
    #[default]
    Jwt,
    /// Everybody.
    None,
}

/// `[[topic]]`: a topic that starts the handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic's name.
    pub name: String,
    /// The consumer group.
    pub group: String,
    /// The event types that it wants; `None`: all.
    pub types: Option<Vec<String>>,
    /// Where a new group begins.
    pub start: Start,
}

/// Where a group without stored offsets begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With the next record.
    Latest,
}

/// `[topics."name"]`: a topic's declaration by its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// How many partitions it has.
    pub partitions: u32,
    /// How long records stay.
    pub retention: Duration,
    /// What its records are.
    pub payload: Payload,
    /// How many brokers hold each partition; `None`: what the brokers do by default.
    pub replication: Option<u32>,
    /// How many of them must have a record before it counts as written; `None`: what the brokers do by default.
    pub min_insync_replicas: Option<u32>,
    /// The largest batch of records, in bytes; `None`: what the brokers take by default.
    pub max_message_bytes: Option<u64>,
}

/// `[jobs]`: the handler may schedule jobs, and cancel and see its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Handlers of the same app whose jobs it may cancel and see, too.
    pub cancel: Vec<String>,
}

/// What the records of a topic are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Payload {
    /// CloudEvents, structured or binary; anything else is no event.
    #[default]
    CloudEvents,
    /// Any bytes are an event, whose identity is (topic, partition, offset).
    Raw,
}

impl Manifest {
    /// Reads a manifest; `file` names it in problems.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let source = Source::new(file, text);
        let manifest = Section::root(&source).and_then(Self::read);
        source.problems().into_result(manifest)
    }

    fn read(mut root: Section<'_>) -> Option<Self> {
        let name = root.need_text("name", names::handler);
        let app = root.text("app", names::app).or_else(|| default_app(&root, name.as_deref()?));
        let component = root.need_text("component", |text| names::plain(text).map(PathBuf::from));
        let migrations = root.text("migrations", |text| names::plain(text).map(PathBuf::from));
        root.text("instances", |text| match text {
            "fresh" => Ok(()),
            "reuse" => Err("`reuse` is not supported yet: leave it out, or write `fresh`".to_owned()),
            _ => Err(format!("`{text}` is neither `fresh` nor `reuse`")),
        });
        let http = root.sections("http").into_iter().filter_map(Route::read).collect::<Vec<_>>();
        let topics = root.sections("topic").into_iter().filter_map(Subscription::read).collect::<Vec<_>>();
        let publish = root.section("publish").map(|mut section| {
            let topics = section.texts("topics", names::kafka);
            if topics.as_ref().is_none_or(Vec::is_empty) {
                section.problem("[publish]: `topics` must name at least one topic");
            }
            section.end();
            topics.unwrap_or_default()
        });
        let declares = root.named("topics").into_iter().filter_map(|(name, section)| Topic::read(name, section)).collect();
        let sql = root.section("sql").map(Section::end).is_some();
        let dev = root.section("dev").map(|mut section| {
            let commands = section.texts("try", names::plain);
            let build = section.text("build", names::plain);
            section.end();
            (commands.unwrap_or_default(), build)
        });
        let (dev_try, dev_build) = dev.unwrap_or_default();
        let limits = root.section("limits").map(|mut section| {
            let limits = Limits::read(&mut section);
            section.end();
            limits
        });
        let retry = root.section("retry").map(|mut section| {
            let retry = Retry::read(&mut section);
            section.end();
            retry
        });
        let jobs = root.section("jobs").map(|mut section| {
            let cancel = section.texts("cancel", names::handler);
            section.end();
            Jobs { cancel: cancel.unwrap_or_default() }
        });
        root.reserved("config");
        root.end();
        Some(Self {
            name: name?,
            app: app?,
            component: component?,
            migrations,
            http,
            topics,
            publish: publish.unwrap_or_default(),
            declares,
            sql,
            jobs,
            dev_try,
            dev_build,
            limits: limits.unwrap_or_default(),
            retry: retry.unwrap_or_default(),
        })
    }
}

/// A handler that gives no app is an app of its own; its name may be one that is kept.
fn default_app(root: &Section<'_>, name: &str) -> Option<String> {
    let app = names::app(&name.replace('-', "_"));
    app.map_err(|error| root.problem(format!("`app` is not given, so it is the name: {error}"))).ok()
}

impl Route {
    fn read(mut section: Section<'_>) -> Option<Self> {
        let method = section.need_text("method", names::method);
        let path = section.need_text("path", names::path);
        let auth = section.text("auth", |text| match text {
            "jwt" => Ok(Auth::Jwt),
            "none" => Ok(Auth::None),
            _ => Err(format!("`{text}` is neither `jwt` nor `none`")),
        });
        section.end();
        Some(Self { method: method?, path: path?, auth: auth.unwrap_or_default() })
    }
}

impl Subscription {
    fn read(mut section: Section<'_>) -> Option<Self> {
        let name = section.need_text("name", names::source);
        let group = section.need_text("group", names::kafka);
        let types = section.texts("types", names::plain);
        if types.as_ref().is_some_and(Vec::is_empty) {
            section.problem("[[topic]]: `types` names no event type that is right: leave it out to get all");
        }
        let start = section.text("start", |text| match text {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            _ => Err(format!("`{text}` is neither `earliest` nor `latest`")),
        });
        section.end();
        Some(Self { name: name?, group: group?, types, start: start.unwrap_or_default() })
    }
}

impl Topic {
    fn read(name: String, mut section: Section<'_>) -> Option<(String, Self)> {
        if let Err(error) = names::kafka(&name) {
            section.problem(format!("{}: {error}", section.title()));
        }
        let partitions = section.need_number("partitions", 1..=10_000);
        let retention = section.need_text("retention", |text| match parse_duration(text)? {
            Duration::ZERO => Err(format!("`{text}` would keep nothing")),
            retention if i64::try_from(retention.as_millis()).is_err() => Err(format!("`{text}` is more than Kafka can count")),
            retention => Ok(retention),
        });
        let payload = section.text("payload", |text| match text {
            "cloudevents" => Ok(Payload::CloudEvents),
            "raw" => Ok(Payload::Raw),
            _ => Err(format!("`{text}` is neither `cloudevents` nor `raw`")),
        });
        let replication = section.number("replication", 1..=32_767).and_then(|number| u32::try_from(number).ok());
        let insync = section.number("min_insync_replicas", 1..=32_767).and_then(|number| u32::try_from(number).ok());
        if let (Some(replication), Some(insync)) = (replication, insync)
            && insync > replication
        {
            let title = section.title();
            section.problem(format!(
                "{title}: `min_insync_replicas` {insync} is above `replication` {replication}: nobody could write"
            ));
        }
        let max_message_bytes = section.text("max_message_bytes", |text| match parse_size(text)? {
            0 => Err(format!("`{text}` would take nothing")),
            bytes if bytes > MAX_MESSAGE_BYTES => Err(format!("`{text}` is above `1GiB`, the most that fits")),
            bytes => Ok(bytes),
        });
        section.end();
        let topic = Self {
            partitions: u32::try_from(partitions?).ok()?,
            retention: retention?,
            payload: payload.unwrap_or_default(),
            replication,
            min_insync_replicas: insync,
            max_message_bytes,
        };
        Some((name, topic))
    }
}

#[cfg(test)]
mod tests;
