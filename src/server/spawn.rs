//! What happens in a child between fork and exec, and how a helper exits as its child
//! did.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getpid, getppid, setgid, setgroups, setsid, setuid};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::descriptors;
use crate::server::user::OsUser;

/// The beginnings of the names of variables that a server does not get: PostgreSQL's and
/// pbkfs's own, which would change what it does, and the credentials with which the catalog
/// is read, which a superuser of the clone could see.
const KEPT_FROM_IT: [&str; 5] = ["PG", "PBKFS_", "AWS_", "GOOGLE_", "AZURE_"];

/// Removes the environment variables that a server must not have, also those of systemd,
/// through which the clone would report itself ready in our name.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_systemd = matches!(
            &*text,
            "NOTIFY_SOCKET"
                | "WATCHDOG_USEC"
                | "WATCHDOG_PID"
                | "LISTEN_PID"
                | "LISTEN_FDS"
                | "LISTEN_FDNAMES"
        );
        if is_systemd || KEPT_FROM_IT.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
}

/// Puts the child in a session of its own (a terminal's Ctrl-C is for us alone),
/// makes it the given user, and has the kernel send it SIGQUIT when we exit, which it does
/// not ignore unless it chooses to: what a script starts in the background does. Its limit
/// of open files is the one that this process was started with.
pub fn become_child(command: &mut Command, run_as: Option<OsUser>) {
    let owner = getpid();
    let give_back_limit = descriptors::give_back();
    let prepare = move || -> io::Result<()> {
        setsid()?;
        give_back_limit()?;
        umask(Mode::from_bits_truncate(0o077));
        if let Some(user) = &run_as {
            setgroups(&user.groups)?;
            setgid(user.gid)?;
            setuid(user.uid)?;
        }
        // SAFETY: the default action runs no code of ours.
        unsafe { signal(Signal::SIGQUIT, SigHandler::SigDfl) }?;
        // A change of credentials clears this setting, so it comes last.
        prctl::set_pdeathsig(Signal::SIGQUIT)?;
        // Inside a PID namespace, a parent outside it has pid 0.
        if getppid() != owner && getppid().as_raw() != 0 {
            // The owner exited before the setting took effect.
            return Err(nix::Error::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec. It makes only
    // async-signal-safe system calls, and neither allocates nor locks: what it
    // uses was looked up before, and its errors hold a plain number.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Keeps a close-on-exec descriptor open in the child, under the same number. Other
/// children of this process do not inherit it.
pub fn leave_open(command: &mut Command, held: &Arc<OwnedFd>) {
    let held = held.clone();
    // SAFETY: one system call between fork and exec, which neither allocates
    // nor locks; the closure keeps the descriptor open.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(&*held, FdFlags::empty())?));
    }
}

/// Returns the path of this process's program, or `/proc/self/exe` if that path no
/// longer exists.
#[must_use]
pub fn own_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

/// Ends this process as its child ended: returns the exit code, or raises the signal
/// that killed the child.
///
/// # Errors
/// If a system call fails.
pub fn follow(status: ExitStatus) -> io::Result<i32> {
    if let Some(code) = status.code() {
        return Ok(code);
    }
    let number = status.signal().unwrap_or_default();
    let cause = Signal::try_from(number)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(cause, SigHandler::SigDfl) };
    SigSet::from(cause).thread_unblock()?;
    raise(cause)?;
    Ok(128 + number)
}
