//! A directory with a catalog in it, and profiles for clones of its backups.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::fixture::Fixture;
use super::process::{self, OsUser, run};
use super::s3;
use super::session::{LIMIT, TestClone};
use super::tmpfs::Tmpfs;

/// A test's own directory, which everyone may enter, with one catalog and space for
/// what `pbkfs` creates. None of it outlives the test.
pub struct Sandbox {
    dir: TempDir,
    pub fixture: Fixture,
    /// The user who runs `pbkfs`.
    pub user: OsUser,
    binary: PathBuf,
}

impl Sandbox {
    /// Creates a sandbox in which `user` runs `pbkfs`, on a catalog owned by the same
    /// user.
    pub fn new(fixture: &str, user: OsUser) -> Sandbox {
        let owner = user.clone();
        Sandbox::with_catalog_of(&owner, fixture, user)
    }

    pub fn with_catalog_of(owner: &OsUser, fixture: &str, user: OsUser) -> Sandbox {
        let dir = tempfile::Builder::new()
            .prefix("pbkfs-test-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        user.own(dir.path());
        for (name, mode) in [("tmp", 0o1777), ("run", 0o700), ("state", 0o700)] {
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

    /// Creates a directory in which a server of `user` can have its data and its socket.
    pub fn server_dir(&self, user: &OsUser) -> PathBuf {
        let dir = self.path("server");
        fs::create_dir(&dir).unwrap();
        user.own(&dir);
        dir
    }

    /// Returns what is beside a data directory while it is made: the staged one, and the
    /// journal.
    pub fn leftovers(&self, to: &Path) -> Vec<PathBuf> {
        let name = to.file_name().unwrap().to_str().unwrap();
        let staged = to.with_file_name(format!(".{name}.pbkfs-part"));
        let journal = to.with_file_name(format!(".{name}.pbkfs-part.journal"));
        let all = [staged, journal].into_iter();
        all.filter(|path| fs::symlink_metadata(path).is_ok())
            .collect()
    }

    /// Returns the throw-away diffs of the clone at the usual target.
    pub fn throw_away_diffs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir()).unwrap().flatten();
        let is_diff = |path: &PathBuf| path.to_str().unwrap().contains(".clone.pbkfs-");
        entries.map(|entry| entry.path()).filter(is_diff).collect()
    }

    /// Waits until no process holds the locks of the throw-away diffs, once their owners
    /// were killed. The processes of a fence hold them, too, and may outlive the
    /// postmaster for a moment.
    #[track_caller]
    pub fn wait_for_throw_away_diffs(&self) {
        for diff in self.throw_away_diffs() {
            let lock = File::open(diff.join(".pbkfs-lock")).unwrap();
            process::eventually("the diff is unlocked", LIMIT, || {
                lock.try_lock_shared().is_ok()
            });
        }
    }

    /// Mounts a disk of that size, such as `16m`, on the directory `small`.
    #[track_caller]
    pub fn small_disk(&self, size: &str) -> Tmpfs {
        let small = self.path("small");
        fs::create_dir(&small).unwrap();
        Tmpfs::mount(&small, size)
    }

    /// Returns a command that runs `pbkfs` as the sandbox's user. Its temporary files
    /// are created in the sandbox, so that leftovers are visible.
    pub fn pbkfs(&self) -> Command {
        let mut command = self.user.command(&self.binary);
        command
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_STATE_HOME", self.path("state"))
            .envs(s3::credentials())
            .current_dir(self.dir());
        command
    }

    /// Returns a profile for a clone called `clone`; see [`Profile`] for what can be
    /// changed.
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
            fence: String::new(),
            storage: String::new(),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        unmount_all(self.dir.path());
    }
}

/// Returns the binary under test, at a path where the user `postgres` can also run
/// it: a build directory below a home directory is often closed to others.
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

/// Detaches every mount at and below `dir`, even if it is in use.
pub fn unmount_all(dir: &Path) {
    for mount in process::mounts_in(dir).into_iter().rev() {
        let _ = Command::new("umount").arg("-l").arg(mount).status();
    }
}

/// A builder for a profile.
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
    fence: String,
    storage: String,
}

impl<'a> Profile<'a> {
    /// Adds `key = value`, with the value in TOML's notation.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        writeln!(self.top, "{key} = {value}").unwrap();
        self
    }

    /// Adds `key = value` to the section `[postgres]`.
    pub fn postgres(mut self, key: &str, value: &str) -> Self {
        writeln!(self.postgres, "{key} = {value}").unwrap();
        self
    }

    /// Adds `key = value` to the section `[fence]`.
    pub fn fence(mut self, key: &str, value: &str) -> Self {
        writeln!(self.fence, "{key} = {value}").unwrap();
        self
    }

    /// Adds `key = value` to the section `[storage]`.
    pub fn storage(mut self, key: &str, value: &str) -> Self {
        writeln!(self.storage, "{key} = {value}").unwrap();
        self
    }

    /// Sets a PostgreSQL setting.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        writeln!(self.settings, "{name} = {value:?}").unwrap();
        self
    }

    /// Only mounts, without starting a server.
    pub fn mount_only(self) -> Self {
        self.postgres("launch", "false")
    }

    /// Keeps the writes elsewhere.
    pub fn diff_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.diff = Some(path.into());
        self
    }

    /// Keeps the writes only while the clone is up.
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
            fence,
            storage,
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
        if !fence.is_empty() {
            write!(text, "\n[fence]\n{fence}").unwrap();
        }
        if !storage.is_empty() {
            write!(text, "\n[storage]\n{storage}").unwrap();
        }
        text
    }

    /// Writes the file.
    pub fn write(self) -> TestClone<'a> {
        let path = self.sandbox.path(&format!("{}.toml", self.name));
        fs::write(&path, self.toml()).unwrap();
        TestClone::new(self.sandbox, path, self.target, self.diff)
    }
}
