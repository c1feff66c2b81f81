//! The remains of a killed holder: lines in lock files. A session's state identifies
//! them by the holder's pid and start time, so that nothing else is removed.

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

/// How long a holder may take to release its locks after its session's owner has died.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Time limit for the other holder: the catalog may be on a slow file server.
const FORGETTING: Duration = Duration::from_secs(60);

/// Removes what the holder has left, if it was killed after its session's owner had
/// died. A live holder releases its locks by itself. If they cannot be removed, that is
/// only logged: pg_probackup ignores the lock of a dead process.
pub fn clear(locks: &ReadLocks) {
    match wait_until(LETTING_GO, || Ok(!locks.is_held())) {
        Ok(true) => {}
        Ok(false) | Err(_) => return,
    }
    // A backup that was unlocked earlier may be deleted by now.
    let dirs: Vec<_> = locks
        .dirs
        .iter()
        .filter(|dir| dir.exists())
        .cloned()
        .collect();
    if dirs.is_empty() {
        return;
    }
    if let Err(error) = forget(locks.holder_pid, &dirs) {
        tracing::warn!("cannot remove the lock of a dead process: {error}");
    }
}

/// Starts another holder to remove what a killed one has left.
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
