//! `pbkfs mount`: mounts a backup without starting a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::background;
use super::stay::{Stay, stay};
use crate::catalog::BackupRef;
use crate::cli::common::At;
use crate::cli::exit::Code;
use crate::cli::source::{BackupArgs, require, require_backup};
use crate::cli::verbosity::Verbosity;
use crate::diff::{Binding, DiffError};
use crate::profile::{MomentText, Origin, Plan, Profile};
use crate::session::SessionError;

/// Mount the backup without starting a server
///
/// Returns when the mount answers, and prints one line that begins with "ready"; the
/// mount stays in the background until `pbkfs unmount`. Writes to it are kept in the
/// diff directory.
///
/// A diff directory belongs to one backup. Once it has been used, --instance,
/// --backup and --catalog may be omitted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs mount -B /srv/backup --instance main -i latest -D /srv/clone -d /srv/clone.diff
  pbkfs mount -D /srv/clone -d /srv/clone.diff
  pbkfs mount -B /srv/backup --instance main -i SBOL8S -D /srv/look --read-only
  pbkfs mount profile.toml --timeout 30")]
pub struct MountArgs {
    #[command(flatten)]
    backup: BackupArgs,
    /// The mount point; created if missing, but its parent directory must exist
    #[arg(short = 'D', long)]
    target: Option<PathBuf>,
    /// Directory that keeps the writes to the mount
    #[arg(short = 'd', long, value_name = "DIFF")]
    diff_dir: Option<PathBuf>,
    /// With backup "latest", mount the newest backup that ended before this time, as in
    /// --at "2026-11-22 14:32:00+00"; mount replays no WAL (use up for that)
    #[arg(long, value_name = "TIME")]
    at: Option<MomentText>,
    /// Mount read-only; needs no diff directory
    #[arg(long, conflicts_with = "diff_dir")]
    read_only: bool,
    /// Wait for the mount as long as it takes (the default)
    #[arg(long, conflicts_with_all = ["timeout", "console"])]
    wait: bool,
    /// Give up, undo everything and exit with 3 if the mount takes longer
    #[arg(long, value_name = "SEC", conflicts_with = "console",
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Stay in the foreground until a signal or `pbkfs unmount`
    #[arg(long)]
    console: bool,
    /// Print the ready line as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. `is_background` is set in the process that stays with the
/// session.
pub fn run(
    args: &MountArgs,
    verbosity: Verbosity,
    is_background: bool,
) -> Result<Code, SessionError> {
    if !args.console && !is_background {
        return background::start(args.timeout.map(Duration::from_secs));
    }
    let plan = args.plan()?;
    stay(Stay {
        command: "mount",
        verbosity,
        plan: &plan,
        read_only: args.read_only,
        profile: args.backup.profile(),
        json: args.json,
        background: is_background,
    })
}

impl MountArgs {
    /// Returns the profile, overridden by the flags, and completed by the binding of
    /// the diff.
    fn plan(&self) -> Result<Plan, SessionError> {
        let mut given = self.backup.given()?;
        for (key, flag, path) in [
            ("target", "-D", &self.target),
            ("diff_dir", "-d", &self.diff_dir),
        ] {
            if let Some(path) = path {
                given.set_path(key, path, Origin::Command(flag))?;
            }
        }
        At { at: self.at }.apply(&mut given);
        if self.read_only {
            given.unset("diff_dir");
        } else if let Some(dir) = given.value::<PathBuf>("diff_dir") {
            complete(&mut given, &dir)?;
        } else {
            let message = "name the directory for the writes with -d DIFF, or use --read-only";
            return Err(SessionError::Usage {
                message: message.to_owned(),
            });
        }
        require_backup(&mut given)?;
        require(&given, "target", "the mount point, with -D TARGET")?;
        given.set("postgres.launch", false, Origin::Command("pbkfs mount"));
        Ok(given.plan()?)
    }
}

/// Takes missing values from the diff's binding, and refuses values that contradict
/// it.
fn complete(given: &mut Profile, diff_dir: &Path) -> Result<(), SessionError> {
    const BINDING: Origin = Origin::Command("the binding of the diff");
    let Some(bound) = Binding::read(diff_dir)? else {
        return Ok(());
    };
    for (key, value) in [("instance", &bound.instance), ("backup", &bound.backup)] {
        if given.get(key).is_none() {
            given.set(key, value.as_str(), BINDING);
        }
    }
    let instance: String = given.value("instance").unwrap_or_default();
    let backup = given.value("backup").unwrap_or(BackupRef::Latest);
    let is_same = match &backup {
        BackupRef::Latest => true,
        BackupRef::Id(id) => id.0 == bound.backup,
    };
    if instance != bound.instance || !is_same {
        let wanted = format!("{backup} of instance {instance}");
        return Err(DiffError::BoundElsewhere {
            path: diff_dir.to_owned(),
            bound: bound.to_string(),
            wanted,
        }
        .into());
    }
    if given.get("catalog").is_none() {
        given.set_catalog(&bound.catalog, BINDING)?;
    }
    Ok(())
}
