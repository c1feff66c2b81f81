//! `pbkfs cleanup`: empties a diff directory for reuse.

use std::path::PathBuf;

use clap::Args;

use super::common::{sentence, value};
use super::exit::Code;
use super::{Verbosity, log};
use crate::diff::{Changes, Cleanup, DiffError};
use crate::session::SessionError;

/// Empty a diff directory, so that it can be used for any backup again
///
/// Refuses one that is in use, and a directory that is no diff, in any case;
/// one that holds changes only without --force. Removes what pbkfs has made
/// there, and nothing else: the directory and its lock file stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs cleanup -d /srv/clone.diff --dry-run
  pbkfs cleanup -d /srv/clone.diff --force")]
pub struct CleanupArgs {
    /// The diff directory
    #[arg(short = 'd', long, value_name = "DIFF")]
    diff_dir: PathBuf,
    /// Throw the changes in it away
    #[arg(long)]
    force: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: &CleanupArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let _span = log::span("cleanup", None);
    let cleanup = Cleanup::begin(&args.diff_dir)?;
    let shown = value(&args.diff_dir);
    let owner = match cleanup.binding() {
        Ok(Some(bound)) => format!("the diff of backup {bound}"),
        Ok(None) => "a diff that is bound to no backup".to_owned(),
        Err(error) => format!("a diff whose binding cannot be read ({})", sentence(error)),
    };
    let changes = cleanup.changes();
    for stranger in cleanup.strangers()? {
        complain!("pbkfs: {} is not of pbkfs, and stays", value(&stranger));
    }
    if args.dry_run {
        dry_run(&cleanup, &owner, &changes)?;
        return Ok(Code::Done);
    }
    if !args.force {
        refuse_changes(args, &cleanup, changes)?;
    }
    cleanup.run()?;
    say!("{shown} is empty; it was {owner}");
    Ok(Code::Done)
}

fn dry_run(
    cleanup: &Cleanup,
    owner: &str,
    changes: &Result<Changes, DiffError>,
) -> Result<(), SessionError> {
    let removals = cleanup.removals()?;
    match changes {
        Ok(changes) if changes.is_empty() => say!("it is {owner}, and holds no changes"),
        Ok(changes) => say!("it is {owner}, and holds {changes}; that takes --force"),
        Err(error) => say!(
            "it is {owner}, and what it holds cannot be told ({}); that takes --force",
            sentence(error)
        ),
    }
    for path in removals {
        say!("would remove {}", value(&path));
    }
    Ok(())
}

/// What cannot be read may hold changes, too.
fn refuse_changes(
    args: &CleanupArgs,
    cleanup: &Cleanup,
    changes: Result<Changes, DiffError>,
) -> Result<(), SessionError> {
    let changes = changes.inspect_err(|_| {
        complain!("pbkfs: what the diff holds cannot be told; --force throws it away");
    })?;
    if changes.is_empty() {
        return Ok(());
    }
    let backup = match cleanup.binding() {
        Ok(Some(bound)) => bound.to_string(),
        Ok(None) | Err(_) => "(unknown)".to_owned(),
    };
    Err(DiffError::HoldsChanges {
        path: args.diff_dir.clone(),
        backup,
        changes,
    }
    .into())
}
