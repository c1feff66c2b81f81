//! The command line: one file per subcommand, and the single table of exit codes
//! ([`exit`]).
//!
//! ```text
//! catalog/  commands that inspect a catalog
//! clone/    commands that create, show and end a clone
//! jobs/     commands that run once and exit
//! ```

/// Prints like `println!`, through [`output::line`].
macro_rules! say {
    ($($line:tt)*) => { $crate::cli::output::line(format_args!($($line)*)) };
}

/// Prints like `eprintln!`, through [`output::complain`].
macro_rules! complain {
    ($($line:tt)*) => { $crate::cli::output::complain(format_args!($($line)*)) };
}

mod catalog;
mod clone;
mod common;
mod document;
mod exit;
mod generate;
mod jobs;
mod log;
mod output;
mod show_config;
mod source;
mod verbosity;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{io, panic};

use clap::{CommandFactory, Parser, Subcommand};

use crate::diff::panic_is_contained;
use crate::{server, session};
use catalog::{list, wal, wal_get};
use clone::{cleanup, diff, down, mount, plan, status, unmount, up};
use exit::{Code, EXIT_CODES};
use jobs::{extract, materialize, promote, verify};
use verbosity::Verbosity;

/// What `--version` says; `-V` says its first line only. What it is built from and for
/// comes from `config/packaging/build.rs`.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("PBKFS_BUILT_FROM"),
    "\nbuild:  ",
    env!("PBKFS_BUILT_FOR"),
);

/// Run PostgreSQL on a pg_probackup backup without restoring it
///
/// pbkfs presents a backup, FULL or the end of an incremental chain, as a writable
/// data directory. It starts PostgreSQL on it, fenced off from production, and keeps
/// every write in a separate directory. In the catalog it writes only lock files:
/// those of pg_probackup restore, which prevent delete and merge.
#[derive(Debug, Parser)]
#[command(name = "pbkfs", bin_name = "pbkfs", version, long_version = VERSION, after_help = EXIT_CODES)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,
    /// Run as the process that stays with the session
    #[arg(long, hide = true)]
    background: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::UpArgs),
    Down(down::DownArgs),
    Status(status::StatusArgs),
    Diff(diff::DiffArgs),
    Plan(plan::PlanArgs),
    ShowConfig(show_config::ShowConfigArgs),
    Mount(mount::MountArgs),
    Unmount(unmount::UnmountArgs),
    Cleanup(cleanup::CleanupArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Extract(extract::ExtractArgs),
    Materialize(materialize::MaterializeArgs),
    Promote(promote::PromoteArgs),
    Generate(generate::GenerateArgs),
    Wal(wal::WalArgs),
    WalGet(wal_get::WalGetArgs),
    /// Prefetch the segments that follow one, for recovery
    #[command(hide = true)]
    WalPrefetch(wal_get::PrefetchArgs),
    /// Run a server in namespaces, as described on standard input
    #[command(hide = true)]
    FenceExec,
    /// Run a program, and leave none of its processes behind
    #[command(hide = true)]
    Keep {
        /// The user to run it as
        #[arg(long)]
        user: Option<String>,
        /// The program and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Hold the read locks of backups until standard input ends
    #[command(hide = true)]
    HoldLocks {
        /// Hold no locks; remove those left by this process, which was killed
        #[arg(long, value_name = "PID")]
        forget: Option<u32>,
        /// The directories of the backups, FULL first
        dirs: Vec<PathBuf>,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    tell_panics_plainly();
    // If a restore_command exits with the code of a panic, PostgreSQL takes that for
    // the end of the archive.
    panic::catch_unwind(run).unwrap_or_else(|_| wal_get::code_without_run(Code::Failed))
}

fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; clap prints each to the right stream.
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Done
            };
            output::usage(error);
            return wal_get::code_without_run(code);
        }
    };
    let result = match cli.command {
        Command::Up(args) => up::run(&args, cli.verbosity, cli.background),
        Command::Down(args) => down::run(&args, cli.verbosity),
        Command::Status(args) => status::run(&args, cli.verbosity),
        Command::Diff(args) => diff::run(&args, cli.verbosity),
        Command::Plan(args) => plan::run(&args, cli.verbosity),
        Command::ShowConfig(args) => show_config::run(&args, cli.verbosity),
        Command::Mount(args) => mount::run(&args, cli.verbosity, cli.background),
        Command::Unmount(args) => unmount::run(&args, cli.verbosity),
        Command::Cleanup(args) => cleanup::run(&args, cli.verbosity),
        Command::List(args) => list::run(&args, cli.verbosity),
        Command::Verify(args) => verify::run(&args, cli.verbosity),
        Command::Extract(args) => extract::run(&args, cli.verbosity),
        Command::Materialize(args) => materialize::run(&args, cli.verbosity),
        Command::Promote(args) => promote::run(&args, cli.verbosity),
        Command::Generate(args) => generate::run(&args, Cli::command(), cli.verbosity),
        Command::Wal(args) => wal::run(&args, cli.verbosity),
        Command::WalGet(args) => return wal_get::run(&args, cli.verbosity),
        Command::WalPrefetch(args) => return wal_get::prefetch(&args),
        Command::FenceExec => return helped("fence-exec", server::fence_exec()),
        Command::Keep { user, command } => {
            return helped("keep", server::keep(user.as_deref(), &command));
        }
        Command::HoldLocks {
            dirs,
            forget: Some(killed),
        } => session::forget_locks(&dirs, killed).map(|()| Code::Done),
        Command::HoldLocks { dirs, .. } => return hold_locks(&dirs, cli.verbosity),
    };
    result.unwrap_or_else(|error| common::report(&error)).into()
}

/// Installs a hook that reports panics in plain words. A panic that becomes an error
/// is reported as that error and is not printed as well. Any other panic is a bug in
/// pbkfs: it is reported in one sentence, and its details are logged.
fn tell_panics_plainly() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tracing::debug!("{info}");
        if panic_is_contained() {
            return;
        }
        complain!(
            "pbkfs: internal error; report it as a bug, with what the same command logs with -v"
        );
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            print(info);
        }
    }));
}

/// Returns the exit code of a helper that runs another program. A helper has a single
/// thread, and therefore no log: its standard error is that of the program.
fn helped(name: &str, ended: io::Result<i32>) -> ExitCode {
    match ended {
        Ok(code) => u8::try_from(code).map_or_else(|_| Code::Failed.into(), ExitCode::from),
        Err(error) => {
            complain!("pbkfs {name}: {}", common::sentence(&error));
            Code::Failed.into()
        }
    }
}

fn hold_locks(dirs: &[PathBuf], verbosity: Verbosity) -> ExitCode {
    log::init(verbosity, None);
    match session::hold_locks(dirs) {
        Ok(0) => Code::Done.into(),
        Ok(_) | Err(_) => Code::Failed.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_panic_is_one_sentence() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "cli::tests::panics", "--nocapture"]);
        let ended = child.env_remove("RUST_BACKTRACE").output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{said}");
        assert!(said.contains("report it as a bug"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    #[ignore = "runs in a process of its own, because it changes what a panic prints"]
    #[should_panic = "of a library"]
    fn panics() {
        super::tell_panics_plainly();
        unreachable!("words of a library");
    }
}
