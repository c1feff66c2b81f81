//! What a clone's superuser can leave in its data directory, what another user of the
//! host can put in pbkfs's way, and what a crashed host leaves behind: none of it
//! harms the user who runs pbkfs, root or not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::process::{self, is_alive};
use common::recovery::{BACKUP, fails, points, sets, strs, up_to};
use common::session::{LIMIT, UNKNOWN_CASE};
use common::{
    OsUser, PgTools, Ready, Running, Sandbox, TestClone, assert_nothing_stays, eventually, refused,
    run,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

/// Time limit for pbkfs to refuse something.
const AT_ONCE: Duration = Duration::from_secs(20);

/// Creates a sandbox for each user, on a catalog owned by the user that PostgreSQL
/// runs as.
fn users() -> [Sandbox; 2] {
    [OsUser::root(), OsUser::postgres()]
        .map(|user| Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user))
}

/// Creates a file that belongs to the user who runs pbkfs, who could therefore
/// overwrite it.
fn precious(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.path(name);
    fs::write(&path, "precious").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    sandbox.user.own(&path);
    path
}

#[track_caller]
fn assert_untouched(sandbox: &Sandbox, path: &Path) {
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    let meta = fs::symlink_metadata(path).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid()),
        (sandbox.user.uid, sandbox.user.gid)
    );
    assert_eq!(meta.mode() & 0o7777, 0o640);
}

/// Leaves something in a clone's data directory with shell commands, as its superuser
/// could. Only the user who mounted it may enter an unprivileged user's mount.
fn plant(clone: &TestClone<'_>, script: &str) {
    clone.up_with(&["--set", "postgres.launch=false"]);
    let script = format!("cd {} && {script}", clone.target.display());
    let user = &clone.sandbox.user;
    run(user.command("sh").args(["-ec", &script]), LIMIT).expect_ok();
    clone.down();
}

fn fifo(path: &Path) {
    mkfifo(path, Mode::S_IRWXU | Mode::S_IROTH).unwrap();
}

/// Runs `pbkfs up`, which must end without a signal, whatever it finds.
#[track_caller]
fn up_ends(clone: &TestClone<'_>, arguments: &[&str]) -> process::Output {
    let arguments = [&["--detach"], arguments].concat();
    let output = run(&mut clone.command("up", &arguments), AT_ONCE);
    assert!(!output.stderr.contains(UNKNOWN_CASE), "{output}");
    output
}

/// Runs a shell command inside the clone.
#[track_caller]
fn inside(pg: &PgTools, ready: &Ready, command: &str) {
    let sql = format!("copy (select 1) to program $$cat >/dev/null; {command}$$");
    pg.psql(ready.conninfo(), "postgres", &sql);
}

/// Returns the directory of the session's socket on the host.
fn socket_dir(ready: &Ready) -> PathBuf {
    let host = ready.conninfo().split(' ').next().unwrap();
    PathBuf::from(host.strip_prefix("host=").unwrap())
}

#[test]
fn what_recovery_writes_goes_to_no_file_of_the_host() {
    common::require_everything();
    for sandbox in users() {
        let [_, point, _] = points(&sandbox);
        let clone = sandbox.profile(BACKUP).write();
        let names = [
            ".pbkfs-recovery.json",
            ".pbkfs-recovery.json.tmp",
            "recovery.signal",
        ];
        let victims = names.map(|name| (name, precious(&sandbox, &format!("victim{name}"))));
        for (name, victim) in &victims[1..] {
            plant(&clone, &format!("ln -s {} {name}", victim.display()));
        }
        up_to(&clone, &[("name", &point.name)]);
        clone.down();
        for (_, victim) in &victims {
            assert_untouched(&sandbox, victim);
        }
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn what_a_clone_says_of_its_own_recovery_counts_for_nothing() {
    common::require_everything();
    let sandbox = common::recovery::sandbox();
    let [first, second, _] = points(&sandbox);
    let clone = sandbox.profile(BACKUP).write();
    up_to(&clone, &[("name", &first.name)]);
    clone.down();
    let forged = format!(
        r#"{{"version":1,"target":"name \"{}\", timeline current","promoted":true}}"#,
        second.name
    );
    plant(
        &clone,
        &format!("printf '%s' '{forged}' > .pbkfs-recovery.json; : > backup_label"),
    );
    let output = fails(&clone, &[("name", &second.name)]);
    refused(&output, 5, &first.name);
}

/// What a clone can do to its files that pbkfs reads.
const TRAPS: [&str; 8] = [
    "ln -s /dev/zero zero; echo \"include 'zero'\" > postgresql.auto.conf",
    "mkfifo pipe; echo \"include 'pipe'\" > postgresql.auto.conf",
    "rm postgresql.auto.conf; mkfifo postgresql.auto.conf",
    "ln -sf /dev/zero postgresql.conf",
    "truncate -s 64G postgresql.auto.conf",
    "yes \"include 'postgresql.auto.conf'\" | head -100 > postgresql.auto.conf",
    "ln -sf /dev/zero global/pg_control",
    "rm global/pg_control; mkfifo global/pg_control",
];

#[test]
fn no_file_of_the_clone_keeps_pbkfs_waiting() {
    common::require_everything();
    for sandbox in users() {
        let [_, point, _] = points(&sandbox);
        for trap in TRAPS {
            let diff = sandbox.path("trap.diff");
            let clone = sandbox.profile(BACKUP).diff_at(&diff).write();
            plant(&clone, trap);
            let output = up_ends(&clone, &strs(&sets(&[("name", &point.name)])));
            let code = output.code();
            assert!(matches!(code, Some(3 | 4 | 7)), "{trap}: {output}");
            assert!(output.stderr.contains("pbkfs: "), "{trap}: {output}");
            assert_nothing_stays(&sandbox);
            fs::remove_dir_all(&diff).unwrap();
        }
    }
}

#[test]
fn a_clone_does_not_choose_what_it_gets_to_see() {
    let pg = common::require_everything();
    for sandbox in users() {
        let secret = sandbox.path("secret.conf");
        fs::write(&secret, "work_mem = '7MB' # the secret\n").unwrap();
        OsUser::postgres().own(&secret);
        let clone = sandbox.profile(&sandbox.fixture.newest()).write();
        let include = format!("include_if_exists '{}'", secret.display());
        plant(
            &clone,
            &format!("echo \"{include}\" > postgresql.auto.conf"),
        );
        let ready = clone.up();
        let look = format!("copy (select 1) to program 'cat {}'", secret.display());
        let output = pg.try_psql(ready.conninfo(), "postgres", &look);
        assert!(!output.status.success(), "{output}");
        clone.down();
    }
}

#[test]
fn what_a_clone_leaves_beside_its_data_goes_and_is_out_of_reach() {
    let pg = common::require_everything();
    for sandbox in users() {
        let precious = precious(&sandbox, "precious");
        let clone = sandbox.profile(&sandbox.fixture.newest()).write();
        let ready = clone.up();
        let sockets = socket_dir(&ready);
        let wal = clone.diff.as_ref().unwrap().join(".pbkfs-wal");
        // Whatever permissions its own directories are given.
        for dir in [&sockets, &wal] {
            let dir = dir.display();
            inside(
                &pg,
                &ready,
                &format!("cp /bin/true {dir}/program; chmod 755 {dir}/program; chmod 755 {dir}"),
            );
        }
        let nobody = OsUser::named("nobody");
        for dir in [&sockets, &wal] {
            let mut test = nobody.command(dir.join("program"));
            let error = test.output().map(|output| output.status).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::EACCES), "{dir:?}");
        }
        inside(
            &pg,
            &ready,
            &format!(
                "cd {} && ln -s {} link && mkfifo pipe && mkdir -p a/b/c && \
                 touch a/b/c/file && chmod 0 a/b",
                sockets.display(),
                precious.display()
            ),
        );
        clone.down();
        assert_untouched(&sandbox, &precious);
        assert_nothing_stays(&sandbox);
        assert!(!sockets.exists());
    }
}

#[test]
fn only_the_servers_user_and_root_connect() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    let ready = clone.up();
    let server = OsUser::postgres();
    let member = OsUser {
        gid: server.gid,
        ..OsUser::named("nobody")
    };
    let connects = |user: &OsUser| {
        let mut psql = user.command(pg.command("psql").get_program());
        run(psql.args([ready.conninfo(), "-Atc", "select 1"]), LIMIT)
    };
    for user in [&OsUser::root(), &server] {
        assert_eq!(connects(user).expect_ok().trim(), "1");
    }
    let refusal = connects(&member);
    assert!(refusal.stderr.contains("Permission denied"), "{refusal}");
    clone.down();
}

#[test]
fn a_run_directory_of_another_user_is_not_used() {
    common::require_everything();
    let user = OsUser::named("games");
    let run_root = PathBuf::from(format!("/tmp/pbkfs-{}", user.uid));
    assert!(!run_root.exists(), "{run_root:?} already exists");
    let place = run_root.join("main-0000000000000000");
    fs::create_dir_all(&place).unwrap();
    fs::set_permissions(&run_root, Permissions::from_mode(0o777)).unwrap();
    OsUser::named("nobody").own(&run_root);
    fifo(&place.join("session.json"));
    symlink("/dev/zero", run_root.join("other")).unwrap();

    let sandbox = Sandbox::new("pg15-debian", OsUser::root());
    let binary = sandbox.pbkfs().get_program().to_owned();
    let mut status = user.command(Path::new(&binary));
    let output = Running::spawn(status.arg("status")).wait_or_kill(AT_ONCE);
    // It is outside the sandbox, so nothing else would remove it.
    fs::remove_dir_all(&run_root).unwrap();
    let output = output.unwrap_or_else(|output| panic!("it blocks: {output}"));
    refused(&output, 3, "XDG_RUNTIME_DIR");
}

/// A one-shot job mounts below the run directory, and a clone controls everything in
/// its mount: a state found there is not ours, and neither is one of another target.
#[test]
fn a_state_that_a_clone_wrote_is_no_session() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = sandbox.profile("latest").mount_only().throw_away().write();
    let ready = clone.up();
    let run_root = sandbox.path("run/pbkfs");
    let own = fs::read_dir(&run_root).unwrap().flatten();
    let own = own.map(|entry| entry.path().join("session.json"));
    let state = own.into_iter().find(|path| path.exists()).unwrap();
    let target = clone.target.to_str().unwrap();
    let forged = fs::read_to_string(state).unwrap().replace(target, "/etc");
    assert!(forged.contains("\"/etc\""), "{forged}");
    for name in [
        "verify-x-0123456789abcdef-1",
        "x-0123456789abcdef",
        "mounts",
        "mounts/verify-x-0123456789abcdef-1",
    ] {
        let place = run_root.join(name);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("session.json"), &forged).unwrap();
        sandbox.user.own(&place);
    }
    let mut status = sandbox.pbkfs();
    let status = run(status.arg("status"), LIMIT).expect_ok();
    assert!(
        status.contains(target) && !status.contains("/etc"),
        "{status}"
    );
    assert!(ready.pid > 0);
    clone.down();
}

#[test]
fn a_mount_point_that_others_can_move_is_not_for_root() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let open = sandbox.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let profile = sandbox.profile("latest").mount_only();
    let clone = profile.target_at(open.join("clone")).write();
    refused(&up_ends(&clone, &[]), 3, "open");
    fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
    // In such a directory, somebody else may already have created it.
    fs::create_dir(open.join("clone")).unwrap();
    OsUser::named("nobody").own(&open.join("clone"));
    refused(&up_ends(&clone, &[]), 3, "open/clone");
    OsUser::root().own(&open.join("clone"));
    assert_eq!(up_ends(&clone, &[]).code(), Some(0));
    clone.down();

    // Only the owner of a link matters, not its mode: a user who is trusted with
    // directories is not trusted with where links point.
    let link = sandbox.path("link");
    symlink(&open, &link).unwrap();
    let profile = sandbox.profile_named("linked", "latest").mount_only();
    let linked = profile.target_at(link.join("clone")).write();
    for owner in ["nobody", "postgres"] {
        let owner = OsUser::named(owner);
        std::os::unix::fs::lchown(&link, Some(owner.uid), Some(owner.gid)).unwrap();
        refused(&up_ends(&linked, &[]), 3, "link");
    }
    std::os::unix::fs::lchown(&link, Some(0), Some(0)).unwrap();
    assert_eq!(up_ends(&linked, &[]).code(), Some(0));
    linked.down();
    assert_nothing_stays(&sandbox);
}

/// Simulates a power failure: the clone's disk remains, and nothing in /run.
fn lose_power(clone: &TestClone<'_>, ready: &Ready) {
    kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
    eventually("it and its server have exited", LIMIT, || {
        !is_alive(ready.pid) && ready.server_pid.is_none_or(|pid| !is_alive(pid))
    });
    clone.sandbox.wait_for_throw_away_diffs();
    common::sandbox::unmount_all(&clone.target);
    fs::remove_dir_all(socket_dir(ready).parent().unwrap()).unwrap();
}

#[test]
fn a_throw_away_diff_that_a_reboot_left_is_found_again() {
    common::require_everything();
    for sandbox in users() {
        let newest = sandbox.fixture.newest();
        let clone = sandbox.profile(&newest).throw_away().write();
        lose_power(&clone, &clone.up());
        let [left] = &sandbox.throw_away_diffs()[..] else {
            panic!("no diff is left")
        };

        let status = clone.pbkfs("status", &[]).stdout;
        assert!(status.starts_with("orphaned "), "{status}");
        assert!(status.contains(left.to_str().unwrap()), "{status}");
        assert!(status.contains("pbkfs cleanup --orphans"), "{status}");
        let sessions = clone.status();
        assert_eq!(sessions[0]["state"], "orphaned");

        // The next session on that target removes it, and leaves none of its own.
        clone.up();
        assert!(!left.exists());
        clone.down();
        assert_eq!(sandbox.throw_away_diffs(), Vec::<PathBuf>::new());
        assert_eq!(clone.status(), Vec::<serde_json::Value>::new());

        // A running clone's diff is not an orphan.
        let ready = clone.up();
        let cleanup = |arguments: &[&str]| {
            let mut command = sandbox.pbkfs();
            run(
                command.arg("cleanup").arg("--orphans").args(arguments),
                LIMIT,
            )
            .expect_ok()
        };
        cleanup(&[]);
        assert_eq!(sandbox.throw_away_diffs().len(), 1);
        lose_power(&clone, &ready);
        let [left] = &sandbox.throw_away_diffs()[..] else {
            panic!("no diff is left")
        };
        assert!(cleanup(&["--dry-run"]).contains(left.to_str().unwrap()));
        assert!(left.exists());
        assert!(cleanup(&[]).contains(left.to_str().unwrap()));
        assert!(!left.exists());
    }
}

/// The session's directory is not where the next pbkfs looks: because of another
/// XDG_RUNTIME_DIR, or because root's entry was moved away.
#[test]
fn a_living_clone_that_is_not_seen_keeps_its_throw_away_diff() {
    common::require_everything();
    for sandbox in users() {
        let newest = sandbox.fixture.newest();
        let clone = sandbox.profile(&newest).throw_away().write();
        let ready = clone.up();
        let place = socket_dir(&ready).parent().unwrap().to_owned();
        let aside = sandbox.path("aside");
        fs::rename(&place, &aside).unwrap();
        let before = sandbox.throw_away_diffs();
        assert_eq!(before.len(), 1);

        let output = up_ends(&clone, &[]);
        refused(&output, 5, &format!("pid {}", ready.pid));
        refused(&output, 5, "session directory");
        assert_eq!(sandbox.throw_away_diffs(), before);
        assert!(before[0].join("meta.redb").exists());

        // The diff also stays while only its server is alive.
        common::sandbox::unmount_all(&clone.target);
        up_ends(&clone, &[]);
        assert!(before.iter().all(|diff| diff.exists()), "{before:?}");
        kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
        eventually("all its processes have exited", LIMIT, || {
            !is_alive(ready.pid) && ready.server_pid.is_none_or(|pid| !is_alive(pid))
        });
        clone.pbkfs("down", &[]).expect_ok();
        fs::remove_dir_all(&aside).unwrap();
    }
}

#[test]
fn a_killed_extraction_leaves_no_file() {
    common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", OsUser::root());
    let clone = sandbox.profile(&sandbox.fixture.newest()).write();
    let results = sandbox.path("results");
    fs::create_dir(&results).unwrap();
    let output = results.join("shop.sql");
    let precious = precious(&sandbox, "precious");
    symlink(&precious, results.join(".shop.sql.pbkfs-part")).unwrap();
    let arguments = ["-d", "shop", "-o", output.to_str().unwrap()];
    let mut command = clone.command("extract", &arguments);
    let extraction = Running::spawn(&mut command);
    eventually("the clone is being started", LIMIT, || {
        let job = clone.jobs().first().map(|job| job["server_pid"].is_u64());
        job == Some(true)
    });
    extraction.signal(Signal::SIGKILL);
    extraction.wait(LIMIT);
    assert_eq!(fs::read_dir(&results).unwrap().count(), 1);
    clone.pbkfs("extract", &arguments).expect_ok();
    assert!(fs::metadata(&output).unwrap().len() > 0);
    assert_eq!(fs::read_dir(&results).unwrap().count(), 2);
    assert_untouched(&sandbox, &precious);
}
