//! `pbkfs down`: ends what `up` began.

use clap::Args;
use std::time::Duration;

use super::which::SessionArgs;
use crate::cli::common::value;
use crate::cli::exit::Code;
use crate::cli::log;
use crate::cli::verbosity::Verbosity;
use crate::profile::PostgresPlan;
use crate::session::{self, Down, SessionError, State};

/// What ending takes besides stopping the server.
const UNMOUNTING: Duration = Duration::from_secs(30);

/// Stop the clone, and wait until it is unmounted
///
/// Stops PostgreSQL, unmounts, and unlocks the backups. The diff stays if the
/// profile names one. If the pbkfs that ran the clone was killed, down clears
/// up after it. If nothing runs, down succeeds.
///
/// down finds the clone of a profile that names another target by now, or that
/// is lost. With --target it needs no profile. Root can stop clones of other
/// users.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pbkfs down profile.toml\n  pbkfs down --target /srv/clone")]
pub struct DownArgs {
    #[command(flatten)]
    session: SessionArgs,
}

/// Runs the subcommand.
pub fn run(args: &DownArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    if args.session.is_empty()? {
        let message = "down ends the clone of a profile, or the one on a target: pbkfs down \
                       PROFILE, or pbkfs down --target DIR; pbkfs status shows what runs"
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
    match session::down(&target, timeout.0 + UNMOUNTING)? {
        Down::Nothing => say!("nothing runs on {}", value(&target)),
        Down::Unmounted => say!("down {}", value(&target)),
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
