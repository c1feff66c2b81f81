//! A sandbox with a catalog in it, and clones of its backups made by `pbkfs`.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tempfile::TempDir;

use super::fixture::Fixture;
use super::process::{self, OsUser, Output, Running, run};

/// How long `up`, `down` and the rest may take: a server's start and stop included.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A directory of the test's own, which everyone may enter, with one catalog in
/// it and room for what `pbkfs` makes. Nothing of it survives the test.
pub struct Sandbox {
    dir: TempDir,
    pub fixture: Fixture,
    /// Who runs `pbkfs`.
    pub user: OsUser,
    binary: PathBuf,
}

impl Sandbox {
    /// A sandbox in which `user` runs `pbkfs`, on a catalog of the same user.
    pub fn new(fixture: &str, user: OsUser) -> Sandbox {
        let owner = user.clone();
        Sandbox::with_catalog_of(&owner, fixture, user)
    }

    pub fn with_catalog_of(owner: &OsUser, fixture: &str, user: OsUser) -> Sandbox {
        let dir = tempfile::Builder::new()
            .prefix("pbkfs-test-")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        user.own(dir.path());
        for (name, mode) in [("tmp", 0o1777), ("run", 0o700)] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            user.own(&path);
        }
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        owner.own(&store);
        let fixture = Fixture::unpack(fixture, &store, owner);
        let binary = reachable_binary(dir.path());
        Sandbox {
            dir,
            fixture,
            user,
            binary,
        }
    }

    pub fn root(fixture: &str) -> Sandbox {
        Sandbox::new(fixture, OsUser::root())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `pbkfs` as the sandbox's user. Its temporary files go into the sandbox,
    /// so that what it forgets can be seen.
    pub fn pbkfs(&self) -> Command {
        let mut command = self.user.command(&self.binary);
        command
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .current_dir(self.dir());
        command
    }

    /// A profile for a clone called `clone`; see [`Profile`] for what can be changed.
    pub fn profile(&self, backup: &str) -> Profile<'_> {
        self.profile_named("clone", backup)
    }

    pub fn profile_named(&self, name: &str, backup: &str) -> Profile<'_> {
        Profile {
            sandbox: self,
            name: name.to_owned(),
            catalog: self.fixture.catalog.clone(),
            instance: "main".to_owned(),
            backup: backup.to_owned(),
            target: self.path(name),
            diff: Some(self.path(&format!("{name}.diff"))),
            top: String::new(),
            postgres: String::new(),
            settings: String::new(),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        unmount_all(self.dir.path());
    }
}

/// The binary under test, where the user `postgres` can run it too: a build
/// directory below someone's home often is closed to others.
fn reachable_binary(dir: &Path) -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_pbkfs"));
    let mut test = OsUser::postgres().command("test");
    if run(test.arg("-x").arg(&built), LIMIT).status.success() {
        return built;
    }
    let copy = dir.join("pbkfs-under-test");
    fs::copy(&built, &copy).unwrap();
    copy
}

fn unmount_all(dir: &Path) {
    for mount in process::mounts_in(dir).into_iter().rev() {
        let _ = Command::new("umount").arg("-l").arg(mount).status();
    }
}

/// A profile in the making.
pub struct Profile<'a> {
    sandbox: &'a Sandbox,
    name: String,
    pub catalog: PathBuf,
    pub instance: String,
    pub backup: String,
    pub target: PathBuf,
    pub diff: Option<PathBuf>,
    top: String,
    postgres: String,
    settings: String,
}

impl<'a> Profile<'a> {
    /// Adds `key = value`, the value in TOML's notation.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        writeln!(self.top, "{key} = {value}").unwrap();
        self
    }

    /// Adds `key = value` to the section `[postgres]`.
    pub fn postgres(mut self, key: &str, value: &str) -> Self {
        writeln!(self.postgres, "{key} = {value}").unwrap();
        self
    }

    /// Sets one of PostgreSQL's own settings.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        writeln!(self.settings, "{name} = {value:?}").unwrap();
        self
    }

    /// Only mount, and start no server.
    pub fn mount_only(self) -> Self {
        self.postgres("launch", "false")
    }

    /// Keep the writes elsewhere.
    pub fn diff_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.diff = Some(path.into());
        self
    }

    /// Keep the writes only while the clone is up.
    pub fn throw_away(mut self) -> Self {
        self.diff = None;
        self
    }

    pub fn target_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.target = path.into();
        self
    }

    pub fn instance(mut self, instance: &str) -> Self {
        self.instance = instance.to_owned();
        self
    }

    pub fn catalog_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.catalog = path.into();
        self
    }

    fn toml(&self) -> String {
        let Profile {
            instance,
            backup,
            top,
            postgres,
            settings,
            ..
        } = self;
        let mut text = format!(
            "catalog = {:?}\ninstance = {instance:?}\nbackup = {backup:?}\ntarget = {:?}\n",
            self.catalog, self.target
        );
        if let Some(diff) = &self.diff {
            writeln!(text, "diff_dir = {diff:?}").unwrap();
        }
        if self.sandbox.user == OsUser::root() {
            write!(text, "{top}\n[postgres]\nuser = \"postgres\"\n{postgres}").unwrap();
        } else {
            write!(text, "{top}\n[postgres]\n{postgres}").unwrap();
        }
        if !settings.is_empty() {
            write!(text, "\n[postgres.settings]\n{settings}").unwrap();
        }
        text
    }

    /// Writes the file.
    pub fn write(self) -> Clone<'a> {
        let path = self.sandbox.path(&format!("{}.toml", self.name));
        fs::write(&path, self.toml()).unwrap();
        Clone {
            sandbox: self.sandbox,
            profile: path,
            target: self.target,
            diff: self.diff,
            up_was_tried: Cell::new(false),
        }
    }
}

/// What `up --json` prints when the clone is ready.
#[derive(Debug, Deserialize)]
pub struct Ready {
    pub event: String,
    /// Absent where no server was to be started.
    pub conninfo: Option<String>,
    pub target: PathBuf,
    pub backup: String,
    pub port: Option<u16>,
    /// The `pbkfs` that owns the mount.
    pub pid: i32,
    pub server_pid: Option<i32>,
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
            .expect("a server, and so a connection string")
    }
}

/// A clone that a profile describes. When dropped, it is taken down, whatever
/// state the test left it in.
pub struct Clone<'a> {
    pub sandbox: &'a Sandbox,
    pub profile: PathBuf,
    pub target: PathBuf,
    pub diff: Option<PathBuf>,
    up_was_tried: Cell<bool>,
}

impl Clone<'_> {
    /// `pbkfs SUBCOMMAND PROFILE ARGUMENTS`.
    pub fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        if subcommand == "up" {
            self.up_was_tried.set(true);
        }
        let mut command = self.sandbox.pbkfs();
        command.arg(subcommand).arg(&self.profile).args(arguments);
        command
    }

    #[track_caller]
    pub fn pbkfs(&self, subcommand: &str, arguments: &[&str]) -> Output {
        run(&mut self.command(subcommand, arguments), LIMIT)
    }

    /// Takes the clone up in the background.
    #[track_caller]
    pub fn up(&self) -> Ready {
        let stdout = self.pbkfs("up", &["--detach", "--json"]).expect_ok();
        Ready::parse(&stdout)
    }

    /// Takes the clone up in the foreground, and waits until it is ready.
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

    /// The sessions on this target that `status --json` lists.
    #[track_caller]
    pub fn status(&self) -> Vec<serde_json::Value> {
        let stdout = self.pbkfs("status", &["--json"]).expect_ok();
        let sessions: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
        let target = self.target.to_str().unwrap();
        sessions
            .into_iter()
            .filter(|session| session["target"] == target)
            .collect()
    }

    /// Whether something is mounted on the target.
    pub fn is_mounted(&self) -> bool {
        process::mounts_in(&self.target).contains(&self.target)
    }
}

impl Drop for Clone<'_> {
    fn drop(&mut self) {
        if !self.up_was_tried.get() {
            return;
        }
        let down = Running::spawn(&mut self.command("down", &[])).wait_or_kill(LIMIT);
        let failed = down
            .as_ref()
            .map_or(true, |output| !output.status.success());
        if failed && thread::panicking() {
            let (Ok(output) | Err(output)) = down;
            eprintln!("cleaning up after the failure did not work either: {output}");
        }
        unmount_all(&self.target);
        let pid_of = |(pid, _): (i32, String)| Pid::from_raw(pid);
        for pid in process::processes_in(&self.target).into_iter().map(pid_of) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Fails unless `pbkfs` left nothing in the sandbox but the profile, the diff
/// and what stood there before: no mount, process, lock or temporary file.
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
    assert_eq!(locks, Vec::<PathBuf>::new(), "a lock stays in the catalog");
    let ours: Vec<_> = files_below(Path::new("/run/pbkfs"))
        .into_iter()
        .filter(|path| {
            let content = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&content).contains(dir.to_str().unwrap())
        })
        .collect();
    assert_eq!(
        ours,
        Vec::<PathBuf>::new(),
        "a file of the session stays in /run"
    );
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

/// Fails unless the program refused with this exit code and one clear sentence
/// that holds `needle`.
#[track_caller]
pub fn refused(output: &Output, code: i32, needle: &str) {
    assert_eq!(output.code(), Some(code), "{output}");
    let said = &output.stderr;
    assert!(said.contains(needle), "no word of {needle:?}: {output}");
    assert!(
        output.stdout.is_empty(),
        "a refusal prints no result: {output}"
    );
    for raw in ["panicked at", "Os { code", "Error(", "RUST_BACKTRACE"] {
        assert!(!said.contains(raw), "not a sentence for people: {output}");
    }
}
