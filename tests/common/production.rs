//! The production server that the configuration in pg15-hazards was written for, at
//! the paths it names.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::postgres::{LIMIT, PgTools};
use super::process::{OsUser, eventually, run};
use super::sandbox::Sandbox;
use super::tree::Listing;

/// There is only one such path, so only one production server at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Its directory.
pub const HOME: &str = "/srv/fixture/pg15-hazards";
/// Its tablespace, `ts_fast`.
pub const TABLESPACE_OID: &str = "16384";

/// The live server; stopped and removed when dropped.
pub struct Production<'a> {
    pg: &'a PgTools,
    pub conninfo: String,
    pub port: u16,
    /// The part of the path that the test had to create, and therefore removes.
    made: PathBuf,
    _one: MutexGuard<'static, ()>,
}

impl<'a> Production<'a> {
    /// Builds the live cluster from a mounted backup, and starts it.
    pub fn start(pg: &'a PgTools, sandbox: &Sandbox, backup: &str) -> Production<'a> {
        Production::archiving(
            pg,
            sandbox,
            backup,
            "cp %p /srv/fixture/pg15-hazards/canary/%f",
        )
    }

    /// The same, with another archive command.
    pub fn archiving(
        pg: &'a PgTools,
        sandbox: &Sandbox,
        backup: &str,
        archive_command: &str,
    ) -> Production<'a> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let home = Path::new(HOME);
        // Another test program may be about to remove its own.
        eventually(
            &format!("{HOME}, which this test would use and remove, is free"),
            LIMIT,
            || !home.exists(),
        );
        let made = home
            .ancestors()
            .take_while(|path| !path.exists())
            .last()
            .unwrap()
            .to_owned();
        fs::create_dir_all(home).unwrap();
        let port = free_port();
        let production = Production {
            pg,
            conninfo: format!("host={HOME}/sock port={port} user=postgres"),
            port,
            made,
            _one: one,
        };

        copy_cluster(sandbox, backup, home);
        for name in ["canary", "log", "sock"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        shell(&format!(
            "chown -R postgres: {HOME} && chmod -R u=rwX,go= {HOME}/data {HOME}/ts_fast"
        ));
        // Everything that would make an idle production write is off, and the port is
        // a free one; all else is as its own configuration says.
        let options = format!(
            "-c port={port} -c listen_addresses=127.0.0.1 -c autovacuum=off -c archive_timeout=0 \
             -c log_checkpoints=off -c max_logical_replication_workers=0 \
             -c 'archive_command={archive_command}'"
        );
        let data = format!("{HOME}/data");
        let log = format!("{HOME}/start.log");
        pg.run(
            "pg_ctl",
            &["start", "--wait", "-D", &data, "-l", &log, "-o", &options],
        )
        .expect_ok();
        production
    }

    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.pg.psql(&self.conninfo, "postgres", sql)
    }

    /// Lists what must not change, once production has become idle.
    pub fn at_rest(&self, names: &[&str]) -> Vec<(PathBuf, Listing)> {
        self.psql("checkpoint");
        let take = || -> Vec<_> {
            let list = |name: &&str| {
                let path = Path::new(HOME).join(name);
                let listing = Listing::of(&path);
                (path, listing)
            };
            names.iter().map(list).collect()
        };
        let deadline = Instant::now() + LIMIT;
        let mut last = take();
        loop {
            thread::sleep(Duration::from_secs(2));
            let now = take();
            if now == last {
                return now;
            }
            assert!(Instant::now() < deadline, "production does not become idle");
            last = now;
        }
    }
}

impl Drop for Production<'_> {
    fn drop(&mut self) {
        let data = format!("{HOME}/data");
        let mut stop = self.pg.command("pg_ctl");
        let _ = stop
            .args(["stop", "--mode=immediate", "--wait", "-D", &data])
            .output();
        let _ = fs::remove_dir_all(&self.made);
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub fn shell(script: &str) {
    let root = OsUser::root();
    run(root.command("sh").args(["-ec", script]), LIMIT).expect_ok();
}

/// Copies the backup's files from a mount to the cluster's original path, with the
/// tablespace back at its own location.
fn copy_cluster(sandbox: &Sandbox, backup: &str, home: &Path) {
    let source = sandbox
        .profile_named("source", backup)
        .throw_away()
        .mount_only()
        .write();
    source.up();
    let (target, home) = (source.target.display(), home.display());
    // Root cannot enter an unprivileged user's mount.
    sandbox.user.own(Path::new(HOME));
    let copy = format!(
        "cp -a {target} {home}/data
         rm -rf {home}/data/.pbkfs {home}/data/pg_tblspc/{TABLESPACE_OID}
         cp -aL {target}/pg_tblspc/{TABLESPACE_OID} {home}/ts_fast"
    );
    run(sandbox.user.command("sh").args(["-ec", &copy]), LIMIT).expect_ok();
    OsUser::root().own(Path::new(HOME));
    source.down();
    symlink(
        Path::new(HOME).join("ts_fast"),
        Path::new(HOME).join("data/pg_tblspc").join(TABLESPACE_OID),
    )
    .unwrap();
}
