//! What a test process and its `tidemill test-host` say to each other: one JSON object a line, over the child's standard input and output.
//! Of no use to tests themselves.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Both sides must speak the same version.
pub const PROTOCOL: u32 = 1;

/// The first line that the child writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the program.
    pub tidemill: String,
    /// [`PROTOCOL`] as the program knows it.
    pub protocol: u32,
}

/// One line to the child.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller; the reply has the same.
    pub id: u64,
    /// Which host; of no meaning for `Open`.
    pub host: u64,
    /// What to do.
    pub order: Order,
}

/// One line from the child. Replies come in the order in which the work ends.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// That of the call.
    pub id: u64,
    /// What came of it.
    pub result: Result<Value, String>,
}

/// What a host is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Makes a host; its number is the answer.
    Open {
        /// The handlers' folders.
        folders: Vec<PathBuf>,
        /// Whether their components are built first.
        build: bool,
    },
    /// An HTTP request; the answer is a [`Response`].
    Request {
        /// The method.
        method: String,
        /// Path and query.
        path: String,
        /// The user whose token the request carries.
        user: Option<String>,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body, as [`hex`].
        body: String,
    },
    /// Records of one partition; the answer is one outcome for each.
    Deliver {
        /// Whose they are, if several handlers read the topic.
        handler: Option<String>,
        /// The topic.
        topic: String,
        /// The records, in the order of their offsets.
        records: Vec<Record>,
    },
    /// The rows of a statement.
    Rows {
        /// The statement.
        sql: String,
    },
    /// Statements without rows.
    Execute {
        /// The statements.
        sql: String,
    },
    /// Takes what was published.
    Published,
    /// The jobs that wait.
    Jobs,
    /// Lets a job fire.
    Fire {
        /// Its name.
        job: String,
    },
    /// Ends the host and removes its database.
    Close,
}

/// A record of a topic.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its key.
    pub key: Option<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its value, as [`hex`].
    pub value: String,
}

/// An HTTP response.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body, as [`hex`].
    pub body: String,
}

/// Bytes as text that any JSON carries.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of [`hex`].
pub fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<_>>().ok_or_else(|| "bytes that are no hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)).as_deref(), Ok(&bytes[..]));
        assert!(unhex("0").is_err() && unhex("zz").is_err());
    }
}
