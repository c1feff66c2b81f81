//! POSIX file semantics, by the suite pjdfstest, with passthrough and with the
//! write-back cache. Then what that suite does not cover.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use common::session::LIMIT;
use common::syscalls::become_user;
use common::{OsUser, Sandbox, TestClone, run};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// The tests that are expected to fail.
const REFUSED: &str = include_str!("pjdfstest/refused.txt");

/// Its configuration, with users that exist on every system. Its tests of read-only
/// mounts would remount; `tests/steps.rs` has such a mount.
const CONFIG: &str = "
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}
[settings]
naptime = 0.01
allow_remount = false
";

fn pjdfstest() -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let program = built.join("tools/pjdfstest-0.2.2/bin/pjdfstest");
    assert!(
        program.exists(),
        "this test runs pjdfstest, which is not at {}: tests/run.sh installs it there",
        program.display()
    );
    program
}

fn refused() -> Vec<&'static str> {
    let lines = REFUSED.lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Runs `test` with a directory in a mount of root's that everyone may enter, with
/// passthrough or with the write-back cache.
fn in_a_mount(passthrough: bool, test: impl FnOnce(&TestClone<'_>, &Path)) {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let mut profile = sandbox.profile("latest").mount_only();
    if !passthrough {
        profile = profile.with("fuse.passthrough", "false");
    }
    let clone = profile.write();
    clone.up();
    fs::set_permissions(&clone.target, Permissions::from_mode(0o755)).unwrap();
    let dir = clone.target.join("posix");
    DirBuilder::new().mode(0o755).create(&dir).unwrap();
    test(&clone, &dir);
    clone.down();
}

fn suite(passthrough: bool) {
    let program = pjdfstest();
    in_a_mount(passthrough, |clone, dir| {
        let group = match nix::unistd::Group::from_name("nogroup").unwrap() {
            Some(_) => "nogroup",
            None => "nobody",
        };
        let config = clone.sandbox.path("pjdfstest.toml");
        let text = format!(
            "{CONFIG}expected_failures = {:?}\n[dummy_auth]\n\
             entries = [[\"nobody\", {group:?}], [\"daemon\", \"daemon\"]]\n",
            refused()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).arg("-p").arg(dir);
        // For operations that do not work across file systems.
        command.arg("-s").arg(clone.sandbox.path("tmp"));
        let output = run(&mut command, LIMIT);
        let failed: Vec<_> = output
            .stdout
            .lines()
            .filter(|line| line.contains("FAILED") || line.contains("UNEXPECTEDLY"))
            .collect();
        assert_eq!(failed, Vec::<&str>::new(), "{}", output.stdout);
        assert!(output.status.success(), "{output}");
        let summary = output.stdout.lines().last().unwrap_or_default();
        let expected = format!("298 passed, {} expected failures", refused().len());
        assert!(summary.contains(&expected), "{summary}");
    });
}

#[test]
fn pjdfstest_where_the_kernel_serves_files() {
    suite(true);
}

#[test]
fn pjdfstest_where_the_kernel_gathers_writes() {
    suite(false);
}

#[test]
fn what_a_user_makes_is_the_users() {
    in_a_mount(true, |_, dir| {
        let user = OsUser::postgres();
        for (name, mode) in [("plain", 0o1777), ("of-a-group", 0o3777)] {
            let place = dir.join(name);
            fs::create_dir(&place).unwrap();
            std::os::unix::fs::chown(&place, Some(0), Some(1)).unwrap();
            fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
            let make = || {
                become_user(&user);
                let mut options = File::options();
                options.write(true).create_new(true).mode(0o600);
                options.open(place.join("file")).unwrap();
                fs::create_dir(place.join("dir")).unwrap();
                symlink("nowhere", place.join("link")).unwrap();
                mkfifo(&place.join("fifo"), Mode::S_IRWXU).unwrap();
            };
            thread::scope(|scope| scope.spawn(make).join().unwrap());
            let is_of_group = mode & 0o2000 != 0;
            for made in ["file", "dir", "link", "fifo"] {
                let meta = fs::symlink_metadata(place.join(made)).unwrap();
                let group = if is_of_group { 1 } else { user.gid };
                assert_eq!((meta.uid(), meta.gid()), (user.uid, group), "{name}/{made}");
                let inherits = is_of_group && made == "dir";
                assert_eq!(meta.mode() & 0o2000 != 0, inherits, "{name}/{made}");
            }
        }
    });
}

#[test]
fn a_copy_keeps_both_times_and_holes() {
    for passthrough in [true, false] {
        in_a_mount(passthrough, |clone, dir| {
            const LEN: u64 = 10 << 20;
            let plain = clone.sandbox.path("tmp/sparse");
            let file = File::create(&plain).unwrap();
            file.write_all_at(b"x", LEN - 1).unwrap();
            let touch = |flag: &str, date: &str| {
                let mut touch = Command::new("touch");
                run(touch.args([flag, "-d", date]).arg(&plain), LIMIT).expect_ok();
            };
            touch("-a", "1999-12-31 23:59:59.123456789 UTC");
            touch("-m", "2100-01-01 00:00:00 UTC");
            let times = |path: &Path| {
                let meta = fs::metadata(path).unwrap();
                let accessed = (meta.atime(), meta.atime_nsec());
                (accessed, (meta.mtime(), meta.mtime_nsec()))
            };
            // There, copying counts as an access.
            let expected = times(&plain);
            let copy = dir.join("copy");
            run(Command::new("cp").arg("-a").arg(&plain).arg(&copy), LIMIT).expect_ok();
            assert_eq!(times(&copy), expected);
            fs::read(&copy).unwrap();
            let meta = fs::metadata(&copy).unwrap();
            assert_eq!(times(&copy), expected);
            assert!(meta.ctime() < meta.mtime(), "changed in 2100");
            assert_eq!(meta.size(), LEN);
            assert!(meta.blocks() < 128, "{} blocks", meta.blocks());
        });
    }
}
