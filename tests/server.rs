//! A real PostgreSQL in the fence: started, refused, stopped, orphaned.
//!
//! Needs PostgreSQL 15, or the version that `PG_MAJOR` and `PG_BIN_DIR` name. If run
//! as root, the servers run as the user `postgres`; if run as another user, they run
//! as that user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pbkfs::internals::server::conf::Host;
use pbkfs::internals::server::settings::{port, preload};
use pbkfs::internals::server::{
    Binaries, Conf, ConfigFiles, FilesInput, Goal, Limits, OsUser, Server, ServerConfig,
    ServerError, SettingsInput, StopMode, settings,
};
use postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the installation to test, and the user that its servers run as.
fn surroundings() -> (Binaries, Option<OsUser>) {
    let major = env::var("PG_MAJOR").map_or(15, |major| major.parse().expect("PG_MAJOR"));
    let bin_dir = env::var_os("PG_BIN_DIR").map(PathBuf::from);
    let binaries = Binaries::find(major, bin_dir.as_deref()).expect("PostgreSQL is needed");
    (
        binaries,
        OsUser::for_server("postgres").expect("the user postgres is needed"),
    )
}

/// Waits until a server has answered a query.
fn wait_ready(
    server: &mut Server,
    timeout: Duration,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), ServerError> {
    server
        .wait_for(Goal::Answer, timeout, interrupted, &mut |_| ())
        .map(drop)
}

/// Makes the user that the server runs as the owner of a directory.
fn hand_over(path: &Path, run_as: Option<&OsUser>) {
    if let Some(user) = run_as {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// A new cluster in a temporary directory, with everything that a server needs.
struct Cluster {
    dir: tempfile::TempDir,
    binaries: Binaries,
    run_as: Option<OsUser>,
}

impl Cluster {
    fn new() -> Self {
        Self::with_initdb(&[])
    }

    fn with_initdb(options: &[&str]) -> Self {
        let (binaries, run_as) = surroundings();
        let dir = tempfile::tempdir().unwrap();
        hand_over(dir.path(), run_as.as_ref());
        let cluster = Self {
            dir,
            binaries,
            run_as,
        };
        let mut initdb = Command::new(cluster.binaries.dir.join("initdb"));
        if let Some(user) = &cluster.run_as {
            initdb.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let output = initdb
            .args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
            .arg(cluster.data())
            .args(options)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        cluster
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn configure(&self, text: &str) {
        let path = self.data().join("postgresql.conf");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{old}\n{text}\n")).unwrap();
    }

    /// Does everything that a session does between mounting a data directory and
    /// starting the server.
    fn config(&self, role: &str, user: &[(&str, &str)]) -> ServerConfig {
        config_for(
            self.dir.path(),
            &self.binaries,
            self.run_as.as_ref(),
            role,
            user,
        )
    }

    fn start(&self, role: &str, user: &[(&str, &str)]) -> Server {
        Server::start(self.config(role, user)).unwrap()
    }
}

fn config_for(
    run_dir: &Path,
    binaries: &Binaries,
    run_as: Option<&OsUser>,
    role: &str,
    user: &[(&str, &str)],
) -> ServerConfig {
    let data_directory = run_dir.join("data");
    let user: BTreeMap<String, String> = user
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let conf = Conf::read_from(&Host::default(), &data_directory).unwrap();
    // The session's directory does not belong to its server.
    let session_dir = run_dir.join("session");
    fs::create_dir_all(&session_dir).unwrap();
    let files = ConfigFiles::write(&FilesInput {
        run_dir: &session_dir,
        conf: &conf,
        major: binaries.major,
        role,
        listens: user.contains_key("listen_addresses"),
        run_as,
    })
    .unwrap();
    let pkglibdir = binaries.pkglibdir().expect("$libdir is found");
    let lists = preload::filter(&conf, &pkglibdir, None).expect("the libraries can be checked");
    let port = port::choose(None, run_dir, "", &[]).unwrap();
    let settings = settings::all(&SettingsInput {
        major: binaries.major,
        data_directory: &data_directory,
        files: &files,
        socket_dir: run_dir,
        port,
        name: "test",
        restore_command: None,
        recovery_target: &[],
        limits: &[],
        preload: &lists,
        passthrough: false,
        throw_away: false,
        user: &user,
        allow: &[],
    })
    .unwrap();
    ServerConfig {
        binaries: binaries.clone(),
        data_directory,
        settings,
        log_file: run_dir.join("log"),
        wal_dir: None,
        socket_dir: run_dir.to_owned(),
        port,
        role: role.to_owned(),
        run_as: run_as.cloned(),
        enclosure: None,
        limits: Limits::default(),
        hold: None,
    }
}

fn never() -> bool {
    false
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn soon(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_forced_setting_is_in_force_whatever_the_backup_says() {
    let cluster = Cluster::new();
    let outside = cluster.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    hand_over(&outside, cluster.run_as.as_ref());
    cluster.configure(&format!(
        "data_directory = '/nonexistent'\nhba_file = '/nonexistent/hba'\nport = 1\n\
         archive_mode = on\narchive_command = 'cp %p {out}/'\nrestore_command = 'touch {out}/r'\n\
         archive_cleanup_command = 'touch {out}/c'\nrecovery_end_command = 'touch {out}/e'\n\
         recovery_target_name = 'stale'\nrecovery_target_xid = '5'\n\
         primary_conninfo = 'host=production'\nsynchronous_standby_names = '*'\n\
         external_pid_file = '{out}/pid'\nlogging_collector = on\nlog_directory = '{out}'\n\
         unix_socket_directories = '{out}'\nlisten_addresses = '*'\nssl = on\n\
         shared_buffers = '1000GB'\ncluster_name = 'production'\n\
         shared_preload_libraries = 'auto_explain, not_installed'\n\
         session_preload_libraries = 'not_installed'",
        out = outside.display()
    ));
    let mut server = cluster.start("postgres", &[("work_mem", "7MB"), ("cron.host", "it's")]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();

    let mut client = server.client_config().connect(NoTls).unwrap();
    for setting in &server.config().settings {
        let row = client
            .query_one("select current_setting($1)", &[&setting.name])
            .unwrap();
        // SHOW displays this setting differently while archive_mode is off.
        let shown = row.get::<_, String>(0).replace("(disabled)", "");
        assert_eq!(shown, setting.value, "{}", setting.name);
    }
    let show = |client: &mut postgres::Client, name: &str| -> String {
        client
            .query_one("select current_setting($1)", &[&name])
            .unwrap()
            .get(0)
    };
    assert_eq!(show(&mut client, "work_mem"), "7MB");
    let installed = cluster
        .binaries
        .pkglibdir()
        .unwrap()
        .join("auto_explain.so")
        .exists();
    let expected = if installed { "auto_explain" } else { "" };
    assert_eq!(show(&mut client, "shared_preload_libraries"), expected);

    // ALTER SYSTEM and a reload do not lift the fence.
    client
        .batch_execute("alter system set archive_command = 'true'")
        .unwrap();
    client
        .batch_execute("select pg_reload_conf(), pg_sleep(0.3)")
        .unwrap();
    assert_eq!(show(&mut client, "archive_command"), "(disabled)");
    client
        .batch_execute("checkpoint; select pg_switch_wal()")
        .unwrap();
    drop(client);

    let stopped = server.stop(StopMode::Fast, PATIENCE, &never).unwrap();
    assert!(stopped.is_clean(), "{stopped:?}");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "the clone wrote outside"
    );
}

#[test]
fn a_server_that_is_not_fenced_off_is_stopped() {
    let cluster = Cluster::new();
    cluster.configure("archive_mode = on\narchive_command = 'true'");
    let mut config = cluster.config("postgres", &[]);
    config
        .settings
        .retain(|setting| setting.name != "archive_mode");
    let mut server = Server::start(config).unwrap();
    let error = wait_ready(&mut server, PATIENCE, &never).unwrap_err();
    let ServerError::NotFenced { name, found, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((*name, found.as_str()), ("archive_mode", "on"));
    assert!(
        server.try_wait().unwrap().is_some(),
        "it must not keep running"
    );
}

#[test]
fn a_cluster_without_configuration_files_starts_too() {
    let cluster = Cluster::new();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::remove_file(cluster.data().join(name)).unwrap();
    }
    let mut server = cluster.start("postgres", &[]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();
    let config = server.config();
    let socket = format!(".s.PGSQL.{}", config.port);
    assert!(config.socket_dir.join(socket).exists());
    let user = cluster
        .run_as
        .clone()
        .unwrap_or_else(|| OsUser::current().unwrap());
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(
        status.contains(&format!("Uid:\t{0}\t{0}", user.uid)),
        "{status}"
    );
    assert!(!cluster.data().join("postgresql.conf").exists());
    let pid = server.pid();
    drop(server);
    assert!(!is_alive(pid), "dropping the server ends it");
}

#[test]
fn another_superuser_is_let_in_by_the_map() {
    let cluster = Cluster::with_initdb(&["-U", "the boss"]);
    let mut server = cluster.start("the boss", &[]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();
    let conninfo = server.conninfo();
    assert!(
        conninfo.contains("user='the boss' dbname=postgres"),
        "{conninfo}"
    );
    conninfo
        .parse::<postgres::Config>()
        .unwrap()
        .connect(NoTls)
        .unwrap();
    drop(server);

    let mut wrong = cluster.start("postgres", &[]);
    let error = wait_ready(&mut wrong, PATIENCE, &never).unwrap_err();
    assert!(matches!(error, ServerError::Refused { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("role \"postgres\" does not exist"),
        "{error}"
    );
}

#[test]
fn a_failed_start_shows_the_log() {
    let cluster = Cluster::new();
    let mut server = cluster.start("postgres", &[("work_mem", "a lot")]);
    let error = wait_ready(&mut server, PATIENCE, &never).unwrap_err();
    assert!(matches!(error, ServerError::Died { .. }), "{error}");
    let log = error.log().unwrap().to_string();
    assert!(log.contains("work_mem"), "{log}");
}

#[test]
fn waiting_ends_on_interruption_and_at_its_deadline() {
    let cluster = Cluster::new();
    let mut server = cluster.start("postgres", &[]);
    let error = wait_ready(&mut server, PATIENCE, &|| true).unwrap_err();
    assert!(matches!(error, ServerError::Interrupted), "{error}");
    let error = wait_ready(&mut server, Duration::ZERO, &never).unwrap_err();
    assert!(matches!(error, ServerError::NotReady { .. }), "{error}");
    wait_ready(&mut server, PATIENCE, &never).unwrap();
}

#[test]
fn a_stop_gets_harsher_when_patience_ends() {
    let cluster = Cluster::new();
    let mut server = cluster.start("postgres", &[]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();
    let _session = server.client_config().connect(NoTls).unwrap();
    let stopped = server.stop(StopMode::Fast, PATIENCE, &|| true).unwrap();
    assert_eq!(stopped.mode, StopMode::Immediate);
    assert!(!stopped.is_clean());

    let mut server = cluster.start("postgres", &[]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();
    // A stopped server (SIGSTOP) reacts only to SIGKILL.
    let postmaster = i32::try_from(server.pid()).unwrap();
    kill(Pid::from_raw(postmaster), Signal::SIGSTOP).unwrap();
    let stopped = server
        .stop(StopMode::Fast, Duration::from_secs(1), &never)
        .unwrap();
    assert_eq!(stopped.mode, StopMode::Kill);
    assert_eq!(server.try_wait().unwrap(), Some(stopped.status));
}

/// Set for the process to be killed: the directory of its cluster.
const OWNED: &str = "OWNED_CLUSTER";

/// This test runs itself a second time as the owner that is killed.
#[test]
fn the_server_goes_with_its_killed_owner() {
    if let Some(dir) = env::var_os(OWNED) {
        own_a_server(Path::new(&dir));
    }
    let cluster = Cluster::new();
    fs::set_permissions(cluster.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut owner = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "the_server_goes_with_its_killed_owner",
            "--nocapture",
        ])
        .env(OWNED, cluster.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let postmaster: u32 = output
        .lines()
        .find_map(|line| {
            line.unwrap()
                .split_once("postmaster=")?
                .1
                .trim()
                .parse()
                .ok()
        })
        .expect("the owner started a server");
    assert!(is_alive(postmaster));
    owner.kill().unwrap();
    owner.wait().unwrap();
    soon("the exit of the orphaned server", || !is_alive(postmaster));

    // What it leaves does not prevent the next server from starting.
    let mut server = cluster.start("postgres", &[]);
    wait_ready(&mut server, PATIENCE, &never).unwrap();
}

fn own_a_server(dir: &Path) -> ! {
    let (binaries, run_as) = surroundings();
    let config = config_for(dir, &binaries, run_as.as_ref(), "postgres", &[]);
    let mut server = Server::start(config).unwrap();
    wait_ready(&mut server, PATIENCE, &never).unwrap();
    println!("postmaster={}", server.pid());
    loop {
        thread::sleep(PATIENCE);
    }
}
