//! `tidemill:log`, and standard output and error: lines with the invocation's fields, bounded.

use crate::bindings::log::{self, Level};
use crate::telemetry::lock;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// The longest line that is kept, in bytes.
const LONGEST_LINE: usize = 8 * 1024;

/// Where the lines of one invocation go.
#[derive(Debug, Clone)]
pub struct Sink {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    handler: Arc<str>,
    correlation_id: String,
    left: usize,
    dropped: usize,
}

impl Sink {
    /// A sink for one invocation that keeps up to `lines` lines.
    pub fn new(handler: Arc<str>, correlation_id: String, lines: usize) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { handler, correlation_id, left: lines, dropped: 0 })) }
    }

    fn line(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let mut shared = lock(&self.shared);
        if shared.left == 0 {
            shared.dropped += 1;
            return;
        }
        shared.left -= 1;
        let (handler, correlation_id) = (&*shared.handler, shared.correlation_id.as_str());
        let fields = fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        let (message, fields) = (shorten(message), shorten(&fields));
        match level {
            Level::Trace => tracing::trace!(target: "guest", handler, correlation_id, fields, "{message}"),
            Level::Debug => tracing::debug!(target: "guest", handler, correlation_id, fields, "{message}"),
            Level::Info => tracing::info!(target: "guest", handler, correlation_id, fields, "{message}"),
            Level::Warn => tracing::warn!(target: "guest", handler, correlation_id, fields, "{message}"),
            Level::Error => tracing::error!(target: "guest", handler, correlation_id, fields, "{message}"),
        }
    }

    /// Says how many lines were beyond the limit, once, at the end of the invocation.
    pub fn finish(&self) {
        let shared = lock(&self.shared);
        if shared.dropped > 0 {
            let (handler, dropped) = (&*shared.handler, shared.dropped);
            tracing::warn!(target: "guest", handler, dropped, "log lines beyond the limit `log_lines` were left out");
        }
    }
}

fn shorten(text: &str) -> &str {
    match text.char_indices().take_while(|(at, _)| *at < LONGEST_LINE).last() {
        Some((at, c)) => &text[..at + c.len_utf8()],
        None => text,
    }
}

/// State that can lend the invocation's [`Sink`].
pub trait LogView: Send {
    /// Lends it.
    fn log(&mut self) -> &mut Sink;
}

struct HasLog;

impl HasData for HasLog {
    type Data<'a> = &'a mut Sink;
}

/// Links `tidemill:log/log`.
pub fn add_to_linker<T: LogView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    log::add_to_linker::<T, HasLog>(linker, T::log)
}

impl log::Host for Sink {
    async fn log(&mut self, level: Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.line(level, &message, &fields);
        Ok(())
    }
}

/// Standard output or error of a guest, as log lines.
#[derive(Debug, Clone)]
pub struct Stdio {
    sink: Sink,
    level: Level,
    partial: Arc<Mutex<Vec<u8>>>,
}

impl Stdio {
    /// Standard output: lines of level info.
    pub fn stdout(sink: Sink) -> Self {
        Self { sink, level: Level::Info, partial: Arc::default() }
    }

    /// Standard error: lines of level warn.
    pub fn stderr(sink: Sink) -> Self {
        Self { sink, level: Level::Warn, partial: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut partial = lock(&self.partial);
        partial.extend_from_slice(bytes);
        while let Some(end) = partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            self.sink.line(self.level, String::from_utf8_lossy(&line).trim_end(), &[]);
        }
        // A line without an end does not grow without an end.
        if partial.len() > LONGEST_LINE {
            let line = std::mem::take(&mut *partial);
            self.sink.line(self.level, &String::from_utf8_lossy(&line), &[]);
        }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only version 0.3 of WASI asks for this one, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LONGEST_LINE)
    }
}
