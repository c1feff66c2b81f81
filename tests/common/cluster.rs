//! A test's own clusters, from which `examples/make-catalog` creates catalogs.

use std::fs;
use std::path::PathBuf;

use super::postgres::PgTools;
use super::sandbox::Sandbox;

/// A cluster with checksums, and a directory for a tablespace next to it.
pub struct Cluster<'a> {
    pg: &'a PgTools,
    sandbox: &'a Sandbox,
    pub data: PathBuf,
}

impl<'a> Cluster<'a> {
    /// Creates a cluster with these additional options of initdb.
    pub fn new(pg: &'a PgTools, sandbox: &'a Sandbox, options: &[&str]) -> Self {
        let home = sandbox.path("cluster");
        for dir in [home.clone(), home.join("space"), home.join("socket")] {
            fs::create_dir(&dir).unwrap();
            pg.user.own(&dir);
        }
        let data = home.join("data");
        let usual = [
            "--data-checksums",
            "--no-sync",
            "--auth=trust",
            "-D",
            data.to_str().unwrap(),
        ];
        pg.run("initdb", &[&usual, options].concat()).expect_ok();
        Self { pg, sandbox, data }
    }

    pub fn conninfo(&self) -> String {
        format!(
            "host={} port=5432",
            self.sandbox.path("cluster/socket").display()
        )
    }

    /// Starts the server, runs `work`, and stops the server.
    pub fn while_up(&self, work: impl FnOnce(&str)) {
        let data = self.data.to_str().unwrap();
        let socket = self.sandbox.path("cluster/socket");
        let options = format!("-c fsync=off -h '' -k {}", socket.display());
        let log = self.sandbox.path("cluster/log");
        let log = log.to_str().unwrap();
        self.pg
            .run(
                "pg_ctl",
                &["start", "-w", "-D", data, "-l", log, "-o", &options],
            )
            .expect_ok();
        work(&self.conninfo());
        self.pg
            .run("pg_ctl", &["stop", "-w", "-m", "fast", "-D", data])
            .expect_ok();
    }
}
