//! `pbkfs down`: stops a clone that `up` started.

use clap::Args;

use super::which::SessionArgs;
use crate::cli::common::value;
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::profile::PostgresPlan;
use crate::session::{self, Down, SessionError, State};

/// Stop the clone, and wait until it is unmounted
///
/// Stops PostgreSQL, unmounts, and unlocks the backups. The diff is kept if the
/// profile names one. If the pbkfs that ran the clone was killed, down cleans up
/// after it. If nothing is running, down succeeds.
///
/// down also finds the clone of a profile that now names another target or no longer
/// exists. With --target it needs no profile. Root can stop clones of other users.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pbkfs down profile.toml\n  pbkfs down --target /srv/clone")]
pub struct DownArgs {
    #[command(flatten)]
    session: SessionArgs,
}

/// Runs the subcommand.
pub fn run(args: &DownArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    if args.session.is_empty()? {
        let message = "name the clone to stop by its profile or its target: pbkfs down PROFILE, \
                       or pbkfs down --target DIR; pbkfs status shows what is running"
            .to_owned();
        return Err(SessionError::Usage { message });
    }
    let plan = args.session.plan();
    let planned = plan.as_ref().and_then(|plan| plan.as_ref().ok());
    log::init(verbosity, planned);
    let timeout = match planned {
        Some(plan) => plan.postgres.stop_timeout,
        None => PostgresPlan::default().stop_timeout,
    };
    let target = args.session.target(plan)?;
    let _span = log::span("down", Some(&target));
    match session::down(&target, timeout.0)? {
        Down::Nothing => say!("nothing runs on {}", value(&target)),
        Down::Unmounted => say!("down {}", value(&target)),
        Down::Ended(state) => say!("down {}{}", value(&state.target), kept(&state)),
        Down::Finished(state) => say!(
            "down {}: cleaned up after its pbkfs (pid {}), which had died{}",
            value(&state.target),
            state.pid,
            kept(&state)
        ),
        Down::Cleared(state) => say!(
            "down {}: it had ended by itself ({}){}",
            value(&state.target),
            state.error.as_deref().unwrap_or("no reason was recorded"),
            kept(&state)
        ),
    }
    Ok(Code::Done)
}

/// Returns what became of the session's writes.
pub fn kept(state: &State) -> String {
    match &state.diff_dir {
        Some(dir) if !state.throw_away => format!("; its writes are kept in {}", value(dir)),
        Some(_) => "; its writes are gone".to_owned(),
        None => String::new(),
    }
}
