//! `pbkfs wal-get`: PostgreSQL's `restore_command`.
//!
//! PostgreSQL takes an exit code of 1 to 125 to mean "not in the archive" and ends
//! recovery there; only on a higher code does it stop with an error
//! (`RestoreArchivedFile`, src/backend/access/transam/xlogarchive.c). Every failure
//! here, including a panic and a mistyped option, therefore exits with [`FAILED`].

use std::env;
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{self, Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::catalog::Location;
use crate::catalog::wal::{Fetched, Prefetch, WalArchive, WalFault};
use crate::cli::common::{SYSTEM_CONFIG, sentence, value};
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::pg::wal::SegmentId;
use crate::profile::{Profile, StoragePlan};
use crate::server::own_program;
use crate::session::{self, SessionError};

/// The subcommand's name.
const NAME: &str = "wal-get";

/// The file is not in the archive: recovery continues without it, or ends here.
const MISSING: u8 = 1;

/// A failure, which stops recovery. The code is above 125, but is none that a shell
/// uses for a program that cannot be run or was killed.
const FAILED: u8 = 200;

/// The location of the archive.
#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The pg_probackup catalog
    #[arg(
        short = 'B',
        long = "catalog",
        alias = "backup-path",
        value_name = "CATALOG",
        value_parser = OsStringValueParser::new().try_map(|text| Location::new(Path::new(&text)))
    )]
    catalog: Location,
    /// The instance within the catalog
    #[arg(long, value_name = "NAME")]
    instance: String,
    /// Get the files from the session listening on this socket, without read access
    /// to the catalog
    #[arg(long, value_name = "SOCKET")]
    session: Option<PathBuf>,
    /// Set a key of the section storage, as in --set storage.region=eu-central-1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl ArchiveArgs {
    fn open(&self) -> Result<WalArchive, SessionError> {
        if let Some(socket) = &self.session {
            return session::archive_of_session(socket);
        }
        let storage = match &self.catalog {
            Location::Directory(_) => StoragePlan::default(),
            Location::Remote(_) => {
                Profile::load(None, &self.sets, Path::new(SYSTEM_CONFIG))?.storage()?
            }
        };
        let catalog = session::open_catalog(&self.catalog, &storage)?;
        let instance = catalog.instance(&self.instance)?;
        Ok(WalArchive::open(&instance)?)
    }
}

/// The destination and the amount of prefetched segments.
#[derive(Debug, Args)]
struct AheadArgs {
    /// Prefetch the next segments into this directory
    #[arg(long, value_name = "DIR")]
    prefetch_dir: Option<PathBuf>,
    /// Maximum total size of prefetched segments, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    prefetch_bytes: u64,
}

/// Fetch one file from the catalog's WAL archive
///
/// Intended as PostgreSQL's restore_command; up sets it automatically. Exits with 1
/// if the archive does not have the file and need not have it, and with 200 on any
/// error, so that PostgreSQL stops instead of ending recovery too early.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  restore_command = 'pbkfs wal-get -B /srv/backup --instance main %f %p'")]
pub struct WalGetArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    ahead: AheadArgs,
    /// The file that PostgreSQL requests (its %f)
    file: String,
    /// The path to copy it to (PostgreSQL's %p)
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
            // The session reads this line in the server's log.
            let (fault, file) = (fault(&error), value(&args.file));
            complain!("pbkfs {NAME}: {fault}: {file}: {}", sentence(&error));
            FAILED.into()
        }
        // The panic was reported already.
        Err(_) => FAILED.into(),
    }
}

/// Returns the code for an invalid command line or a bug in pbkfs: recovery must
/// mistake neither for a missing file.
pub fn code_without_run(code: Code) -> ExitCode {
    let is_ours = env::args_os().any(|argument| argument == NAME);
    match code {
        Code::Usage | Code::Failed if is_ours => FAILED.into(),
        other => other.into(),
    }
}

/// Returns what an error says about the requested WAL.
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

/// Starts a process that prefetches, without waiting for it: it uses no resources of
/// the clone, and exits by itself when the directory is full or has been removed.
fn fetch_ahead(args: &WalGetArgs, dir: &Path) {
    let archive = &args.archive;
    let session = archive.session.as_ref().map(path::absolute).transpose();
    let catalog = match &archive.catalog {
        Location::Directory(path) => path::absolute(path),
        Location::Remote(_) => Ok(archive.catalog.name()),
    };
    let (Ok(catalog), Ok(dir), Ok(session)) = (catalog, path::absolute(dir), session) else {
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
    for set in &archive.sets {
        command.arg("--set").arg(set);
    }
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
        // Recovery is slower, but nothing is lost.
        tracing::debug!(%error, "cannot prefetch WAL");
    }
}

/// The arguments of the hidden subcommand that prefetches segments.
#[derive(Debug, Args)]
pub struct PrefetchArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    ahead: AheadArgs,
    /// The segment that was delivered
    file: String,
}

/// Runs the hidden subcommand that prefetches segments.
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
