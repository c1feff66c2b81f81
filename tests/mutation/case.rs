//! One damaged copy of a catalog or a diff, and the commands that run on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::common::process::{mounts_in, processes_in};
use super::common::sandbox::unmount_all;
use super::common::session::{UNKNOWN_CASE, session_files_in};
use super::common::{self, Fixture, Listing, OsUser, Output, Running, run};
use super::walk;

/// Contents of the files outside, which appear nowhere else.
pub const CANARY: &str = "canary-5f0c3b9a";

/// The backups of the catalog: a FULL, and a DELTA based on it.
pub const IDS: [&str; 2] = ["TOW7OQ", "TOW7P0"];

/// Time limit for a command. On undamaged input, the slowest takes a tenth of a
/// second; a server takes some seconds.
const LIMIT: Duration = Duration::from_secs(20);
const SERVER_LIMIT: Duration = Duration::from_secs(45);

/// Memory limit of a process, in bytes. Undamaged input takes 50 MB, most of it for
/// the stacks of threads.
const MEMORY: u64 = 512 << 20;

/// Maximum size of a file that a command may write, in bytes.
const LONGEST_FILE: u64 = 2 << 30;

/// The data that is copied for each case.
pub struct Bench {
    dir: TempDir,
    pub catalog: PathBuf,
    pub diff: Option<PathBuf>,
    before: Listing,
    made: AtomicUsize,
}

impl Bench {
    /// Creates a directory for all of it, in memory if possible.
    fn directory() -> TempDir {
        common::require_everything();
        let memory = Path::new("/dev/shm");
        let fallback = std::env::temp_dir();
        let parent = if memory.is_dir() { memory } else { &fallback };
        let mut builder = tempfile::Builder::new();
        let dir = builder
            .prefix("pbkfs-mutation-")
            .tempdir_in(parent)
            .unwrap();
        open_to_all(dir.path());
        fs::create_dir(dir.path().join("store")).unwrap();
        dir
    }

    fn finish(dir: TempDir, catalog: PathBuf, diff: Option<PathBuf>) -> Bench {
        Bench {
            before: Listing::of(&dir.path().join("store")),
            dir,
            catalog,
            diff,
            made: AtomicUsize::new(0),
        }
    }

    /// Unpacks a bundled catalog.
    pub fn with_catalog(fixture: &str) -> Bench {
        let dir = Bench::directory();
        let fixture = Fixture::unpack(fixture, &dir.path().join("store"), &OsUser::root());
        Bench::finish(dir, fixture.catalog, None)
    }

    /// Unpacks the WAL of a catalog with gz segments, without its backups.
    pub fn with_archive() -> Bench {
        let dir = Bench::directory();
        let store = dir.path().join("store");
        let fixture = Fixture::unpack("pg15-chain", &store, &OsUser::root());
        let instance = fixture.catalog.join("backups/main");
        for entry in fs::read_dir(&instance).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            }
        }
        let history = "1\t0/4800000\tno recovery target specified\n";
        fs::write(fixture.wal("00000002.history"), history).unwrap();
        Bench::finish(dir, fixture.catalog, None)
    }

    /// Unpacks a catalog, with a diff of its newest backup that a server has used.
    pub fn with_diff() -> Bench {
        let dir = Bench::directory();
        let store = dir.path().join("store");
        let fixture = Fixture::unpack("pg15-debian", &store, &OsUser::root());
        let mut bench = Bench::finish(dir, fixture.catalog, None);
        let mut case = bench.case();
        case.begin();
        case.start_servers();
        let answer = fs::read_to_string(case.path("answer"));
        assert_eq!(answer.unwrap(), "?column?\n1\n");
        let is_mounted = case.mount(&["-d", "diff"], |mnt| {
            fs::write(mnt.join("new"), vec![7; 100_000]).unwrap();
            fs::create_dir(mnt.join("directory")).unwrap();
            fs::rename(mnt.join("PG_VERSION"), mnt.join("directory/renamed")).unwrap();
            fs::copy(mnt.join("directory/renamed"), mnt.join("PG_VERSION")).unwrap();
            std::os::unix::fs::symlink("new", mnt.join("link")).unwrap();
            fs::remove_file(mnt.join("base/1/1255_fsm")).unwrap();
        });
        assert_eq!(case.faults, Vec::<String>::new(), "undamaged input works");
        assert!(is_mounted && case.path("diff/.pbkfs-wal").is_dir());
        let diff = store.join("diff");
        copy(&case.path("diff"), &diff, &[]);
        drop(case);
        bench.diff = Some(diff);
        bench.before = Listing::of(&store);
        bench
    }

    /// Creates a copy for one case.
    pub fn case(&self) -> Case {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.path().join(format!("case-{number}"));
        fs::create_dir(&dir).unwrap();
        open_to_all(&dir);
        for (name, mode) in [("tmp", 0o1777), ("run", 0o700), ("outside", 0o700)] {
            fs::create_dir(dir.join(name)).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        // Nothing ever writes to a catalog, so its files can be shared. Mutated files
        // are replaced.
        copy(&self.catalog, &dir.join("catalog"), &["--link"]);
        if let Some(diff) = &self.diff {
            copy(diff, &dir.join("diff"), &["--sparse=always"]);
        }
        let case = Case {
            dir,
            faults: Vec::new(),
            hangs: false,
            outside: None,
            inside: BTreeMap::new(),
        };
        case.lay_out_canaries();
        case.write_profile();
        case
    }

    /// Fails if the data shared by all cases was changed.
    pub fn assert_unchanged(&self) {
        self.before.assert_unchanged(&self.dir.path().join("store"));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        unmount_all(self.dir.path());
    }
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

fn copy(from: &Path, to: &Path, arguments: &[&str]) {
    let mut cp = Command::new("cp");
    cp.arg("--archive").args(arguments).arg(from).arg(to);
    run(&mut cp, LIMIT).expect_ok();
}

/// The properties of a file that a command could have changed but must not.
type Facts = (u32, u32, u64, i64, i64, u64);

/// Collects facts about the files of a catalog by name, without reading them: some
/// are endless.
fn facts(dir: &Path, into: &mut BTreeMap<PathBuf, Facts>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        // Creating and removing a lock changes its directory's times.
        let (mtime, size) = match meta.is_dir() {
            true => (0, 0),
            false => (meta.mtime_nsec(), meta.size()),
        };
        let facts = (
            meta.mode(),
            meta.uid(),
            size,
            meta.mtime(),
            mtime,
            meta.ino(),
        );
        if meta.is_dir() {
            self::facts(&path, into);
            into.insert(path, (facts.0, facts.1, 0, 0, 0, facts.5));
        } else {
            into.insert(path, facts);
        }
    }
}

/// One copy, and the faults found in what ran on it.
pub struct Case {
    dir: PathBuf,
    faults: Vec<String>,
    /// A command had to be killed: the next ones would also hang.
    hangs: bool,
    outside: Option<Listing>,
    inside: BTreeMap<PathBuf, Facts>,
}

impl Case {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the path of a file of a backup, by its name in the backup's directory.
    pub fn backup(&self, id: &str, name: &str) -> PathBuf {
        self.path("catalog/backups/main").join(id).join(name)
    }

    /// Creates files outside that are reachable only by following a link, in formats
    /// that pbkfs would understand. Nothing may read or write them.
    fn lay_out_canaries(&self) {
        let outside = self.path("outside");
        let raw = format!("root:{CANARY}:0:0\n").repeat(2000);
        let control = fs::read_to_string(self.backup("TOW7P0", "backup.control"));
        let control = control.unwrap_or_default() + &format!("note = '{CANARY}'\n");
        let binding =
            format!("{{\"version\":1,\"catalog\":\"/{CANARY}\",\"instance\":\"{CANARY}\"}}");
        for (name, text) in [
            ("secret", &raw),
            ("control", &control),
            ("binding", &binding),
        ] {
            fs::write(outside.join(name), text).unwrap();
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(outside.join(name), mode).unwrap();
        }
        fs::create_dir(outside.join("directory")).unwrap();
        fs::write(outside.join("directory/precious"), &raw).unwrap();
    }

    fn write_profile(&self) {
        let text = format!(
            "catalog = {:?}\ninstance = \"main\"\nbackup = \"latest\"\ntarget = {:?}\n\
             diff_dir = {:?}\n[postgres]\nuser = \"postgres\"\n",
            self.path("catalog"),
            self.path("mnt"),
            self.path("diff"),
        );
        fs::write(self.path("profile.toml"), text).unwrap();
    }

    /// Records the state after the damage.
    pub fn begin(&mut self) {
        self.outside = Some(Listing::of(&self.path("outside")));
        facts(&self.path("catalog"), &mut self.inside);
    }

    /// Compares the state, and returns all faults.
    pub fn end(&mut self) -> Vec<String> {
        self.clear_away();
        if self.outside != Some(Listing::of(&self.path("outside"))) {
            self.fault("a file outside was changed");
        }
        let mut now = BTreeMap::new();
        facts(&self.path("catalog"), &mut now);
        if now != self.inside {
            let changed = now
                .iter()
                .find(|(path, facts)| self.inside.get(*path) != Some(facts));
            let gone = self.inside.keys().find(|path| !now.contains_key(*path));
            let which = changed.map(|(path, _)| path).or(gone).unwrap();
            self.fault(format!("{} in the catalog was changed", which.display()));
        }
        std::mem::take(&mut self.faults)
    }

    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// Checks that nothing is left, and removes what is left before the next command.
    fn clear_away(&mut self) {
        let mounts = mounts_in(&self.dir);
        let processes = processes_in(&self.dir);
        let sessions = session_files_in(&self.dir);
        if !mounts.is_empty() || !processes.is_empty() || !sessions.is_empty() {
            self.fault(format!("left: {mounts:?} {processes:?} {sessions:?}"));
            unmount_all(&self.dir);
            for (pid, _) in processes {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            for session in sessions.iter().filter_map(|file| file.parent()) {
                let _ = fs::remove_dir_all(session);
            }
        }
    }

    /// Returns a command that runs `pbkfs` as root, with limits and in its own
    /// process group.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = OsUser::root().command("prlimit");
        command
            .arg(format!("--data={MEMORY}"))
            .arg(format!("--fsize={LONGEST_FILE}"))
            .args(["--core=0", "--", env!("CARGO_BIN_EXE_pbkfs")])
            .args(arguments)
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .process_group(0)
            .current_dir(&self.dir);
        command
    }

    /// Runs a command to completion.
    pub fn pbkfs(&mut self, arguments: &[&str]) {
        self.pbkfs_within(LIMIT, arguments);
    }

    fn pbkfs_within(&mut self, limit: Duration, arguments: &[&str]) {
        if !self.hangs {
            let running = Running::spawn(&mut self.command(arguments));
            self.wait(running, limit);
        }
    }

    /// Waits for a command to exit, and judges it. Returns `None` if it had to be
    /// killed.
    fn wait(&mut self, running: Running, limit: Duration) -> Option<Output> {
        let group = Pid::from_raw(running.pid());
        match running.wait_or_kill(limit) {
            Ok(output) => {
                self.judge(&output);
                Some(output)
            }
            Err(output) => {
                let _ = killpg(group, Signal::SIGKILL);
                unmount_all(&self.dir);
                self.hangs = true;
                self.fault(format!("it did not exit: {output}"));
                None
            }
        }
    }

    fn judge(&mut self, output: &Output) {
        for what in violations(output) {
            self.fault(format!("{what}: {output}"));
        }
    }

    /// Mounts in the foreground with these arguments, runs `work` in the mount, and
    /// unmounts. Returns whether there was a mount.
    pub fn mount(&mut self, arguments: &[&str], work: impl FnOnce(&Path) + Send + 'static) -> bool {
        let common = [
            "mount",
            "--console",
            "-B",
            "catalog",
            "--instance",
            "main",
            "-D",
            "mnt",
        ];
        let mount = [&common[..], arguments].concat();
        self.serve(&mount, LIMIT, &["unmount", "-D", "mnt"], work)
    }

    /// Starts a clone with its server, and stops it. Returns whether it came up.
    pub fn up(&mut self, arguments: &[&str]) -> bool {
        let up = [&["up", "profile.toml", "--json"], arguments].concat();
        self.serve(&up, SERVER_LIMIT, &["down", "profile.toml"], |mnt| {
            let _ = fs::read_dir(mnt);
        })
    }

    fn serve(
        &mut self,
        begin: &[&str],
        limit: Duration,
        end: &[&str],
        work: impl FnOnce(&Path) + Send + 'static,
    ) -> bool {
        if self.hangs {
            return false;
        }
        let mut running = Running::spawn(&mut self.command(begin));
        let deadline = Instant::now() + limit;
        while !running.stdout().contains("ready") {
            if running.has_ended() || Instant::now() > deadline {
                self.wait(running, Duration::ZERO);
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let (done, is_done) = mpsc::channel();
        let mnt = self.path("mnt");
        let worker = thread::spawn(move || {
            work(&mnt);
            // The receiver has given up if this took too long.
            let _ = done.send(());
        });
        if is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.hangs = true;
            self.fault(format!("the mount does not respond: {}", running.stderr()));
            let _ = killpg(Pid::from_raw(running.pid()), Signal::SIGKILL);
            unmount_all(&self.dir);
        }
        if worker.join().is_err() {
            self.fault("the work in the mount fails");
        }
        let ending = Running::spawn(&mut self.command(end));
        if let Some(output) = self.wait(ending, limit)
            && output.code() != Some(0)
        {
            self.fault(format!("a mount cannot be ended: {output}"));
        }
        self.wait(running, limit);
        true
    }

    /// Mounts, and reads everything.
    fn mount_and_read(&mut self, arguments: &[&str]) {
        let (leaks, found) = mpsc::channel();
        self.mount(arguments, move |mnt| {
            leaks.send(walk::leaks(mnt)).expect("the case waits");
        });
        if let Ok(leaks) = found.try_recv()
            && !leaks.is_empty()
        {
            self.fault(format!("the mount exposes a file outside at {leaks:?}"));
        }
    }

    /// Runs every command that reads a catalog.
    pub fn look_at_catalog(&mut self) {
        let [full, delta] = IDS;
        self.pbkfs(&["list", "-B", "catalog"]);
        self.pbkfs(&["list", "-B", "catalog", "--json"]);
        self.pbkfs(&["plan", "profile.toml"]);
        self.mount_and_read(&["-i", delta, "--read-only"]);
        self.mount_and_read(&["-i", "latest", "-d", "diff"]);
        for id in [full, delta] {
            let backup = format!("backup={id}");
            self.pbkfs(&["verify", "profile.toml", "--pages", "--set", &backup]);
        }
        self.look_at_archive();
        self.clear_away();
    }

    /// Runs every command that reads an archive.
    pub fn look_at_archive(&mut self) {
        self.pbkfs(&["wal", "list", "-B", "catalog"]);
        self.pbkfs(&["wal", "list", "-B", "catalog", "--json"]);
        for name in ["000000010000000000000048", "00000002.history"] {
            let archive = ["wal-get", "-B", "catalog", "--instance", "main"];
            self.pbkfs(&[&archive[..], &[name, "fetched"]].concat());
            if fs::read(self.path("fetched")).is_ok_and(|bytes| holds_the_canary(&bytes)) {
                self.fault(format!("wal-get {name} fetched a file outside"));
            }
            let _ = fs::remove_file(self.path("fetched"));
        }
    }

    /// Runs every command that reads a diff.
    pub fn look_at_diff(&mut self) {
        self.pbkfs(&["diff", "-d", "diff"]);
        self.pbkfs(&["diff", "-d", "diff", "--json"]);
        self.pbkfs(&["cleanup", "-d", "diff", "--dry-run"]);
        self.pbkfs(&["cleanup", "-d", "diff"]);
        self.mount_and_read(&["-i", "latest", "-d", "diff"]);
        self.pbkfs(&["cleanup", "-d", "diff", "--force"]);
        self.clear_away();
    }

    /// Runs the commands that start a server.
    pub fn start_servers(&mut self) {
        self.up(&[]);
        self.clear_away();
        let query = ["--query", "select 1", "--csv", "-o", "answer", "--force"];
        let extract = [&["extract", "profile.toml"][..], &query].concat();
        self.pbkfs_within(SERVER_LIMIT, &extract);
        self.clear_away();
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        unmount_all(&self.dir);
        // There may be deep trees without permissions; root can remove them.
        let _ = Command::new("rm").arg("-rf").arg(&self.dir).status();
    }
}

pub fn holds_the_canary(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, CANARY.as_bytes()).is_some()
}

/// The endings of notes that may accompany the sentence.
const NOTES: [&str; 2] = [
    " was not created by pbkfs, and is kept",
    " cannot be determined; --force discards them",
];

/// Returns the parts of the contract that a finished command violates.
fn violations(output: &Output) -> Vec<&'static str> {
    let mut found = Vec::new();
    let is_wal_get = output.what.contains(" wal-get ");
    let is_verify = output.what.contains(" verify ");
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    match output.code() {
        None => found.push("a signal ended it"),
        Some(0..=7) => {}
        Some(200) if is_wal_get => {}
        Some(_) => found.push("an unknown exit code"),
    }
    for cry in [
        "panicked",
        UNKNOWN_CASE,
        "memory allocation of",
        "out of memory",
        "Cannot allocate memory",
        "overflowed its stack",
        "RUST_BACKTRACE",
    ] {
        if stderr.contains(cry) {
            found.push("it broke down");
        }
    }
    if holds_the_canary(stdout.as_bytes()) || holds_the_canary(stderr.as_bytes()) {
        found.push("it reveals what is in a file outside");
    }
    let is_control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if stdout.contains(is_control) || stderr.contains(is_control) {
        found.push("it prints control characters");
    }
    // Cron mails what is written to standard error, so a bad verdict is printed
    // there.
    let is_verdict = |line: &str| is_verify && line.starts_with("main backup ");
    let is_log = |line: &str| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains('T');
    let is_quoted = |line: &str| line.starts_with("the last lines of ") || line.starts_with("  ");
    let is_ours = |line: &str| line.starts_with("pbkfs: ") || line.starts_with("pbkfs wal-get: ");
    let is_known = |line: &str| is_log(line) || is_quoted(line) || is_ours(line);
    if !stderr
        .lines()
        .all(|line| is_known(line) || is_verdict(line))
    {
        found.push("it prints a line that is neither a log line nor a sentence");
    }
    let is_note = |line: &&str| NOTES.iter().any(|note| line.ends_with(note));
    let sentences = stderr.lines().filter(|line| is_ours(line));
    let sentences = sentences.filter(|line| !is_note(line)).count();
    // A verdict, a plan with problems, and "not in the archive" are answers.
    let is_answer = stderr.lines().any(is_verdict)
        || stdout.lines().any(|line| line.starts_with("PROBLEM "))
        || (is_wal_get && output.code() == Some(1));
    if output.code() != Some(0) && sentences != 1 && !(sentences == 0 && is_answer) {
        found.push("it prints no sentence, or more than one");
    }
    found
}

/// Replaces a file by these bytes; the old file may be shared with other cases.
pub fn replace(path: &Path, bytes: &[u8]) {
    let old = fs::symlink_metadata(path).ok();
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    if let Some(old) = old.filter(|old| old.is_file()) {
        fs::set_permissions(path, old.permissions()).unwrap();
        std::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid())).unwrap();
    }
}

/// Creates a file that is one hole.
pub fn sparse(path: &Path, length: u64) {
    let _ = fs::remove_file(path);
    File::create(path).unwrap().set_len(length).unwrap();
}
