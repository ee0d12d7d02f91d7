//! A proxy before PostgreSQL that understands its protocol well enough to fail at the worst moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex as PlainMutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, watch};

use super::frames::{self, Frame};

/// When a connection is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// COMMIT never reaches the server.
    BeforeCommit,
    /// The server commits, its answer never reaches the client.
    AfterCommit,
}

/// What shall happen, once, to a transaction that ran the marked statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is cut.
    Cut(Cut),
    /// The connection is cut, and from then on every other one is refused.
    CutAndRefuse(Cut),
    /// The server aborts the transaction while the client is idle, and the client is not told: its COMMIT will be a ROLLBACK.
    AbortUnseen,
    /// COMMIT does not get through before [`Proxy::release`]; what came before it does.
    HoldCommit,
}

impl Fault {
    fn cut(self) -> Option<Cut> {
        match self {
            Self::Cut(cut) | Self::CutAndRefuse(cut) => Some(cut),
            Self::AbortUnseen | Self::HoldCommit => None,
        }
    }
}

/// The running proxy; it ends with the test's runtime.
pub struct Proxy {
    /// Its port on 127.0.0.1.
    pub port: u16,
    plan: Arc<Plan>,
}

struct Plan {
    upstream: u16,
    /// The fault that waits for a statement that contains the text.
    armed: PlainMutex<Option<(Fault, String)>>,
    refusing: AtomicBool,
    hits: AtomicU32,
    released: Notify,
    /// Changes when every open connection has to break.
    broken: watch::Sender<u32>,
    /// While nothing gets through, not even the end of a connection.
    stalled: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy before the server on this port.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan {
            upstream,
            armed: PlainMutex::new(None),
            refusing: AtomicBool::new(false),
            hits: AtomicU32::new(0),
            released: Notify::new(),
            broken: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
        });
        let shared = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !shared.refusing.load(Ordering::SeqCst) {
                    tokio::spawn(serve(client, Arc::clone(&shared)));
                }
            }
        });
        Self { port, plan }
    }

    /// Plans a fault for the next transaction that runs a statement containing `marker` (in lower case).
    pub fn arm(&self, fault: Fault, marker: &str) {
        *self.plan.armed.lock().unwrap() = Some((fault, marker.to_owned()));
    }

    /// How many planned faults have happened.
    pub fn hits(&self) -> u32 {
        self.plan.hits.load(Ordering::SeqCst)
    }

    /// Breaks every open connection.
    pub fn break_all(&self) {
        self.plan.broken.send_modify(|generation| *generation += 1);
    }

    /// Lets nothing through in either direction, as a cut cable would, or lets it through again.
    pub fn stall(&self, stalled: bool) {
        self.plan.stalled.send_replace(stalled);
    }

    /// Lets the COMMIT through that was held.
    pub fn release(&self) {
        self.plan.released.notify_one();
    }

    /// Refuses new connections, or lets them through again.
    pub fn refuse(&self, refusing: bool) {
        self.plan.refusing.store(refusing, Ordering::SeqCst);
    }
}

impl Plan {
    /// Waits while nothing gets through.
    async fn flowing(&self) {
        let _ = self.stalled.subscribe().wait_for(|stalled| !*stalled).await;
    }

    /// Takes the planned fault if it is the one that this moment is for.
    fn take(&self, wanted: impl FnOnce(Fault) -> bool) -> bool {
        let mut armed = self.armed.lock().unwrap();
        let Some((fault, _)) = armed.take_if(|(fault, _)| wanted(*fault)) else {
            return false;
        };
        if matches!(fault, Fault::CutAndRefuse(_)) {
            self.refusing.store(true, Ordering::SeqCst);
            self.broken.send_modify(|generation| *generation += 1);
        }
        self.hits.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn armed(&self, cut: Cut) -> bool {
        self.armed.lock().unwrap().as_ref().is_some_and(|(fault, _)| fault.cut() == Some(cut))
    }

    fn is_marked(&self, statement: &str) -> bool {
        self.armed.lock().unwrap().as_ref().is_some_and(|(_, marker)| statement.contains(marker))
    }
}

/// What the proxy knows of one connection.
struct Connection {
    server: OwnedWriteHalf,
    /// Texts of prepared statements, in lower case.
    statements: HashMap<String, String>,
    /// The open transaction ran the marked statement.
    marked: bool,
    /// A marked COMMIT is on its way whose answer has to get lost.
    commit_sent: bool,
    /// Messages that the server will answer with `ReadyForQuery`.
    unanswered: u32,
    /// The answer to the proxy's own statement is being dropped.
    swallowing: bool,
}

async fn serve(client: TcpStream, plan: Arc<Plan>) {
    let mut broken = plan.broken.subscribe();
    tokio::select! {
        _ = converse(client, &plan) => {}
        _ = broken.changed() => {}
    }
}

async fn converse(mut client: TcpStream, plan: &Plan) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", plan.upstream)).await.ok()?;
    client.set_nodelay(true).ok()?;
    server.set_nodelay(true).ok()?;
    loop {
        let opening = frames::opening(&mut client).await?;
        plan.flowing().await;
        server.write_all(&opening.bytes).await.ok()?;
        if !opening.asks_for_encryption() {
            break;
        }
        let answer = server.read_u8().await.ok()?;
        client.write_u8(answer).await.ok()?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, server) = server.into_split();
    let connection =
        Connection { server, statements: HashMap::new(), marked: false, commit_sent: false, unanswered: 0, swallowing: false };
    let connection = Mutex::new(connection);
    tokio::select! {
        end = upward(from_client, &connection, plan) => end,
        end = downward(from_server, to_client, &connection, plan) => end,
    }
}

/// From the client to the server; ends when the connection ends or has to.
async fn upward(client: OwnedReadHalf, connection: &Mutex<Connection>, plan: &Plan) -> Option<()> {
    let mut client = BufReader::new(client);
    loop {
        let frame = frames::next(&mut client).await;
        plan.flowing().await;
        let frame = frame?;
        let mut known = connection.lock().await;
        if let Some(statement) = known.statement(&frame) {
            known.marked |= plan.is_marked(&statement);
            if known.marked && is_commit(&statement) {
                if plan.take(|fault| fault.cut() == Some(Cut::BeforeCommit)) {
                    return None;
                }
                known.commit_sent = plan.armed(Cut::AfterCommit);
                known.marked = false;
                if plan.take(|fault| fault == Fault::HoldCommit) {
                    drop(known);
                    plan.released.notified().await;
                    known = connection.lock().await;
                }
            }
        }
        known.unanswered += u32::from(matches!(frame.kind, b'Q' | b'S'));
        known.server.write_all(&frame.bytes).await.ok()?;
    }
}

/// From the server to the client; ends when the connection ends or has to.
async fn downward(server: OwnedReadHalf, mut client: OwnedWriteHalf, connection: &Mutex<Connection>, plan: &Plan) -> Option<()> {
    let mut server = BufReader::new(server);
    loop {
        let frame = frames::next(&mut server).await;
        plan.flowing().await;
        let frame = frame?;
        {
            let mut connection = connection.lock().await;
            if connection.swallowing {
                connection.swallowing = frame.kind != b'Z';
                continue;
            }
            let committed = frame.kind == b'C' && frame.text(0) == "COMMIT";
            if committed && connection.commit_sent && plan.take(|fault| fault.cut() == Some(Cut::AfterCommit)) {
                return None;
            }
            connection.unanswered = connection.unanswered.saturating_sub(u32::from(frame.kind == b'Z'));
            let idle_inside = frame.kind == b'Z' && frame.body() == b"T" && connection.unanswered == 0;
            if idle_inside && connection.marked && plan.take(|fault| fault == Fault::AbortUnseen) {
                connection.server.write_all(&frames::query("SELECT 1 / 0")).await.ok()?;
                connection.swallowing = true;
            }
        }
        client.write_all(&frame.bytes).await.ok()?;
    }
}

impl Connection {
    /// The text that this message makes the server run, in lower case.
    fn statement(&mut self, frame: &Frame) -> Option<String> {
        match frame.kind {
            b'Q' => Some(frame.text(0).to_lowercase()),
            b'P' => {
                self.statements.insert(frame.text(0), frame.text(1).to_lowercase());
                None
            }
            b'B' => self.statements.get(&frame.text(1)).cloned(),
            _ => None,
        }
    }
}

fn is_commit(statement: &str) -> bool {
    statement.split(';').map(str::trim).any(|part| matches!(part, "commit" | "end" | "commit work" | "commit transaction"))
}
