//! A running host in its fleet. Two tasks: one only writes the heartbeat; the other loads what is active, prepares what is to be, and says so.
//!
//! Loading and preparing keep compiled revisions in memory, so that a switch only moves pointers: a candidate is ready before its switch.

use super::DeployError;
use super::set::Member;
use super::shelf::Shelf;
use super::standing::read;
use crate::engine::{Engine, Handler, HandlerSource, Pause, Registry, Slot};
use crate::store::fleet::{BEAT, Candidate, Pointer, ReplicaDesk, Revisions};
use crate::store::{Pool, Unavailable};
use crate::telemetry::{Board, lock};
use futures_util::{StreamExt, stream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How often a replica looks by itself: a notification may be lost with its connection.
const POLL: Duration = Duration::from_secs(1);
/// Between two tries to reach the database, or to load what can't be loaded.
const AGAIN: Duration = Duration::from_millis(250);
const TROUBLE: Duration = Duration::from_secs(5);
/// How long a replica may go on with what it has loaded while something else is active and it can't load that.
const BEHIND: Duration = Duration::from_secs(10);
/// Revisions that are fetched and prepared at once; each may need a database connection.
const AT_ONCE: usize = 8;
/// The notes on the board.
const NOTE: &str = "deploys";
const HEART: &str = "heartbeat";

/// A running host.
#[derive(Clone)]
pub struct Replica {
    id: Uuid,
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    board: Arc<Board>,
    installation: String,
    shelf: Arc<Mutex<Shelf>>,
    /// Rings when there is something to look at.
    heard: Arc<Notify>,
    /// The version that is loaded.
    loaded: Arc<watch::Sender<Option<i64>>>,
}

impl Replica {
    /// A host that runs handlers of `registry` in `engine`.
    pub fn new(engine: Arc<Engine>, registry: Arc<Registry>, board: Arc<Board>, installation: &str) -> Self {
        Self {
            id: Uuid::now_v7(),
            engine,
            registry,
            board,
            installation: installation.to_owned(),
            shelf: Arc::default(),
            heard: Arc::default(),
            loaded: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Takes part in the fleet until `stop` turns true, and leaves it then. The database may be away.
    pub fn start(&self, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        let (beating, working) = (self.clone(), self.clone());
        tokio::spawn(async move {
            let beat = tokio::spawn(async move { beating.beats().await });
            working.work(stop).await;
            beat.abort();
            let _ = beat.await;
            // A replica that nobody waits for any more: a deploy need not sit out its heartbeat.
            if let Ok(desk) = ReplicaDesk::open(working.engine.pool(), working.id, None).await {
                let _ = desk.deregister().await;
            }
        })
    }

    /// Waits until this version of the fleet, or a later one, is loaded.
    pub async fn has_loaded(&self, version: i64) {
        let _ = self.loaded.subscribe().wait_for(|loaded| loaded.is_some_and(|loaded| loaded >= version)).await;
    }

    /// The handlers that are active here, by name.
    pub fn handlers(&self) -> Vec<String> {
        self.registry.handlers().iter().map(|handler| handler.name.to_string()).collect()
    }

    async fn beats(&self) {
        let (mut desk, mut away, mut behind) = (None, false, None);
        loop {
            let begun = Instant::now();
            let wait = match self.beat(&mut desk).await {
                Ok(Beaten { version, registered }) => {
                    self.board.clear(HEART);
                    away = false;
                    self.keep_up(version, &mut behind);
                    if self.engine.pulse().beaten(begun, registered) {
                        if self.loaded.borrow().is_some() {
                            tracing::warn!(
                                "the heartbeat was late: what ran before is not kept, and what is active is loaded anew"
                            );
                        }
                        self.heard.notify_one();
                    }
                    BEAT.saturating_sub(begun.elapsed())
                }
                Err(Unavailable(error)) => {
                    desk = None;
                    // Once: whoever needs the database says so, too.
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(
                            error,
                            "the heartbeat cannot be written; without it nothing new is begun after some seconds"
                        );
                    }
                    self.board.note(HEART, format!("the heartbeat cannot be written: {error}"));
                    AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// A heart that beats says nothing of what the host runs: one that can't load what is active must not go on with something else for ever.
    fn keep_up(&self, version: i64, behind: &mut Option<Instant>) {
        match self.loaded.borrow().is_some_and(|loaded| loaded < version) {
            false => *behind = None,
            true if behind.get_or_insert_with(Instant::now).elapsed() > BEHIND => {
                if self.engine.pulse().term().is_ok() {
                    tracing::error!(version, "what is active could not be loaded for {BEHIND:?}: nothing is begun until it is");
                }
                self.engine.pulse().lose();
                self.heard.notify_one();
            }
            true => {}
        }
    }

    async fn beat(&self, desk: &mut Option<ReplicaDesk>) -> Result<Beaten, Unavailable> {
        let desk = match desk {
            Some(desk) if !desk.is_closed() => desk,
            desk => desk.insert(ReplicaDesk::open(self.engine.pool(), self.id, None).await?),
        };
        // A switch may be under way that does not count a replica which was late: registering waits for it, a mere heartbeat does not. Asked after
        // the connection, which may have taken long.
        if !self.engine.pulse().is_late()
            && let Some(version) = desk.beat().await?
        {
            return Ok(Beaten { version, registered: false });
        }
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let version = desk.register(&machine(), pid, env!("CARGO_PKG_VERSION")).await?;
        self.heard.notify_one();
        Ok(Beaten { version, registered: true })
    }

    async fn work(&self, mut stop: watch::Receiver<bool>) {
        let mut desk: Option<ReplicaDesk> = None;
        let mut preparing: Option<(i64, oneshot::Receiver<Vote>)> = None;
        let mut voted = 0;
        while !*stop.borrow() {
            let wait = match self.turn(&mut desk, &mut preparing, &mut voted).await {
                Ok(wait) => wait,
                Err(Unavailable(error)) => {
                    tracing::debug!(error, "the fleet cannot be looked at");
                    desk = None;
                    AGAIN
                }
            };
            tokio::select! {
                () = self.heard.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// One look: load what is active, prepare what is to be, say what came of it. How long until the next, unless something is heard.
    async fn turn(
        &self,
        desk: &mut Option<ReplicaDesk>,
        preparing: &mut Option<(i64, oneshot::Receiver<Vote>)>,
        voted: &mut i64,
    ) -> Result<Duration, Unavailable> {
        let desk = match desk {
            Some(desk) if !desk.is_closed() => desk,
            desk => desk.insert(ReplicaDesk::open(self.engine.pool(), self.id, Some(self.heard.clone())).await?),
        };
        let look = desk.look().await?;
        let mut wait = POLL;
        if *self.loaded.borrow() != Some(look.version) || self.engine.pulse().term().is_err() {
            wait = self.load(desk).await?;
        }
        if let Some((id, vote)) = preparing.as_mut().and_then(|(id, done)| Some((*id, finished(done)?))) {
            *preparing = None;
            match vote {
                Vote::Yes => desk.vote(id, None).await?,
                Vote::No(reason) => {
                    tracing::warn!(candidate = id, reason, "a deploy is refused");
                    desk.vote(id, Some(&reason)).await?;
                }
                // The database was away: once more.
                Vote::Later => *voted = 0,
            }
        }
        if let Some(candidate) = look.candidate.filter(|candidate| candidate.id != *voted) {
            *voted = candidate.id;
            // One that was given up meanwhile may compile on: what comes of it lies on the shelf.
            *preparing = None;
            if self.holds(&candidate) {
                desk.vote(candidate.id, None).await?;
            } else {
                *preparing = Some((candidate.id, self.prepare_beside(candidate)));
            }
        }
        Ok(wait)
    }

    /// Whether everything is on the shelf; this counts as a use.
    fn holds(&self, candidate: &Candidate) -> bool {
        let mut shelf = lock(&self.shelf);
        candidate.revisions.iter().all(|revision| shelf.take(revision).is_some())
    }

    /// Prepares a candidate while the host goes on.
    fn prepare_beside(&self, candidate: Candidate) -> oneshot::Receiver<Vote> {
        let (done, vote) = oneshot::channel();
        let replica = self.clone();
        tokio::spawn(async move {
            let _ = done.send(replica.try_candidate(&candidate).await);
            replica.heard.notify_one();
        });
        vote
    }

    /// Loads what is active, all of it at once.
    async fn load(&self, desk: &ReplicaDesk) -> Result<Duration, Unavailable> {
        let term = self.engine.pulse().current();
        let (version, pointers) = desk.active().await?;
        let missing: Vec<&str> = pointers
            .iter()
            .map(|pointer| pointer.revision.as_str())
            .filter(|revision| !lock(&self.shelf).has(revision))
            .collect();
        let refused = self.fetch(&missing).await?;
        if !missing.is_empty() && desk.look().await?.version != version {
            // Compiling took its time: what is begun with is not what was active when it began.
            return Ok(Duration::ZERO);
        }
        let slots: Option<Vec<Slot>> = pointers.iter().map(|pointer| self.slot(pointer)).collect();
        let activated = match (slots, refused.is_empty()) {
            (Some(slots), true) => self.registry.activate(slots).map_err(|error| format!("{error:#}")),
            _ => Err(refused.join("\n")),
        };
        if let Err(reason) = activated {
            self.engine.pulse().lose();
            tracing::error!(version, "what is active cannot be loaded: {reason}");
            self.board.note(NOTE, format!("what is active cannot be loaded: {reason}"));
            desk.trouble(&reason).await?;
            return Ok(TROUBLE);
        }
        match pointers.is_empty() {
            true => self.board.note(NOTE, "no handler is active: `tidemill deploy DIR`".to_owned()),
            false => self.board.clear(NOTE),
        }
        if !self.engine.pulse().loaded(term) {
            // Not registered yet, or late meanwhile: whoever registers it rings.
            return Ok(POLL);
        }
        desk.loaded(version, true).await?;
        if self.loaded.send_replace(Some(version)) != Some(version) {
            let handlers: Vec<String> = self.registry.handlers().iter().map(|h| format!("{} {}", h.name, h.revision)).collect();
            tracing::info!(
                version,
                "active now: {}",
                if handlers.is_empty() { "no handler".to_owned() } else { handlers.join(", ") }
            );
        }
        Ok(POLL)
    }

    fn slot(&self, pointer: &Pointer) -> Option<Slot> {
        let handler = lock(&self.shelf).take(&pointer.revision)?;
        let paused = pointer.paused.as_ref().map(|(by, since)| Arc::new(Pause { by: by.clone(), since: since.to_string() }));
        Some(Slot { handler, paused })
    }

    async fn try_candidate(&self, candidate: &Candidate) -> Vote {
        let missing: Vec<&str> =
            candidate.revisions.iter().map(String::as_str).filter(|revision| !lock(&self.shelf).has(revision)).collect();
        match self.fetch(&missing).await {
            Ok(refused) if refused.is_empty() && self.holds(candidate) => Vote::Yes,
            Ok(refused) => Vote::No(refused.join("\n")),
            Err(Unavailable(error)) => {
                tracing::debug!(error, "a candidate cannot be read");
                Vote::Later
            }
        }
    }

    /// Puts these revisions on the shelf; those that can't be used, in words.
    async fn fetch(&self, revisions: &[&str]) -> Result<Vec<String>, Unavailable> {
        if revisions.is_empty() {
            return Ok(Vec::new());
        }
        let pool = self.engine.pool();
        let found = Revisions::new(pool.clone()).these(revisions).await?;
        let mut prepared = stream::iter(found.into_iter().map(|revision| async move {
            let member = read(revision)?;
            prepare(&self.engine, pool, &self.installation, &member).await
        }))
        .buffer_unordered(AT_ONCE);
        let mut refused = Vec::new();
        while let Some(handler) = prepared.next().await {
            match handler {
                Ok(handler) => lock(&self.shelf).put(handler),
                Err(DeployError::Unavailable(error)) => return Err(Unavailable(error)),
                Err(error) => refused.push(error.to_string()),
            }
        }
        if refused.is_empty() {
            let absent = revisions.iter().filter(|revision| !lock(&self.shelf).has(revision));
            refused.extend(absent.map(|revision| format!("the database has no revision {revision}")));
        }
        Ok(refused)
    }
}

/// A heartbeat that arrived.
struct Beaten {
    /// The version of the fleet.
    version: i64,
    /// The replica was not known before, or dead to the others.
    registered: bool,
}

/// What came of a candidate, if it is known by now.
fn finished(done: &mut oneshot::Receiver<Vote>) -> Option<Vote> {
    match done.try_recv() {
        Ok(vote) => Some(vote),
        Err(oneshot::error::TryRecvError::Empty) => None,
        Err(oneshot::error::TryRecvError::Closed) => Some(Vote::No("the host failed while it prepared this".to_owned())),
    }
}

/// What a replica says of a candidate.
enum Vote {
    Yes,
    No(String),
    /// It can't say yet.
    Later,
}

/// Compiles a revision, or takes its kept code, and makes an instance of it.
pub(super) async fn prepare(
    engine: &Arc<Engine>,
    pool: &Pool,
    installation: &str,
    member: &Member,
) -> Result<Arc<Handler>, DeployError> {
    let refused = |error: anyhow::Error| DeployError::Refused(format!("{error:#}"));
    let component = match engine.keeps(&member.digest) {
        true => None,
        false => Some(Revisions::new(pool.clone()).component(&member.revision).await?),
    };
    let given = component.is_some();
    let source = member.source(installation, component).map_err(refused)?;
    let made = match blocking(engine, source).await {
        // What was kept is damaged.
        Err(_) if !given => {
            let component = Revisions::new(pool.clone()).component(&member.revision).await?;
            blocking(engine, member.source(installation, Some(component)).map_err(refused)?).await
        }
        made => made,
    };
    let handler = Arc::new(made.map_err(refused)?);
    engine.try_instance(&handler).await.map_err(|failure| match failure.is_host_fault() {
        true => DeployError::Unavailable(failure.to_string()),
        false => {
            let text = format!("handler `{}` cannot be used: no instance of it can be made: {failure}", handler.name);
            DeployError::Refused(text)
        }
    })?;
    Ok(handler)
}

async fn blocking(engine: &Arc<Engine>, source: HandlerSource) -> anyhow::Result<Handler> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || engine.prepare(source)).await?
}

/// The machine's name.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("id", &self.id).finish_non_exhaustive()
    }
}
