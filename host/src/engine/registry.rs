//! Which handlers are active, and which routes lead to them. One pointer, so that a switch is one step.

use super::Handler;
use crate::manifest::Auth;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The active handlers. Cheap to read; a reader keeps what it got.
#[derive(Debug, Default)]
pub struct Registry {
    current: RwLock<Arc<Active>>,
}

#[derive(Debug, Default)]
struct Active {
    handlers: Vec<Arc<Handler>>,
    routes: matchit::Router<BTreeMap<String, Target>>,
}

#[derive(Debug, Clone)]
struct Target {
    handler: Arc<Handler>,
    route: Arc<str>,
    auth: Auth,
}

/// A request's handler.
#[derive(Debug, Clone)]
pub struct Match {
    /// Who answers.
    pub handler: Arc<Handler>,
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
    pub fn activate(&self, handlers: Vec<Arc<Handler>>) -> anyhow::Result<()> {
        let mut paths: BTreeMap<String, BTreeMap<String, Target>> = BTreeMap::new();
        for handler in &handlers {
            for route in &handler.manifest.http {
                let target = Target { handler: handler.clone(), route: route.path.as_str().into(), auth: route.auth };
                let taken = paths.entry(route.path.clone()).or_default().insert(route.method.clone(), target);
                if let Some(other) = taken {
                    anyhow::bail!(
                        "route {} {} belongs to both `{}` and `{}`",
                        route.method,
                        route.path,
                        other.handler.name,
                        handler.name
                    );
                }
            }
        }
        let mut routes = matchit::Router::new();
        for (path, methods) in paths {
            let owner = methods.values().next().map(|t| t.handler.name.to_string()).unwrap_or_default();
            routes.insert(&path, methods).map_err(|error| anyhow::anyhow!("route {path} of `{owner}`: {error}"))?;
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Active { handlers, routes });
        Ok(())
    }

    /// The active handlers.
    pub fn handlers(&self) -> Vec<Arc<Handler>> {
        self.current().handlers.clone()
    }

    /// The active revision of a handler, by name.
    pub fn handler(&self, name: &str) -> Option<Arc<Handler>> {
        self.current().handlers.iter().find(|handler| &*handler.name == name).cloned()
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
            handler: target.handler.clone(),
            route: target.route.clone(),
            auth: target.auth,
            params: params.ok_or(RouteError::NotFound)?,
        })
    }

    fn current(&self) -> Arc<Active> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
