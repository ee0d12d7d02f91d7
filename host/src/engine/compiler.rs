//! From a component to code that can run, out of the cache or out of the compiler.
//!
//! Compiling takes seconds of all processors that it gets. A host compiles while it serves, so it does so on few threads of low priority: one
//! for two processors, with a niceness of 5 (beside one busy thread that is about a quarter of a processor's time). What waits for a deploy can wait;
//! what waits for an answer can't.

use super::cache::Cache;
use super::readable;
use anyhow::Context;
use wasmtime::Engine;
use wasmtime::component::Component;

/// How far compiling stands back behind requests and events.
const NICENESS: i32 = 5;

/// The compiler and what it has made so far.
#[derive(Debug)]
pub(super) struct Compiler {
    cache: Cache,
    threads: rayon::ThreadPool,
}

impl Compiler {
    pub(super) fn new(cache: Cache) -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(processors.div_ceil(2))
            .thread_name(|number| format!("compile-{number}"))
            .start_handler(|_| {
                // Linux keeps niceness for each thread. Where that fails, compiling is only less polite.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .build()
            .context("the compiler's threads cannot be made")?;
        Ok(Self { cache, threads })
    }

    /// Whether the component with this digest need not be compiled, as far as one can see.
    pub(super) fn keeps(&self, engine: &Engine, digest: &[u8; 32]) -> bool {
        self.cache.has(engine, digest)
    }

    /// The code of the component with this digest; none if it is not kept and there are no `bytes` to compile.
    pub(super) fn load(&self, engine: &Engine, digest: &[u8; 32], bytes: Option<&[u8]>) -> anyhow::Result<Option<Component>> {
        if let Some(component) = self.cache.read(engine, digest) {
            return Ok(Some(component));
        }
        let Some(bytes) = bytes else { return Ok(None) };
        let code = self.threads.install(|| engine.precompile_component(bytes)).map_err(readable)?;
        self.cache.keep(engine, digest, &code).map(Some)
    }
}
