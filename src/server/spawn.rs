//! What is done to the child between its fork and its exec.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getpid, getppid, setgid, setgroups, setsid, setuid};

use super::user::OsUser;

/// Takes from the environment what would change the server's behaviour: all of
/// PostgreSQL's variables, and systemd's sockets, through which the clone
/// would report itself ready in our name.
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
        if is_systemd || text.starts_with("PG") || text.starts_with("PBKFS_") {
            command.env_remove(&name);
        }
    }
}

/// Makes the child a session of its own (a terminal's Ctrl-C is for us alone),
/// the wanted user, and mortal: it gets SIGQUIT when we are gone.
pub fn become_child(command: &mut Command, run_as: Option<OsUser>) {
    let owner = getpid();
    let prepare = move || -> io::Result<()> {
        setsid()?;
        umask(Mode::from_bits_truncate(0o077));
        if let Some(user) = &run_as {
            setgroups(&user.groups)?;
            setgid(user.gid)?;
            setuid(user.uid)?;
        }
        // A change of credentials clears this, so it comes last.
        prctl::set_pdeathsig(Signal::SIGQUIT)?;
        if getppid() != owner {
            // The owner died before that was in force.
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
