//! The `pbkfs` command: parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    pbkfs::main()
}
