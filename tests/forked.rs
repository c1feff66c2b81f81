//! Processes started by a program that runs against a clone end with it, and with
//! pbkfs, however they were detached from their parent.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use common::process::processes_in;
use common::{OsUser, Output, Running, Sandbox, TestClone, assert_nothing_stays, eventually, run};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(120);

/// Ways for a process to escape the one that started it: its own session, a parent
/// that has exited, ignored termination signals.
const WAYS: [&str; 4] = [
    "SLEEP &",
    "setsid SLEEP &",
    "(setsid sh -c 'nohup SLEEP >/dev/null 2>&1 & exit' &)",
    "(trap '' TERM HUP INT QUIT; setsid --fork sh -c 'SLEEP; true')",
];

/// A clone with a check that starts these and then runs the given command.
struct Case {
    sandbox: Sandbox,
}

impl Case {
    fn new(user: OsUser) -> Case {
        common::require_everything();
        let sandbox = Sandbox::new("pg15-chain", user);
        // The command needs to create its marker there.
        fs::set_permissions(sandbox.dir(), Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/sleep", sandbox.path("sleeper")).unwrap();
        Case { sandbox }
    }

    fn clone(&self, then: &str) -> TestClone<'_> {
        let clone = self.sandbox.profile("TOW7KQ").write();
        let sleep = format!("{} 600", self.sandbox.path("sleeper").display());
        let start = WAYS.map(|way| way.replace("SLEEP", &sleep));
        let mut file = File::options().append(true).open(&clone.profile).unwrap();
        writeln!(
            file,
            "[[verify.command]]\nname = \"forks\"\ntimeout = 8\nrun = '''\n{}\n\
             sleep 0.5\ntouch {}\n{then}\n'''",
            start.join("\n"),
            self.seen().display()
        )
        .unwrap();
        clone
    }

    fn seen(&self) -> std::path::PathBuf {
        self.sandbox.path("seen")
    }

    fn sleepers(&self) -> usize {
        let sleeper = self.sandbox.path("sleeper");
        let found = processes_in(&sleeper);
        let is_one = |(_, line): &&(i32, String)| line.starts_with(sleeper.to_str().unwrap());
        found.iter().filter(is_one).count()
    }

    fn verify(&self, clone: &TestClone<'_>) -> Running {
        let state = format!("verify.state_dir={}", self.sandbox.path("state").display());
        Running::spawn(
            &mut clone.command("verify", &["--set", &state, "--set", "verify.pages=false"]),
        )
    }

    /// Waits until the check and everything it has started are running.
    fn wait(&self) {
        eventually("the command has started them", LIMIT, || {
            self.seen().exists()
        });
        assert_eq!(self.sleepers(), WAYS.len());
    }

    #[track_caller]
    fn is_cleared(&self) {
        // After the owner was killed, this takes a moment.
        eventually("nothing of it is left", Duration::from_secs(5), || {
            self.sleepers() == 0
        });
    }
}

fn ends(user: OsUser, then: &str, code: i32) -> Output {
    let case = Case::new(user);
    let clone = case.clone(then);
    let running = case.verify(&clone);
    case.wait();
    let output = running.wait(LIMIT);
    assert_eq!(output.code(), Some(code), "{output}");
    // Immediately, because the job waits for that.
    assert_eq!(case.sleepers(), 0, "{output}");
    assert_nothing_stays(&case.sandbox);
    output
}

fn survives_no_kill(user: OsUser) {
    let case = Case::new(user);
    let clone = case.clone("sleep 600");
    let running = case.verify(&clone);
    case.wait();
    running.signal(Signal::SIGKILL);
    case.is_cleared();
    let _ = running.wait_or_kill(LIMIT);
    let plain = case.sandbox.profile("TOW7KQ").write();
    run(&mut plain.command("verify", &["--pages"]), LIMIT).expect_ok();
    assert_nothing_stays(&case.sandbox);
}

#[test]
fn nothing_of_a_check_survives_a_kill_of_roots_pbkfs() {
    survives_no_kill(OsUser::root());
}

#[test]
fn nothing_of_a_check_survives_a_kill_of_an_ordinary_users_pbkfs() {
    survives_no_kill(OsUser::postgres());
}

#[test]
fn a_check_that_ends_leaves_nothing() {
    ends(OsUser::root(), "sleep 1; exit 0", 0);
    ends(OsUser::postgres(), "sleep 1; exit 5", 1);
}

#[test]
fn a_check_whose_time_is_up_leaves_nothing() {
    ends(OsUser::root(), "sleep 600", 3);
    // The same goes for a check that ignores signals.
    ends(OsUser::postgres(), "trap '' TERM; sleep 600", 3);
}

/// pbkfs can be killed between the start of a program and the moment in which it is told of
/// it. A script that starts pbkfs in the background makes it ignore the kernel's signal.
#[test]
fn a_program_whose_owner_is_gone_before_it_is_told_is_ended() {
    common::require_everything();
    let case = Case::new(OsUser::root());
    let (theirs, ours) = UnixStream::pair().unwrap();
    drop(theirs);
    let line = format!(
        "trap '' QUIT; exec {} keep -- {} 60",
        env!("CARGO_BIN_EXE_pbkfs"),
        case.sandbox.path("sleeper").display()
    );
    // Not a pipe, of which the program would have the other end, too.
    let said = case.sandbox.path("said");
    Command::new("sh")
        .args(["-c", &line])
        .stdin(OwnedFd::from(ours))
        .stderr(File::create(&said).unwrap())
        .status()
        .unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.contains("Broken pipe"), "{said}");
    assert_eq!(case.sleepers(), 0);
}
