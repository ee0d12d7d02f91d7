//! Back to an earlier revision; and the changes that bring no revision: undeploy, pause, resume.

use super::DeployError;
use super::deploy::{Deployer, Order, Proposal, Standing, read};
use super::report::{HandlerOutcome, Report};
use super::set::Member;
use crate::engine::short;
use crate::store::fleet::{Change, Desk};
use crate::store::tables_made;
use std::time::Instant;

impl Deployer {
    /// Makes an earlier revision of a handler active again: the one whose name begins so, or the one before the active one.
    pub async fn rollback(&self, handler: &str, revision: Option<&str>, order: &Order) -> Result<Report, DeployError> {
        let mut desk = Desk::open(self.pool(), &order.actor).await?;
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
        let proposal = Proposal { action: "rollback", outcome: "rolled back", members: vec![member] };
        self.propose(&mut desk, &standing, proposal, order, None).await
    }

    /// Takes a handler out of service. Its revisions, its rows and what waits for it stay.
    pub async fn undeploy(&self, handler: &str, order: &Order) -> Result<Report, DeployError> {
        self.change(handler, Change::Remove(handler.to_owned()), "undeploy", "undeployed", order).await
    }

    /// Lets a handler rest: requests are answered with 503, events stay in their topics, retries wait.
    pub async fn pause(&self, handler: &str, order: &Order) -> Result<Report, DeployError> {
        self.change(handler, Change::Pause(handler.to_owned()), "pause", "paused", order).await
    }

    /// Lets a handler go on.
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
        let mut desk = Desk::open(self.pool(), &order.actor).await?;
        let standing = Standing::read(&desk).await?;
        let Some(active) = standing.revision(handler) else { return Err(not_deployed(handler, &standing)) };
        let paused = standing.paused.iter().any(|paused| paused == handler);
        let mut report = Report::new(action, standing.version);
        if matches!((&change, paused), (Change::Pause(_), true) | (Change::Resume(_), false)) {
            report.handlers.push(outcome(handler, "unchanged", Some(active), Some(active)));
            return Ok(report);
        }
        let begun = Instant::now();
        report.version = desk.switch(None, standing.version, &change, action, &order.actor, order.note.as_deref()).await?;
        let switched = Instant::now();
        (report.changed, report.switched_ms) = (true, (switched - begun).as_secs_f64() * 1e3);
        let removed = matches!(change, Change::Remove(_));
        report.handlers.push(outcome(handler, done, Some(active), (!removed).then_some(active)));
        self.await_loaded(&desk, switched, &mut report).await;
        if removed && let Ok(waiting @ 1..) = desk.waiting(handler).await {
            report.warnings.push(format!(
                "{waiting} events wait in the database for `{handler}`; they run when it is deployed again (`tidemill waiting list --handler \
                 {handler}`)"
            ));
        }
        Ok(report)
    }
}

fn outcome(handler: &str, outcome: &'static str, from: Option<&str>, revision: Option<&str>) -> HandlerOutcome {
    HandlerOutcome { handler: handler.to_owned(), outcome, from: from.map(str::to_owned), revision: revision.map(str::to_owned) }
}

fn not_deployed(handler: &str, standing: &Standing) -> DeployError {
    let known: Vec<&str> = standing.members.iter().map(|member| member.manifest.name.as_str()).collect();
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
