//! Cursors: the place where a list goes on, as text that callers pass on unread.
//!
//! A cursor is no key to anything: what a user may see, row-level security decides. It says where it belongs (version, user, list) and
//! carries a checksum, so one that is used elsewhere, cut off or changed is refused instead of answered with a page of something else.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use sha2::{Digest, Sha256};

/// Rises when places or orders change their meaning.
const VERSION: u8 = 1;
/// Bytes of the marks of user and list.
const MARK: usize = 8;
/// Version, user, list, checksum.
const HEAD: usize = 1 + 3 * MARK;

/// The list that a cursor belongs to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scope {
    user: [u8; MARK],
    list: [u8; MARK],
}

/// Why a cursor is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Damaged,
    OtherVersion,
    OtherUser,
    OtherList,
}

impl Scope {
    /// A list of a user; `list` says which one, with all that decides what is in it and in which order.
    pub(crate) fn new(user: &str, list: &str) -> Self {
        Self { user: mark(user.as_bytes()), list: mark(list.as_bytes()) }
    }

    /// The cursor of a place in this list.
    pub(crate) fn seal(&self, place: &str) -> String {
        let mut bytes = Vec::with_capacity(HEAD + place.len());
        bytes.push(VERSION);
        bytes.extend(self.user);
        bytes.extend(self.list);
        bytes.extend(checksum(&bytes, place.as_bytes()));
        bytes.extend(place.as_bytes());
        BASE64.encode(bytes)
    }

    /// The place that a cursor of this list stands for.
    pub(crate) fn open(&self, cursor: &str) -> Result<String, Refused> {
        let bytes = BASE64.decode(cursor).map_err(|_| Refused::Damaged)?;
        if bytes.first().is_some_and(|&version| version != VERSION) {
            return Err(Refused::OtherVersion);
        }
        let (head, place) = bytes.split_at_checked(HEAD).ok_or(Refused::Damaged)?;
        let (marks, sum) = head.split_at(HEAD - MARK);
        if checksum(marks, place) != sum {
            return Err(Refused::Damaged);
        }
        match (marks[1..=MARK] == self.user, marks[1 + MARK..] == self.list) {
            (false, _) => Err(Refused::OtherUser),
            (true, false) => Err(Refused::OtherList),
            (true, true) => String::from_utf8(place.to_vec()).map_err(|_| Refused::Damaged),
        }
    }
}

impl Refused {
    /// What the caller is told.
    pub(crate) fn message(self) -> String {
        let why = match self {
            Self::Damaged => "is no next_cursor of this API, or was changed on its way",
            Self::OtherVersion => "is of another version of this API",
            Self::OtherUser => "belongs to another user's list",
            Self::OtherList => "belongs to a list with another order or other filters",
        };
        format!("{why}; leave it out to begin with the first page")
    }
}

fn mark(bytes: &[u8]) -> [u8; MARK] {
    checksum(bytes, &[])
}

fn checksum(head: &[u8], place: &[u8]) -> [u8; MARK] {
    let hash = Sha256::new().chain_update(head).chain_update(place).finalize();
    std::array::from_fn(|n| hash[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new("alice", "tasks by title")
    }

    #[test]
    fn a_cursor_is_read_back_where_it_belongs() {
        let cursor = scope().seal("[\"zoë\", 7]");
        assert_eq!(scope().open(&cursor).as_deref(), Ok("[\"zoë\", 7]"));
        assert!(
            cursor.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "it needs no encoding in a query: {cursor}"
        );
    }

    #[test]
    fn a_cursor_of_elsewhere_is_refused() {
        let cursor = scope().seal("7");
        assert_eq!(Scope::new("bob", "tasks by title").open(&cursor), Err(Refused::OtherUser));
        assert_eq!(Scope::new("alice", "tasks by age").open(&cursor), Err(Refused::OtherList));
        let mut older = BASE64.decode(&cursor).unwrap();
        older[0] = 0;
        assert_eq!(scope().open(&BASE64.encode(older)), Err(Refused::OtherVersion));
    }

    #[test]
    fn whatever_is_changed_in_a_cursor_is_noticed() {
        let bytes = BASE64.decode(scope().seal("17")).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(scope().open(&BASE64.encode(changed)).is_err(), "byte {place}");
            assert!(scope().open(&BASE64.encode(&bytes[..place])).is_err(), "cut at {place}");
        }
        for text in ["", "x", "17", "%%%", "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f"] {
            assert!(scope().open(text).is_err(), "{text}");
        }
    }
}
