//! The `tidemill` command: arguments → command → exit code. See the library for the map of the rooms.

use std::process::ExitCode;

/// Events and rows are many small allocations: with the C library's own they cost a host that is behind a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidemill::cli::main()
}
