//! The state of one invocation: what its capabilities work with, and what it has used of its limits.

use super::{Handler, Item, TICK};
use crate::capabilities::clock::GuestClock;
use crate::capabilities::jobs::{JobsContext, JobsView};
use crate::capabilities::log::{LogView, Sink, Stdio};
use crate::capabilities::publish::{Cause, PublishContext, PublishView};
use crate::capabilities::sql::{SqlContext, SqlView};
use crate::manifest::Manifest;
use crate::store::Unit;
use std::sync::Arc;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// Table elements of one invocation; ordinary guests have hundreds.
const TABLE_ELEMENTS: usize = 100_000;

/// The data of an invocation's wasmtime store.
pub(super) struct State {
    pub(super) unit: Unit,
    pub(super) handler: Arc<Handler>,
    causes: Causes,
    pub(super) usage: Usage,
    pub(super) log: Sink,
    wasi: WasiCtx,
    table: ResourceTable,
}

/// What caused an invocation. Most batches publish nothing, so what an event passes on is read when it is asked for.
#[derive(Default)]
pub(super) struct Causes {
    items: Arc<[Arc<Item>]>,
    read: Vec<Cause>,
}

impl Causes {
    /// A request.
    pub(super) fn one(cause: Cause) -> Self {
        Self { read: vec![cause], ..Self::default() }
    }

    /// Each event of a batch.
    pub(super) fn of(items: Arc<[Arc<Item>]>) -> Self {
        Self { items, ..Self::default() }
    }

    fn get(&mut self) -> &[Cause] {
        if self.read.is_empty() {
            self.read = self.items.iter().map(|item| item.cause()).collect();
        }
        &self.read
    }
}

/// What the invocation has used, and the first limit that it exceeded.
pub(super) struct Usage {
    memory: usize,
    memory_limit: usize,
    pub(super) clock: GuestClock,
    pub(super) exceeded: Option<String>,
}

impl State {
    pub(super) fn new(unit: Unit, handler: Arc<Handler>, causes: Causes, log: Sink) -> Self {
        let wasi = WasiCtx::builder().stdout(Stdio::stdout(log.clone())).stderr(Stdio::stderr(log.clone())).build();
        let memory_limit = usize::try_from(handler.manifest.limits.memory).unwrap_or(usize::MAX);
        let usage = Usage { memory: 0, memory_limit, clock: GuestClock::new(TICK), exceeded: None };
        Self { unit, handler, causes, usage, log, wasi, table: ResourceTable::new() }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl SqlView for State {
    fn sql(&mut self) -> SqlContext<'_> {
        SqlContext { unit: &mut self.unit, gate: self.handler.gate.as_ref(), clock: &mut self.usage.clock }
    }
}

impl PublishView for State {
    fn publish(&mut self) -> PublishContext<'_> {
        publishing(&mut self.unit, &self.handler.manifest, self.causes.get())
    }
}

impl JobsView for State {
    fn jobs(&mut self) -> JobsContext<'_> {
        let manifest = &self.handler.manifest;
        JobsContext {
            publish: publishing(&mut self.unit, manifest, self.causes.get()),
            cancel: manifest.jobs.as_ref().map(|jobs| jobs.cancel.as_slice()),
            max_jobs: usize::try_from(manifest.limits.jobs).unwrap_or(usize::MAX),
            clock: &mut self.usage.clock,
        }
    }
}

fn publishing<'a>(unit: &'a mut Unit, manifest: &'a Manifest, causes: &'a [Cause]) -> PublishContext<'a> {
    let limits = &manifest.limits;
    PublishContext {
        unit,
        topics: &manifest.publish,
        causes,
        max_events: usize::try_from(limits.events).unwrap_or(usize::MAX),
        max_keys: usize::try_from(limits.keys).unwrap_or(usize::MAX),
        max_size: usize::try_from(limits.event_size).unwrap_or(usize::MAX),
    }
}

impl LogView for State {
    fn log(&mut self) -> &mut Sink {
        &mut self.log
    }
}

/// Memory counts over all memories of the component together.
impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.memory_limit {
            let limit = self.memory_limit;
            self.exceeded
                .get_or_insert_with(|| format!("the guest wanted {total} bytes of memory, the limit `memory` is {limit}"));
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}
