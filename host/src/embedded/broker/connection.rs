//! One client: its requests are answered one after the other, in order, as Kafka promises.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::api::{self, Client};
use super::wire::{self, Refusal, Request};
use super::{Node, Shared};

/// As much is read ahead while a request is being answered.
const READ_AHEAD: usize = 1 << 20;

/// Serves a connection until either side ends it. Why the broker ended it goes to the log.
pub(super) async fn serve(shared: Arc<Shared>, node: Node, stream: TcpStream, peer: SocketAddr) {
    let client = Client { shared: &shared, node: &node, peer };
    match converse(&client, stream).await {
        Ok(()) => tracing::debug!(%peer, "a client has left"),
        Err(Refusal::Io(error)) => tracing::debug!(%peer, %error, "a client is gone"),
        Err(refusal) => tracing::warn!(%peer, "closed the connection of a client: {refusal}"),
    }
}

async fn converse(client: &Client<'_>, stream: TcpStream) -> Result<(), Refusal> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = BytesMut::new();
    loop {
        let frame = loop {
            if let Some(frame) = wire::next_frame(&mut buffer)? {
                break frame;
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let request = Request::parse(frame, api::supported)?;
        let answer = tokio::select! {
            biased;
            answer = api::answer(client, request) => answer?,
            () = hung_up(&mut reader, &mut buffer) => return Ok(()),
        };
        if let Some(answer) = answer {
            writer.write_all(&answer).await?;
        }
    }
}

/// Completes when the client closes its side, so that a long poll or a waiting group member ends with its connection.
async fn hung_up(reader: &mut OwnedReadHalf, buffer: &mut BytesMut) {
    while buffer.len() < READ_AHEAD {
        buffer.reserve(8 * 1024);
        if !matches!(reader.read_buf(buffer).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}
