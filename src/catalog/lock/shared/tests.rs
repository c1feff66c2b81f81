use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;

use super::*;
use crate::catalog::lock::LIMIT;
use crate::catalog::lock::readers::{READERS_FILE, READERS_TEMP_FILE};
use crate::untrusted::{Kind, Refused};

const SHORT: Duration = Duration::from_millis(300);

/// A process that lives until the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The pid of a process that has exited and been reaped.
fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

fn backup_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("backup.control"), "status = OK\n").unwrap();
    dir
}

fn opened(dir: &Path) -> Arc<Dir> {
    Arc::new(Dir::open(dir).unwrap())
}

fn try_for(dir: &Path, pid: u32, wait: Duration) -> Result<LockOutcome, LockError> {
    ReadLock::acquire(&opened(dir), pid, wait, &mut |_| ())
}

fn acquire(dir: &Path, pid: u32) -> Result<ReadLock, LockError> {
    match try_for(dir, pid, SHORT)? {
        LockOutcome::Held(lock) => Ok(lock),
        LockOutcome::ReadOnly => panic!("not a read-only file system"),
    }
}

fn readers(dir: &Path) -> String {
    fs::read_to_string(dir.join(READERS_FILE)).unwrap()
}

/// All files and their contents.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let meta = path.symlink_metadata().unwrap();
            let bytes = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                format!("{:?}", meta.file_type()).into()
            };
            (path, bytes)
        })
        .collect()
}

#[test]
fn two_holders_share_and_leave_nothing_behind() {
    let dir = backup_dir();
    let before = snapshot(dir.path());
    let (one, two) = (Sleeper::start(), Sleeper::start());
    let first = acquire(dir.path(), one.pid()).unwrap();
    let second = acquire(dir.path(), two.pid()).unwrap();
    assert_eq!(
        readers(dir.path()),
        format!("{}\n{}\n", one.pid(), two.pid())
    );
    let mode = fs::metadata(dir.path().join(READERS_FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!dir.path().join(EXCLUSIVE_FILE).exists());
    assert!(!dir.path().join(READERS_TEMP_FILE).exists());

    first.release().unwrap();
    assert_eq!(readers(dir.path()), format!("{}\n", two.pid()));
    second.release().unwrap();
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn dropping_releases() {
    let dir = backup_dir();
    let before = snapshot(dir.path());
    drop(acquire(dir.path(), std::process::id()).unwrap());
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn dead_and_meaningless_readers_are_dropped() {
    let dir = backup_dir();
    let before = snapshot(dir.path());
    let alive = Sleeper::start();
    let list = format!("{}\nnonsense\n0\n-1\n{}\n", dead_pid(), alive.pid());
    fs::write(dir.path().join(READERS_FILE), list).unwrap();
    let lock = acquire(dir.path(), std::process::id()).unwrap();
    let wanted = format!("{}\n{}\n", alive.pid(), std::process::id());
    assert_eq!(readers(dir.path()), wanted);
    drop(alive);
    lock.release().unwrap();
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_stale_exclusive_lock_is_taken_over_at_once() {
    let own = std::process::id();
    for left in [
        dead_pid().to_string(),
        "nonsense\n".to_owned(),
        "0".to_owned(),
        own.to_string(),
    ] {
        let dir = backup_dir();
        let before = snapshot(dir.path());
        fs::write(dir.path().join(EXCLUSIVE_FILE), &left).unwrap();
        let lock = try_for(dir.path(), own, Duration::ZERO).unwrap();
        assert_eq!(readers(dir.path()), format!("{own}\n"), "{left}");
        drop(lock);
        assert_eq!(snapshot(dir.path()), before, "{left}");
    }
}

#[test]
fn an_empty_exclusive_lock_is_given_its_time_and_no_more() {
    let dir = backup_dir();
    let path = dir.path().join(EXCLUSIVE_FILE);
    fs::write(&path, "").unwrap();
    let patience = Patience {
        busy: Duration::ZERO,
        empty: SHORT,
        poll: Duration::from_millis(20),
    };
    let started = Instant::now();
    let holder = Holder::alive(dir.path(), std::process::id()).unwrap();
    let mut told = Vec::new();
    let mut waiting = |on: &Waiting| told.push(on.clone());
    let lock = ExclusiveLock::take(&opened(dir.path()), holder, patience, &mut waiting).unwrap();
    assert!(started.elapsed() >= SHORT);
    let [on] = &told[..] else {
        panic!("told once: {told:?}")
    };
    assert_eq!(on.holder, None);
    assert!(on.to_string().contains("backup.pid is empty"), "{on}");
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{}\n", std::process::id())
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(lock);
    assert!(!path.exists());
}

#[test]
fn a_busy_lock_is_waited_for_then_its_holder_named() {
    let dir = backup_dir();
    let holder = Sleeper::start();
    let path = dir.path().join(EXCLUSIVE_FILE);
    fs::write(&path, format!("{}\n", holder.pid())).unwrap();
    let before = snapshot(dir.path());

    let started = Instant::now();
    let error = acquire(dir.path(), std::process::id()).unwrap_err();
    assert!(started.elapsed() >= SHORT);
    let named = format!("locked by process {}", holder.pid());
    assert!(error.to_string().contains(&named), "{error}");
    assert_eq!(snapshot(dir.path()), before);

    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(SHORT);
            fs::remove_file(&path).unwrap();
        });
        let long = Duration::from_secs(30);
        let lock = try_for(dir.path(), std::process::id(), long).unwrap();
        assert!(matches!(lock, LockOutcome::Held(_)));
    });
}

#[test]
fn a_process_that_does_not_exist_can_hold_nothing() {
    let dir = backup_dir();
    let before = snapshot(dir.path());
    for pid in [dead_pid(), 0, u32::MAX] {
        let error = acquire(dir.path(), pid).unwrap_err();
        assert!(matches!(error, LockError::NoSuchProcess { .. }), "{error}");
    }
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_failure_after_the_exclusive_lock_gives_it_back() {
    let dir = backup_dir();
    // A directory in place of the list: it can be neither read nor replaced.
    fs::create_dir(dir.path().join(READERS_FILE)).unwrap();
    let error = acquire(dir.path(), std::process::id()).unwrap_err();
    assert!(error.to_string().contains(READERS_FILE), "{error}");
    fs::remove_dir(dir.path().join(READERS_FILE)).unwrap();
    fs::create_dir(dir.path().join(READERS_TEMP_FILE)).unwrap();
    let error = acquire(dir.path(), std::process::id()).unwrap_err();
    assert!(matches!(error, LockError::Refused { .. }), "{error}");
    assert!(!dir.path().join(EXCLUSIVE_FILE).exists());
    assert!(!dir.path().join(READERS_FILE).exists());
}

#[test]
fn a_chain_is_locked_as_a_whole_or_not_at_all() {
    let dirs: Vec<tempfile::TempDir> = (0..3).map(|_| backup_dir()).collect();
    let paths: Vec<PathBuf> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
    let before: Vec<_> = paths.iter().map(|dir| snapshot(dir)).collect();
    let now = || paths.iter().map(|dir| snapshot(dir)).collect::<Vec<_>>();

    let opened = open(&paths).unwrap();
    let locks = lock_chain(&opened, std::process::id(), SHORT, &mut |_| ()).unwrap();
    assert_eq!(locks.len(), 3);
    for path in &paths {
        assert_eq!(readers(path), format!("{}\n", std::process::id()));
    }
    drop(locks);
    assert_eq!(now(), before);

    let holder = Sleeper::start();
    let busy = paths[2].join(EXCLUSIVE_FILE);
    fs::write(&busy, format!("{}\n", holder.pid())).unwrap();
    let error = lock_chain(&opened, std::process::id(), SHORT, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, LockError::Busy { dir, .. } if *dir == paths[2]),
        "{error}"
    );
    fs::remove_file(&busy).unwrap();
    assert_eq!(now(), before);
}

#[test]
fn permission_and_read_only_errors_are_told_apart() {
    let denied = |code| file_error(Path::new("/b"), "f", code);
    let eacces = denied(io::Error::from_raw_os_error(Errno::EACCES as i32));
    assert!(matches!(eacces, LockError::NoPermission { .. }));
    assert!(!is_read_only(&eacces));
    let erofs = denied(io::Error::from_raw_os_error(Errno::EROFS as i32));
    assert!(is_read_only(&erofs));
}

/// Set for copies of this program started by the next test.
const LOCK_THIS: &str = "PBKFS_TEST_LOCK_DIR";

/// The output of a copy of this test program that locks `dir`, run by a shell as `$TRY`;
/// the shell runs in its own mount namespace.
fn try_in_shell(dir: &Path, script: &str) -> String {
    let copy = dir.parent().unwrap().join("try");
    // Another process does this: a descriptor that is open for writing in this one is
    // inherited by whatever other tests start at that moment, and an executable that is
    // open for writing cannot be run.
    let mut cp = Command::new("cp");
    cp.arg(std::env::current_exe().unwrap()).arg(&copy);
    assert!(cp.status().unwrap().success());
    let call = format!(
        "{} --nocapture read_only_catalogs_and_other_users",
        copy.display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script])
        .env("TRY", call)
        .env("DIR", dir)
        .env(LOCK_THIS, dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn read_only_catalogs_and_other_users() {
    if let Some(dir) = std::env::var_os(LOCK_THIS) {
        let outcome = try_for(Path::new(&dir), std::process::id(), SHORT);
        println!("outcome: {outcome:?}");
        return;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root, to mount a file system and act as another user: use tests/run.sh"
    );
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = root.path().join("backup");
    fs::create_dir(&dir).unwrap();
    let before = snapshot(&dir);
    const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

    let said = try_in_shell(
        &dir,
        "mount --bind -o ro $DIR $DIR; mount -o remount,bind,ro $DIR; $TRY",
    );
    assert!(said.contains("outcome: Ok(ReadOnly)"), "{said}");
    fs::write(dir.join(EXCLUSIVE_FILE), dead_pid().to_string()).unwrap();
    let said = try_in_shell(
        &dir,
        "mount --bind -o ro $DIR $DIR; mount -o remount,bind,ro $DIR; $TRY",
    );
    assert!(said.contains("outcome: Ok(ReadOnly)"), "{said}");
    fs::remove_file(dir.join(EXCLUSIVE_FILE)).unwrap();

    let said = try_in_shell(&dir, &format!("{NOBODY} $TRY"));
    assert!(said.contains("outcome: Err(NoPermission"), "{said}");

    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let said = try_in_shell(&dir, &format!("{NOBODY} $TRY"));
    assert!(said.contains("outcome: Ok(Held"), "{said}");
    assert_eq!(snapshot(&dir), before);

    // A running process of root's: as a reader it blocks nobody, and stays; for its
    // exclusive lock we wait.
    let own = std::process::id();
    let path = dir.join(READERS_FILE);
    fs::write(&path, format!("{own}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = try_in_shell(&dir, &format!("{NOBODY} $TRY"));
    assert!(said.contains("outcome: Ok(Held"), "{said}");
    assert_eq!(readers(&dir), format!("{own}\n"));
    fs::remove_file(&path).unwrap();
    let path = dir.join(EXCLUSIVE_FILE);
    fs::write(&path, format!("{own}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = try_in_shell(&dir, &format!("{NOBODY} $TRY"));
    assert!(said.contains("outcome: Err(Busy"), "{said}");
    assert!(said.contains(&format!("pid: {own}")), "{said}");
    assert!(said.contains("user: Some(\"root\")"), "{said}");
    fs::remove_file(&path).unwrap();
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn who_is_waited_for_is_told_at_once_and_again_when_it_is_another() {
    let dir = backup_dir();
    let (one, two) = (Sleeper::start(), Sleeper::start());
    let path = dir.path().join(EXCLUSIVE_FILE);
    fs::write(&path, format!("{}\n", one.pid())).unwrap();
    let begun = Instant::now();
    let mut told = Vec::new();
    let mut waiting = |on: &Waiting| {
        told.push((begun.elapsed(), on.to_string()));
        let next = match told.len() {
            1 => two.pid(),
            _ => dead_pid(),
        };
        // Enough time to report the same thing twice.
        thread::scope(|scope| {
            let write = || fs::write(&path, format!("{next}\n")).unwrap();
            scope.spawn(write).join().unwrap();
        });
    };
    let long = Duration::from_secs(30);
    let own = std::process::id();
    let lock = ReadLock::acquire(&opened(dir.path()), own, long, &mut waiting).unwrap();
    drop(lock);
    let [(soon, first), (_, second)] = &told[..] else {
        panic!("told twice: {told:?}")
    };
    assert!(*soon < Duration::from_secs(2), "{soon:?}");
    for (sleeper, told) in [(&one, first), (&two, second)] {
        let who = format!("process {} (sleep of user ", sleeper.pid());
        assert!(told.contains(&who) && told.contains("holds /"), "{told}");
    }
}

/// What takes the place of the lock files, and why it is refused.
type Strange = (fn(&Path), Refused);

fn strange_things() -> Vec<Strange> {
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = |path: &Path| symlink("/etc/passwd", path).unwrap();
    let endless = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    vec![
        (fifo, Refused::Is(Kind::Fifo)),
        (link, Refused::Is(Kind::Symlink)),
        (
            |path| fs::create_dir(path).unwrap(),
            Refused::Is(Kind::Directory),
        ),
        (endless, Refused::TooLarge { limit: LIMIT }),
    ]
}

#[test]
fn what_is_no_lock_file_is_refused_at_once() {
    let passwd = fs::read("/etc/passwd").unwrap();
    for name in [EXCLUSIVE_FILE, READERS_FILE, READERS_TEMP_FILE] {
        for (put, expected) in strange_things() {
            // A leftover of any size is replaced without being read.
            if name == READERS_TEMP_FILE && matches!(expected, Refused::TooLarge { .. }) {
                continue;
            }
            let dir = backup_dir();
            let path = dir.path().join(name);
            put(&path);
            let names = || Dir::open(dir.path()).unwrap().names().unwrap().len();
            let before = names();
            let begun = Instant::now();
            let error = acquire(dir.path(), std::process::id()).unwrap_err();
            assert!(begun.elapsed() < SHORT, "{name}: {error}");
            let LockError::Refused { file, why } = &error else {
                panic!("{name}: {error:?}")
            };
            assert_eq!((file, why), (&path, &expected));
            let said = error.to_string();
            assert!(
                said.ends_with("is using this backup, then remove the file"),
                "{said}"
            );
            assert_eq!(names(), before, "{name}: nothing was made or removed");
            assert!(path.symlink_metadata().is_ok());
        }
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
}

#[test]
fn a_link_for_the_new_list_is_not_written_through() {
    let dir = backup_dir();
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, dir.path().join(READERS_TEMP_FILE)).unwrap();
    assert!(acquire(dir.path(), std::process::id()).is_err());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    // What a killed writer has left blocks nobody.
    fs::remove_file(dir.path().join(READERS_TEMP_FILE)).unwrap();
    fs::write(dir.path().join(READERS_TEMP_FILE), "12").unwrap();
    drop(acquire(dir.path(), std::process::id()).unwrap());
    assert_eq!(snapshot(dir.path()).len(), 1);
}

/// A merge by pg_probackup removes directories, and renames the FULL's.
#[test]
fn a_backup_that_goes_meanwhile_is_gone() {
    let own = std::process::id();
    let merges: [fn(&Path); 3] = [
        |dir| fs::remove_dir_all(dir).unwrap(),
        |dir| fs::rename(dir, dir.with_extension("renamed")).unwrap(),
        |dir| {
            fs::rename(dir, dir.with_extension("renamed")).unwrap();
            fs::create_dir(dir).unwrap();
        },
    ];
    for merge in merges {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("backup");
        fs::create_dir(&path).unwrap();
        let holder = Sleeper::start();
        fs::write(path.join(EXCLUSIVE_FILE), holder.pid().to_string()).unwrap();
        let dir = opened(&path);
        let mut waiting = |_: &Waiting| {
            fs::remove_file(path.join(EXCLUSIVE_FILE)).unwrap();
            merge(&path);
        };
        let long = Duration::from_secs(30);
        let error = ReadLock::acquire(&dir, own, long, &mut waiting).unwrap_err();
        assert!(
            matches!(&error, LockError::Gone { dir } if *dir == path),
            "{error}"
        );
        for dir in [&path, &path.with_extension("renamed")] {
            assert!(!dir.exists() || snapshot(dir).is_empty(), "a lock stays");
        }
    }
    let missing = open(&["/nowhere/at/all".into()]).unwrap_err();
    assert!(matches!(missing, LockError::Gone { .. }), "{missing}");
}

#[test]
fn a_lock_on_what_was_deleted_is_let_go_without_a_word() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("backup");
    fs::create_dir(&path).unwrap();
    let lock = acquire(&path, std::process::id()).unwrap();
    fs::remove_dir_all(&path).unwrap();
    lock.release().unwrap();
}
