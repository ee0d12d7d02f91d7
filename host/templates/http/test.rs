//! The handler in the real engine, on a real PostgreSQL, without a broker.

use serde_json::json;
use tidemill_test::{Host, Result};

#[test]
fn what_a_user_writes_is_one_row_and_one_event() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let entry = host.post("/api/@NAME@").user("alice").json(&json!({"text": " hello "})).send()?.expect(201)?.value()?;
    assert_eq!(host.rows("SELECT author, text FROM entries")?, [json!({"author": "alice", "text": "hello"})]);
    let published = host.published()?;
    assert_eq!(published.len(), 1);
    assert_eq!((published[0].topic.as_str(), published[0].key.as_deref()), ("@NAME@.events", Some("alice")));
    assert_eq!((&published[0].event["type"], &published[0].event["data"]), (&json!("@NAME@.written"), &entry));
    Ok(())
}

#[test]
fn what_is_wrong_leaves_nothing() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let problem = host.post("/api/@NAME@").user("alice").json(&json!({"text": " "})).send()?.expect(422)?.value()?;
    assert_eq!(problem["errors"][0]["field"], "text");
    host.post("/api/@NAME@").json(&json!({"text": "hello"})).send()?.expect(401)?;
    assert_eq!(host.rows("SELECT * FROM entries")?.len() + host.published()?.len(), 0);
    Ok(())
}

#[test]
fn a_user_sees_only_their_own() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    host.post("/api/@NAME@").user("alice").json(&json!({"text": "mine"})).send()?.expect(201)?;
    assert_eq!(host.get("/api/@NAME@").user("bob").send()?.expect(200)?.value()?, json!([]));
    assert_eq!(host.get("/api/@NAME@").user("alice").send()?.value()?[0]["text"], "mine");
    Ok(())
}
