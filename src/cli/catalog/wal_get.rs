//! `pbkfs wal-get`: PostgreSQL's `restore_command`.
//!
//! PostgreSQL takes an exit code of 1 to 125 for "not in the archive" and ends
//! recovery there; only above that it stops with an error
//! (`RestoreArchivedFile`, src/backend/access/transam/xlogarchive.c). So
//! whatever goes wrong in here, a panic and a mistyped option included, ends
//! with [`FAILED`].

use std::env;
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use crate::catalog::Catalog;
use crate::catalog::wal::{Fetched, Prefetch, WalArchive, WalFault};
use crate::cli::common::{sentence, value};
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::pg::wal::SegmentId;
use crate::server::own_program;
use crate::session::{self, SessionError};

/// The subcommand's name.
const NAME: &str = "wal-get";

/// Not in the archive: recovery goes on without it, or is at its end.
const MISSING: u8 = 1;

/// A failure, which stops recovery. Above 125, but neither what a shell says
/// of a program that cannot be run nor what it says of one that was killed.
const FAILED: u8 = 200;

/// Where the archive is.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The pg_probackup catalog
    #[arg(
        short = 'B',
        long = "catalog",
        alias = "backup-path",
        value_name = "CATALOG"
    )]
    catalog: PathBuf,
    /// The instance within the catalog
    #[arg(long, value_name = "NAME")]
    instance: String,
    /// Get the files from the session that listens on this socket, without read
    /// access to the catalog
    #[arg(long, value_name = "SOCKET")]
    session: Option<PathBuf>,
}

impl ArchiveArgs {
    fn open(&self) -> Result<WalArchive, SessionError> {
        if let Some(socket) = &self.session {
            return session::archive_of_session(socket);
        }
        let instance = Catalog::open(&self.catalog)?.instance(&self.instance)?;
        Ok(WalArchive::open(&instance)?)
    }
}

/// Where segments are fetched ahead to.
#[derive(Debug, Args)]
struct AheadArgs {
    /// Fetch the next segments ahead, into this directory
    #[arg(long, value_name = "DIR")]
    prefetch_dir: Option<PathBuf>,
    /// How many bytes of segments may wait there
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    prefetch_bytes: u64,
}

/// Fetch one file from the catalog's WAL archive
///
/// Made to be PostgreSQL's restore_command; up sets it by itself. Exits with 1
/// if the archive does not have the file and need not have it, and with 200 if
/// anything is wrong, so that PostgreSQL stops rather than ends recovery too
/// early.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  restore_command = 'pbkfs wal-get -B /srv/backup --instance main %f %p'")]
pub struct WalGetArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    ahead: AheadArgs,
    /// The file that PostgreSQL asks for, its %f
    file: String,
    /// Where it is to go, PostgreSQL's %p
    destination: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &WalGetArgs, verbosity: Verbosity) -> ExitCode {
    log::init(verbosity, None);
    let fetched = panic::catch_unwind(AssertUnwindSafe(|| fetch(args)));
    match fetched {
        Ok(Ok(Fetched::Delivered)) => Code::Done.into(),
        Ok(Ok(Fetched::Missing)) => MISSING.into(),
        Ok(Err(error)) => {
            // The session reads it in the server's log.
            let (fault, file) = (fault(&error), value(&args.file));
            complain!("pbkfs {NAME}: {fault}: {file}: {}", sentence(&error));
            FAILED.into()
        }
        // The panic has said what it had to say.
        Err(_) => FAILED.into(),
    }
}

/// The code for a command line that is no good, and for a fault of ours: a
/// recovery must take neither for a missing file.
pub fn code_without_run(code: Code) -> ExitCode {
    let is_ours = env::args_os().any(|argument| argument == NAME);
    match code {
        Code::Usage | Code::Failed if is_ours => FAILED.into(),
        other => other.into(),
    }
}

/// What an error says of the WAL that was asked for.
fn fault(error: &SessionError) -> WalFault {
    match error {
        SessionError::Wal(error) => error.fault(),
        _ => WalFault::Unavailable,
    }
}

fn fetch(args: &WalGetArgs) -> Result<Fetched, SessionError> {
    let archive = args.archive.open()?;
    let id = SegmentId::parse(&args.file, archive.segment_size());
    let (Some(id), Some(dir)) = (id, &args.ahead.prefetch_dir) else {
        return Ok(archive.fetch(&args.file, &args.destination)?);
    };
    let prefetch = Prefetch::new(dir, args.ahead.prefetch_bytes, &archive);
    let mut fetched = prefetch.take(&archive, id, &args.destination)?;
    if fetched == Fetched::Missing {
        fetched = archive.fetch(&args.file, &args.destination)?;
    }
    if fetched == Fetched::Delivered && prefetch.wants_more(&archive, id) {
        fetch_ahead(args, dir);
    }
    Ok(fetched)
}

/// Leaves the rest to a process that nobody waits for: it holds nothing of
/// the clone's, and ends by itself when the directory is full or gone.
fn fetch_ahead(args: &WalGetArgs, dir: &Path) {
    let archive = &args.archive;
    let session = archive.session.as_ref().map(path::absolute).transpose();
    let (Ok(catalog), Ok(dir), Ok(session)) = (
        path::absolute(&archive.catalog),
        path::absolute(dir),
        session,
    ) else {
        return;
    };
    let mut command = Command::new(own_program());
    command
        .arg0("pbkfs")
        .arg("wal-prefetch")
        .arg("-B")
        .arg(catalog)
        .args(["--instance", &archive.instance, "--prefetch-dir"])
        .arg(dir)
        .arg("--prefetch-bytes")
        .arg(args.ahead.prefetch_bytes.to_string());
    if let Some(session) = session {
        command.arg("--session").arg(session);
    }
    let started = command
        .arg(&args.file)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    if let Err(error) = started {
        // Slower, but nothing is lost.
        tracing::debug!(%error, "cannot fetch ahead");
    }
}

/// What to fetch ahead.
#[derive(Debug, Args)]
pub struct PrefetchArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    ahead: AheadArgs,
    /// The segment that was delivered
    file: String,
}

/// Runs the hidden subcommand that fetches ahead.
pub fn prefetch(args: &PrefetchArgs) -> ExitCode {
    let fill = || -> Result<(), SessionError> {
        let archive = args.archive.open()?;
        let id = SegmentId::parse(&args.file, archive.segment_size());
        if let (Some(id), Some(dir)) = (id, &args.ahead.prefetch_dir) {
            Prefetch::new(dir, args.ahead.prefetch_bytes, &archive).fill(&archive, id)?;
        }
        Ok(())
    };
    match fill() {
        Ok(()) => Code::Done.into(),
        Err(error) => {
            complain!("pbkfs wal-prefetch: {}", sentence(&error));
            Code::of(&error).into()
        }
    }
}
