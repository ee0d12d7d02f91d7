//! Back to an earlier revision; and the changes that bring no revision: undeploy, pause, resume.

use super::DeployError;
use super::deploy::{Deployer, Order, Proposal};
use super::report::{HandlerOutcome, Report};
use super::set::Member;
use super::standing::{Standing, read};
use crate::engine::short;
use crate::store::fleet::{Change, Desk};
use crate::store::tables_made;

impl Deployer {
    /// Makes an earlier revision of a handler active again: the one whose name begins so, or the one before the active one.
    pub async fn rollback(&self, handler: &str, revision: Option<&str>, order: &Order) -> Result<Report, DeployError> {
        let mut desk = Desk::open(self.pool()).await?;
        // Before anybody's deploy is given up for it.
        find(&desk, handler, revision).await?;
        desk.take_turn(&order.actor, true).await?;
        let standing = Standing::read(&desk).await?;
        let member = find(&desk, handler, revision).await?;
        if standing.revision(handler) == Some(&member.revision) {
            let mut report = Report::new("rollback", standing.version);
            report.handlers.push(outcome(handler, "unchanged", Some(&member.revision), Some(&member.revision)));
            return Ok(report);
        }
        let tables = tables_made(member.migrations.as_deref().unwrap_or_default());
        let wanted: Vec<(String, String)> = tables.into_iter().map(|table| (member.manifest.app.clone(), table)).collect();
        let gone = desk.missing_tables(&wanted).await?;
        if !gone.is_empty() {
            return Err(DeployError::Refused(format!(
                "revision {} of `{handler}` needs {}, which its migrations make and which is gone; nothing was switched: make it again with a new \
                 migration, or choose a later revision (`tidemill revisions {handler}`)",
                short(&member.revision),
                gone.iter().map(|table| format!("table {table}")).collect::<Vec<_>>().join(", ")
            )));
        }
        let proposal = Proposal { action: "rollback", outcome: "rolled back", members: vec![member], gone: Vec::new() };
        self.propose(&mut desk, &standing, proposal, order, None).await
    }

    /// Takes a handler out of service. Its revisions, its rows and what waits for it stay.
    pub async fn undeploy(&self, handler: &str, order: &Order) -> Result<Report, DeployError> {
        let mut desk = Desk::open(self.pool()).await?;
        active(&Standing::read(&desk).await?, handler)?;
        desk.take_turn(&order.actor, true).await?;
        let standing = Standing::read(&desk).await?;
        active(&standing, handler)?;
        let gone = vec![handler.to_owned()];
        standing.without(&gone)?;
        let mut report = self.remove(&mut desk, &standing, gone, "undeploy", order).await?;
        if let Ok(waiting) = desk.waiting(handler).await {
            report.warnings.extend(left_behind(handler, waiting));
        }
        Ok(report)
    }

    /// Lets a handler rest: requests are answered with 503, events stay in their topics, retries wait.
    pub async fn pause(&self, handler: &str, order: &Order) -> Result<Report, DeployError> {
        self.change(handler, Change::Pause(handler.to_owned()), "pause", "paused", order).await
    }

    /// Lets a handler go on. It waits for a deploy that is under way.
    pub async fn resume(&self, handler: &str, order: &Order) -> Result<Report, DeployError> {
        self.change(handler, Change::Resume(handler.to_owned()), "resume", "resumed", order).await
    }

    async fn change(
        &self,
        handler: &str,
        change: Change,
        action: &'static str,
        done: &'static str,
        order: &Order,
    ) -> Result<Report, DeployError> {
        let pauses = matches!(change, Change::Pause(_));
        let is_so = |standing: &Standing| standing.paused.iter().any(|paused| paused == handler) == pauses;
        let mut desk = Desk::open(self.pool()).await?;
        let mut standing = Standing::read(&desk).await?;
        active(&standing, handler)?;
        if !is_so(&standing) {
            desk.take_turn(&order.actor, pauses).await?;
            standing = Standing::read(&desk).await?;
        }
        let active = active(&standing, handler)?;
        let mut report = Report::new(action, standing.version);
        if is_so(&standing) {
            report.handlers.push(outcome(handler, "unchanged", Some(active), Some(active)));
            return Ok(report);
        }
        report.handlers.push(outcome(handler, done, Some(active), Some(active)));
        self.switch(&mut desk, &change, action, order, &mut report).await?;
        Ok(report)
    }
}

/// What an undeployed handler leaves in the database, in words.
fn left_behind(handler: &str, (events, jobs): (i64, i64)) -> Vec<String> {
    let mut words = Vec::new();
    if events > 0 {
        words.push(format!(
            "{events} events wait in the database for `{handler}`; they run when it is deployed again (`tidemill waiting list --handler \
             {handler}`)"
        ));
    }
    if jobs > 0 {
        let count = if jobs >= 1_000 { "1000 or more".to_owned() } else { jobs.to_string() };
        words.push(format!(
            "{count} jobs of `{handler}` will still publish their events when they are due (`tidemill jobs list --handler {handler}`)"
        ));
    }
    words
}

fn outcome(handler: &str, outcome: &'static str, from: Option<&str>, revision: Option<&str>) -> HandlerOutcome {
    HandlerOutcome { handler: handler.to_owned(), outcome, from: from.map(str::to_owned), revision: revision.map(str::to_owned) }
}

/// The revision that a handler runs; the error says that it runs none.
fn active<'a>(standing: &'a Standing, handler: &str) -> Result<&'a str, DeployError> {
    standing.revision(handler).ok_or_else(|| not_deployed(handler, standing))
}

fn not_deployed(handler: &str, standing: &Standing) -> DeployError {
    let known: Vec<&str> = standing.names().collect();
    DeployError::Missing(match (crate::config::nearest(handler, known.iter().copied()), known.is_empty()) {
        (Some(near), _) => format!("no handler `{handler}` is deployed; did you mean `{near}`?"),
        (None, true) => format!("no handler `{handler}` is deployed, nor any other: `tidemill deploy DIR`"),
        (None, false) => format!("no handler `{handler}` is deployed; there are {}", known.join(", ")),
    })
}

async fn find(desk: &Desk, handler: &str, revision: Option<&str>) -> Result<Member, DeployError> {
    let named = match revision {
        Some(prefix) => prefix.to_lowercase(),
        None => desk.before(handler).await?.ok_or_else(|| {
            DeployError::Missing(format!(
                "handler `{handler}` has run no other revision before; `tidemill revisions {handler}` lists all"
            ))
        })?,
    };
    if named.is_empty() || !named.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(DeployError::Invalid(format!(
            "`{named}` is no revision: hex digits, as `tidemill revisions {handler}` shows them"
        )));
    }
    let mut found = desk.named(handler, &named).await?;
    match (found.len(), found.pop()) {
        (1, Some(revision)) => read(revision),
        (0, _) | (_, None) => Err(DeployError::Missing(format!(
            "handler `{handler}` has no revision {named}; `tidemill revisions {handler}` lists all"
        ))),
        (count, _) => Err(DeployError::Invalid(format!("{count} revisions of `{handler}` begin with {named}: give more digits"))),
    }
}
