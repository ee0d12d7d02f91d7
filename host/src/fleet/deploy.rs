//! The way that every change goes: read what is active, check what shall be, let every replica that is alive prepare it, migrate, switch, and
//! wait until all of them work by it.

use super::plan::{Plan, check, migrate, pending, plans};
use super::report::{HandlerOutcome, ReplicaOutcome, Report};
use super::set::Member;
use super::standing::Standing;
use super::{Bundle, DeployError};
use crate::engine::{Cache, Engine};
use crate::store::fleet::{Change, Desk, NewRevision};
use crate::store::operate::Actor;
use crate::store::{MigrationOptions, Pool};
use crate::telemetry::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the replicas may take to compile.
const PREPARING: Duration = Duration::from_secs(600);
/// How long they may take to work by a switch. Everything is prepared: who takes longer is in trouble, and said to be.
const LOADING: Duration = Duration::from_secs(15);
/// How long after a lost answer it is asked whether the switch was made.
const ASKING: Duration = Duration::from_secs(15);

/// Who changes what is deployed, and why.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who.
    pub actor: Actor,
    /// Their words.
    pub note: Option<String>,
}

/// Characters of a note, at most.
const NOTE: usize = 2_000;

impl Order {
    /// An order; its note has at most 2,000 characters, none of them U+0000, which PostgreSQL does not keep.
    pub fn new(actor: Actor, note: Option<String>) -> Result<Self, DeployError> {
        match note.as_deref().unwrap_or_default() {
            text if text.contains('\0') => Err(DeployError::Invalid("a note holds no U+0000: leave it out".to_owned())),
            text if text.chars().count() > NOTE => Err(DeployError::Invalid(format!("a note has at most {NOTE} characters"))),
            _ => Ok(Self { actor, note }),
        }
    }
}

/// What may change schemas and roles, for deploys that bring migrations.
#[derive(Debug, Clone)]
pub struct Administration {
    /// A login that may.
    pub admin_url: String,
    /// The login of the running hosts.
    pub runtime_url: String,
    /// What migrations may do.
    pub options: MigrationOptions,
}

/// Deploys into the pool's database.
#[derive(Debug, Clone)]
pub struct Deployer {
    pool: Pool,
    installation: String,
    /// The folder of compiled code, for when no host runs and this process has to try a revision itself.
    cache: Option<PathBuf>,
}

/// What is to become active.
pub(super) struct Proposal {
    pub(super) action: &'static str,
    pub(super) outcome: &'static str,
    pub(super) members: Vec<Member>,
    /// Handlers that are taken out of service with it.
    pub(super) gone: Vec<String>,
}

/// One try to make a proposal active.
struct Round<'a> {
    candidate: i64,
    base: i64,
    action: &'a str,
    members: &'a [Member],
    change: &'a Change,
    plans: &'a [Plan],
    order: &'a Order,
    /// Given if something has to be migrated.
    admin: Option<&'a Administration>,
}

/// A switch that was made.
struct Made {
    version: i64,
    migrations: Vec<String>,
    agreed: Instant,
    switched: Instant,
}

impl Deployer {
    /// Deploys into this database. `cache`: the folder of compiled code, if there is one.
    pub fn new(pool: Pool, installation: &str, cache: Option<PathBuf>) -> Self {
        Self { pool, installation: installation.to_owned(), cache }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Makes all of these active together, or none. Those that are active already stay as they are.
    pub async fn deploy(&self, bundles: &[Bundle], order: &Order, admin: Option<&Administration>) -> Result<Report, DeployError> {
        let mut desk = self.desk(order).await?;
        let standing = Standing::read(&desk).await?;
        self.activate(&mut desk, &standing, bundles, Vec::new(), order, admin).await
    }

    /// Makes exactly these active, together or not at all: what is active and not among them is taken out of service in the same switch.
    pub async fn exactly(
        &self,
        bundles: &[Bundle],
        order: &Order,
        admin: Option<&Administration>,
    ) -> Result<Report, DeployError> {
        let mut desk = self.desk(order).await?;
        let standing = Standing::read(&desk).await?;
        let stays = |name: &str| bundles.iter().any(|bundle| bundle.manifest.name == name);
        let gone = standing.names().filter(|name| !stays(name)).map(str::to_owned).collect();
        self.activate(&mut desk, &standing, bundles, gone, order, admin).await
    }

    /// A desk that has its turn.
    async fn desk(&self, order: &Order) -> Result<Desk, DeployError> {
        let desk = Desk::open(&self.pool).await?;
        desk.take_turn(&order.actor, false).await?;
        Ok(desk)
    }

    async fn activate(
        &self,
        desk: &mut Desk,
        standing: &Standing,
        bundles: &[Bundle],
        gone: Vec<String>,
        order: &Order,
        admin: Option<&Administration>,
    ) -> Result<Report, DeployError> {
        let new: Vec<Member> = bundles.iter().map(Member::new).collect();
        let unchanged = |member: &Member| standing.revision(&member.manifest.name) == Some(&member.revision);
        let (same, members): (Vec<Member>, Vec<Member>) = new.into_iter().partition(unchanged);
        if !members.is_empty() {
            // Before anything is stored: what can't be is refused at once.
            standing.together(&members, &gone)?;
        }
        for bundle in bundles.iter().filter(|bundle| members.iter().any(|member| member.revision == bundle.revision)) {
            let new = NewRevision {
                revision: &bundle.revision,
                handler: &bundle.manifest.name,
                app: &bundle.manifest.app,
                manifest: &bundle.text,
                digest: bundle.digest,
                component: &bundle.component,
                migrations: bundle.migrations.as_deref(),
                size: bundle.size(),
                note: order.note.as_deref(),
                by: order.actor.name(),
            };
            desk.save(&new).await?;
        }
        let mut report = match (members.is_empty(), gone.is_empty()) {
            (true, true) => Report::new("deploy", standing.version),
            (true, false) => self.remove(desk, standing, gone, "deploy", order).await?,
            (false, _) => {
                let proposal = Proposal { action: "deploy", outcome: "deployed", members, gone };
                self.propose(desk, standing, proposal, order, admin).await?
            }
        };
        report.handlers.extend(same.into_iter().map(|member| HandlerOutcome {
            handler: member.manifest.name,
            outcome: "unchanged",
            from: Some(member.revision.clone()),
            revision: Some(member.revision),
        }));
        report.handlers.sort_by(|a, b| a.handler.cmp(&b.handler));
        Ok(report)
    }

    /// From a candidate to the switch.
    pub(super) async fn propose(
        &self,
        desk: &mut Desk,
        standing: &Standing,
        proposal: Proposal,
        order: &Order,
        admin: Option<&Administration>,
    ) -> Result<Report, DeployError> {
        let Proposal { action, outcome, members, gone } = proposal;
        let all = standing.together(&members, &gone)?;
        let plans = plans(&self.installation, desk, &all, &members).await?;
        let pending = pending(desk, &plans).await?;
        if !pending.is_empty() && admin.is_none() {
            return Err(DeployError::Refused(format!(
                "the database lacks {}, and this process may not make it: give TIDEMILL_ADMIN_DATABASE_URL to `tidemill deploy`, or run \
                 `tidemill migrate --handlers DIR` first; nothing was switched",
                pending.join(", ")
            )));
        }
        let admin = admin.filter(|_| !pending.is_empty());
        if let Some(admin) = admin {
            desk.holding(None, check(admin, &plans)).await??;
        }
        let moves: Vec<(String, String)> = members.iter().map(|m| (m.manifest.name.clone(), m.revision.clone())).collect();
        let begun = Instant::now();
        let candidate = desk.propose(action, &moves, standing.version, &order.actor, order.note.as_deref()).await?;
        let change = Change::Set { moves: moves.clone(), gone: gone.clone() };
        let round =
            Round { candidate, base: standing.version, action, members: &members, change: &change, plans: &plans, order, admin };
        let Made { version, migrations, agreed, switched } = match self.decide(desk, &round).await {
            Ok(made) => made,
            Err(error) => {
                // If this fails, the next deploy abandons it.
                let _ = desk.refuse(candidate, &error.to_string()).await;
                return Err(error);
            }
        };
        let mut report = Report { changed: true, migrations, ..Report::new(action, version) };
        (report.prepared_ms, report.switched_ms) = (ms(agreed - begun), ms(switched - agreed));
        let become_ = moves.iter().map(|(handler, revision)| (handler, outcome, Some(revision.clone())));
        let leave = gone.iter().map(|handler| (handler, "undeployed", None));
        let came_of = |(handler, outcome, revision): (&String, _, _)| HandlerOutcome {
            handler: handler.clone(),
            outcome,
            from: standing.revision(handler).map(str::to_owned),
            revision,
        };
        report.handlers = become_.chain(leave).map(came_of).collect();
        let resting = standing.paused.iter().filter(|handler| moves.iter().any(|(moved, _)| moved == *handler));
        report
            .warnings
            .extend(resting.map(|handler| format!("handler `{handler}` is paused and stays so: `tidemill resume {handler}`")));
        desk.release().await;
        self.await_loaded(desk, switched, &mut report).await;
        Ok(report)
    }

    /// Takes handlers out of service in one step.
    pub(super) async fn remove(
        &self,
        desk: &mut Desk,
        standing: &Standing,
        gone: Vec<String>,
        action: &'static str,
        order: &Order,
    ) -> Result<Report, DeployError> {
        let mut report = Report::new(action, standing.version);
        report.handlers.extend(gone.iter().map(|handler| HandlerOutcome {
            handler: handler.clone(),
            outcome: "undeployed",
            from: standing.revision(handler).map(str::to_owned),
            revision: None,
        }));
        self.switch(desk, &Change::Set { moves: Vec::new(), gone }, action, order, &mut report).await?;
        Ok(report)
    }

    /// Makes a change that no replica has to prepare.
    pub(super) async fn switch(
        &self,
        desk: &mut Desk,
        change: &Change,
        action: &'static str,
        order: &Order,
        report: &mut Report,
    ) -> Result<(), DeployError> {
        let (begun, base) = (Instant::now(), report.version);
        report.version = match desk.switch(None, base, change, action, &order.actor, order.note.as_deref()).await {
            Err(DeployError::Unavailable(error)) => self.ask((base, None), change, action, order, error).await?,
            made => made?,
        };
        let switched = Instant::now();
        (report.changed, report.switched_ms) = (true, ms(switched - begun));
        desk.release().await;
        self.await_loaded(desk, switched, report).await;
        Ok(())
    }

    /// Agreement, migrations, switch.
    async fn decide(&self, desk: &mut Desk, round: &Round<'_>) -> Result<Made, DeployError> {
        let mut migrations = None;
        let mut tried_here = false;
        let until = Instant::now() + PREPARING;
        loop {
            self.await_agreement(desk, round, &mut tried_here, until).await?;
            let agreed = Instant::now();
            if let (Some(admin), None) = (round.admin, &migrations) {
                migrations = Some(desk.holding(Some(round.candidate), migrate(admin, round.plans)).await??);
            }
            let Round { candidate, base, action, order, change, .. } = *round;
            let version = match desk.switch(Some(candidate), base, change, action, &order.actor, order.note.as_deref()).await {
                Ok(version) => version,
                // A replica has come meanwhile, or come back: it has to agree first.
                Err(DeployError::Moved) if Instant::now() < until => continue,
                Err(DeployError::Unavailable(error)) => self.ask((base, Some(candidate)), change, action, order, error).await?,
                Err(error) => return Err(error),
            };
            return Ok(Made { version, migrations: migrations.unwrap_or_default(), agreed, switched: Instant::now() });
        }
    }

    /// The answer of the switch was lost: was it made?
    async fn ask(
        &self,
        (base, candidate): (i64, Option<i64>),
        change: &Change,
        action: &str,
        order: &Order,
        error: String,
    ) -> Result<i64, DeployError> {
        let until = Instant::now() + ASKING;
        loop {
            match Desk::was_made(&self.pool, (base, candidate), change, action, &order.actor).await {
                Ok(true) => return Ok(base + 1),
                Ok(false) => return Err(DeployError::Unavailable(format!("{error}; nothing was switched: repeat it"))),
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(_) => {
                    let text = format!("{error}; it is not known whether it was switched: `tidemill ps` shows it");
                    return Err(DeployError::Unavailable(text));
                }
            }
        }
    }

    /// Waits until every replica that is alive has prepared the candidate. One refusal is enough.
    async fn await_agreement(
        &self,
        desk: &Desk,
        round: &Round<'_>,
        tried_here: &mut bool,
        until: Instant,
    ) -> Result<(), DeployError> {
        loop {
            let voters = desk.voters(round.candidate).await?;
            let refusals: Vec<String> = voters
                .iter()
                .filter_map(|voter| Some(format!("replica {} refuses: {}", voter.name, voter.vote.as_ref()?.as_ref().err()?)))
                .collect();
            if !refusals.is_empty() {
                return Err(DeployError::Refused(format!("{}; nothing was switched", refusals.join("\n"))));
            }
            let silent: Vec<&str> = voters.iter().filter(|voter| voter.vote.is_none()).map(|voter| voter.name.as_str()).collect();
            if voters.is_empty() && !std::mem::replace(tried_here, true) {
                desk.holding(Some(round.candidate), self.try_here(round.members)).await??;
                continue;
            }
            if silent.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let text = format!(
                    "{} did not say within {PREPARING:?} whether it can use this; nothing was switched",
                    silent.join(", ")
                );
                return Err(DeployError::Refused(text));
            }
            desk.wait(Duration::from_millis(200)).await;
        }
    }

    /// No host runs that could try it.
    async fn try_here(&self, members: &[Member]) -> Result<(), DeployError> {
        let cache = self.cache.as_ref().and_then(|folder| Cache::open(folder).ok()).unwrap_or_else(Cache::none);
        let engine = Engine::new(self.pool.clone(), cache, Arc::new(Metrics::default()), Duration::from_secs(5));
        let engine = Arc::new(engine.map_err(|error| DeployError::Unavailable(format!("{error:#}")))?);
        for member in members {
            super::replica::prepare(&engine, &self.pool, &self.installation, member).await?;
        }
        Ok(())
    }

    pub(super) async fn await_loaded(&self, desk: &Desk, switched: Instant, report: &mut Report) {
        let until = switched + LOADING;
        while let Ok(replicas) = desk.replicas().await {
            // A rollback is answered at once: one that is still starting begins with what is active by then.
            let waits = |loaded: Option<i64>| loaded.map_or(report.action != "rollback", |loaded| loaded < report.version);
            let behind = replicas.iter().filter(|replica| waits(replica.loaded)).count();
            if behind == 0 || Instant::now() >= until {
                report.loaded_ms = ms(switched.elapsed());
                report.replicas = replicas
                    .into_iter()
                    .map(|replica| ReplicaOutcome {
                        replica: format!("{}/{}", replica.host, replica.pid),
                        loaded: replica.loaded.is_some_and(|loaded| loaded >= report.version),
                        trouble: replica.trouble,
                    })
                    .collect();
                return;
            }
            desk.wait(Duration::from_millis(100)).await;
        }
        report
            .warnings
            .push("the database went away before all replicas had said that they work by it: `tidemill ps` shows it".to_owned());
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
