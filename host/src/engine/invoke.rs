//! One invocation, from a fresh instance to COMMIT or ROLLBACK. The only place that runs a guest.

use super::admit::{Admitted, admit};
use super::failure::Failure;
use super::item::{Item, Lender};
use super::once;
use super::state::{Causes, State};
use super::{Engine, Handler, TICK};
use crate::bindings::{events, http};
use crate::capabilities::log::Sink;
use crate::capabilities::publish::Cause;
use crate::store::fleet::Term;
use crate::store::{Claim, Consumer, RequestKey, StatementError, Unit, UnitContext};
use crate::telemetry::OutcomeLabels;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Store, UpdateDeadline};

/// Where an invocation comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Whom row-level security sees; empty for events.
    pub subject: String,
    /// Named in every log line.
    pub correlation_id: String,
    /// The request: what its publishes go on from. Those of a batch go on from its events.
    pub cause: Cause,
    /// The request's `Idempotency-Key`: under one key it takes effect once.
    pub key: Option<RequestKey>,
    /// Run everything and keep nothing (rehearsal, tests of handlers).
    pub rehearse: bool,
}

/// What the guest is to do.
pub enum Call {
    /// Answer a request.
    Http(Box<http::Request>),
    /// Handle a batch.
    Events(Batch),
}

/// Events of one partition, in offset order.
#[derive(Debug)]
pub struct Batch {
    /// Whose batch it is.
    pub consumer: Consumer,
    /// What keeps its events from a second effect.
    pub fence: Fence,
    /// The events.
    pub items: Vec<Arc<Item>>,
}

/// What keeps an event from a second effect.
#[derive(Debug, Clone)]
pub enum Fence {
    /// Its row in the inbox, written first in the unit.
    Inbox,
    /// Its row among the waiting events, taken first and ended last in the unit. Such a batch has one event.
    Waiting(Box<Claim>),
}

/// What came of it, committed.
#[derive(Debug)]
pub enum Answer {
    /// The guest's response. Of status 400 and above the unit was rolled back.
    Http(http::Response),
    /// The request took effect before, under the same key: its response of then. Nothing was run.
    Replayed(http::Response),
    /// The batch is done: those that were neither handled nor parked now were done before.
    Events {
        /// Events that the guest handled now.
        handled: usize,
        /// Events that now wait behind an earlier one of their key.
        parked: usize,
    },
}

/// What the guest returned, before the unit has ended.
enum Returned {
    Http(http::Response),
    Events(Result<(), events::Failure>),
}

/// The guest's part of a call, once the inbox has had its say.
enum Work<'a> {
    /// Only an instance is wanted.
    Nothing,
    Http(&'a http::Request),
    Events(Arc<[Arc<Item>]>),
}

/// What is to be known at the end of a unit.
struct Ending {
    term: Term,
    parked: usize,
    rehearse: bool,
}

/// How a unit ended that kept nothing.
enum Ended {
    /// That is what came of the invocation.
    Failed(Failure),
    /// It met a statement that was prepared before a table changed. No statement of that time is used again, so another unit can do it.
    Stale(StatementError),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Engine {
    /// The current term, if work may begin now. To be taken before the handler is looked up: what is active was loaded in it.
    pub fn term(&self) -> Result<Term, Failure> {
        self.pulse.term().map_err(Failure::Unavailable)
    }

    /// Runs a handler that was looked up in `term`. On `Ok` the unit has committed, or the guest's own error answer has rolled it back. If the
    /// term is over, others may have gone on with another revision: nothing is kept.
    ///
    /// The future must run to its end (spawn it where the caller may go away): dropping it drops the unit, which rolls back, but
    /// not if COMMIT is on its way.
    pub async fn invoke(&self, handler: &Arc<Handler>, term: Term, origin: Origin, call: Call) -> Result<Answer, Failure> {
        let ended = self.invoke_inner(handler, term, &origin, &call).await.map_err(|failure| self.blame(failure, term));
        let outcome = match &ended {
            Ok(Answer::Http(response)) if response.status >= 400 => "rolled-back",
            Ok(Answer::Replayed(_)) => "replayed",
            Ok(_) => "ok",
            Err(failure) => failure.kind(),
        };
        self.metrics.invocations.get_or_create(&OutcomeLabels { handler: handler.name.to_string(), outcome }).inc();
        ended
    }

    /// What failed in a term that is over is not the handler's fault: a host that was frozen has given it no time.
    fn blame(&self, failure: Failure, term: Term) -> Failure {
        match self.pulse.still(term) {
            Err(late) if !failure.is_host_fault() => Failure::Unavailable(late),
            _ => failure,
        }
    }

    async fn invoke_inner(&self, handler: &Arc<Handler>, term: Term, origin: &Origin, call: &Call) -> Result<Answer, Failure> {
        self.pulse.term().and_then(|_| self.pulse.still(term)).map_err(Failure::Unavailable)?;
        let ended = match self.unit(handler, term, origin, call).await {
            Err(Ended::Stale(error)) => {
                tracing::debug!(handler = &*handler.name, %error, "a table has changed behind a prepared statement: once more");
                self.unit(handler, term, origin, call).await
            }
            ended => ended,
        };
        ended.map_err(|ended| match ended {
            Ended::Failed(failure) => failure,
            Ended::Stale(error) => error.into(),
        })
    }

    /// One unit of work, with a fresh instance.
    async fn unit(&self, handler: &Arc<Handler>, term: Term, origin: &Origin, call: &Call) -> Result<Answer, Ended> {
        let mut unit = Unit::new(self.pool.clone(), self.unit_context(handler, origin));
        if let Some(key) = origin.key.clone()
            && let Some(response) = once::claim(&mut unit, key).await.transpose()
        {
            unit.rollback().await;
            return response.map(Answer::Replayed).map_err(Ended::from);
        }
        // Which of the caller's positions the guest's positions are.
        let mut admitted = Admitted::default();
        let (work, causes) = match call {
            Call::Http(request) => (Work::Http(request), Causes::one(origin.cause.clone())),
            Call::Events(batch) => {
                let cap = i64::try_from(handler.manifest.retry.waiting_per_key).unwrap_or(i64::MAX);
                admitted = match admit(&mut unit, batch, cap).await {
                    Ok(admitted) => admitted,
                    Err(failure) => {
                        unit.rollback().await;
                        return Err(failure.into());
                    }
                };
                if admitted.run.is_empty() {
                    let changes = admitted.parked > 0 || admitted.ends;
                    self.keep(unit, term, origin.rehearse || !changes).await?;
                    return Ok(Answer::Events { handled: 0, parked: admitted.parked });
                }
                let run = admitted.run.iter().filter_map(|&position| batch.items.get(position).cloned());
                let items: Arc<[_]> = run.collect();
                (Work::Events(items.clone()), Causes::of(items))
            }
        };
        let log_lines = usize::try_from(handler.manifest.limits.log_lines).unwrap_or(0);
        let log = Sink::new(handler.name.clone(), origin.correlation_id.clone(), log_lines);
        let (state, returned) = self.run(State::new(unit, handler.clone(), causes, log), work).await;
        let State { unit, log, .. } = state;
        log.finish();
        // Whatever the guest made of it.
        if let Some(stale) = unit.doomed().filter(|error| error.is_stale()).cloned() {
            unit.rollback().await;
            return Err(Ended::Stale(stale));
        }
        let returned = match returned {
            Ok(returned) => returned,
            Err(failure) => {
                // A host that could not be reached often shows as the trap of a guest that gave up.
                let host_fault = unit.doomed().filter(|error| error.is_host_fault()).cloned();
                unit.rollback().await;
                return Err(host_fault.map_or(failure, Failure::from).into());
            }
        };
        let ending = Ending { term, parked: admitted.parked, rehearse: origin.rehearse };
        self.end(unit, returned, &admitted.run, ending).await.map_err(Ended::from)
    }

    fn unit_context(&self, handler: &Handler, origin: &Origin) -> UnitContext {
        let limits = &handler.manifest.limits;
        UnitContext {
            handler: handler.name.clone(),
            role: handler.role.clone(),
            schema: handler.schema.clone(),
            subject: origin.subject.clone(),
            scope: handler.scope,
            sql_time: limits.sql_time,
            sql_result: usize::try_from(limits.sql_result).unwrap_or(usize::MAX),
            idle: limits.wall + Duration::from_secs(2),
            outcome_patience: self.outcome_patience,
        }
    }

    /// Runs the guest in a fresh instance, within its limits, and gives the state back whatever happened.
    async fn run(&self, state: State, work: Work<'_>) -> (State, Result<Returned, Failure>) {
        let handler = state.handler.clone();
        let limits = &handler.manifest.limits;
        let mut store = Store::new(&self.wasm, state);
        store.limiter(|state| &mut state.usage);
        let cpu_ticks = u64::try_from(limits.cpu.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).max(1);
        let (cpu, wall) = (limits.cpu, limits.wall);
        // The deadline counts ticks in which the guest was computing: one that returns from a slow call is not punished for it.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut store| {
            let usage = &mut store.data_mut().usage;
            usage.clock.tick();
            if usage.clock.ticks() > cpu_ticks {
                usage.exceeded = Some(format!("the guest computed for longer than the limit `cpu` ({cpu:?})"));
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });
        let called = tokio::time::timeout(wall, call(&handler, &mut store, work)).await;
        let returned = match called {
            Ok(Ok(returned)) => Ok(returned),
            Ok(Err(trap)) => {
                let usage = &mut store.data_mut().usage;
                let computed = usage.clock.ticks() > cpu_ticks;
                Err(match usage.exceeded.take() {
                    Some(limit) if computed => Failure::Cpu(limit),
                    Some(limit) => Failure::Limit(limit),
                    None => Failure::Trap(trap_text(&trap)),
                })
            }
            Err(_) => Err(Failure::Timeout(wall)),
        };
        (store.into_data(), returned)
    }

    async fn end(
        &self,
        mut unit: Unit,
        returned: Returned,
        positions: &[usize],
        Ending { term, parked, rehearse }: Ending,
    ) -> Result<Answer, Failure> {
        let failed = match &returned {
            Returned::Http(response) => response.status >= 400,
            Returned::Events(result) => result.is_err(),
        };
        if let (false, Some(error)) = (failed, unit.doomed()) {
            let failure = Failure::from(error.clone());
            unit.rollback().await;
            return Err(failure);
        }
        match returned {
            Returned::Http(response) if !(200..=599).contains(&response.status) => {
                unit.rollback().await;
                Err(Failure::Response(format!("status {} is not between 200 and 599", response.status)))
            }
            // What a caller was told failed, never happened.
            Returned::Http(response) if failed => {
                unit.rollback().await;
                Ok(Answer::Http(response))
            }
            Returned::Http(response) => {
                if let Err(failure) = once::answer(&mut unit, &response) {
                    unit.rollback().await;
                    return Err(failure);
                }
                self.keep(unit, term, rehearse).await.map(|()| Answer::Http(response))
            }
            Returned::Events(Ok(())) => {
                self.keep(unit, term, rehearse).await.map(|()| Answer::Events { handled: positions.len(), parked })
            }
            Returned::Events(Err(failure)) => {
                let host_fault = unit.doomed().filter(|error| error.is_host_fault()).cloned();
                unit.rollback().await;
                Err(host_fault.map_or_else(|| returned_failure(failure, positions), Failure::from))
            }
        }
    }

    async fn keep(&self, unit: Unit, term: Term, rehearse: bool) -> Result<(), Failure> {
        if rehearse {
            unit.rollback().await;
            return Ok(());
        }
        // Others may have gone on without this replica: what it began before is not kept.
        if let Err(late) = self.pulse.still(term) {
            unit.rollback().await;
            return Err(Failure::Unavailable(late));
        }
        let kept = unit.commit().await?;
        if kept.published {
            self.outbox_bell.notify_one();
        }
        if let Some(due) = kept.due {
            self.jobs_bell.ring(due);
        }
        Ok(())
    }
}

impl Engine {
    /// Makes one instance and throws it away: a component that can't be instantiated is found before it is used, and the first call does not
    /// wait for what is made once.
    pub async fn try_instance(&self, handler: &Arc<Handler>) -> Result<(), Failure> {
        let unit = Unit::new(self.pool.clone(), self.unit_context(handler, &Origin::default()));
        let log = Sink::new(handler.name.clone(), String::new(), 0);
        let (state, made) = self.run(State::new(unit, handler.clone(), Causes::default(), log), Work::Nothing).await;
        state.unit.rollback().await;
        made.map(drop)
    }
}

async fn call(handler: &Handler, store: &mut Store<State>, work: Work<'_>) -> wasmtime::Result<Returned> {
    let instance = handler.pre.instantiate_async(&mut *store).await?;
    let missing = |what: &str| wasmtime::Error::msg(format!("the component exports no {what} handler"));
    match work {
        Work::Nothing => Ok(Returned::Events(Ok(()))),
        Work::Http(request) => {
            let guest = handler.http.as_ref().ok_or_else(|| missing("HTTP"))?.load(&mut *store, &instance)?;
            guest.call_handle(&mut *store, request).await.map(Returned::Http)
        }
        Work::Events(items) => {
            let guest = handler.events.as_ref().ok_or_else(|| missing("event"))?.load(&mut *store, &instance)?;
            let lender = Lender::of(&items);
            guest.call_handle(&mut *store, lender.batch(&lender.events())).await.map(Returned::Events)
        }
    }
}

fn returned_failure(failure: events::Failure, positions: &[usize]) -> Failure {
    let named = failure.events.unwrap_or_default();
    Failure::Returned {
        reject: matches!(failure.kind, events::FailureKind::Reject),
        message: failure.message,
        events: named.iter().filter_map(|&n| positions.get(n as usize).copied()).collect(),
    }
}

/// The reason of a trap without its backtrace, which is for debug logs.
fn trap_text(error: &wasmtime::Error) -> String {
    tracing::debug!(backtrace = ?error, "a guest trapped");
    error.root_cause().to_string()
}
