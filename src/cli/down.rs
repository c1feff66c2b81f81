//! `pbkfs down`: ends what `up` began.

use clap::Args;
use std::time::Duration;

use super::common::{ProfileArgs, value};
use super::exit::Code;
use super::{Verbosity, log};
use crate::session::{self, Down, SessionError, State};

/// What ending takes besides stopping the server.
const UNMOUNTING: Duration = Duration::from_secs(30);

/// End what up began, and wait until it is gone
///
/// Stops PostgreSQL, unmounts, and releases the backups; the diff stays, if
/// the profile names one. Where the pbkfs that had begun it was killed, its
/// work is finished. If nothing runs, that is fine too.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pbkfs down profile.toml")]
pub struct DownArgs {
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Runs the subcommand.
pub fn run(args: &DownArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let plan = args.profile.plan()?;
    log::init(verbosity, Some(&plan.log));
    let _span = log::span("down", Some(&plan.target));
    let patience = plan.postgres.stop_timeout + UNMOUNTING;
    match session::down(&plan.target, patience)? {
        Down::Nothing => say!("nothing runs on {}", value(&plan.target)),
        Down::Unmounted => say!("down {}", value(&plan.target)),
        Down::Ended(state) => say!("down {}{}", value(&state.target), kept(&state)),
        Down::Finished(state) => say!(
            "down {}: its pbkfs (pid {}) had died, what it left was cleared away{}",
            value(&state.target),
            state.pid,
            kept(&state)
        ),
        Down::Cleared(state) => say!(
            "down {}: it had ended by itself ({}){}",
            value(&state.target),
            state.error.as_deref().unwrap_or("no reason was kept"),
            kept(&state)
        ),
    }
    Ok(Code::Done)
}

/// What became of the session's writes.
pub fn kept(state: &State) -> String {
    match &state.diff_dir {
        Some(dir) if !state.throw_away => format!("; its writes are kept in {}", value(dir)),
        Some(_) => "; its writes are gone".to_owned(),
        None => String::new(),
    }
}
