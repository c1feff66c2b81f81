//! Running programs as a user, with a deadline, and finding leftover processes and
//! mounts.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::iter;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

const POLL: Duration = Duration::from_millis(20);

/// A user of the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl OsUser {
    /// Returns the user `name`, who must exist.
    pub fn named(name: &str) -> OsUser {
        let user = User::from_name(name)
            .unwrap()
            .unwrap_or_else(|| panic!("there is no user {name}: install postgresql-15"));
        OsUser {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }
    }

    pub fn root() -> OsUser {
        OsUser::named("root")
    }

    pub fn postgres() -> OsUser {
        OsUser::named("postgres")
    }

    /// Returns a command that runs as this user, with a minimal environment and in a
    /// directory that everyone may enter.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/nonexistent")
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        if self.uid != nix::unistd::geteuid().as_raw() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Makes this user the owner of `path` itself, but not of anything below it.
    pub fn own(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).unwrap();
    }
}

/// Output and exit status of a finished program.
pub struct Output {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the standard output, or panics with all output if the program failed.
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output {
            what,
            stdout,
            stderr,
            ..
        } = self;
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {signal:?}"),
        };
        write!(
            f,
            "`{what}` ended with {end}\n-- stdout:\n{stdout}\n-- stderr:\n{stderr}"
        )
    }
}

/// A program that may still be running. Killed when dropped.
///
/// Its output goes to unnamed files rather than pipes, so that a daemon that keeps
/// them open cannot block the reader.
pub struct Running {
    what: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Running {
    pub fn spawn(command: &mut Command) -> Running {
        let words = iter::once(command.get_program()).chain(command.get_args());
        let what = words
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" ");
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
        Running {
            what,
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Returns what it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    /// Returns what it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the program to exit; if it is still running after `limit`, kills it
    /// and fails.
    #[track_caller]
    pub fn wait(self, limit: Duration) -> Output {
        match self.wait_or_kill(limit) {
            Ok(output) => output,
            Err(output) => panic!("killed, because it was still running after {limit:?}: {output}"),
        }
    }

    /// Like [`wait`](Running::wait), for callers that must not panic.
    pub fn wait_or_kill(mut self, limit: Duration) -> Result<Output, Output> {
        let deadline = Instant::now() + limit;
        let in_time = loop {
            if self.has_ended() {
                break true;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                break false;
            }
            thread::sleep(POLL);
        };
        let output = Output {
            status: self.child.wait().unwrap(),
            what: self.what.clone(),
            stdout: self.stdout(),
            stderr: self.stderr(),
        };
        if in_time { Ok(output) } else { Err(output) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Returns the file's contents, without moving the offset that is shared with the
/// writer.
fn contents(file: &File) -> String {
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs the command to completion.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    Running::spawn(command).wait(limit)
}

/// Waits until `done` returns true; panics with `what` after `limit`.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(
            Instant::now() < deadline,
            "timed out after {limit:?}: {what}"
        );
        thread::sleep(POLL);
    }
}

/// Returns whether a process with this pid is alive (a zombie is not).
pub fn is_alive(pid: i32) -> bool {
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return false;
    }
    // The state follows the command's name, which is in parentheses.
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => false,
    }
}

/// Returns the live processes that name a path below `dir` in their command line, or
/// whose working directory is below it: pid and command line of each.
pub fn processes_in(dir: &Path) -> Vec<(i32, String)> {
    let needle = dir.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let raw = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&raw).replace('\0', " ");
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if (cmdline.contains(needle) || cwd.starts_with(dir)) && is_alive(pid) {
            found.push((pid, cmdline));
        }
    }
    found
}

/// Returns the mount points at and below `dir`, innermost last.
pub fn mounts_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount_point| mount_point.starts_with(dir))
        .collect()
}
