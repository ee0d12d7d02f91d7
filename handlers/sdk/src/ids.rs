//! Ids: new ones, and those that follow from what they are made for.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::Timestamp;

/// A new id: a UUIDv7, so ids sort by the time at which they were made.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// The id that follows from a time and some texts: the same one whenever it is asked for again, and no other texts have it.
///
/// A UUIDv8 with v7's layout, so that it sorts with new ids: the milliseconds in front, then a SHA-256 of the texts.
///
/// ```
/// # use tidemill_sdk::{Timestamp, derived_id};
/// let time = Timestamp::from_millis(1_770_715_800_000);
/// assert_eq!(derived_id(time, &["invoice", "17"]), derived_id(time, &["invoice", "17"]));
/// assert_ne!(derived_id(time, &["invoice", "17"]), derived_id(time, &["invoice", "18"]));
/// ```
pub fn derived_id(time: Timestamp, texts: &[&str]) -> Uuid {
    const MAX_MILLIS: u64 = (1 << 48) - 1;
    let millis = u64::try_from(time.as_micros().div_euclid(1_000)).unwrap_or(0).min(MAX_MILLIS);
    let mut hash = Sha256::new();
    for text in texts {
        // With its length, or `ab`, `c` would be `a`, `bc`.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&hash.finalize()[..10]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_uuid_v7_and_rise() {
        let ids: Vec<Uuid> = (0..100).map(|_| new_id()).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert!(ids.is_sorted());
    }

    #[test]
    fn a_derived_id_is_the_same_for_ever() {
        let time: Timestamp = "2026-02-10T09:30:00.123456Z".parse().unwrap();
        let id = derived_id(time, &["a", "b"]);
        // Stored in tables and topics: another result would be a second effect of an event that was handled before.
        assert_eq!(id.to_string(), "019c46e2-e23b-8c9d-9910-45bc8876f9d0");
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(id.to_string()[..13], new_id_at(time).to_string()[..13], "the time stands in front, as in a UUIDv7");
    }

    fn new_id_at(time: Timestamp) -> Uuid {
        let micros = time.as_micros().unsigned_abs();
        Uuid::new_v7(uuid::Timestamp::from_unix_time(micros / 1_000_000, (micros % 1_000_000 * 1_000) as u32, 0, 0))
    }

    #[test]
    fn other_texts_and_other_times_have_other_ids() {
        let time = Timestamp::from_micros(0);
        let ids = [
            derived_id(time, &["ab", "c"]),
            derived_id(time, &["a", "bc"]),
            derived_id(time, &["abc"]),
            derived_id(time, &["abc", ""]),
            derived_id(time, &[]),
            derived_id(Timestamp::from_millis(1), &[]),
        ];
        assert!((1..ids.len()).all(|n| !ids[..n].contains(&ids[n])), "{ids:?}");
    }

    #[test]
    fn a_time_that_no_id_can_hold_is_its_nearest() {
        assert_eq!(derived_id(Timestamp::from_micros(-1), &["a"]), derived_id(Timestamp::from_micros(0), &["a"]));
        assert!(derived_id(Timestamp::from_micros(i64::MAX), &["a"]).to_string().starts_with("ffffffff-ffff-8"));
    }
}
