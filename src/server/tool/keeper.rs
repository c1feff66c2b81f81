//! The process between pbkfs and a program that is run against a clone. It ends
//! that program with everything that it has started, however that has got away
//! (`setsid`, a double fork), whichever way it or pbkfs itself ends.
//!
//! ```text
//! pbkfs
//!  └─ pbkfs keep        adopts what loses its parent below it, and kills it at the end
//!      └─ the program
//! ```
//! It says one line on its standard input, which is a socket: `null` once the
//! program runs, or the number of the error that kept it from being run. Its
//! exit status is that of the program. It has one thread.

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

/// How long a program has to end when it is asked to, or what cannot be ended is
/// waited for.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "keep";

/// The keeper's name among the processes: another one than pbkfs's, as who kills
/// that by its name has to leave this one, which clears up.
const NAME: &std::ffi::CStr = c"pb-keeper";

/// The pause between two looks at what is left.
const PAUSE: Duration = Duration::from_millis(5);

/// The hidden subcommand: runs `command` as `user`, waits for it, and leaves
/// nothing of it. Gives the exit code; a program that was ended by a signal is
/// followed by the same one.
///
/// # Errors
/// There is no such user; whoever started this is gone.
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
    writeln!(socket, "{}", serde_json::to_string(&said)?)?;
    drop(socket);
    let Ok(mut program) = started else {
        return Ok(0);
    };
    let ended = supervise(&mut program, &watched, owner);
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

/// The signals that are waited for: those that end a program, and its end.
fn watched() -> SigSet {
    SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGCHLD,
    ])
}

/// Waits for the program's end, and passes on the signals that ask it to end.
/// `None` when it is not to be waited for any more: the kernel sends SIGQUIT when
/// the owner is gone, and the owner does when it has no more patience.
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
            // Not waited for yet, so its group still has its number. It may have
            // left the group.
            signal => drop(killpg(pid, signal)),
        }
        if getppid() != owner {
            return Ok(None);
        }
    }
}

/// Waits for what has ended. Gives the program's status, if that is among it.
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

/// Ends everything that this process has below it. What dies leaves its children
/// to this one, which is then to end them, until there is none. Of a program that
/// has got another user's rights that may not be permitted; it is not waited for
/// longer than [`PATIENCE`].
fn clear() {
    let mut refused_since = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        // They are waited for by nobody else, so their numbers are still theirs.
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

/// The processes whose parent this is.
fn children() -> impl Iterator<Item = Pid> {
    let own = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pids = numbers.map(Pid::from_raw);
    pids.filter(move |pid| parent(*pid) == Some(own))
}

/// The parent of a process: the second field behind its name, which stands in
/// parentheses and may hold anything (proc_pid_stat(5)).
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
