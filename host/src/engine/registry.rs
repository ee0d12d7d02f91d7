//! Which handlers are active, and which routes lead to them. One pointer, so that a switch is one step.

use super::Handler;
use crate::manifest::{Auth, Manifest};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The active handlers. Cheap to read; a reader keeps what it got.
#[derive(Debug)]
pub struct Registry {
    current: RwLock<Arc<Active>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Active {
    slots: Vec<Slot>,
    routes: matchit::Router<BTreeMap<String, Target>>,
}

/// A handler that is deployed.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its active revision.
    pub handler: Arc<Handler>,
    /// Set while it rests.
    pub paused: Option<Arc<Pause>>,
}

/// Who has paused a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Since when, RFC 3339.
    pub since: String,
}

#[derive(Debug, Clone)]
struct Target {
    slot: Slot,
    route: Arc<str>,
    auth: Auth,
}

/// A request's handler.
#[derive(Debug, Clone)]
pub struct Match {
    /// Who answers.
    pub handler: Arc<Handler>,
    /// Set while the handler rests and answers nobody.
    pub paused: Option<Arc<Pause>>,
    /// The pattern that matched.
    pub route: Arc<str>,
    /// Its authentication.
    pub auth: Auth,
    /// The pattern's parameters, percent-decoded.
    pub params: Vec<(String, String)>,
}

/// Why no handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteError {
    /// No route has this path.
    NotFound,
    /// Routes have this path, but with other methods.
    MethodNotAllowed {
        /// The methods that there are.
        allow: String,
    },
}

impl Registry {
    /// Makes `handlers` the active ones, all at once. The error names both of two routes that clash.
    pub fn activate(&self, slots: Vec<Slot>) -> anyhow::Result<()> {
        let targets = slots.iter().flat_map(|slot| {
            let of = |route: &crate::manifest::Route| Target {
                slot: slot.clone(),
                route: route.path.as_str().into(),
                auth: route.auth,
            };
            slot.handler.manifest.http.iter().map(move |route| (&slot.handler.manifest, route, of(route)))
        });
        let routes = router(targets)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Active { slots, routes });
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Says when the active handlers have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The active handlers, also those that rest.
    pub fn handlers(&self) -> Vec<Arc<Handler>> {
        self.current().slots.iter().map(|slot| slot.handler.clone()).collect()
    }

    /// The active handlers that may run.
    pub fn running(&self) -> Vec<Arc<Handler>> {
        self.current().slots.iter().filter(|slot| slot.paused.is_none()).map(|slot| slot.handler.clone()).collect()
    }

    /// The active revision of a handler that may run, by name.
    pub fn handler(&self, name: &str) -> Option<Arc<Handler>> {
        let current = self.current();
        let found = current.slots.iter().find(|slot| &*slot.handler.name == name && slot.paused.is_none());
        found.map(|slot| slot.handler.clone())
    }

    /// The handler for a method and a path (percent-encoded, without query).
    pub fn route(&self, method: &str, path: &str) -> Result<Match, RouteError> {
        let active = self.current();
        let matched = active.routes.at(path).map_err(|_| RouteError::NotFound)?;
        let Some(target) = matched.value.get(method) else {
            let allow = matched.value.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(RouteError::MethodNotAllowed { allow });
        };
        let params = matched.params.iter().map(|(name, value)| Some((name.to_owned(), decode(value)?))).collect::<Option<_>>();
        Ok(Match {
            handler: target.slot.handler.clone(),
            paused: target.slot.paused.clone(),
            route: target.route.clone(),
            auth: target.auth,
            params: params.ok_or(RouteError::NotFound)?,
        })
    }

    fn current(&self) -> Arc<Active> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self { current: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

/// Whether the routes of these handlers fit together. The error names both of two that clash.
pub fn check_routes<'a>(manifests: impl Iterator<Item = &'a Manifest>) -> anyhow::Result<()> {
    router(manifests.flat_map(|manifest| manifest.http.iter().map(move |route| (manifest, route, ())))).map(drop)
}

fn router<'a, T>(
    targets: impl Iterator<Item = (&'a Manifest, &'a crate::manifest::Route, T)>,
) -> anyhow::Result<matchit::Router<BTreeMap<String, T>>> {
    let mut paths: BTreeMap<&str, BTreeMap<String, (&str, T)>> = BTreeMap::new();
    for (manifest, route, target) in targets {
        let taken = paths.entry(&route.path).or_default().insert(route.method.clone(), (&manifest.name, target));
        if let Some((other, _)) = taken {
            anyhow::bail!("route {} {} belongs to both `{other}` and `{}`", route.method, route.path, manifest.name);
        }
    }
    let mut routes = matchit::Router::new();
    for (path, methods) in paths {
        let owner = methods.values().next().map(|(owner, _)| (*owner).to_owned()).unwrap_or_default();
        let methods = methods.into_iter().map(|(method, (_, target))| (method, target)).collect();
        routes.insert(path, methods).map_err(|error| anyhow::anyhow!("route {path} of `{owner}`: {error}"))?;
    }
    Ok(routes)
}

/// Undoes percent-encoding (RFC 3986, 2.1); `None` where it is broken or not UTF-8.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (bytes.next()? as char, bytes.next()? as char);
                out.push(u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn broken_percent_encoding_matches_nothing() {
        assert_eq!(decode("a%20b%C3%A9").as_deref(), Some("a bé"));
        assert_eq!(decode("%"), None);
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%ff"), None);
    }
}
