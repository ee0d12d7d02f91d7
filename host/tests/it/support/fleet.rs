//! Hosts that run what is deployed, and deploys.

use serde_json::Value as Json;

use super::host::{Ended, Run, fails_naming, succeeded};
use super::{Answer, Host, World, eventually};

/// What the probe's step `query` asks, and what a changed revision asks instead; both have the same length.
const COUNT: &[u8] = b"SELECT count(*) FROM rows";
const MARK: &[u8] = b"SELECT 424242::int8      ";

impl World {
    /// Prepares the database and makes the topics, and starts a host that finds nothing deployed.
    pub async fn bare(mut self) -> Self {
        self.prepared().await;
        self.start_bare().await;
        self
    }

    /// Starts a host that runs what is active, again on the same ports if it ran before.
    pub async fn start_bare(&mut self) {
        let host = self.tool(&["serve"]).serve().await;
        self.put_host(host);
    }

    /// A host that runs what is active, on ports of its own.
    pub fn member(&self) -> Run {
        self.tool(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
    }

    /// `tidemill deploy` of the world's folder.
    pub fn deploy_run(&self) -> Run {
        self.tool(&["deploy", self.handlers.folder.to_str().unwrap(), "--json"])
    }

    /// Deploys the world's folder.
    pub async fn deploy(&self) -> Json {
        document(self.deploy_run().finish().await)
    }

    /// A deploy of the world's folder that has to be refused with these words.
    pub async fn deploy_refused(&self, words: &[&str]) -> Ended {
        let ended = self.deploy_run().finish().await;
        fails_naming(&ended, words);
        ended
    }

    /// A command about deploys.
    pub async fn fleet(&self, args: &[&str]) -> Json {
        document(self.tool(&[args, &["--json"]].concat()).finish().await)
    }

    /// The same, to be refused with these words.
    pub async fn fleet_refused(&self, args: &[&str], words: &[&str]) {
        fails_naming(&self.tool(args).finish().await, words);
    }

    /// The active revision of a handler; none if it is not deployed.
    pub async fn active(&self, handler: &str) -> Option<String> {
        let view = self.fleet(&["ps"]).await;
        let handlers = view["handlers"].as_array().unwrap();
        handlers.iter().find(|one| one["handler"] == handler).map(|one| one["revision"].as_str().unwrap().to_owned())
    }

    /// Another revision of the probe, which answers the step `query` with a mark instead of a count; or back again.
    pub fn mark_probe(&self, marked: bool) {
        let file = self.handlers.folder.join("probe/component.wasm");
        let bytes = std::fs::read(&file).unwrap();
        let (from, to) = if marked { (COUNT, MARK) } else { (MARK, COUNT) };
        std::fs::write(&file, replaced(&bytes, from, to)).unwrap();
    }

    /// Whether a host answers with the marked revision.
    pub async fn is_marked(&self, http: &str) -> bool {
        let answer = self.ask(http, "query").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text.contains("424242")
    }

    /// Lets the probe of one host run these steps.
    pub async fn ask(&self, http: &str, steps: &str) -> Answer {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("{http}/probe/{steps}")).bearer_auth(super::http::token("alice", false));
        Answer::read(request.json(&serde_json::json!({})).send().await.unwrap()).await
    }
}

/// The document that a successful command printed.
pub fn document(ended: Ended) -> Json {
    let ended = succeeded(ended);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr))
}

/// Bytes with every occurrence of some replaced by as many others. There must be one.
pub fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (mut out, mut at, mut found) = (bytes.to_vec(), 0, 0);
    while let Some(next) = out[at..].windows(from.len()).position(|window| window == from) {
        out[at + next..at + next + from.len()].copy_from_slice(to);
        (at, found) = (at + next + from.len(), found + 1);
    }
    assert!(found > 0, "{:?} is not in there", String::from_utf8_lossy(from));
    out
}

/// Sends a signal to a host.
pub fn signal(host: &Host, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &host.pid().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits until a host's `/readyz` says this.
pub async fn until_ready(host: &Host, ready: bool) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    eventually(&format!("/readyz says {ready}"), async || {
        let status = client.get(format!("{}/readyz", host.admin)).send().await.ok()?.status();
        (status.is_success() == ready).then_some(())
    })
    .await;
}
