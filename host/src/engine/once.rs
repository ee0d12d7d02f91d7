//! Requests with an `Idempotency-Key`: one that took effect is answered from what was kept, not run again.

use super::failure::Failure;
use crate::bindings::http;
use crate::store::{Claimed, KeptResponse, RequestKey, Unit};

/// What can be kept of one response, in bytes.
///
/// A larger one fails before the commit. To keep it in part would be worse: a repeated request would get a success without its body, or
/// a failure for what did take effect.
const MOST: usize = 16 << 20;

/// Claims the key for the unit; the response of then, if the request took effect before.
pub(super) async fn claim(unit: &mut Unit, key: RequestKey) -> Result<Option<http::Response>, Failure> {
    match unit.claim(key).await? {
        Claimed::Free => Ok(None),
        Claimed::Done(KeptResponse { status, headers, body }) => Ok(Some(http::Response { status, headers, body })),
        Claimed::Outstanding => Err(Failure::Outstanding),
        Claimed::Reused => Err(Failure::KeyReused),
    }
}

/// Keeps the response of a unit that has claimed a key.
pub(super) fn answer(unit: &mut Unit, response: &http::Response) -> Result<(), Failure> {
    if !unit.has_key() {
        return Ok(());
    }
    let headers: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let bytes = response.body.len() + headers;
    if bytes > MOST {
        return Err(Failure::Unkeepable { bytes, most: MOST });
    }
    unit.answer(KeptResponse { status: response.status, headers: response.headers.clone(), body: response.body.clone() });
    Ok(())
}
