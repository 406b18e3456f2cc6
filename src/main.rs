//! synvisor: see the library's documentation and ARCHITECTURE.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    synvisor::cli::main()
}
