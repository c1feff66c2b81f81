//! `pbkfs unmount`: ends what `mount` began.

use std::path::PathBuf;

use clap::Args;

use super::common::value;
use super::down::kept;
use super::exit::Code;
use super::{Verbosity, log};
use crate::session::{self, Down, SessionError};

/// End a mount, and wait until its writes are saved
///
/// Refuses while somebody is in it, and names the processes. Where the pbkfs
/// that had mounted was killed, its work is finished. If nothing is mounted,
/// that is fine too. A clone with a server is ended with `pbkfs down`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs unmount -D /srv/clone
  pbkfs unmount -D /srv/clone --force")]
pub struct UnmountArgs {
    /// The mount point
    #[arg(short = 'D', long)]
    target: PathBuf,
    /// Take it away from those who are in it
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand.
pub fn run(args: &UnmountArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let path = &args.target;
    let target = std::path::absolute(path).map_err(|e| SessionError::io("find", path, e))?;
    // Or this process itself might be in it.
    std::env::set_current_dir("/").map_err(|e| SessionError::io("leave for", "/".as_ref(), e))?;
    let _span = log::span("unmount", Some(&target));
    let shown = value(&target);
    match session::unmount(&target, args.force)? {
        Down::Nothing => say!("nothing is mounted on {shown}"),
        Down::Unmounted => say!("unmounted {shown}"),
        Down::Ended(state) => say!("unmounted {shown}{}", kept(&state)),
        Down::Finished(state) => say!(
            "unmounted {shown}: its pbkfs (pid {}) had died, what it left was cleared away{}",
            state.pid,
            kept(&state)
        ),
        Down::Cleared(state) => say!(
            "unmounted {shown}: it had ended by itself ({}){}",
            state.error.as_deref().unwrap_or("no reason was kept"),
            kept(&state)
        ),
    }
    Ok(Code::Done)
}
