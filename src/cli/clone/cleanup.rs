//! `pbkfs cleanup`: empties a diff directory for reuse.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use crate::cli::common::{report, sentence, value};
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::diff::{Changes, Cleanup, DiffError};
use crate::figures::counted;
use crate::session::{self, SessionError};

/// Empty a diff directory, so that it can be used for any backup again
///
/// Always refuses a diff that is in use, and a directory that is not a diff. Refuses
/// a diff with changes unless you give --force. Removes only what pbkfs has created
/// there: the directory and its lock file remain.
///
/// With --orphans, removes the throw-away diffs of sessions that ended with the host,
/// as in a power failure; "pbkfs status" shows them.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["diff_dir", "orphans"]), after_help = "\
Examples:
  pbkfs cleanup -d /srv/clone.diff --dry-run
  pbkfs cleanup -d /srv/clone.diff --force
  pbkfs cleanup --orphans")]
pub struct CleanupArgs {
    /// The diff directory
    #[arg(short = 'd', long, value_name = "DIFF")]
    diff_dir: Option<PathBuf>,
    /// Remove the throw-away diffs left by a power failure
    #[arg(long, conflicts_with = "force")]
    orphans: bool,
    /// Discard the changes in the diff
    #[arg(long)]
    force: bool,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: &CleanupArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let _span = log::span("cleanup", None);
    match &args.diff_dir {
        Some(dir) => empty(args, dir),
        None => remove_orphans(args.dry_run),
    }
}

/// Removes all orphans. One that cannot be removed does not prevent the removal of
/// the others.
fn remove_orphans(dry_run: bool) -> Result<Code, SessionError> {
    let orphans = session::all_orphans()?;
    if orphans.is_empty() {
        say!("no throw-away diff was left");
    }
    let mut code = Code::Done;
    for orphan in orphans {
        let shown = value(&orphan.diff_dir);
        if dry_run {
            say!("would remove {shown}");
            continue;
        }
        match orphan.remove() {
            Ok(()) => say!("removed {shown}"),
            Err(error) => code = report(&error),
        }
    }
    Ok(code)
}

fn empty(args: &CleanupArgs, dir: &Path) -> Result<Code, SessionError> {
    let cleanup = Cleanup::begin(dir)?;
    let shown = value(dir);
    let owner = match cleanup.binding() {
        Ok(Some(bound)) => format!("the diff of backup {bound}"),
        Ok(None) => "a diff that is bound to no backup".to_owned(),
        Err(error) => format!("a diff whose binding cannot be read ({})", sentence(error)),
    };
    let changes = cleanup.changes();
    let strangers = cleanup.strangers()?;
    for stranger in &strangers {
        complain!(
            "pbkfs: {} was not created by pbkfs, and is kept",
            value(stranger)
        );
    }
    if args.dry_run {
        dry_run(&cleanup, &owner, &changes)?;
        return Ok(Code::Done);
    }
    if !args.force {
        refuse_changes(dir, &cleanup, changes)?;
    }
    cleanup.run()?;
    match strangers.len() {
        0 => say!("{shown} is empty; it was {owner}"),
        // A directory that is not empty cannot become a new diff.
        left => say!(
            "{shown} no longer contains a diff, but still {} not created by pbkfs; it was {owner}",
            counted(left, "name")
        ),
    }
    Ok(Code::Done)
}

fn dry_run(
    cleanup: &Cleanup,
    owner: &str,
    changes: &Result<Changes, DiffError>,
) -> Result<(), SessionError> {
    let removals = cleanup.removals()?;
    match changes {
        Ok(changes) if changes.is_empty() => say!("it is {owner}, and contains no changes"),
        Ok(changes) => say!("it is {owner}, and contains {changes}; this requires --force"),
        Err(error) => say!(
            "it is {owner}, and its changes cannot be determined ({}); this requires --force",
            sentence(error)
        ),
    }
    for path in removals {
        say!("would remove {}", value(&path));
    }
    Ok(())
}

/// Refuses a diff with changes. A diff that cannot be read may contain some, too.
fn refuse_changes(
    dir: &Path,
    cleanup: &Cleanup,
    changes: Result<Changes, DiffError>,
) -> Result<(), SessionError> {
    let changes = changes.inspect_err(|_| {
        complain!("pbkfs: the changes in the diff cannot be determined; --force discards them");
    })?;
    if changes.is_empty() {
        return Ok(());
    }
    let backup = match cleanup.binding() {
        Ok(Some(bound)) => bound.to_string(),
        Ok(None) | Err(_) => "(unknown)".to_owned(),
    };
    Err(DiffError::HoldsChanges {
        path: dir.to_owned(),
        backup,
        changes,
    }
    .into())
}
