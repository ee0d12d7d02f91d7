//! A handler, ready to run: compiled, its imports checked against its grants, linked.

use super::state::State;
use super::{Engine, readable};
use crate::bindings::{events, http};
use crate::capabilities::sql::Gate;
use crate::manifest::Manifest;
use anyhow::{Context, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::component::{Component, InstancePre};

/// What a handler is made from.
#[derive(Debug, Clone)]
pub struct HandlerSource {
    /// Its revision: 64 hex digits.
    pub revision: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of its component: what compiled code is kept under.
    pub digest: [u8; 32],
    /// Its component, as a binary; it may be left out of one whose compiled code is kept ([`Engine::keeps`]).
    pub component: Option<Vec<u8>>,
    /// Its database role.
    pub role: String,
}

/// One revision of a handler. Immutable; what runs now runs on it to the end, whatever is switched meanwhile.
pub struct Handler {
    /// Its name.
    pub name: Arc<str>,
    /// Its revision as it is shown: the first 12 hex digits.
    pub revision: Arc<str>,
    /// Its revision: 64 hex digits, the SHA-256 of manifest, component and migrations.
    pub id: Arc<str>,
    /// What it may do, and what starts it.
    pub manifest: Manifest,
    pub(super) role: Arc<str>,
    pub(super) schema: Arc<str>,
    /// Distinguishes this revision's prepared statements.
    pub(super) scope: u64,
    pub(super) gate: Option<Gate>,
    pub(super) pre: InstancePre<State>,
    pub(super) http: Option<http::GuestIndices>,
    pub(super) events: Option<events::GuestIndices>,
}

/// 0 is the host's own scope.
static NEXT_SCOPE: AtomicU64 = AtomicU64::new(1);

impl Engine {
    /// Compiles, checks and links a handler. The error names the handler, the thing and the way out.
    pub fn prepare(&self, source: HandlerSource) -> anyhow::Result<Handler> {
        let name = source.manifest.name.clone();
        self.prepare_inner(source).with_context(|| format!("handler `{name}` cannot be used"))
    }

    fn prepare_inner(&self, source: HandlerSource) -> anyhow::Result<Handler> {
        let HandlerSource { revision, manifest, digest, component, role } = source;
        component.as_deref().map_or(Ok(()), check_form)?;
        let component =
            self.compiler.load(&self.wasm, &digest, component.as_deref()).context("its component does not compile")?;
        let component = component.context("its compiled code is not kept, and its component was not given")?;
        check_imports(&manifest, &component, &self.wasm)?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .map_err(readable)
            .context("its imports do not fit this host's interfaces; build it against the WIT packages of this version")?;
        let http = match manifest.http.is_empty() {
            true => None,
            false => Some(http::GuestIndices::new(&pre).map_err(readable).with_context(|| {
                let what = "its manifest has [[http]] routes, but the component does not export `tidemill:http/http@0.1.0` (world `http-handler`)";
                format!("{what}{}", beside(&component, &self.wasm, "tidemill:http/http@"))
            })?),
        };
        let events = match manifest.topics.is_empty() {
            true => None,
            false => Some(events::GuestIndices::new(&pre).map_err(readable).with_context(|| {
                let what = "its manifest has [[topic]] subscriptions, but the component does not export `tidemill:events/events@0.1.0` (world `event-handler`)";
                format!("{what}{}", beside(&component, &self.wasm, "tidemill:events/events@"))
            })?),
        };
        Ok(Handler {
            name: manifest.name.as_str().into(),
            revision: short(&revision).into(),
            id: revision.into(),
            role: role.into(),
            schema: manifest.app.as_str().into(),
            scope: NEXT_SCOPE.fetch_add(1, Ordering::Relaxed),
            gate: manifest.sql.then(Gate::default),
            manifest,
            pre,
            http,
            events,
        })
    }
}

/// A revision as it is shown.
pub fn short(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// What a component imports and exports, a line each.
pub fn interfaces(component: &[u8]) -> anyhow::Result<Vec<String>> {
    use wasmparser::{Parser, Payload};
    let mut found = Vec::new();
    // Only the outermost component's: those within it are its own affair.
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    found.push(format!("imports {}", import?.name.name));
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    found.push(format!("exports {}", export?.name.name));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The preamble of a WebAssembly binary: magic, then version and layer (1: module, 13: component).
pub fn check_form(bytes: &[u8]) -> anyhow::Result<()> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {
            bail!("its file is a core WebAssembly module, not a component; build it with --target wasm32-wasip2")
        }
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => bail!("its file is no WebAssembly component"),
    }
}

/// The version of all interfaces of ours.
const OURS: &str = "0.1.0";

/// Interfaces of WASI that are linked for everybody; `instantiate_pre` finds what is missing inside of them.
const OPEN: [&str; 4] = ["wasi:cli/", "wasi:io/", "wasi:clocks/", "wasi:random/"];

/// Refuses, by name, every import that the manifest does not grant.
fn check_imports(manifest: &Manifest, component: &Component, engine: &wasmtime::Engine) -> anyhow::Result<()> {
    let ty = component.component_type();
    let refusals: Vec<String> = ty.imports(engine).filter_map(|(name, _)| refusal(manifest, name)).collect();
    match refusals.is_empty() {
        true => Ok(()),
        false => bail!("{}", refusals.join("; ")),
    }
}

/// Names the version that the component does export, if it is another one.
fn beside(component: &Component, engine: &wasmtime::Engine, interface: &str) -> String {
    let ty = component.component_type();
    let found = ty.exports(engine).map(|(name, _)| name).find(|name| name.starts_with(interface) && !name.ends_with(OURS));
    found.map(|name| format!(", but `{name}`: build it against the WIT packages of this host")).unwrap_or_default()
}

fn refusal(manifest: &Manifest, import: &str) -> Option<String> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    if interface.starts_with("tidemill:") && version != OURS {
        return Some(format!(
            "it imports `{import}`, but this host has version {OURS} of that interface; build it against the WIT packages of this host, or \
             deploy it to a host that is newer"
        ));
    }
    let missing = |section: &str| {
        Some(format!("it imports `{import}`, which its manifest does not grant; add `{section}` to handler.toml"))
    };
    match interface {
        _ if OPEN.iter().any(|open| interface.starts_with(open)) => None,
        "tidemill:log/log" => None,
        "tidemill:sql/sql" if manifest.sql => None,
        "tidemill:sql/sql" => missing("[sql]"),
        // The jobs interface speaks of events; which topics are granted is checked for each of them.
        "tidemill:publish/publish" if !manifest.publish.is_empty() || manifest.jobs.is_some() => None,
        "tidemill:publish/publish" => missing("[publish] topics = [\"…\"]"),
        "tidemill:jobs/jobs" if manifest.jobs.is_some() => None,
        "tidemill:jobs/jobs" => missing("[jobs]"),
        // Types that exported functions name are imported as such.
        "tidemill:http/http" | "tidemill:events/events" => None,
        _ if ["wasi:filesystem/", "wasi:sockets/", "wasi:http/"].iter().any(|closed| interface.starts_with(closed)) => {
            Some(format!("it imports `{import}`, which no manifest can grant in this version; remove the code that uses it"))
        }
        _ => Some(format!(
            "it imports `{import}`, which this host does not know; it offers tidemill:sql/sql, tidemill:publish/publish, tidemill:jobs/jobs, \
             tidemill:log/log (all 0.1.0) and of WASI 0.2 cli, io, clocks, random"
        )),
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("name", &self.name).field("revision", &self.revision).finish_non_exhaustive()
    }
}
