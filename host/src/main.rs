//! The `tidemill` command: arguments → command → exit code. See the library for the map of the rooms.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemill::cli::main()
}
