//! The `pbkfs` command: parse, run, exit.
fn main() {}
