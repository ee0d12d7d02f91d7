//! Running guests: the wasmtime engine and its settings, compiled components, and the one way to run one ([`Engine::invoke`]).
//!
//! - `admit`: which events of a batch the guest gets
//! - `bell`: how the trigger of jobs hears of new ones
//! - `cache`: compiled components on disk, by content and engine; `compiler`: what is not there yet
//! - `failure`: why an invocation kept nothing
//! - `handler`: a compiled handler, its imports checked against its grants
//! - `registry`: which handler is active, and which routes and topics lead to it
//! - `once`: requests with an `Idempotency-Key`
//! - `state`: what the capabilities of one invocation work with, and its limits
//! - `invoke`: one invocation from start to commit or rollback; `item`: an event on its way to a guest

mod admit;
mod bell;
mod cache;
mod compiler;
mod failure;
mod handler;
mod invoke;
mod item;
mod once;
mod registry;
mod state;

pub use bell::JobsBell;
pub use cache::Cache;
pub use failure::Failure;
pub use handler::{Handler, HandlerSource, check_form, interfaces, short};
pub use invoke::{Answer, Batch, Call, Fence, Origin};
pub use item::{Bytes, Content, Item, Text};
pub use registry::{Match, Pause, Registry, RouteError, Slot, check_routes};

use crate::capabilities::{jobs, log, publish, sql};
use crate::store::Pool;
use crate::store::fleet::Pulse;
use crate::telemetry::Metrics;
use compiler::Compiler;
use state::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, PoolingAllocationConfig};

/// How often the epoch advances: the grain of CPU limits and of yielding to other invocations.
const TICK: Duration = Duration::from_millis(10);
/// Instances at once, whatever the concurrency setting: address space, not memory, is what a slot costs.
const SLOTS: u32 = 1_000;
/// The most memory that a manifest may ask for.
const LARGEST_MEMORY: usize = 1 << 30;

/// The engine: compiles handlers and runs them.
pub struct Engine {
    wasm: wasmtime::Engine,
    linker: Linker<State>,
    compiler: Compiler,
    pool: Pool,
    /// Rung after each commit that left rows in the outbox.
    outbox_bell: Arc<Notify>,
    /// Rung after each commit that scheduled jobs.
    jobs_bell: Arc<JobsBell>,
    metrics: Arc<Metrics>,
    outcome_patience: Duration,
    pulse: Arc<Pulse>,
}

impl Engine {
    /// An engine over a database. Must be made inside a tokio runtime, whose life bounds the epoch ticker's.
    pub fn new(pool: Pool, cache: Cache, metrics: Arc<Metrics>, outcome_patience: Duration) -> anyhow::Result<Self> {
        let wasm = wasmtime::Engine::new(&settings()).map_err(readable)?;
        let linker = linker(&wasm).map_err(readable)?;
        tick(wasm.weak());
        Ok(Self {
            wasm,
            linker,
            compiler: Compiler::new(cache)?,
            pool,
            outbox_bell: Arc::new(Notify::new()),
            jobs_bell: Arc::new(JobsBell::default()),
            metrics,
            outcome_patience,
            pulse: Arc::new(Pulse::steady()),
        })
    }

    /// The same as a part of a fleet: it runs and keeps nothing while this heartbeat is late.
    pub fn with_pulse(self, pulse: Arc<Pulse>) -> Self {
        Self { pulse, ..self }
    }

    /// Whether work may begin, and be kept.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Whether a component with this digest need not be compiled, as far as one can see.
    pub fn keeps(&self, digest: &[u8; 32]) -> bool {
        self.compiler.keeps(&self.wasm, digest)
    }

    /// The bell that rings after each commit that left rows in the outbox, for the relay of this process.
    pub fn outbox_bell(&self) -> Arc<Notify> {
        self.outbox_bell.clone()
    }

    /// The bell that rings after each commit that scheduled jobs, for the trigger of this process.
    pub fn jobs_bell(&self) -> Arc<JobsBell> {
        self.jobs_bell.clone()
    }

    /// The database that units run in.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// wasmtime's error with its causes, in one line.
fn readable(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

fn settings() -> Config {
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        .total_component_instances(SLOTS)
        .total_core_instances(SLOTS * 4)
        .total_memories(SLOTS)
        .total_tables(SLOTS * 2)
        .total_stacks(SLOTS)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .max_core_instances_per_component(8)
        .max_memory_size(LARGEST_MEMORY)
        // Above the memory that ordinary guests touch: resetting pages that stay resident is cheaper than mapping them anew.
        .linear_memory_keep_resident(4 << 20)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(64);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pooling.pagemap_scan(Enabled::Yes);
    }
    let mut config = Config::new();
    config.wasm_component_model(true).epoch_interruption(true).allocation_strategy(pooling);
    config
}

/// Everything that any grant can link; what a handler may import is decided by name before this is asked.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    sql::add_to_linker(&mut linker)?;
    publish::add_to_linker(&mut linker)?;
    jobs::add_to_linker(&mut linker)?;
    log::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Advances the epoch from a thread of its own: a runtime full of spinning guests could not.
fn tick(engine: wasmtime::EngineWeak) {
    std::thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    });
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
