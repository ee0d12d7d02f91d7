//! The handler in the real engine, on a real PostgreSQL, without a broker.

use serde_json::json;
use tidemill_test::{Event, Host, Outcome, Result};

#[test]
fn a_scheduled_job_leads_to_the_work_and_goes_on() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    host.request("PUT", "/api/@NAME@").user("alice").json(&json!({"every_seconds": 60})).send()?.expect(204)?;
    let waiting = host.jobs()?;
    assert_eq!(waiting.len(), 1);
    assert_eq!((waiting[0].name.as_str(), waiting[0].topic.as_str(), waiting[0].repeats), ("@NAME@/alice", "@NAME@.due", true));

    host.fire("@NAME@/alice")?;
    let published = host.published()?;
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].event["time"], waiting[0].due);
    let event = Event::published(&published[0]);
    assert_eq!(host.deliver("@NAME@.due", [event.clone(), event])?, [Outcome::Handled, Outcome::Duplicate]);
    assert_eq!(
        host.rows("SELECT event_id, for_user FROM runs")?,
        [json!({"event_id": published[0].event["id"], "for_user": "alice"})]
    );
    assert!(host.jobs()?[0].due > waiting[0].due, "it waits for its next time");
    Ok(())
}

#[test]
fn everybody_has_a_job_of_their_own_and_what_is_cancelled_waits_no_more() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    host.request("PUT", "/api/@NAME@").user("alice").json(&json!({"every_seconds": 0})).send()?.expect(422)?;
    host.request("DELETE", "/api/@NAME@").user("alice").send()?.expect(404)?;
    host.request("PUT", "/api/@NAME@").user("alice").json(&json!({"every_seconds": 60})).send()?.expect(204)?;
    host.request("PUT", "/api/@NAME@").user("bob").json(&json!({"every_seconds": 60})).send()?.expect(204)?;
    assert_eq!(host.jobs()?.len(), 2);
    host.request("DELETE", "/api/@NAME@").user("alice").send()?.expect(204)?;
    host.request("DELETE", "/api/@NAME@").user("alice").send()?.expect(404)?;
    host.request("DELETE", "/api/@NAME@").user("bob").send()?.expect(204)?;
    assert_eq!(host.jobs()?, []);
    Ok(())
}
