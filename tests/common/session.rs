//! Clones of backups, started and stopped by `pbkfs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pbkfs::internals::session::Place;
use serde::Deserialize;

use super::process::{self, Output, Running, run};
use super::sandbox::{Sandbox, unmount_all};

/// Time limit for `up`, `down` and other commands, including a server's start and
/// stop.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Output of `up --json` when the clone is ready.
#[derive(Debug, Deserialize)]
pub struct Ready {
    pub event: String,
    /// Absent if no server was requested.
    pub conninfo: Option<String>,
    pub target: PathBuf,
    pub backup: String,
    pub port: Option<u16>,
    /// The `pbkfs` that owns the mount.
    pub pid: i32,
    pub server_pid: Option<i32>,
    /// What the fence consists of.
    pub fence: Option<String>,
}

impl Ready {
    #[track_caller]
    fn parse(stdout: &str) -> Ready {
        let ready: Ready = serde_json::from_str(stdout).unwrap_or_else(|error| {
            panic!("not what `up --json` should print ({error}): {stdout}")
        });
        assert_eq!(ready.event, "ready");
        ready
    }

    #[track_caller]
    pub fn conninfo(&self) -> &str {
        self.conninfo
            .as_deref()
            .expect("a server has a connection string")
    }
}

/// A clone described by a profile. It is taken down when dropped, whatever state the
/// test left it in.
pub struct TestClone<'a> {
    pub sandbox: &'a Sandbox,
    pub profile: PathBuf,
    pub target: PathBuf,
    pub diff: Option<PathBuf>,
    up_was_tried: AtomicBool,
}

impl<'a> TestClone<'a> {
    /// Creates the clone that the profile at `profile` describes.
    pub fn new(
        sandbox: &'a Sandbox,
        profile: PathBuf,
        target: PathBuf,
        diff: Option<PathBuf>,
    ) -> TestClone<'a> {
        TestClone {
            sandbox,
            profile,
            target,
            diff,
            up_was_tried: AtomicBool::new(false),
        }
    }

    /// Returns the command `pbkfs SUBCOMMAND PROFILE ARGUMENTS`.
    pub fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        if subcommand == "up" {
            self.up_was_tried.store(true, Ordering::Relaxed);
        }
        let mut command = self.sandbox.pbkfs();
        command.arg(subcommand).arg(&self.profile).args(arguments);
        command
    }

    #[track_caller]
    pub fn pbkfs(&self, subcommand: &str, arguments: &[&str]) -> Output {
        run(&mut self.command(subcommand, arguments), LIMIT)
    }

    /// Starts the clone in the background.
    #[track_caller]
    pub fn up(&self) -> Ready {
        let stdout = self.pbkfs("up", &["--detach", "--json"]).expect_ok();
        Ready::parse(&stdout)
    }

    /// The same with additional arguments, such as `--set recovery.name=x`.
    #[track_caller]
    pub fn up_with(&self, arguments: &[&str]) -> Ready {
        let arguments = [&["--detach", "--json"], arguments].concat();
        Ready::parse(&self.pbkfs("up", &arguments).expect_ok())
    }

    /// Starts the clone in the foreground, and waits until it is ready.
    #[track_caller]
    pub fn up_in_foreground(&self) -> (Running, Ready) {
        let mut running = Running::spawn(&mut self.command("up", &["--json"]));
        process::eventually("the clone is ready", LIMIT, || {
            let ended = running.has_ended();
            assert!(
                !ended,
                "up ended early:\n{}\n{}",
                running.stdout(),
                running.stderr()
            );
            running.stdout().ends_with('\n')
        });
        let ready = Ready::parse(&running.stdout());
        (running, ready)
    }

    #[track_caller]
    pub fn down(&self) {
        self.pbkfs("down", &[]).expect_ok();
    }

    /// Returns the sessions on this target that `status --json` lists.
    #[track_caller]
    pub fn status(&self) -> Vec<serde_json::Value> {
        let output = self.pbkfs("status", &["--json"]);
        // The code is 3 if the clone is not ready.
        assert!(matches!(output.code(), Some(0 | 3)), "{output}");
        let sessions = sessions_in(&output.stdout);
        let target = self.target.to_str().unwrap();
        sessions
            .into_iter()
            .filter(|session| session["target"] == target)
            .collect()
    }

    /// Returns the one-shot jobs that are running with this profile.
    #[track_caller]
    pub fn jobs(&self) -> Vec<serde_json::Value> {
        let mut status = self.sandbox.pbkfs();
        let stdout = run(status.args(["status", "--json"]), LIMIT).expect_ok();
        let mut sessions = sessions_in(&stdout);
        let (profile, target) = (self.profile.to_str(), self.target.to_str());
        sessions
            .retain(|job| job["profile"].as_str() == profile && job["target"].as_str() != target);
        sessions
    }

    /// Returns whether something is mounted on the target.
    pub fn is_mounted(&self) -> bool {
        process::mounts_in(&self.target).contains(&self.target)
    }
}

/// Returns the sessions in the output of `status --json`.
#[track_caller]
pub fn sessions_in(document: &str) -> Vec<serde_json::Value> {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    document["sessions"].as_array().unwrap().clone()
}

impl Drop for TestClone<'_> {
    fn drop(&mut self) {
        if !self.up_was_tried.load(Ordering::Relaxed) {
            return;
        }
        let down = Running::spawn(&mut self.command("down", &[])).wait_or_kill(LIMIT);
        let failed = down
            .as_ref()
            .map_or(true, |output| !output.status.success());
        if failed && thread::panicking() {
            let (Ok(output) | Err(output)) = down;
            eprintln!("cleaning up after the failure also failed: {output}");
        }
        unmount_all(&self.target);
        let pid_of = |(pid, _): (i32, String)| Pid::from_raw(pid);
        for pid in process::processes_in(&self.target).into_iter().map(pid_of) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Fails unless `pbkfs` left nothing in the sandbox but the profile, the diff and
/// what was there before: no mount, process, lock or temporary file.
#[track_caller]
pub fn assert_nothing_stays(sandbox: &Sandbox) {
    let dir = sandbox.dir();
    assert_eq!(
        process::mounts_in(dir),
        Vec::<PathBuf>::new(),
        "a mount stays"
    );
    assert_eq!(process::processes_in(dir), Vec::new(), "a process stays");
    for place in ["tmp", "run"] {
        assert_eq!(
            files_below(&sandbox.path(place)),
            Vec::<PathBuf>::new(),
            "a file stays"
        );
    }
    let locks: Vec<_> = files_below(&sandbox.fixture.catalog)
        .into_iter()
        .filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with("backup.pid") || name.starts_with("backup_ro.pid")
        })
        .collect();
    assert_eq!(
        locks,
        Vec::<PathBuf>::new(),
        "a lock was left in the catalog"
    );
    assert_eq!(
        session_files_in(dir),
        Vec::<PathBuf>::new(),
        "a file of the session was left in /run"
    );
    // The names of one-shot jobs contain the name of the clone's own session.
    let clone = Place::of(&sandbox.path("clone"));
    let clone = clone.dir().file_name().unwrap().to_str().unwrap();
    let mut runs = entries_of(Path::new("/run/pbkfs/mounts"));
    runs.retain(|path| path.to_str().unwrap().contains(clone));
    assert_eq!(
        runs,
        Vec::<PathBuf>::new(),
        "a mount point was left in /run"
    );
}

/// Returns the files of root's sessions that name a path below `dir`.
pub fn session_files_in(dir: &Path) -> Vec<PathBuf> {
    let names_it = |path: &PathBuf| {
        // Opening another test's pipe would block.
        let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        let content = if is_file {
            fs::read(path)
        } else {
            Ok(Vec::new())
        };
        let content = content.unwrap_or_default();
        String::from_utf8_lossy(&content).contains(dir.to_str().unwrap())
    };
    // No deeper, because one-shot jobs have their mounts there.
    let sessions = entries_of(Path::new("/run/pbkfs"));
    let mut files: Vec<PathBuf> = sessions.iter().flat_map(|dir| entries_of(dir)).collect();
    files.retain(names_it);
    files
}

fn entries_of(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Message of pbkfs when it panics.
pub const UNKNOWN_CASE: &str = "internal error; report it as a bug";

/// Fails unless the program failed with this exit code and one clear sentence that
/// contains `needle`.
#[track_caller]
pub fn refused(output: &Output, code: i32, needle: &str) {
    assert_eq!(output.code(), Some(code), "{output}");
    let said = &output.stderr;
    assert!(said.contains(needle), "{needle:?} is missing: {output}");
    assert!(
        output.stdout.is_empty(),
        "a failure must print no result: {output}"
    );
    for raw in [
        UNKNOWN_CASE,
        "panicked at",
        "Os { code",
        "Error(",
        "RUST_BACKTRACE",
    ] {
        assert!(!said.contains(raw), "not a sentence for people: {output}");
    }
}
