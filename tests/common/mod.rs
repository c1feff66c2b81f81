//! Shared code of the integration tests: sandboxes with a real catalog, the `pbkfs`
//! binary, real PostgreSQL programs, and ways to compare trees.
//!
//! Nothing is ever skipped: if the machine lacks something, [`require_root`] and its
//! siblings fail the test with one sentence that says what to do.

// Each test binary uses a different part of this module. A test's helper reports by
// panicking.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod cluster;
pub mod fixture;
pub mod postgres;
pub mod process;
pub mod production;
pub mod recovery;
pub mod s3;
pub mod sandbox;
pub mod session;
pub mod syscalls;
pub mod tmpfs;
pub mod tree;

pub use fixture::{FIXTURES, Fixture};
pub use postgres::{PgTools, PlainServer};
pub use process::{OsUser, Output, Running, eventually, run};
pub use sandbox::Sandbox;
pub use session::{Ready, TestClone, assert_nothing_stays, refused};
pub use tree::{Listing, Manifest};

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Fails unless the tests run as root, who can mount and change users.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts and runs programs as other users: run it as root, with tests/run.sh"
    );
}

/// Fails unless FUSE works here, for root and for other users.
pub fn require_fuse() {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    assert!(
        opened.is_ok(),
        "this test needs /dev/fuse, and it cannot be opened: {}",
        opened.unwrap_err()
    );
    let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
    assert!(
        mode & 0o006 == 0o006,
        "this test mounts as user postgres, who cannot use /dev/fuse: run chmod 666 /dev/fuse"
    );
    assert!(
        which::which("fusermount3").is_ok(),
        "this test needs fusermount3: install the package fuse3"
    );
}

/// Returns the path of promtool, which tests/run.sh fetches; fails if it is missing.
pub fn require_promtool() -> PathBuf {
    let fetched = Path::new("/var/cache/pbkfs-tests/prometheus/usr/bin/promtool");
    let found = which::which("promtool").ok();
    let found = found.or_else(|| Some(fetched.to_owned()).filter(|path| path.exists()));
    found.expect("this test needs promtool: tests/run.sh fetches it")
}

/// Fails unless PostgreSQL 15's programs and the user `postgres` exist.
pub fn require_postgres() -> PgTools {
    PgTools::find("15").expect(
        "this test starts PostgreSQL 15, which was not found: install the package postgresql-15",
    )
}

/// Fails unless the server of another major version is installed. Returns the
/// directory of its programs.
pub fn require_server(major: &str) -> std::path::PathBuf {
    let dir = PgTools::server_dir(major);
    assert!(
        dir.join("postgres").exists(),
        "this test starts PostgreSQL {major}, which is not in {}: tests/run.sh installs it there",
        dir.display()
    );
    dir
}

/// Requires all three, for tests that run a complete clone.
pub fn require_everything() -> PgTools {
    require_root();
    require_fuse();
    require_postgres()
}
