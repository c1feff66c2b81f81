//! What a holder leaves that was killed: lines in lock files. A session's state says
//! which those are, by the holder's pid and start, so that nothing else is taken away.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::answer::SUBCOMMAND;
use crate::program;
use crate::server::own_program;
use crate::session::SessionError;
use crate::session::outside::owner::wait_until;
use crate::session::place::state::ReadLocks;

/// How long a holder has to let go after its session's owner has died.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How long the other holder may take: the catalog may be on a slow file server.
const FORGETTING: Duration = Duration::from_secs(60);

/// Takes away what the holder has left, if it was killed, after its session's owner
/// had died. One that lives lets go by itself. What cannot be taken away is logged:
/// pg_probackup takes the lock of a dead process for none.
pub fn clear(locks: &ReadLocks) {
    match wait_until(LETTING_GO, || Ok(!locks.is_held())) {
        Ok(true) => {}
        Ok(false) | Err(_) => return,
    }
    if let Err(error) = forget(locks.holder_pid, &locks.dirs) {
        tracing::warn!("a lock of a dead process stays: {error}");
    }
}

/// Has another holder take away what a killed one has left.
pub fn forget(killed: u32, dirs: &[PathBuf]) -> Result<(), SessionError> {
    let own = own_program();
    let mut command = Command::new(&own);
    command.arg0("pbkfs").args([SUBCOMMAND, "--forget"]);
    command.arg(killed.to_string()).args(dirs);
    command.stdin(Stdio::null()).process_group(0);
    let ended = program::run(&mut command, Instant::now() + FORGETTING, 64 << 10)
        .map_err(|e| SessionError::io("run", &own, e.into()))?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(SessionError::Locks {
            message: ended.stderr.trim().to_owned(),
        }),
    }
}
