//! A clone with a low limit of open files: it works, reports the limit once, and its
//! server may open as many files as pbkfs was allowed to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use common::session::LIMIT;
use common::{Sandbox, run};

/// Returns the command, with these soft and hard limits of open files.
fn limited(command: &Command, limits: &str) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={limits}"));
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    limited
}

#[test]
fn a_clone_and_its_server_live_with_few_open_files() {
    const FILES: u64 = 600;
    let tools = common::require_everything();
    let sandbox = Sandbox::root("pg15-chain");
    let clone = sandbox.profile("latest").write();
    let up = clone.command("up", &["--detach", "--json"]);
    let output = run(&mut limited(&up, "200:256"), LIMIT);
    assert!(output.status.success(), "{output}");
    let ready: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let said = &output.stderr;
    assert_eq!(
        said.matches("at most 256 files may be open").count(),
        1,
        "{said}"
    );
    assert!(said.contains("1024 or more"), "{said}");
    assert!(!said.contains("ERROR"), "{said}");

    let server = ready["server_pid"].as_i64().unwrap();
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = limit.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["200", "256"]);

    // More files in use at once than pbkfs has descriptors: the clone's own files,
    // and the backup's, every table of which is read.
    common::syscalls::raise_file_limit(FILES + 200);
    let dir = clone.target.join("many");
    fs::create_dir(&dir).unwrap();
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let own: Vec<File> = (0..FILES)
        .map(|i| options.open(dir.join(i.to_string())).unwrap())
        .collect();
    for (i, file) in (0..).zip(&own) {
        file.write_all_at(&u64::to_le_bytes(i), 0).unwrap();
        if i % 50 == 0 {
            file.sync_data().unwrap();
        }
    }
    tools.amcheck(ready["conninfo"].as_str().unwrap());
    for (i, file) in (0..).zip(&own) {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), i);
    }
    drop(own);
    clone.down();
}
