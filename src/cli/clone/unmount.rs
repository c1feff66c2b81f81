//! `pbkfs unmount`: ends a mount that `mount` started.

use std::path::{Path, PathBuf};

use clap::Args;

use super::down::kept;
use crate::cli::common::{ProfileArgs, value};
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::source::{absolute, missing};
use crate::cli::verbosity::Verbosity;
use crate::session::{self, Down, SessionError};

/// End a mount, and wait until its writes are saved
///
/// Refuses while processes are using the mount, and names them. If the pbkfs that had
/// mounted was killed, unmount cleans up after it. If nothing is mounted, unmount
/// succeeds. A clone with a server is stopped with `pbkfs down`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs unmount /srv/clone
  pbkfs unmount profile.toml
  pbkfs unmount -D /srv/clone --force")]
pub struct UnmountArgs {
    /// The mount point, or the profile that names it
    #[arg(value_name = "TARGET|PROFILE", required_unless_present = "target")]
    what: Option<PathBuf>,
    /// Set a key of the profile, as in --set target=/srv/clone
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "what")]
    sets: Vec<String>,
    /// The mount point
    #[arg(short = 'D', long, conflicts_with = "what")]
    target: Option<PathBuf>,
    /// Unmount even while processes are using it
    #[arg(long)]
    force: bool,
}

impl UnmountArgs {
    fn target(&self) -> Result<PathBuf, SessionError> {
        let Some(path) = self.what.as_ref().or(self.target.as_ref()) else {
            return Err(missing("the mount point"));
        };
        if self.target.is_some() || !is_profile(path) {
            return absolute(path);
        }
        let profile = ProfileArgs {
            profile: Some(path.clone()),
            sets: self.sets.clone(),
        };
        Ok(profile.plan()?.target)
    }
}

/// Returns whether a path is a profile: a file, or a missing one by its name. A mount
/// is not accessed, because it may hang.
fn is_profile(path: &Path) -> bool {
    if session::is_mounted(path) {
        return false;
    }
    path.is_file() || !path.exists() && path.extension().is_some_and(|end| end == "toml")
}

/// Runs the subcommand.
pub fn run(args: &UnmountArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let target = args.target()?;
    // Otherwise, this process itself might be using the mount.
    std::env::set_current_dir("/")
        .map_err(|e| SessionError::io("change directory to", "/".as_ref(), e))?;
    let _span = log::span("unmount", Some(&target));
    let shown = value(&target);
    match session::unmount(&target, args.force)? {
        Down::Nothing => say!("nothing is mounted on {shown}"),
        Down::Unmounted => say!("unmounted {shown}"),
        Down::Ended(state) => say!("unmounted {shown}{}", kept(&state)),
        Down::Finished(state) => say!(
            "unmounted {shown}: cleaned up after its pbkfs (pid {}), which had died{}",
            state.pid,
            kept(&state)
        ),
        Down::Cleared(state) => say!(
            "unmounted {shown}: it had ended by itself ({}){}",
            state.error.as_deref().unwrap_or("no reason was recorded"),
            kept(&state)
        ),
    }
    Ok(Code::Done)
}
