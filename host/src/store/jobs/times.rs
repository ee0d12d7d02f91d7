//! `timestamptz` as it is: microseconds.

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};

/// From 1970 to 2000, where PostgreSQL's count begins.
const EPOCH: i64 = 946_684_800_000_000;

/// Microseconds since 1970. The smallest and the largest number are PostgreSQL's infinities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Micros(pub(in crate::store) i64);

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let infinite = self.0 == i64::MIN || self.0 == i64::MAX;
        out.put_i64(if infinite { self.0 } else { self.0.saturating_sub(EPOCH) });
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let number = i64::from_be_bytes(raw.try_into()?);
        let infinite = number == i64::MIN || number == i64::MAX;
        Ok(Self(if infinite { number } else { number.saturating_add(EPOCH) }))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}
