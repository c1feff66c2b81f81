//! `pbkfs mount`: the mount alone, without a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::common::ProfileArgs;
use super::exit::Code;
use super::stay::{Stay, stay};
use super::{Verbosity, background};
use crate::diff::{Binding, DiffError};
use crate::profile::{BackupChoice, Plan, Profile};
use crate::session::SessionError;

/// Mount the backup, and start no server
///
/// Returns when the mount answers, and prints one line that begins with
/// "ready"; the mount goes on in the background until `pbkfs unmount`. What is
/// written to it is kept in the diff directory.
///
/// A diff directory belongs to one backup. Once it has been used, --instance
/// and --backup may be left out, and the catalog too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs mount -B /srv/backup --instance main -i latest -D /srv/clone -d /srv/clone.diff
  pbkfs mount -D /srv/clone -d /srv/clone.diff
  pbkfs mount -B /srv/backup --instance main -i SBOL8S -D /srv/look --read-only
  pbkfs mount profile.toml --timeout 30")]
pub struct MountArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// The pg_probackup catalog
    #[arg(short = 'B', long, alias = "backup-path")]
    catalog: Option<PathBuf>,
    /// The instance within the catalog
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Which backup: an id, or "latest"
    #[arg(short = 'i', long, alias = "backup-id", value_name = "ID", value_parser = backup_choice)]
    backup: Option<BackupChoice>,
    /// The mount point; made if it does not exist, in a directory that does
    #[arg(short = 'D', long)]
    target: Option<PathBuf>,
    /// Where everything is kept that is written to the mount
    #[arg(short = 'd', long, value_name = "DIFF")]
    diff_dir: Option<PathBuf>,
    /// Take no writes; needs no diff directory
    #[arg(long, conflicts_with = "diff_dir")]
    read_only: bool,
    /// Wait for the mount as long as it takes; the default
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

/// Ids may be given in lower case, as pg_probackup takes them.
fn backup_choice(text: &str) -> Result<BackupChoice, String> {
    match text {
        "latest" => Ok(BackupChoice::Latest),
        id => id.to_ascii_uppercase().parse(),
    }
}

/// Runs the subcommand; `is_background` in the process that stays.
pub fn run(
    args: &MountArgs,
    verbosity: Verbosity,
    is_background: bool,
) -> Result<Code, SessionError> {
    if !args.console && !is_background {
        return background::start(args.timeout.map(Duration::from_secs));
    }
    let plan = args.plan()?;
    stay(&Stay {
        command: "mount",
        verbosity,
        plan: &plan,
        read_only: args.read_only,
        profile: args.profile.profile.as_deref(),
        json: args.json,
        background: is_background,
    })
}

impl MountArgs {
    /// Flags over the profile, and under both what a bound diff says.
    fn plan(&self) -> Result<Plan, SessionError> {
        let mut given = self.profile.given()?;
        self.apply(&mut given)?;
        if self.read_only {
            given.diff_dir = None;
        } else if let Some(dir) = given.diff_dir.clone() {
            complete(&mut given, &dir)?;
        } else {
            return Err(usage(
                "say where the writes are to be kept, with -d DIFF, or give --read-only",
            ));
        }
        require(&given)?;
        given.postgres.launch = Some(false);
        Ok(Plan::check(&given.over_defaults()?)?)
    }

    fn apply(&self, given: &mut Profile) -> Result<(), SessionError> {
        for (flag, value) in [
            (&self.catalog, &mut given.catalog),
            (&self.target, &mut given.target),
            (&self.diff_dir, &mut given.diff_dir),
        ] {
            if let Some(path) = flag {
                let absolute = std::path::absolute(path);
                *value = Some(absolute.map_err(|e| SessionError::io("find", path, e))?);
            }
        }
        if let Some(instance) = &self.instance {
            given.instance = Some(instance.clone());
        }
        if let Some(backup) = &self.backup {
            given.backup = Some(backup.clone());
        }
        Ok(())
    }
}

/// Takes what nobody gave from the diff's binding, and refuses what was given
/// and is another backup. A catalog may have moved, so that is no difference;
/// what `latest` means is known, and compared, only later.
fn complete(given: &mut Profile, diff_dir: &Path) -> Result<(), SessionError> {
    let Some(bound) = Binding::read(diff_dir)? else {
        return Ok(());
    };
    let instance = given.instance.get_or_insert_with(|| bound.instance.clone());
    let backup = BackupChoice::Id(bound.backup.clone());
    let backup = given.backup.get_or_insert(backup);
    let is_same = match backup {
        BackupChoice::Latest => true,
        BackupChoice::Id(id) => *id == bound.backup,
    };
    if *instance != bound.instance || !is_same {
        let wanted = format!("{backup} of instance {instance}");
        return Err(DiffError::BoundElsewhere {
            path: diff_dir.to_owned(),
            bound: bound.to_string(),
            wanted,
        }
        .into());
    }
    given.catalog.get_or_insert(bound.catalog);
    Ok(())
}

fn require(given: &Profile) -> Result<(), SessionError> {
    let missing = [
        (given.catalog.is_none(), "the catalog, with -B CATALOG"),
        (
            given.instance.is_none(),
            "the instance, with --instance NAME",
        ),
        (given.target.is_none(), "the mount point, with -D TARGET"),
    ];
    match missing.into_iter().find(|(is_missing, _)| *is_missing) {
        Some((_, what)) => Err(usage(&format!("give {what}, or a profile that sets it"))),
        None => Ok(()),
    }
}

fn usage(message: &str) -> SessionError {
    SessionError::Usage {
        message: message.to_owned(),
    }
}
