//! The handler in the real engine, on a real PostgreSQL, without a broker.

use serde_json::json;
use tidemill_test::{Event, Host, Outcome, Result};

#[test]
fn every_event_is_kept_once() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let event = Event::new("order.placed").id("1").data(json!({"total": 7}));
    assert_eq!(host.deliver("@TOPIC@", [event.clone(), event.clone()])?, [Outcome::Handled, Outcome::Duplicate]);
    assert_eq!(host.deliver("@TOPIC@", [event])?, [Outcome::Duplicate]);
    let rows = host.rows("SELECT event_id, type, data FROM events")?;
    assert_eq!(rows, [json!({"event_id": "1", "type": "order.placed", "data": {"total": 7}})]);
    Ok(())
}

#[test]
fn an_event_without_data_is_rejected_and_the_others_are_kept() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let good = || Event::new("order.placed").data(json!({}));
    let outcomes = host.deliver("@TOPIC@", [good(), Event::new("order.placed"), good()])?;
    assert!(matches!(&outcomes[..], [Outcome::Handled, Outcome::Rejected { .. }, Outcome::Handled]), "{outcomes:?}");
    assert_eq!(host.rows("SELECT count(*) AS rows FROM events")?, [json!({"rows": 2})]);
    Ok(())
}
