//! The process between pbkfs and a program that is run against a clone. However the
//! program or pbkfs itself ends, the keeper kills everything that the program has
//! started, even what has detached itself (`setsid`, a double fork).
//!
//! ```text
//! pbkfs
//!  └─ pbkfs keep        adopts orphaned descendants, and kills them at the end
//!      └─ the program
//! ```
//! It writes one line to its standard input, which is a socket: `null` once the
//! program runs, or the number of the error that kept it from running. Its exit
//! status is that of the program. It is single-threaded.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use crate::server::spawn::{become_child, follow};
use crate::server::user::OsUser;

/// How long a program may take to exit when it is asked to; also how long to wait for
/// a process that cannot be killed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "keep";

/// The keeper's process name. It differs from pbkfs's, so that killing pbkfs by name
/// leaves the keeper to clean up.
const NAME: &std::ffi::CStr = c"pb-keeper";

/// Pause between two checks for remaining processes.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs the hidden subcommand: runs `command` as `user`, waits for it, and kills
/// whatever it leaves behind. Returns its exit code; if a signal ended it, this
/// process ends by the same signal.
///
/// # Errors
/// If a system call fails, or the process that started this one has exited. A program
/// that cannot be started is reported on the socket instead.
pub fn run(user: Option<&str>, command: &[OsString]) -> io::Result<i32> {
    let owner = getppid();
    let watched = watched();
    watched.thread_block()?;
    prctl::set_name(NAME)?;
    prctl::set_child_subreaper(true)?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let started = start(user, command);
    let said = match &started {
        Ok(_) => None,
        Err(error) => Some(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let told = writeln!(socket, "{}", serde_json::json!(said));
    drop(socket);
    let Ok(mut program) = started else {
        return told.map(|()| 0);
    };
    // If the owner was killed before it could be told, the program runs already, and is
    // ended all the same.
    let ended = told.and_then(|()| supervise(&mut program, &watched, owner));
    clear();
    match ended? {
        Some(status) => follow(status),
        None => Ok(128 + Signal::SIGKILL as i32),
    }
}

fn start(user: Option<&str>, command: &[OsString]) -> io::Result<Child> {
    let user = user.map(OsUser::find).transpose();
    let user = user.map_err(io::Error::other)?;
    let (program, arguments) = command.split_first().ok_or(Errno::EINVAL)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    become_child(&mut command, user);
    // SAFETY: a system call between fork and exec, which neither allocates nor
    // locks.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_unblock()?));
    }
    command.spawn()
}

/// Returns the signals to wait for: those that ask a program to exit, and SIGCHLD.
fn watched() -> SigSet {
    SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGCHLD,
    ])
}

/// Waits until the program exits, and forwards the signals that ask it to. Returns
/// `None` if the wait is to stop: the kernel sends SIGQUIT when the owner exits, and
/// the owner sends it when its patience runs out.
fn supervise(program: &mut Child, watched: &SigSet, owner: Pid) -> io::Result<Option<ExitStatus>> {
    let number = i32::try_from(program.id()).map_err(io::Error::other)?;
    let pid = Pid::from_raw(number);
    loop {
        match watched.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = reap(program, pid)? {
                    return Ok(Some(status));
                }
            }
            Signal::SIGQUIT => return Ok(None),
            // Not reaped yet, so its process group still has this number. The program
            // may have left the group.
            signal => drop(killpg(pid, signal)),
        }
        if getppid() != owner {
            return Ok(None);
        }
    }
}

/// Reaps the children that have exited. Returns the program's status if it is among
/// them.
fn reap(program: &mut Child, pid: Pid) -> io::Result<Option<ExitStatus>> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::All, look)?.pid() {
            None => return Ok(None),
            Some(ended) if ended == pid => return program.try_wait(),
            Some(ended) => waitpid(ended, None)?,
        };
    }
}

/// Kills all descendants of this process. The children of each killed process are
/// reparented to this one and killed in turn, until there are none. Killing a program
/// that has gained another user's privileges may not be permitted; the wait for such
/// a program is limited to [`PATIENCE`].
fn clear() {
    let mut refused_since = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        // No other process reaps them, so their pids are still theirs.
        let killed: Vec<_> = children()
            .map(|child| kill(child, Signal::SIGKILL))
            .collect();
        match killed.iter().any(Result::is_ok) {
            true => refused_since = None,
            false => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return;
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Returns the children of this process.
fn children() -> impl Iterator<Item = Pid> {
    let own = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pids = numbers.map(Pid::from_raw);
    pids.filter(move |pid| parent(*pid) == Some(own))
}

/// Returns the parent of a process: the second field after its name, which is in
/// parentheses and may contain anything (proc_pid_stat(5)).
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let number = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Pid::from_raw(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_process_is_found_whatever_its_name() {
        assert_eq!(parent(getpid()), Some(getppid()));
        let mut named = Command::new("sh");
        named.args(["-c", "printf 'a) 1 (b' > /proc/self/comm; echo; read x"]);
        named.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = named.spawn().unwrap();
        let mut line = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        assert_eq!(parent(pid), Some(getpid()));
        assert!(children().any(|other| other == pid));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
