//! The way that every change goes: read what is active, check what shall be, let every replica that is alive prepare it, migrate, switch, and
//! wait until all of them work by it.

use super::report::{HandlerOutcome, ReplicaOutcome, Report};
use super::set::{self, Member};
use super::{Bundle, DeployError};
use crate::engine::{Cache, Engine};
use crate::store::fleet::{Change, Desk, NewRevision, Revision};
use crate::store::operate::Actor;
use crate::store::{AppPlan, HandlerRole, MigrationOptions, Migrator, Pool};
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

/// What is active, and since which change.
pub(super) struct Standing {
    pub(super) version: i64,
    pub(super) members: Vec<Member>,
    /// Handler, revision and the reason, of what this program can't read: an older one made it, or a newer one.
    unread: Vec<(String, String, DeployError)>,
    pub(super) paused: Vec<String>,
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

/// What an app needs in the database.
struct Plan {
    app: AppPlan,
    /// The roles of the handlers that are to run; the plan knows those of earlier ones too, since migrations may grant something to them.
    roles: Vec<String>,
}

impl Standing {
    pub(super) async fn read(desk: &Desk) -> Result<Self, DeployError> {
        let (version, active) = desk.active().await?;
        let paused = active.iter().filter(|(_, paused)| *paused).map(|(revision, _)| revision.handler.clone()).collect();
        let (mut members, mut unread) = (Vec::new(), Vec::new());
        for (revision, _) in active {
            let (handler, name) = (revision.handler.clone(), revision.revision.clone());
            match read(revision) {
                Ok(member) => members.push(member),
                Err(error) => unread.push((handler, name, error)),
            }
        }
        Ok(Self { version, members, unread, paused })
    }

    pub(super) fn revision(&self, handler: &str) -> Option<&str> {
        let read = self.members.iter().map(|member| (&member.manifest.name, &member.revision));
        let unread = self.unread.iter().map(|(handler, revision, _)| (handler, revision));
        read.chain(unread).find(|(name, _)| *name == handler).map(|(_, revision)| revision.as_str())
    }

    /// The active handlers.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let read = self.members.iter().map(|member| member.manifest.name.as_str());
        read.chain(self.unread.iter().map(|(handler, ..)| handler.as_str()))
    }

    /// What is active with these members instead of their earlier revisions, and without what goes, if all of it fits together.
    fn together(&self, new: &[Member], gone: &[String]) -> Result<Vec<Member>, DeployError> {
        let leaves = |handler: &str| gone.iter().any(|gone| gone == handler);
        let replaced = |handler: &str| new.iter().any(|member| member.manifest.name == handler);
        if let Some((.., error)) = self.unread.iter().find(|(handler, ..)| !leaves(handler) && !replaced(handler)) {
            return Err(error.clone());
        }
        let stays: Vec<Member> = self.members.iter().filter(|member| !leaves(&member.manifest.name)).cloned().collect();
        set::together(&stays, new)
    }

    /// Whether the others can do without these handlers. Where they don't fit together anyway, taking something away is no worse.
    pub(super) fn without(&self, gone: &[String]) -> Result<(), DeployError> {
        if self.together(&[], &[]).is_err() {
            return Ok(());
        }
        let stays = self.together(&[], gone).map_err(|error| {
            let names = gone.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            DeployError::Refused(format!("what stays does not fit together without {names}: {error}; nothing was switched"))
        })?;
        let leaving: Vec<&Member> = self.members.iter().filter(|member| gone.contains(&member.manifest.name)).collect();
        set::declared(&stays, &leaving)
    }
}

/// A revision as this version of the program reads it.
pub(super) fn read(revision: Revision) -> Result<Member, DeployError> {
    Member::deployed(revision)
        .map_err(|error| DeployError::Refused(format!("{error:#}; this program may be older than what deployed it")))
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
        let mut desk = Desk::open(&self.pool, &order.actor, false).await?;
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
        let mut desk = Desk::open(&self.pool, &order.actor, false).await?;
        let standing = Standing::read(&desk).await?;
        let stays = |name: &str| bundles.iter().any(|bundle| bundle.manifest.name == name);
        let gone = standing.names().filter(|name| !stays(name)).map(str::to_owned).collect();
        self.activate(&mut desk, &standing, bundles, gone, order, admin).await
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
        let plans = self.plans(desk, &all, &members).await?;
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
            check(admin, &plans).await?;
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
            Err(DeployError::Unavailable(error)) => self.ask(base, change, action, order, error).await?,
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
                migrations = Some(holding(desk, migrate(admin, round.plans)).await?);
            }
            let Round { candidate, base, action, order, change, .. } = *round;
            let version = match desk.switch(Some(candidate), base, change, action, &order.actor, order.note.as_deref()).await {
                Ok(version) => version,
                // A replica has come meanwhile, or come back: it has to agree first.
                Err(DeployError::Moved) if Instant::now() < until => continue,
                Err(DeployError::Unavailable(error)) => self.ask(base, change, action, order, error).await?,
                Err(error) => return Err(error),
            };
            return Ok(Made { version, migrations: migrations.unwrap_or_default(), agreed, switched: Instant::now() });
        }
    }

    /// The answer of the switch was lost: was it made?
    async fn ask(&self, base: i64, change: &Change, action: &str, order: &Order, error: String) -> Result<i64, DeployError> {
        let until = Instant::now() + ASKING;
        loop {
            match Desk::was_made(&self.pool, base, change, action, &order.actor).await {
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
                holding(desk, self.try_here(round.members)).await?;
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
            let behind = replicas.iter().filter(|replica| replica.loaded.is_none_or(|loaded| loaded < report.version)).count();
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

    async fn plans(&self, desk: &Desk, all: &[Member], members: &[Member]) -> Result<Vec<Plan>, DeployError> {
        let plans = set::plans(&self.installation, all, members).map_err(|error| DeployError::Refused(format!("{error:#}")))?;
        let mut complete = Vec::new();
        for mut app in plans {
            let roles = app.handlers.iter().map(|handler| handler.role.clone()).collect();
            for handler in desk.handlers_of(&app.app).await? {
                if !app.handlers.iter().any(|known| known.handler == handler)
                    && let Ok(role) = crate::manifest::role(&self.installation, &handler)
                {
                    app.handlers.push(HandlerRole { handler, role });
                }
            }
            complete.push(Plan { app, roles });
        }
        Ok(complete)
    }
}

/// What the database lacks of these plans, each in words.
async fn pending(desk: &Desk, plans: &[Plan]) -> Result<Vec<String>, DeployError> {
    let mut lacks = Vec::new();
    for Plan { app: AppPlan { app, migrations, .. }, roles } in plans {
        let applied = desk.applied(app).await?;
        for migration in migrations {
            let file = format!("{:04}_{}.sql", migration.number, migration.name);
            match applied.iter().find(|(number, _)| *number == migration.number) {
                None => lacks.push(format!("migration {file} of app `{app}`")),
                Some((_, checksum)) if *checksum != migration.checksum => {
                    return Err(DeployError::Refused(format!(
                        "migration {file} of app `{app}` was changed after it was applied; put its old text back and add a new one with a \
                         higher number"
                    )));
                }
                Some(_) => {}
            }
        }
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        lacks.extend(desk.missing_roles(&roles).await?.into_iter().map(|role| format!("role `{role}`")));
    }
    Ok(lacks)
}

/// Says what the rules refuse before any replica is asked.
async fn check(admin: &Administration, plans: &[Plan]) -> Result<(), DeployError> {
    let apps: Vec<AppPlan> = plans.iter().map(|plan| plan.app.clone()).collect();
    let check = async {
        let migrator = Migrator::connect(&admin.admin_url).await?.with(admin.options.clone());
        migrator.check(&apps).await
    };
    check.await.map(drop).map_err(|error: anyhow::Error| DeployError::Refused(format!("{error:#}; nothing was switched")))
}

async fn migrate(admin: &Administration, plans: &[Plan]) -> Result<Vec<String>, DeployError> {
    let apps: Vec<AppPlan> = plans.iter().map(|plan| plan.app.clone()).collect();
    let run = async {
        let mut migrator = Migrator::connect(&admin.admin_url).await?.with(admin.options.clone());
        migrator.run(&admin.runtime_url, &apps).await
    };
    run.await.map_err(|error: anyhow::Error| DeployError::Refused(format!("{error:#}; nothing was switched")))
}

/// Does something that may take long without losing the turn.
async fn holding<T>(desk: &Desk, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_secs(5)) => desk.touch().await,
        }
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
