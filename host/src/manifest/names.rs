//! What names may look like, and the database roles that follow from them.

/// PostgreSQL cuts longer names off, silently.
const ROLE_BYTES: usize = 63;

/// The database role under which a handler's statements run: `<installation>_h_<handler>`.
pub fn role(installation: &str, handler: &str) -> Result<String, String> {
    bounded(format!("{installation}_h_{}", handler.replace('-', "_")))
}

/// The role that owns an app's tables; no handler is a member of it: `<installation>_owner_<app>`.
pub fn owner_role(installation: &str, app: &str) -> Result<String, String> {
    bounded(format!("{installation}_owner_{app}"))
}

fn bounded(role: String) -> Result<String, String> {
    if role.len() <= ROLE_BYTES {
        return Ok(role);
    }
    let length = role.len();
    Err(format!(
        "database role `{role}` would have {length} bytes, PostgreSQL takes {ROLE_BYTES}: shorten the installation's or the handler's name"
    ))
}

/// Checks a name for a new handler, and the app's name that follows from it, which is returned.
pub fn check_name(text: &str) -> Result<String, String> {
    app(&handler(text)?.replace('-', "_"))
}

/// Checks the name of a topic that is to be read.
pub fn check_topic(text: &str) -> Result<(), String> {
    source(text).map(drop)
}

/// Names of handlers: `[a-z][a-z0-9-]{0,40}`.
pub(super) fn handler(text: &str) -> Result<String, String> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    word(text, 41, rest, "a small letter, then up to 40 small letters, digits and `-`")
}

/// Names of apps, which are database schemas: `[a-z][a-z0-9_]{0,40}` but for those that PostgreSQL or the host keeps.
pub(super) fn app(text: &str) -> Result<String, String> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let app = word(text, 41, rest, "a small letter, then up to 40 small letters, digits and `_`")?;
    match app.as_str() {
        "tidemill" => Err("`tidemill` is the host's own schema: choose another name".to_owned()),
        "public" | "information_schema" => Err(format!("`{app}` is a schema of PostgreSQL: choose another name")),
        _ if app.starts_with("pg_") => Err(format!("`{app}`: PostgreSQL keeps names that begin with `pg_`: choose another name")),
        _ => Ok(app),
    }
}

/// Names of topics and groups: what Kafka takes.
pub(super) fn kafka(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=249).contains(&text.len()) && text.chars().all(good) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no name for Kafka: 1 to 249 letters, digits, `.`, `_` and `-`"))
}

/// Names of topics that are read: their dead letters go to a topic with `.dlq` behind the name, which must fit, too.
pub(super) fn source(text: &str) -> Result<String, String> {
    let name = kafka(text)?;
    if name.len() > 245 && !name.ends_with(".dlq") {
        return Err(format!("`{name}` leaves no room for `.dlq`, its dead-letter topic: at most 245 letters"));
    }
    Ok(name)
}

/// Names of event types, attributes and commands: anything but nothing and control characters.
pub(super) fn plain(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is empty or has control characters"));
    }
    Ok(text.to_owned())
}

fn word(text: &str, most: usize, rest: impl Fn(char) -> bool, rule: &str) -> Result<String, String> {
    if text.len() <= most && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(rest) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no name: {rule}"))
}

/// HTTP methods that a route may have.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// A route's method.
pub(super) fn method(text: &str) -> Result<String, String> {
    if METHODS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is none of {}", METHODS.join(", ")))
}

/// A route's path: `/`, or segments that are literal, `{name}` or, at the end, `{*rest}`.
pub(super) fn path(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("`{text}`: {why}"));
    let Some(rest) = text.strip_prefix('/') else {
        return wrong("a path begins with `/`");
    };
    if rest.is_empty() {
        return Ok(text.to_owned());
    }
    let mut names = Vec::new();
    let count = rest.split('/').count();
    for (index, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            return wrong("a segment is empty");
        }
        if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            let (name, tail) = name.strip_prefix('*').map_or((name, false), |name| (name, true));
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(good) {
                return wrong("a parameter is `{name}` or, as the last, `{*name}`: letters, digits and `_`");
            }
            if tail && index + 1 < count {
                return wrong("`{*name}` takes the rest of the path and stands last");
            }
            if names.contains(&name) {
                return wrong("two parameters have the same name");
            }
            names.push(name);
        } else if !segment.chars().all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c)) {
            return wrong("a segment is literal (letters, digits, `-._~!$&'()+,;=:@`) or one whole parameter `{name}`");
        }
    }
    Ok(text.to_owned())
}

/// A path with its parameters' names left out: two routes with the same shape match the same requests.
pub fn shape(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment.strip_prefix('{') {
        Some(rest) if rest.starts_with('*') => "{*}",
        Some(_) => "{}",
        None => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_carry_the_installation_and_fit_postgres() {
        assert_eq!(role("tidemill", "order-api").unwrap(), "tidemill_h_order_api");
        assert_eq!(owner_role("blue_2", "shop").unwrap(), "blue_2_owner_shop");
        let long = role(&"i".repeat(31), &"h".repeat(41)).unwrap_err();
        assert!(
            long.ends_with("would have 75 bytes, PostgreSQL takes 63: shorten the installation's or the handler's name"),
            "{long}"
        );
        assert_eq!(role(&"i".repeat(31), &"h".repeat(29)).unwrap().len(), 63);
    }

    #[test]
    fn paths_are_checked() {
        for good in ["/", "/api/orders", "/api/orders/{id}", "/a/{id}/b/{other}", "/files/{*rest}", "/v1.0/x:y"] {
            assert_eq!(path(good).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("", "begins with `/`"),
            ("api", "begins with `/`"),
            ("/a//b", "a segment is empty"),
            ("/a/", "a segment is empty"),
            ("/{}", "a parameter is"),
            ("/{a-b}", "a parameter is"),
            ("/{*a}/b", "stands last"),
            ("/{a}/{a}", "the same name"),
            ("/a{b}", "one whole parameter"),
            ("/:id?x", "one whole parameter"),
        ] {
            assert!(path(bad).unwrap_err().contains(why), "{bad}");
        }
        assert_eq!(shape("/a/{id}/b/{*rest}"), "/a/{}/b/{*}");
    }

    #[test]
    fn names_are_checked() {
        assert!(handler("a").is_ok() && handler(&"a".repeat(41)).is_ok() && handler("a-1").is_ok());
        assert!(handler("").is_err() && handler(&"a".repeat(42)).is_err() && handler("1a").is_err() && handler("a_b").is_err());
        assert!(app("shop_2").is_ok() && app("a-b").is_err());
        for kept in ["tidemill", "public", "information_schema", "pg_x"] {
            assert!(app(kept).unwrap_err().ends_with("choose another name"));
        }
        assert!(kafka("shop.order-events_1").is_ok() && kafka(&"x".repeat(249)).is_ok());
        assert!(source(&"x".repeat(245)).is_ok() && source(&format!("{}.dlq", "x".repeat(245))).is_ok());
        assert!(source(&"x".repeat(246)).unwrap_err().contains("`.dlq`"));
        assert!(kafka("").is_err() && kafka("a b").is_err() && kafka("..").is_err() && kafka(&"x".repeat(250)).is_err());
    }
}
