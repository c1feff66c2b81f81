//! What pbkfs tells users, and what it finds for them: clones of other users and of
//! changed profiles, what a kill has left, and how to get started.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::process::is_alive;
use common::sandbox::Profile;
use common::session::{LIMIT, sessions_in};
use common::{OsUser, Output, Sandbox, TestClone, assert_nothing_stays, eventually, refused, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `pbkfs` as a user other than the sandbox's.
fn as_user(user: &OsUser, clone: &TestClone, arguments: &[&str]) -> Output {
    let program = clone.command("status", &[]).get_program().to_owned();
    let mut command = user.command(program);
    run(command.args(arguments), LIMIT)
}

/// Starts the clone where root finds the sessions of its user.
fn up_in_the_usual_place(clone: &TestClone) {
    let mut up = clone.command("up", &["--detach"]);
    run(up.env_remove("XDG_RUNTIME_DIR"), LIMIT).expect_ok();
}

#[test]
fn others_are_told_that_there_is_a_clone() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    fs::set_permissions(sandbox.dir(), Permissions::from_mode(0o755)).unwrap();
    let clone = sandbox.profile("latest").mount_only().write();
    clone.up();
    let target = clone.target.to_str().unwrap();
    let postgres = OsUser::postgres();

    let all = as_user(&postgres, &clone, &["status"]).expect_ok();
    let line = format!("not shown: a clone of user root on {target}; run pbkfs status as root\n");
    assert!(!all.starts_with("nothing runs\n"), "{all}");
    assert!(all.contains(&line), "{all}");
    let one = as_user(&postgres, &clone, &["status", "--target", target]);
    assert_eq!(one.code(), Some(3), "{one}");
    assert!(one.stdout.contains("clone of user root"), "{one}");
    let json = as_user(&postgres, &clone, &["status", "-D", target, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["sessions"].as_array().unwrap().len(), 0);
    assert_eq!(json["hidden"][0]["user"], "root");
    assert_eq!(json["hidden"][0]["target"], target);

    let down = as_user(&postgres, &clone, &["down", "--target", target]);
    refused(&down, 5, "belongs to user root");
    assert!(clone.is_mounted());
    clone.down();
    assert_nothing_stays(&sandbox);
}

#[test]
fn root_sees_and_ends_the_clones_of_others() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = sandbox.profile("latest").write();
    let target = clone.target.to_str().unwrap();
    let root = OsUser::root();
    up_in_the_usual_place(&clone);
    let all = as_user(&root, &clone, &["status", "--json"]).expect_ok();
    let all = sessions_in(&all);
    let seen = all.iter().find(|session| session["target"] == target);
    let seen = seen.expect("the other user's clone");
    assert_eq!(seen["user"], "postgres");
    assert_eq!(seen["state"], "ready");
    as_user(&root, &clone, &["status", "-D", target]).expect_ok();
    let down = as_user(&root, &clone, &["down", "-D", target]).expect_ok();
    assert!(down.starts_with(&format!("down {target}")), "{down}");
    assert!(!clone.is_mounted());

    // If root cannot find the session, it says which user can.
    clone.up();
    let down = as_user(&root, &clone, &["down", "-D", target]);
    refused(&down, 5, "end it as that user: pbkfs down --target");
    let status = as_user(&root, &clone, &["status"]).expect_ok();
    assert!(
        status.contains("run pbkfs status as postgres\n"),
        "{status}"
    );
    clone.down();
    assert_nothing_stays(&sandbox);
}

/// What root reads about another user was written by that user: it must not end a
/// process of root's or of a third user's.
#[test]
fn root_ends_no_process_that_another_user_names() {
    common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let clone = sandbox.profile("latest").mount_only().write();
    let target = clone.target.to_str().unwrap();
    up_in_the_usual_place(&clone);
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let session = as_user(&OsUser::root(), &clone, &["status", "-D", target, "--json"]);
    let run_dir = sessions_in(&session.expect_ok())[0]["run_dir"].clone();
    let state = Path::new(run_dir.as_str().unwrap()).join("session.json");
    let text = fs::read_to_string(&state).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&text).unwrap();
    forged["pid"] = sleeper.id().into();
    fs::write(&state, forged.to_string()).unwrap();
    let down = as_user(&OsUser::root(), &clone, &["down", "-D", target]);
    refused(&down, 3, "signal the owner");
    assert!(sleeper.try_wait().unwrap().is_none(), "it was ended");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    fs::write(&state, text).unwrap();
    let mut end = clone.command("down", &[]);
    run(end.env_remove("XDG_RUNTIME_DIR"), LIMIT).expect_ok();
}

#[test]
fn a_clone_is_found_by_a_profile_that_was_changed_or_lost() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let target = clone.target.to_str().unwrap();
    let text = fs::read_to_string(&clone.profile).unwrap();
    let elsewhere = text.replace(target, sandbox.path("elsewhere").to_str().unwrap());
    assert_ne!(text, elsewhere);
    for changed in [Some(elsewhere.as_str()), Some("= no profile"), None] {
        clone.up();
        match changed {
            Some(text) => fs::write(&clone.profile, text).unwrap(),
            None => fs::remove_file(&clone.profile).unwrap(),
        }
        let status = clone.pbkfs("status", &[]);
        assert!(status.stderr.contains(target), "{status}");
        assert!(status.expect_ok().starts_with("ready "));
        let down = clone.pbkfs("down", &[]);
        assert!(down.stderr.contains("was started with it"), "{down}");
        assert!(down.expect_ok().starts_with(&format!("down {target}")));
        fs::write(&clone.profile, &text).unwrap();
        assert_nothing_stays(&sandbox);
    }
    // If no clone was started with a profile, the profile's own error is reported.
    fs::remove_file(&clone.profile).unwrap();
    refused(&clone.pbkfs("down", &[]), 2, "profile");
    fs::write(&clone.profile, &text).unwrap();
}

#[test]
fn a_target_is_enough_for_down_and_status() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").mount_only().write();
    let target = clone.target.to_str().unwrap();
    let root = |arguments: &[&str]| run(sandbox.pbkfs().args(arguments), LIMIT);
    assert_eq!(root(&["status", "-D", target]).code(), Some(3));
    let owner = clone.up().pid;
    assert!(
        root(&["status", "-D", target])
            .expect_ok()
            .starts_with("ready ")
    );
    clone.pbkfs("status", &[]).expect_ok();
    kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
    eventually("the owner has exited", LIMIT, || !is_alive(owner));
    let dead = clone.pbkfs("status", &[]);
    assert_eq!(dead.code(), Some(3), "{dead}");
    assert!(dead.stdout.starts_with("dead "), "{dead}");
    root(&["down", "--target", target]).expect_ok();
    assert_nothing_stays(&sandbox);
}

fn lock_files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let backups = fs::read_dir(sandbox.fixture.catalog.join("backups/main")).unwrap();
    let backups = backups.flatten().map(|backup| backup.path());
    let files = backups.flat_map(|dir| [dir.join("backup_ro.pid"), dir.join("backup.pid")]);
    files.filter(|file| file.exists()).collect()
}

fn kill_holder(clone: &TestClone) {
    let holder = clone.status()[0]["locks"]["holder_pid"].as_i64().unwrap();
    kill(Pid::from_raw(holder.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

fn profile(sandbox: &Sandbox) -> Profile<'_> {
    sandbox.profile("latest").mount_only()
}

#[test]
fn the_locks_of_a_killed_holder_are_cleared() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-chain", user);
        let clone = profile(&sandbox).write();
        // Cleared by the session's owner.
        clone.up();
        let locked = lock_files(&sandbox);
        assert!(!locked.is_empty());
        kill_holder(&clone);
        assert_eq!(
            lock_files(&sandbox),
            locked,
            "a killed holder releases nothing"
        );
        clone.down();
        assert_nothing_stays(&sandbox);

        // Also cleared by the process that finishes the work of a killed owner. Other
        // lines stay: here, that of a live process.
        let owner = clone.up().pid;
        let other = format!("{}\n", std::process::id());
        let text = fs::read_to_string(&locked[0]).unwrap();
        fs::write(&locked[0], format!("{text}{other}")).unwrap();
        kill_holder(&clone);
        kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
        eventually("the owner has exited", LIMIT, || !is_alive(owner));
        clone.down();
        assert_eq!(lock_files(&sandbox), &locked[..1]);
        assert_eq!(fs::read_to_string(&locked[0]).unwrap(), other);
        fs::remove_file(&locked[0]).unwrap();
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn up_alone_says_how_to_begin() {
    common::require_root();
    let sandbox = Sandbox::root("pg15-debian");
    for arguments in [&["up"][..], &["up", "--detach"]] {
        let output = run(sandbox.pbkfs().args(arguments), LIMIT);
        assert_eq!(output.code(), Some(2), "{output}");
        for word in ["target = ", "pbkfs list -B", "man pbkfs.toml"] {
            assert!(output.stderr.contains(word), "{output}");
        }
        assert!(
            output.stderr.lines().all(|line| line.len() <= 80),
            "{output}"
        );
    }
    let output = run(sandbox.pbkfs().arg("down"), LIMIT);
    refused(&output, 2, "pbkfs down --target DIR");
}

#[test]
fn lines_on_standard_error_are_short() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = profile(&sandbox).write();
    let up = clone.pbkfs("up", &["--detach", "-v"]);
    assert!(up.stderr.contains(" DEBUG "), "{up}");
    assert!(!up.stderr.contains("command="), "{up}");
    clone.down();
}

/// Root in a container has few capabilities, and fusermount3 gets no more.
#[test]
fn a_container_is_told_what_it_needs() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = profile(&sandbox).write();
        let mut up = clone.command("mount", &[]);
        let drop_it = move || {
            use nix::libc::{PR_CAPBSET_DROP, prctl};
            const SYS_ADMIN: nix::libc::c_ulong = 21;
            // SAFETY: the call takes numbers only.
            match unsafe { prctl(PR_CAPBSET_DROP, SYS_ADMIN, 0, 0, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // When this runs, the process has not switched to the unprivileged user yet.
        let (uid, gid) = (sandbox.user.uid, sandbox.user.gid);
        up.uid(0).gid(0);
        // SAFETY: only system calls, between fork and exec.
        unsafe {
            up.pre_exec(move || {
                drop_it()?;
                nix::unistd::setgid(nix::unistd::Gid::from_raw(gid))?;
                Ok(nix::unistd::setuid(nix::unistd::Uid::from_raw(uid))?)
            });
        }
        let output = run(&mut up, LIMIT);
        assert_eq!(output.code(), Some(6), "{output}");
        assert!(
            output
                .stderr
                .contains("--cap-add SYS_ADMIN --device /dev/fuse"),
            "{output}"
        );
        assert_nothing_stays(&sandbox);
    }
}

#[test]
fn pg_basebackup_copies_a_clone() {
    let pg = common::require_everything();
    let sandbox = Sandbox::new("pg15-debian", OsUser::postgres());
    let newest = sandbox.fixture.newest();
    let clone = sandbox.profile(&newest).write();
    let ready = clone.up();
    pg.psql(
        ready.conninfo(),
        "postgres",
        "create table copied as select 42 as answer",
    );
    for method in ["stream", "fetch"] {
        let copy = sandbox.path(method);
        let copy = copy.to_str().unwrap();
        let arguments = ["-d", ready.conninfo(), "-D", copy, "-X", method];
        pg.run("pg_basebackup", &arguments).expect_ok();
        // Debian's configuration files are elsewhere.
        for (name, text) in [
            ("postgresql.conf", ""),
            ("pg_hba.conf", "local all all peer\n"),
            ("pg_ident.conf", ""),
        ] {
            let file = Path::new(copy).join(name);
            if !file.exists() {
                fs::write(&file, text).unwrap();
                sandbox.user.own(&file);
            }
        }
        let socket_dir = sandbox.path(&format!("{method}.server"));
        fs::create_dir(&socket_dir).unwrap();
        sandbox.user.own(&socket_dir);
        let server = pg.start_on(Path::new(copy), &socket_dir);
        let answer = pg.try_psql(&server.conninfo, "postgres", "select answer from copied");
        drop(server);
        assert_eq!(answer.expect_ok().trim(), "42");
    }
    let log = fs::read_to_string(
        clone.status()[0]["run_dir"].as_str().unwrap().to_owned() + "/server.log",
    );
    let log = log.unwrap();
    assert!(!log.contains("external PID file"), "{log}");
    clone.down();
    assert_nothing_stays(&sandbox);
}
