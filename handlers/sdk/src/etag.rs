//! Entity tags (RFC 9110): which state of a thing a caller means.
//!
//! ```
//! # use tidemill_sdk::{EntityTags, etag};
//! let version = 3;
//! assert_eq!(etag::header(version), "\"3\"");
//! let guard: EntityTags = "\"2\", \"3\"".parse()?;
//! assert!(guard.have(&version.to_string()));
//! # Ok::<(), etag::Malformed>(())
//! ```

use std::{fmt::Display, str::FromStr};

use crate::Problem;

/// The value of the header `ETag` for a state that a text or number names: strong, so other states never have it.
pub fn header(tag: impl Display) -> String {
    format!("\"{tag}\"")
}

/// What a header `If-Match` or `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`: any state, as long as there is one.
    Any,
    /// One of these.
    These(Vec<EntityTag>),
}

/// One entity tag, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// `W/"…"`: says only that two states mean the same.
    pub weak: bool,
    /// Which one.
    pub tag: String,
}

/// It is no list of entity tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl EntityTags {
    pub(crate) fn read(name: &str, value: Option<String>) -> Result<Option<Self>, Problem> {
        let tags = value.map(|value| value.parse()).transpose();
        tags.map_err(|Malformed| {
            Problem::bad_request(format!("{name} must be * or entity tags in quotes, such as \"3\" or \"3\", \"4\"."))
        })
    }

    /// Whether they name exactly this state, as `If-Match` asks; weak tags never do.
    pub fn have(&self, tag: &str) -> bool {
        self.any(|one| !one.weak && one.tag == tag)
    }

    /// Whether they name this state or one that means the same, as `If-None-Match` asks.
    pub fn have_weakly(&self, tag: &str) -> bool {
        self.any(|one| one.tag == tag)
    }

    fn any(&self, fits: impl Fn(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(fits),
        }
    }
}

impl FromStr for EntityTags {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut rest = text.trim();
        if rest == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            let (tag, after) = entity_tag(rest).ok_or(Malformed)?;
            tags.push(tag);
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None if rest.is_empty() => return Ok(Self::These(tags)),
                None => return Err(Malformed),
            }
        }
    }
}

/// The entity tag at the beginning of a text, and what comes after it.
fn entity_tag(text: &str) -> Option<(EntityTag, &str)> {
    let (weak, text) = text.strip_prefix("W/").map_or((false, text), |text| (true, text));
    let (tag, rest) = text.strip_prefix('"')?.split_once('"')?;
    // A comma may be in a tag; blanks and control characters may not.
    let fits = tag.chars().all(|c| !c.is_whitespace() && !c.is_control());
    fits.then(|| (EntityTag { weak, tag: tag.to_owned() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stars_and_weak_tags_are_read() {
        let tags: EntityTags = " \"1\" ,W/\"2\", \"a,b\" ".parse().unwrap();
        assert!(tags.have("1") && tags.have("a,b") && !tags.have("a"));
        assert!(!tags.have("2"), "a weak tag is not exactly this state");
        assert!(tags.have_weakly("2") && !tags.have_weakly("3"));
        assert_eq!("*".parse(), Ok(EntityTags::Any));
        assert!(EntityTags::Any.have("7"));
        assert_eq!(header(7).parse(), Ok(EntityTags::These(vec![EntityTag { weak: false, tag: "7".into() }])));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for text in ["", "3", "\"3", "\"3\" \"4\"", "\"3\",", ",\"3\"", "*, \"3\"", "w/\"3\"", "\"a b\"", "'3'", "\"3\"4"] {
            assert_eq!(text.parse::<EntityTags>(), Err(Malformed), "{text}");
            let problem = EntityTags::read("If-Match", Some(text.to_owned())).unwrap_err();
            assert!(problem.status() == 400 && problem.to_string().contains("If-Match"), "{problem}");
        }
    }
}
