//! The messages of PostgreSQL's protocol, as far as a proxy has to tell them apart.

use tokio::io::{AsyncRead, AsyncReadExt};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// One message, whole. Its kind is 0 for those that open a connection.
pub struct Frame {
    /// The type byte.
    pub kind: u8,
    /// Every byte, type and length included.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// What follows type and length.
    pub fn body(&self) -> &[u8] {
        &self.bytes[if self.kind == 0 { 4 } else { 5 }..]
    }

    /// The n-th zero-terminated string at the beginning of the body.
    pub fn text(&self, position: usize) -> String {
        String::from_utf8_lossy(self.body().split(|&byte| byte == 0).nth(position).unwrap_or_default()).into_owned()
    }

    /// Whether this opening message asks for encryption, which the server answers with a single byte.
    pub fn asks_for_encryption(&self) -> bool {
        self.body().first_chunk().is_some_and(|code| [SSL_REQUEST, GSS_REQUEST].contains(&u32::from_be_bytes(*code)))
    }
}

/// Reads an opening message; nothing at the end of the stream.
pub async fn opening(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    rest(0, Vec::new(), stream).await
}

/// Reads a message; nothing at the end of the stream.
pub async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let kind = stream.read_u8().await.ok()?;
    rest(kind, vec![kind], stream).await
}

async fn rest(kind: u8, mut bytes: Vec<u8>, stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let length = stream.read_u32().await.ok()?;
    bytes.extend(length.to_be_bytes());
    let begin = bytes.len();
    bytes.resize(begin + (length as usize).checked_sub(4)?, 0);
    stream.read_exact(&mut bytes[begin..]).await.ok()?;
    Some(Frame { kind, bytes })
}

/// A simple query.
pub fn query(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).unwrap();
    [b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat()
}
