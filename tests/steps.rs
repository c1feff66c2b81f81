//! The single steps that scripts rely on: `mount`, `unmount`, `cleanup`. The whole
//! life of a diff, as root and as an unprivileged user, and every failure with its
//! exit code and what its message names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::process::{is_alive, mounts_in, processes_in};
use common::sandbox::unmount_all;
use common::session::{LIMIT, sessions_in};
use common::tmpfs::Tmpfs;
use common::{
    Listing, OsUser, Output, Running, Sandbox, assert_nothing_stays, eventually, refused, run,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// FULL and DELTA of one small cluster.
const FIXTURE: &str = "pg15-debian";

/// The single steps in one sandbox, on one target and one diff. Whatever a failed
/// test leaves mounted is unmounted on drop.
struct Steps {
    sandbox: Sandbox,
    target: PathBuf,
    diff: PathBuf,
}

impl Steps {
    fn new(user: OsUser) -> Steps {
        common::require_root();
        common::require_fuse();
        let sandbox = Sandbox::new(FIXTURE, user);
        Steps {
            target: sandbox.path("mnt"),
            diff: sandbox.path("diff"),
            sandbox,
        }
    }

    fn full(&self) -> String {
        self.sandbox.fixture.backups()[0].id.clone()
    }

    fn delta(&self) -> String {
        self.sandbox.fixture.newest()
    }

    fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.pbkfs();
        command.arg(subcommand).args(arguments);
        command
    }

    fn pbkfs(&self, subcommand: &str, arguments: &[&str]) -> Output {
        run(&mut self.command(subcommand, arguments), LIMIT)
    }

    /// Returns the command `pbkfs mount` for a backup of the sandbox's catalog on the
    /// target.
    fn mount_command(&self, id: &str, arguments: &[&str]) -> Command {
        let mut command = self.command("mount", &["--instance", "main", "-i", id]);
        command.arg("-B").arg(&self.sandbox.fixture.catalog);
        command.arg("-D").arg(&self.target).args(arguments);
        command
    }

    fn mount_with_diff(&self, id: &str) -> Output {
        let diff = self.diff.to_str().unwrap();
        run(&mut self.mount_command(id, &["-d", diff]), LIMIT)
    }

    /// Runs `pbkfs mount` with only target and diff.
    fn mount_by_diff(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("mount", arguments);
        command
            .arg("-D")
            .arg(&self.target)
            .arg("-d")
            .arg(&self.diff);
        run(&mut command, LIMIT)
    }

    fn unmount(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("unmount", arguments);
        run(command.arg("-D").arg(&self.target), LIMIT)
    }

    fn cleanup(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("cleanup", arguments);
        run(command.arg("-d").arg(&self.diff), LIMIT)
    }

    /// Runs a script in the mount as the sandbox's user, because root may not enter
    /// another user's mount.
    fn in_mount(&self, script: &str, name: &str, text: &str) -> Output {
        let mut shell = self.sandbox.user.command("sh");
        shell.current_dir(self.sandbox.dir());
        shell
            .args(["-ec", script, "sh"])
            .arg(self.target.join(name))
            .arg(text);
        run(&mut shell, LIMIT)
    }

    /// Writes a file in the mount, and fsyncs it.
    fn write(&self, name: &str, text: &str) {
        self.in_mount("printf %s \"$2\" > \"$1\"; sync \"$1\"", name, text)
            .expect_ok();
    }

    fn read(&self, name: &str) -> String {
        self.in_mount("cat \"$1\"", name, "").expect_ok()
    }

    fn is_mounted(&self) -> bool {
        mounts_in(&self.target).contains(&self.target)
    }

    /// Returns the pid of the `pbkfs` that serves the target.
    fn owner(&self) -> i32 {
        let stdout = self.pbkfs("status", &["--json"]).expect_ok();
        let sessions = sessions_in(&stdout);
        let target = self.target.to_str().unwrap();
        let mut ours = sessions
            .iter()
            .filter(|session| session["target"] == target);
        let pid = ours.next().expect("a session")["pid"].as_i64().unwrap();
        assert!(ours.next().is_none());
        pid.try_into().unwrap()
    }

    fn kill_owner(&self) {
        let owner = self.owner();
        kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
        eventually("the owner has exited", LIMIT, || !is_alive(owner));
    }

    /// Starts a process of the sandbox's user with its working directory in the
    /// mount.
    fn lodger(&self) -> Lodger {
        let mut sleep = self.sandbox.user.command("sleep");
        sleep.arg("600").current_dir(&self.target);
        Lodger(sleep.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        for mount in mounts_in(self.sandbox.dir()) {
            let mut unmount = self.command("unmount", &["--force", "-D"]);
            let _ = Running::spawn(unmount.arg(mount)).wait_or_kill(LIMIT);
        }
        unmount_all(self.sandbox.dir());
        for (pid, _) in processes_in(self.sandbox.dir()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process in the mount; killed when dropped.
struct Lodger(Child);

impl Lodger {
    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Lodger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the test as root, and through fusermount3 as an unprivileged user.
fn as_both_users(test: impl Fn(Steps)) {
    for user in [OsUser::root(), OsUser::postgres()] {
        println!("as {}", user.name);
        test(Steps::new(user));
    }
}

fn life_of_a_diff(user: OsUser) {
    let steps = Steps::new(user);
    let catalog = Listing::of(&steps.sandbox.fixture.catalog);
    let (full, delta) = (steps.full(), steps.delta());

    // The diff is bound by its first mount, and what is written stays in it.
    let ready = steps.mount_with_diff(&delta).expect_ok();
    assert_eq!(ready, format!("ready target={}\n", steps.target.display()));
    assert_eq!(steps.read("PG_VERSION"), "15\n");
    steps.write("kept", "one");
    let said = steps.unmount(&[]).expect_ok();
    assert!(said.contains(steps.diff.to_str().unwrap()), "{said}");
    assert!(
        !steps.target.exists(),
        "mount created it, so unmount removes it"
    );
    assert_nothing_stays(&steps.sandbox);

    // Mounted by the diff alone.
    let ready = steps.mount_by_diff(&["--json"]).expect_ok();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["backup"], delta.as_str());
    assert_eq!(ready["target"], steps.target.to_str().unwrap());
    assert_eq!(steps.read("kept"), "one");

    // A second mount of the same diff, and one on the same target.
    let owner = steps.owner().to_string();
    let mut same_diff = steps.command("mount", &["-d", steps.diff.to_str().unwrap()]);
    same_diff.arg("-D").arg(steps.sandbox.path("other"));
    refused(&run(&mut same_diff, LIMIT), 5, &owner);
    let other_diff = steps.sandbox.path("other.diff");
    let same_target = &["-d", other_diff.to_str().unwrap()];
    let same_target = run(&mut steps.mount_command(&full, same_target), LIMIT);
    refused(&same_target, 5, steps.target.to_str().unwrap());
    refused(&same_target, 5, &owner);

    // A diff in use cannot be cleaned up, forced or not.
    for arguments in [&[][..], &["--force"], &["--dry-run"]] {
        refused(&steps.cleanup(arguments), 5, &owner);
    }
    assert_eq!(steps.read("kept"), "one", "the session did not notice");

    // Killing the owner loses nothing that was fsynced.
    steps.write("kept", "two");
    steps.kill_owner();
    steps.mount_by_diff(&[]).expect_ok();
    assert_eq!(steps.read("kept"), "two");
    steps.unmount(&[]).expect_ok();

    refuses_other_backups(&steps, &full, &delta);
    cleaned_up_and_used_again(&steps, &full, &delta);
    catalog.assert_unchanged(&steps.sandbox.fixture.catalog);
}

fn refuses_other_backups(steps: &Steps, full: &str, delta: &str) {
    let other = steps.mount_with_diff(full);
    for name in [full, delta, steps.diff.to_str().unwrap()] {
        refused(&other, 5, name);
    }
    let other = steps.mount_by_diff(&["--instance", "nain"]);
    for name in ["nain", "main", delta] {
        refused(&other, 5, name);
    }
    // The ID in lower case is the same.
    let small = delta.to_ascii_lowercase();
    steps.mount_by_diff(&["-i", &small]).expect_ok();
    steps.unmount(&[]).expect_ok();
}

fn cleaned_up_and_used_again(steps: &Steps, full: &str, delta: &str) {
    let before = Listing::of(&steps.diff.join("data"));
    let held = steps.cleanup(&[]);
    for part in [delta, "KiB in 1 file of 0 relations", "--force"] {
        refused(&held, 5, part);
    }
    let dry = steps.cleanup(&["--dry-run", "--force"]).expect_ok();
    for name in ["meta.redb", "data", ".pbkfs-binding.json", delta] {
        assert!(dry.contains(name), "{name} is missing: {dry}");
    }
    assert!(!dry.contains(".pbkfs-lock"), "it stays: {dry}");
    before.assert_unchanged(&steps.diff.join("data"));
    steps.mount_by_diff(&[]).expect_ok();
    assert_eq!(steps.read("kept"), "two");
    steps.unmount(&[]).expect_ok();

    steps.cleanup(&["--force"]).expect_ok();
    let left: Vec<_> = fs::read_dir(&steps.diff)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [".pbkfs-lock"]);
    steps.cleanup(&[]).expect_ok();

    // Reused for another backup, without the old changes.
    steps.mount_with_diff(full).expect_ok();
    let names = steps.in_mount("ls \"$1\"", ".", "").expect_ok();
    assert!(
        names.contains("PG_VERSION") && !names.contains("kept"),
        "{names}"
    );
    steps.unmount(&[]).expect_ok();
    // Nothing was written, so --force is not needed.
    steps.cleanup(&[]).expect_ok();
    assert_nothing_stays(&steps.sandbox);
}

#[test]
fn life_of_a_diff_as_root() {
    life_of_a_diff(OsUser::root());
}

#[test]
fn life_of_a_diff_as_an_unprivileged_user() {
    life_of_a_diff(OsUser::postgres());
}

#[test]
fn read_only_needs_no_diff_and_takes_no_writes() {
    as_both_users(|steps| {
        let arguments = ["--read-only", "--json"];
        let mount = run(&mut steps.mount_command("latest", &arguments), LIMIT).expect_ok();
        assert!(mount.contains(&steps.delta()), "{mount}");
        assert_eq!(steps.read("PG_VERSION"), "15\n");
        let output = steps.in_mount("touch \"$1\"", "new", "");
        assert!(output.stderr.contains("Read-only file system"), "{output}");
        steps.unmount(&[]).expect_ok();
        assert_nothing_stays(&steps.sandbox);
        assert!(!steps.diff.exists());
    });
}

#[test]
fn flags_beat_the_profile() {
    as_both_users(|steps| {
        let profile = steps.sandbox.path("p.toml");
        let text = format!(
            "catalog = {:?}\ninstance = \"nain\"\nbackup = \"{}\"\ntarget = {:?}\ndiff_dir = {:?}\n",
            steps.sandbox.fixture.catalog,
            steps.delta(),
            steps.sandbox.path("elsewhere"),
            steps.sandbox.path("elsewhere.diff"),
        );
        fs::write(&profile, text).unwrap();
        let mut mount = steps.command("mount", &["--instance", "main", "--backup", &steps.full()]);
        mount.arg(&profile).arg("--json");
        mount.arg("--target").arg(&steps.target);
        mount.arg("--diff-dir").arg(&steps.diff);
        let ready = run(&mut mount, LIMIT).expect_ok();
        assert!(ready.contains(&steps.full()), "{ready}");
        assert!(steps.is_mounted() && steps.diff.join(".pbkfs-binding.json").exists());
        assert!(!steps.sandbox.path("elsewhere.diff").exists());
        steps.unmount(&[]).expect_ok();
        assert_nothing_stays(&steps.sandbox);
    });
}

#[test]
fn what_is_not_said_is_asked_for() {
    as_both_users(|steps| {
        let diff = steps.diff.to_str().unwrap();
        let target = steps.target.to_str().unwrap();
        let catalog = steps.sandbox.fixture.catalog.to_str().unwrap();
        for (arguments, needle) in [
            (
                &["-B", catalog, "--instance", "main", "-D", target][..],
                "--read-only",
            ),
            (
                &["-B", catalog, "--instance", "main", "-d", diff],
                "-D TARGET",
            ),
            (
                &["-B", catalog, "-D", target, "-d", diff],
                "--instance NAME",
            ),
            (
                &["--instance", "main", "-D", target, "-d", diff],
                "-B CATALOG",
            ),
            (&["-D", target, "-d", diff, "--read-only"], "--read-only"),
            (&["-D", target, "-d", diff, "--console", "--wait"], "--wait"),
            (&["-D", target, "-d", diff, "--timeout", "0"], "--timeout"),
            (&["-D", target, "-d", diff, "-i", "a/b"], "latest"),
        ] {
            refused(&steps.pbkfs("mount", arguments), 2, needle);
        }
        assert_nothing_stays(&steps.sandbox);
        assert!(!steps.diff.exists() && !steps.target.exists());
    });
}

/// One thing is wrong in each case, in the foreground and in the background.
#[test]
fn a_mount_that_cannot_be_made_says_why() {
    as_both_users(|steps| {
        let path = |name: &str| steps.sandbox.path(name).to_str().unwrap().to_owned();
        let (missing, file, full) = (path("missing"), path("file"), path("full"));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&full).unwrap();
        fs::write(path("full/precious"), "x").unwrap();
        let catalog = steps.sandbox.fixture.catalog.to_str().unwrap();
        let good = [catalog, "main", "latest", &path("mnt"), &path("diff")];
        for (place, wrong, code, needle) in [
            (0, missing.as_str(), 4, missing.as_str()),
            (1, "mian", 4, "mian"),
            (2, "TOW7ZZ", 4, "TOW7ZZ"),
            (3, &full, 5, "not empty"),
            (3, &file, 5, "not a directory"),
            (3, &path("no/such/mnt"), 3, "create it first"),
            (4, &path("file/diff"), 3, &file),
            (4, &full, 5, "not a pbkfs diff"),
        ] {
            for stays in [&["--console"][..], &[]] {
                let mut given = good;
                given[place] = wrong;
                let flags = ["-B", "--instance", "-i", "-D", "-d"];
                let mut mount = steps.command("mount", stays);
                mount.args(
                    flags
                        .iter()
                        .zip(given)
                        .flat_map(|(flag, value)| [*flag, value]),
                );
                refused(&run(&mut mount, LIMIT), code, needle);
                assert_nothing_stays(&steps.sandbox);
            }
        }
        assert_eq!(fs::read_to_string(path("full/precious")).unwrap(), "x");
    });
}

#[test]
fn console_stays_and_ends_with_the_mount() {
    as_both_users(|steps| {
        let diff = steps.diff.to_str().unwrap();
        for by_signal in [true, false] {
            let mut mount = steps.mount_command("latest", &["-d", diff, "--console"]);
            let mut running = Running::spawn(&mut mount);
            eventually("it is ready", LIMIT, || {
                assert!(!running.has_ended(), "{}", running.stderr());
                running.stdout().contains("ready target=")
            });
            assert_eq!(steps.owner(), running.pid());
            steps.write("kept", "x");
            match by_signal {
                true => running.signal(Signal::SIGTERM),
                false => drop(steps.unmount(&[]).expect_ok()),
            }
            running.wait(LIMIT).expect_ok();
            assert_nothing_stays(&steps.sandbox);
        }
    });
}

/// As for other file systems; what was written is saved.
#[test]
fn a_mount_may_be_ended_by_umount() {
    as_both_users(|steps| {
        steps.mount_with_diff("latest").expect_ok();
        steps
            .in_mount("printf %s \"$2\" > \"$1\"", "kept", "not fsynced")
            .expect_ok();
        let owner = steps.owner();
        let umount: &[&str] = match steps.sandbox.user == OsUser::root() {
            true => &["umount"],
            false => &["fusermount3", "-u"],
        };
        let mut command = steps.sandbox.user.command(umount[0]);
        run(command.args(&umount[1..]).arg(&steps.target), LIMIT).expect_ok();
        eventually("its owner ends", LIMIT, || !is_alive(owner));
        assert_nothing_stays(&steps.sandbox);
        steps.mount_by_diff(&[]).expect_ok();
        assert_eq!(steps.read("kept"), "not fsynced");
        steps.unmount(&[]).expect_ok();
    });
}

/// A container, or a service with its own mounts, that is started while a clone is
/// mounted has a copy of the mount, which outlives the unmount.
#[test]
fn a_copy_of_the_mount_keeps_no_session_from_ending() {
    as_both_users(|steps| {
        steps.mount_with_diff("latest").expect_ok();
        steps.write("kept", "x");
        let mut container = Command::new("unshare");
        container.args(["--mount", "--propagation", "private", "sh", "-c"]);
        container.arg("echo copied; exec sleep 600");
        let mut container = container.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(container.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!(&said, b"copied");
        let owner = steps.owner();
        let ended = steps.unmount(&[]);
        container.kill().unwrap();
        container.wait().unwrap();
        ended.expect_ok();
        assert!(!is_alive(owner));
        assert_nothing_stays(&steps.sandbox);
        steps.mount_by_diff(&[]).expect_ok();
        assert_eq!(steps.read("kept"), "x");
        steps.unmount(&[]).expect_ok();
    });
}

/// The backups stay locked; the mount is abandoned in time, and nothing is left.
#[test]
fn a_timeout_undoes_everything() {
    as_both_users(|steps| {
        let locked = steps
            .sandbox
            .fixture
            .backup_dir(&steps.delta())
            .join("backup.pid");
        // A running pg_probackup, as long as this process is alive.
        let mut backup = steps.sandbox.user.command("sleep");
        let backup = Lodger(backup.arg("600").spawn().unwrap());
        fs::write(&locked, format!("{}\n", backup.pid())).unwrap();
        let diff = steps.diff.to_str().unwrap();
        let begin = Instant::now();
        let mut mount = steps.mount_command("latest", &["-d", diff, "--timeout", "2"]);
        refused(&run(&mut mount, LIMIT), 3, "in time");
        assert!(begin.elapsed() >= Duration::from_secs(2));
        fs::remove_file(&locked).unwrap();
        assert!(!steps.target.exists());
        assert_nothing_stays(&steps.sandbox);
    });
}

fn busy(user: OsUser) {
    let steps = Steps::new(user);
    steps.mount_with_diff("latest").expect_ok();
    let owner = steps.owner();
    let lodger = steps.lodger();

    let output = steps.unmount(&[]);
    for fact in [&lodger.pid(), "sleep", "working directory", "--force"] {
        refused(&output, 5, fact);
    }
    assert!(
        steps.is_mounted() && is_alive(owner),
        "the session continued"
    );
    steps.write("kept", "after the refusal");
    drop(lodger);

    let mut reader = steps.sandbox.user.command("sh");
    reader.args(["-c", "exec sleep 600 < \"$1\"", "sh"]);
    reader.arg(steps.target.join("PG_VERSION"));
    let reader = Lodger(reader.spawn().unwrap());
    let named = format!("pid {} (sleep: open file)", reader.pid());
    let stdin = format!("/proc/{}/fd/0", reader.pid());
    eventually("it has the file open", LIMIT, || {
        fs::read_link(&stdin).is_ok_and(|file| file.starts_with(&steps.target))
            && fs::read_to_string(format!("/proc/{}/comm", reader.pid())).unwrap() == "sleep\n"
    });
    refused(&steps.unmount(&[]), 5, &named);
    drop(reader);
    let lodger = steps.lodger();
    steps.unmount(&["--force"]).expect_ok();
    assert!(!steps.is_mounted() && !is_alive(owner));
    drop(lodger);
    assert_nothing_stays(&steps.sandbox);

    steps.mount_by_diff(&[]).expect_ok();
    assert_eq!(steps.read("kept"), "after the refusal");
    steps.unmount(&[]).expect_ok();
}

#[test]
fn a_busy_mount_names_who_is_in_it() {
    busy(OsUser::root());
}

#[test]
fn a_busy_mount_of_an_unprivileged_user_names_who_is_in_it() {
    busy(OsUser::postgres());
}

/// An owner that has stopped responding.
#[test]
fn force_ends_an_owner_that_hangs() {
    as_both_users(|steps| {
        steps.mount_with_diff("latest").expect_ok();
        let owner = steps.owner();
        kill(Pid::from_raw(owner), Signal::SIGSTOP).unwrap();
        steps.unmount(&["--force"]).expect_ok();
        assert!(!is_alive(owner));
        // The lock holder notices that its owner has exited, and releases the locks.
        eventually("the lock holder has exited", LIMIT, || {
            processes_in(steps.sandbox.dir()).is_empty()
        });
        assert_nothing_stays(&steps.sandbox);
    });
}

fn dead_endpoint(user: OsUser) {
    let steps = Steps::new(user);
    steps.mount_with_diff("latest").expect_ok();
    steps.write("kept", "x");
    steps.kill_owner();
    // A request that is in flight while the owner exits is aborted.
    let dead = "Transport endpoint is not connected";
    eventually("the mount is dead", LIMIT, || {
        let output = steps.in_mount("cat \"$1\"", "kept", "");
        output.stderr.contains(dead)
    });
    let status = steps.pbkfs("status", &[]).expect_ok();
    let way_out = format!("pbkfs unmount -D {}\n", steps.target.display());
    assert!(status.contains(&way_out), "{status}");
    let said = steps.unmount(&[]).expect_ok();
    assert!(said.contains("had died"), "{said}");
    assert_nothing_stays(&steps.sandbox);
    // A second time, nothing is left to unmount.
    let said = steps.unmount(&[]).expect_ok();
    assert!(said.contains("nothing is mounted"), "{said}");
    steps.mount_by_diff(&[]).expect_ok();
    steps.unmount(&[]).expect_ok();
}

#[test]
fn a_dead_endpoint_is_cleared_away() {
    dead_endpoint(OsUser::root());
}

#[test]
fn a_dead_endpoint_of_an_unprivileged_user_is_cleared_away() {
    dead_endpoint(OsUser::postgres());
}

/// The state file is unusable, and the owner is dead.
#[test]
fn a_damaged_state_does_not_lock_the_target_up() {
    as_both_users(|steps| {
        for by_unmount in [true, false] {
            steps.mount_with_diff("latest").expect_ok();
            let status = steps.pbkfs("status", &["--json"]).expect_ok();
            let sessions = sessions_in(&status);
            let target = steps.target.to_str().unwrap();
            let session = sessions
                .iter()
                .find(|session| session["target"] == target)
                .unwrap();
            let run_dir = PathBuf::from(session["run_dir"].as_str().unwrap());
            steps.kill_owner();
            fs::write(run_dir.join("session.json"), "{ \"pid\": ").unwrap();
            if by_unmount {
                steps.unmount(&[]).expect_ok();
            } else {
                steps.mount_by_diff(&[]).expect_ok();
                assert_eq!(steps.read("PG_VERSION"), "15\n");
                steps.unmount(&[]).expect_ok();
            }
            assert_nothing_stays(&steps.sandbox);
        }
    });
}

#[test]
fn a_mount_of_something_else_is_left_alone() {
    as_both_users(|steps| {
        fs::create_dir(&steps.target).unwrap();
        let _disk = Tmpfs::mount(&steps.target, "1m");
        for arguments in [&[][..], &["--force"]] {
            let output = steps.unmount(arguments);
            refused(&output, 5, "tmpfs");
            refused(&output, 5, steps.target.to_str().unwrap());
        }
        assert!(steps.is_mounted());
        refused(&steps.mount_with_diff("latest"), 5, "already a mount point");
    });
}

#[test]
fn a_clone_with_a_server_is_for_down() {
    common::require_everything();
    as_both_users(|steps| {
        let sandbox = &steps.sandbox;
        let clone = sandbox.profile("latest").write();
        let ready = clone.up();
        for arguments in [&[][..], &["--force"]] {
            let mut unmount = sandbox.pbkfs();
            unmount
                .arg("unmount")
                .args(arguments)
                .arg("-D")
                .arg(&clone.target);
            let output = run(&mut unmount, LIMIT);
            refused(
                &output,
                5,
                &format!("pbkfs down {}", clone.profile.display()),
            );
            refused(&output, 5, &ready.server_pid.unwrap().to_string());
        }
        assert!(is_alive(ready.server_pid.unwrap()));
        clone.down();
        assert_nothing_stays(sandbox);
    });
}

#[test]
fn root_ends_another_users_mount() {
    let steps = Steps::new(OsUser::postgres());
    steps.mount_with_diff("latest").expect_ok();
    let owner = steps.owner();
    let binary = steps.sandbox.pbkfs().get_program().to_owned();
    let mut unmount = OsUser::root().command(&binary);
    run(unmount.args(["unmount", "-D"]).arg(&steps.target), LIMIT).expect_ok();
    eventually("its owner ends", LIMIT, || !is_alive(owner));
    assert_nothing_stays(&steps.sandbox);
}

/// An unprivileged user cannot affect what belongs to root.
#[test]
fn another_users_mount_and_diff_are_left_alone() {
    let steps = Steps::new(OsUser::root());
    steps.mount_with_diff("latest").expect_ok();
    let owner = steps.owner();
    let as_postgres = |arguments: &[&str], path: &Path| {
        let mut command = OsUser::postgres().command(steps.sandbox.pbkfs().get_program());
        run(command.args(arguments).arg(path), LIMIT)
    };
    let target = steps.target.to_str().unwrap();
    for arguments in [&["unmount", "-D"][..], &["unmount", "--force", "-D"]] {
        refused(&as_postgres(arguments, &steps.target), 3, target);
    }
    let diff = steps.diff.to_str().unwrap();
    refused(
        &as_postgres(&["cleanup", "--force", "-d"], &steps.diff),
        3,
        diff,
    );
    refused(&as_postgres(&["diff", "-d"], &steps.diff), 3, diff);
    assert!(steps.is_mounted() && is_alive(owner));
    steps.unmount(&[]).expect_ok();
    refused(
        &as_postgres(&["cleanup", "--force", "-d"], &steps.diff),
        3,
        diff,
    );
    steps.mount_by_diff(&[]).expect_ok();
    steps.unmount(&[]).expect_ok();
}

#[test]
fn cleanup_refuses_what_is_no_diff() {
    as_both_users(|steps| {
        fs::create_dir(&steps.diff).unwrap();
        steps.sandbox.user.own(&steps.diff);
        for content in [None, Some("precious")] {
            if let Some(name) = content {
                fs::write(steps.diff.join(name), "x").unwrap();
            }
            for arguments in [&[][..], &["--force"], &["--dry-run"]] {
                let before = Listing::of(&steps.diff);
                let output = steps.cleanup(arguments);
                refused(&output, 5, steps.diff.to_str().unwrap());
                refused(&output, 5, "not a pbkfs diff");
                before.assert_unchanged(&steps.diff);
            }
        }
        fs::remove_dir_all(&steps.diff).unwrap();
        refused(
            &steps.cleanup(&["--force"]),
            3,
            steps.diff.to_str().unwrap(),
        );
        assert!(!steps.diff.exists());
    });
}

/// The names in a diff point to precious files; none of them is touched.
#[test]
fn cleanup_follows_no_link() {
    as_both_users(|steps| {
        let precious = |steps: &Steps| {
            let dir = steps.sandbox.path("precious");
            fs::create_dir_all(&dir).unwrap();
            steps.sandbox.user.own(&dir);
            for name in ["1", "4294967296"] {
                fs::write(dir.join(name), "precious").unwrap();
                steps.sandbox.user.own(&dir.join(name));
            }
            dir
        };
        let is_whole = |dir: &Path| {
            let text = |name| fs::read_to_string(dir.join(name)).unwrap();
            text("1") == "precious" && text("4294967296") == "precious"
        };
        steps.mount_with_diff("latest").expect_ok();
        steps.write("new", "x");
        steps.unmount(&[]).expect_ok();
        let dir = precious(&steps);

        // A data file: the link itself is removed.
        let data = steps.diff.join("data");
        let entry = fs::read_dir(&data).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(&entry).unwrap();
        symlink(dir.join("1"), &entry).unwrap();
        // The data directory, and the lock: refused, nothing changes.
        let aside = steps.sandbox.path("aside");
        for (part, to) in [("data", dir.clone()), (".pbkfs-lock", dir.join("1"))] {
            let path = steps.diff.join(part);
            fs::rename(&path, &aside).unwrap();
            symlink(&to, &path).unwrap();
            for arguments in [&[][..], &["--force"], &["--dry-run"]] {
                let output = steps.cleanup(arguments);
                refused(&output, 5, path.to_str().unwrap());
                refused(&output, 5, "a symbolic link");
            }
            assert!(is_whole(&dir) && path.is_symlink());
            fs::remove_file(&path).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
        // The contents of the diff are then unknown; the link itself is removed.
        let meta = steps.diff.join("meta.redb");
        fs::remove_file(&meta).unwrap();
        symlink(dir.join("1"), &meta).unwrap();
        refused(&steps.cleanup(&[]), 5, "a symbolic link");
        steps.cleanup(&["--force"]).expect_ok();
        assert!(is_whole(&dir) && !data.exists() && !meta.is_symlink());
    });
}

#[test]
fn cleanup_of_a_damaged_diff_takes_force() {
    as_both_users(|steps| {
        steps.mount_with_diff("latest").expect_ok();
        steps.unmount(&[]).expect_ok();
        fs::write(steps.diff.join("meta.redb"), vec![0x5A; 100_000]).unwrap();
        for output in [steps.cleanup(&[]), steps.mount_with_diff("latest")] {
            refused(&output, 3, "`pbkfs cleanup --force -d ");
            assert!(!output.stderr.contains(common::session::UNKNOWN_CASE));
        }
        steps.cleanup(&["--force"]).expect_ok();
        steps.mount_with_diff("latest").expect_ok();
        steps.unmount(&[]).expect_ok();
    });
}

/// Two diffs of one backup, with a server on each.
#[test]
fn two_diffs_of_one_backup_with_a_server_each() {
    let pg = common::require_everything();
    as_both_users(|steps| {
        let sandbox = &steps.sandbox;
        let catalog = Listing::of(&sandbox.fixture.catalog);
        let clones = ["one", "two"].map(|name| sandbox.profile_named(name, "latest").write());
        let ready = clones.each_ref().map(|clone| clone.up());
        for (name, ready) in ["one", "two"].iter().zip(&ready) {
            let sql = format!("create table who as select '{name}' as name");
            pg.psql(ready.conninfo(), "postgres", &sql);
        }
        for (name, ready) in ["one", "two"].iter().zip(&ready) {
            let answer = pg.psql(ready.conninfo(), "postgres", "select name from who");
            assert_eq!(answer, *name);
        }
        for clone in &clones {
            clone.down();
        }
        assert_nothing_stays(sandbox);
        catalog.assert_unchanged(&sandbox.fixture.catalog);
    });
}

/// Sixteen mounts at once, and the cost of each while idle.
#[test]
fn sixteen_mounts_of_one_catalog() {
    as_both_users(|steps| {
        const MOUNTS: usize = 16;
        const MOST_KB: u64 = 64 << 10;
        let catalog = Listing::of(&steps.sandbox.fixture.catalog);
        let path = |name: &str, n: usize| steps.sandbox.path(&format!("{name}{n}"));
        let starts: Vec<Running> = (0..MOUNTS)
            .map(|n| {
                let mut mount = steps.command("mount", &["--json", "--instance", "main"]);
                mount.arg("-B").arg(&steps.sandbox.fixture.catalog);
                mount
                    .arg("-i")
                    .arg([steps.full(), steps.delta()][n % 2].as_str());
                mount
                    .arg("-D")
                    .arg(path("mnt", n))
                    .arg("-d")
                    .arg(path("diff", n));
                Running::spawn(&mut mount)
            })
            .collect();
        let mut resident = Vec::new();
        for start in starts {
            let ready = start.wait(LIMIT).expect_ok();
            let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
            resident.push(resident_kb(ready["pid"].as_i64().unwrap()));
        }
        println!("resident memory of each of {MOUNTS} idle mounts, in kB: {resident:?}");
        assert!(resident.iter().all(|kb| *kb < MOST_KB), "{resident:?}");
        let in_each = |script: &str| {
            let mut shell = steps.sandbox.user.command("sh");
            shell.current_dir(steps.sandbox.dir()).args(["-ec", script]);
            run(&mut shell, LIMIT).expect_ok()
        };
        in_each("for n in $(seq 0 15); do echo $n > mnt$n/mine; done");
        let mine = in_each("for n in $(seq 0 15); do cat mnt$n/mine; done");
        let mine: Vec<usize> = mine.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(mine, Vec::from_iter(0..MOUNTS));
        for n in 0..MOUNTS {
            let mut unmount = steps.command("unmount", &["-D"]);
            run(unmount.arg(path("mnt", n)), LIMIT).expect_ok();
        }
        assert_nothing_stays(&steps.sandbox);
        catalog.assert_unchanged(&steps.sandbox.fixture.catalog);
    });
}

fn resident_kb(pid: i64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.unwrap().trim().trim_end_matches(" kB");
    kb.parse().unwrap()
}

/// At the end, the diff's disk is too full to save the last names.
#[test]
fn an_unmount_that_loses_something_says_so() {
    as_both_users(|mut steps| {
        let disk = steps.sandbox.small_disk("2m");
        steps.diff = disk.path().join("diff");
        steps.mount_with_diff("latest").expect_ok();
        // The names need more space than the store has reserved, and the disk is
        // full.
        let fill = "head -c 3000000 /dev/zero > \"$1\" || true
                i=0; while [ $i -lt 5000 ]; do : > \"$1-$i\"; i=$((i+1)); done";
        steps.in_mount(
            fill,
            "a-name-as-long-as-it-takes-to-fill-a-page-of-the-store",
            "",
        );
        let output = steps.unmount(&[]);
        refused(&output, 3, "but with an error");
        refused(&output, 3, "meta.redb");
        assert!(!steps.is_mounted());
        drop(disk);
        assert_nothing_stays(&steps.sandbox);
    });
}

/// However the flags are written, the background process is started once.
#[test]
fn detach_among_other_short_flags() {
    as_both_users(|steps| {
        let sandbox = &steps.sandbox;
        let clone = sandbox.profile("latest").mount_only().write();
        let ready = clone.pbkfs("up", &["-vd"]).expect_ok();
        assert!(ready.starts_with("ready target="), "{ready}");
        assert_eq!(clone.status().len(), 1);
        clone.down();
        assert_nothing_stays(sandbox);
    });
}

/// A mount can be named by its path, by its profile, or by -D.
#[test]
fn a_mount_is_ended_by_its_path_or_its_profile() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    for names in [
        &[clone.profile.as_path()][..],
        &[clone.target.as_path()],
        &[Path::new("-D"), clone.target.as_path()],
        &[Path::new("clone.toml")],
        &[Path::new("clone")],
    ] {
        clone.up();
        let output = run(sandbox.pbkfs().arg("unmount").args(names), LIMIT);
        let said = output.expect_ok();
        assert!(said.starts_with("unmounted "), "{names:?}: {said}");
        assert!(!clone.is_mounted(), "{names:?}");
    }
    // A mistyped profile is not treated as a mount point with nothing mounted.
    let mistyped = run(sandbox.pbkfs().args(["unmount", "clnoe.toml"]), LIMIT);
    refused(&mistyped, 2, "clnoe.toml");
    refused(
        &run(sandbox.pbkfs().arg("unmount"), LIMIT),
        2,
        "TARGET|PROFILE",
    );
}
