//! The fence: a clone that is attacked from inside, as a superuser, beside the
//! production server that its backup came from, and as the same user of the
//! operating system, changes nothing outside. The same attacks succeed without
//! the namespaces, so they are real.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::postgres::LIMIT;
use common::process::is_alive;
use common::production::{HOME, Production, shell};
use common::sandbox::Profile;
use common::syscalls::{forbid_filters, forbid_namespaces};
use common::{
    Listing, OsUser, PgTools, Running, Sandbox, TestClone, assert_nothing_stays, eventually,
    refused, run,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::{Statvfs, statvfs};
use nix::unistd::Pid;
use pbkfs::internals::server::namespace::read_only_view;

/// The message of every level below the requested one.
const SETTINGS_ONLY: &str = "settings only, because this host permits no namespaces";

/// What is checked for changes. Production itself writes to none of it while it is
/// idle or serves pgbench; `victim` exists only to be overwritten.
const QUIET: [&str; 6] = [
    "log",
    "ts_fast",
    "ts_empty",
    "ts_new",
    "victim",
    "data/base/1",
];

/// Something that a clone could do to production.
struct Attack {
    name: &'static str,
    /// Run in one session, as a superuser.
    sql: String,
    /// Returns whether production or its files show that it succeeded.
    succeeded: Box<dyn Fn(&Production<'_>) -> bool>,
}

fn attack(
    name: &'static str,
    sql: impl Into<String>,
    succeeded: impl Fn(&Production<'_>) -> bool + 'static,
) -> Attack {
    Attack {
        name,
        sql: sql.into(),
        succeeded: Box::new(succeeded),
    }
}

fn exists(name: &'static str) -> impl Fn(&Production<'_>) -> bool {
    move |_| Path::new(HOME).join(name).exists()
}

fn has_table(name: &'static str) -> impl Fn(&Production<'_>) -> bool {
    move |production| {
        let sql = format!("select to_regclass('{name}') is not null");
        production.psql(&sql) == "t"
    }
}

/// Returns the pid of production's postmaster, which any user can look up.
fn postmaster() -> i32 {
    let file = fs::read_to_string(Path::new(HOME).join("data/postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

fn production_log() -> String {
    let logs = fs::read_dir(Path::new(HOME).join("log")).unwrap().flatten();
    logs.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default())
        .collect()
}

fn attacks(port: u16) -> Vec<Attack> {
    let touch =
        |path: &str| format!("copy (select 1) to program 'cat >/dev/null; touch {HOME}/{path}'");
    let tcp = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let socket = format!("host={HOME}/sock port={port} user=postgres dbname=postgres");
    let dblink = |conninfo: &str, table: &str| {
        format!(
            "create extension if not exists dblink; \
             select dblink_exec('{conninfo}', 'create table {table} ()')"
        )
    };
    vec![
        attack(
            "a program writes into the data",
            touch("data/evil"),
            exists("data/evil"),
        ),
        attack(
            "a program writes into the log",
            touch("log/evil"),
            exists("log/evil"),
        ),
        attack(
            "a program writes into the tablespace",
            touch("ts_fast/evil"),
            exists("ts_fast/evil"),
        ),
        attack("dblink by TCP", dblink(&tcp, "by_tcp"), has_table("by_tcp")),
        attack(
            "dblink by the socket",
            dblink(&socket, "by_socket"),
            has_table("by_socket"),
        ),
        attack(
            "postgres_fdw",
            format!(
                "create extension postgres_fdw; \
                 create server production foreign data wrapper postgres_fdw \
                   options (host '127.0.0.1', port '{port}', dbname 'postgres'); \
                 create user mapping for postgres server production \
                   options (user 'postgres', password_required 'false'); \
                 create foreign table remote_proof (n int) server production \
                   options (table_name 'proof'); \
                 insert into remote_proof values (666)"
            ),
            |production| production.psql("select count(*) from proof where n = 666") == "1",
        ),
        attack(
            "CREATE TABLESPACE at a live location",
            format!("create tablespace evil location '{HOME}/ts_empty'"),
            |_| {
                fs::read_dir(Path::new(HOME).join("ts_empty"))
                    .unwrap()
                    .count()
                    > 0
            },
        ),
        attack(
            "CREATE TABLESPACE where a tablespace lives",
            format!("create tablespace evil2 location '{HOME}/ts_fast'"),
            // If PostgreSQL sees the location, it sees that a tablespace is already
            // there.
            |_| false,
        ),
        attack(
            "archiving",
            "create table if not exists archived as select 1; select pg_switch_wal(); \
             create table archived2 as select 1; select pg_switch_wal(); select pg_sleep(2)",
            |_| {
                let archive = fs::read_dir(Path::new(HOME).join("canary")).unwrap();
                let mut names = archive.map(|entry| entry.unwrap().file_name());
                names.any(|name| name.to_string_lossy().starts_with("clone-"))
            },
        ),
        attack(
            "lo_export",
            format!(
                "select lo_from_bytea(4242, 'evil'); select lo_export(4242, '{HOME}/victim/file')"
            ),
            |_| fs::read_to_string(Path::new(HOME).join("victim/file")).unwrap() == "evil",
        ),
        attack(
            "a signal to the postmaster",
            format!(
                "copy (select 1) to program 'cat >/dev/null; kill -HUP {}'",
                postmaster()
            ),
            |_| production_log().contains("received SIGHUP"),
        ),
    ]
}

/// Starts a production server that trusts every connection, with places to attack.
fn production<'a>(pg: &'a PgTools, sandbox: &Sandbox, backup: &str) -> Production<'a> {
    let production = Production::start(pg, sandbox, backup);
    shell(&format!(
        "cd {HOME}
         printf 'local all all trust\\nhost all all 127.0.0.1/32 trust\\n' > data/pg_hba.conf
         mkdir ts_empty ts_new; chown postgres: ts_empty ts_new; chmod 700 ts_empty ts_new
         mkdir victim; printf production > victim/file; chown -R postgres: victim"
    ));
    production.psql("select pg_reload_conf()");
    production.psql("create table proof (n int)");
    production.psql("create database bench");
    pg.run(
        "pgbench",
        &["-iq", &format!("{} dbname=bench", production.conninfo)],
    )
    .expect_ok();
    // Messages so far must not be mistaken for those of a later SIGHUP.
    shell(&format!(
        "cd {HOME}/log && for log in *; do : > \"$log\"; done"
    ));
    production
}

fn user_who_attacks(pg: &PgTools, conninfo: &str, attacks: &[Attack]) {
    for attack in attacks {
        // Apparent success inside the clone proves nothing.
        let output = pg.try_psql(conninfo, "postgres", &attack.sql);
        println!("{}: {}", attack.name, output.stderr.trim());
    }
}

/// Turns on archiving from inside, as far as SQL can, and restarts the clone.
fn archive_from_inside<'a>(pg: &PgTools, clone: &TestClone<'a>) -> common::Ready {
    let ready = clone.up();
    for sql in [
        "alter system set archive_mode = 'on'".to_owned(),
        format!("alter system set archive_command = 'cp %p {HOME}/canary/clone-%f'"),
    ] {
        pg.psql(ready.conninfo(), "postgres", &sql);
    }
    clone.down();
    clone.up()
}

/// Production's own archive grows while pgbench runs, by as many files as production
/// reports.
fn archived(production: &Production<'_>) -> usize {
    let count = production.psql("select archived_count from pg_stat_archiver");
    count.parse().unwrap()
}

fn archive_files() -> usize {
    fs::read_dir(Path::new(HOME).join("canary"))
        .unwrap()
        .count()
}

fn attack_from_inside(user: OsUser) {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-hazards", user);
    let catalog = Listing::of(&sandbox.fixture.catalog);
    let backup = sandbox.fixture.newest();
    let production = production(&pg, &sandbox, &backup);
    let before = production.at_rest(&QUIET);
    let bench = format!("{} dbname=bench", production.conninfo);
    let mut load = pg.command("pgbench");
    load.args([
        "--no-vacuum",
        "--client=2",
        "--rate=100",
        "--time=600",
        &bench,
    ]);
    let mut load = Running::spawn(&mut load);
    let own_archive = archive_files() - archived(&production);

    let clone = sandbox
        .profile(&backup)
        .fence("require", "\"namespace\"")
        .write();
    let ready = archive_from_inside(&pg, &clone);
    assert!(
        ready.fence.as_deref().unwrap().starts_with("namespace"),
        "{:?}",
        ready.fence
    );
    let attacks = attacks(production.port);
    user_who_attacks(&pg, ready.conninfo(), &attacks);
    for attack in &attacks {
        assert!(!(attack.succeeded)(&production), "{}", attack.name);
    }
    // The clone still works, including parallel queries.
    let parallel = "set force_parallel_mode = on; select count(*) > 0 from pg_class";
    assert!(
        pg.psql(ready.conninfo(), "postgres", parallel)
            .ends_with('t')
    );
    assert!(!load.has_ended(), "pgbench ended before the attacks did");
    // As if its time had expired.
    load.signal(Signal::SIGALRM);
    let output = load.wait(LIMIT);
    assert!(!output.stderr.contains("error"), "{output}");
    let said = output.expect_ok();
    assert!(said.contains("number of failed transactions: 0 "), "{said}");
    clone.down();
    assert_nothing_stays(&sandbox);

    for (path, listing) in &before {
        listing.assert_unchanged(path);
    }
    eventually("the archive has only production's files", LIMIT, || {
        archive_files() == own_archive + archived(&production)
    });
    catalog.assert_unchanged(&sandbox.fixture.catalog);
    drop(production);
}

#[test]
fn root_runs_a_clone_that_cannot_touch_production() {
    attack_from_inside(OsUser::root());
}

#[test]
fn an_ordinary_user_runs_a_clone_that_cannot_touch_production() {
    attack_from_inside(OsUser::postgres());
}

/// Returns a profile with settings only, two of which it undoes.
fn unfenced<'a>(sandbox: &'a Sandbox, backup: &str) -> Profile<'a> {
    sandbox
        .profile_named("unfenced", backup)
        .fence("level", "\"settings\"")
        .fence("allow", "[\"archive_mode\", \"archive_command\"]")
        .setting("archive_mode", "on")
        .setting("archive_command", &format!("cp %p {HOME}/canary/clone-%f"))
}

#[test]
fn without_the_fence_the_same_attacks_succeed() {
    let pg = common::require_everything();
    let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-hazards", OsUser::root());
    let backup = sandbox.fixture.newest();
    let production = production(&pg, &sandbox, &backup);
    let clone = unfenced(&sandbox, &backup).write();
    let plan = clone.pbkfs("plan", &[]).expect_ok();
    assert!(
        plan.contains("OPEN: archive_mode = 'on', set by the profile"),
        "{plan}"
    );
    assert!(plan.contains("OPEN: COPY TO PROGRAM"), "{plan}");
    let ready = clone.up();
    let fence = ready.fence.as_deref().unwrap();
    assert!(
        fence.starts_with("settings only, as fence.level says"),
        "{fence}"
    );
    let attacks = attacks(production.port);
    user_who_attacks(&pg, ready.conninfo(), &attacks);
    let failed: Vec<_> = attacks
        .iter()
        .filter(|attack| !(attack.succeeded)(&production))
        .map(|attack| attack.name)
        .collect();
    assert_eq!(failed, ["CREATE TABLESPACE where a tablespace lives"]);
    clone.down();
}

/// Starts production, which continues after the backup and creates a tablespace; its
/// WAL goes to the catalog's archive.
fn production_with_a_new_tablespace<'a>(
    pg: &'a PgTools,
    sandbox: &Sandbox,
    backup: &str,
) -> Production<'a> {
    let archive = sandbox.fixture.wal("");
    fs::create_dir_all(&archive).unwrap();
    sandbox.fixture.owner.own(&archive);
    // Through a link, so that no process of production names the sandbox.
    let command = format!("cp %p {HOME}/wal/%f");
    let production = Production::archiving(pg, sandbox, backup, &command);
    symlink(&archive, Path::new(HOME).join("wal")).unwrap();
    shell(&format!(
        "cd {HOME} && mkdir ts_live && chown postgres: ts_live && chmod 700 ts_live"
    ));
    production.psql(&format!(
        "create tablespace live_space location '{HOME}/ts_live'"
    ));
    production
        .psql("create table precious tablespace live_space as select generate_series(1, 500) as n");
    production.psql("checkpoint");
    production.psql("select pg_switch_wal()");
    production.psql("create table after_it ()");
    production.psql("select pg_switch_wal()");
    // PostgreSQL set it to 0700, and does so again when it replays the record.
    shell(&format!("chmod 750 {HOME}/ts_live"));
    eventually("the WAL is archived", LIMIT, || {
        production.psql(
            "select last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) \
             or archived_count >= 2 from pg_stat_archiver",
        ) == "t"
    });
    production
}

#[test]
fn a_replayed_create_tablespace_leaves_the_live_files_alone() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::with_catalog_of(&OsUser::postgres(), "pg15-hazards", user);
        let backup = sandbox.fixture.newest();
        let production = production_with_a_new_tablespace(&pg, &sandbox, &backup);
        let before = production.at_rest(&["ts_live"]);
        let clone = sandbox.profile(&backup).write();
        let ready = clone.up_with(&["--set", "recovery.target=latest"]);
        let count = "select count(*) from precious";
        assert_eq!(pg.psql(ready.conninfo(), "postgres", count), "500");
        // It sees only the archive of the catalog.
        let look = |dir: &Path| {
            let sql = format!(
                "copy (select 1) to program 'cat >/dev/null; ls -A {} | grep -q .'",
                dir.display()
            );
            let output = pg.try_psql(ready.conninfo(), "postgres", &sql);
            output.status.success()
        };
        // For root's clone, the session opens what it needs.
        assert_eq!(
            look(&sandbox.fixture.wal("")),
            sandbox.user != OsUser::root()
        );
        assert!(!look(&sandbox.fixture.backup_dir(&backup)));
        pg.psql(
            ready.conninfo(),
            "postgres",
            "update precious set n = -n; checkpoint",
        );
        // After a restart, the changes are there, and the live files are still as
        // they were.
        clone.down();
        let ready = clone.up();
        let changed = "select count(*) from precious where n < 0";
        assert_eq!(pg.psql(ready.conninfo(), "postgres", changed), "500");
        clone.down();
        assert_nothing_stays(&sandbox);
        for (path, listing) in &before {
            listing.assert_unchanged(path);
        }
        assert_eq!(production.psql(count), "500");
        assert_eq!(production.psql(changed), "0");

        // Without the fence, PostgreSQL reaches the live directory. The mount still
        // redirects what is written into it.
        let clone = sandbox
            .profile_named("unfenced", &backup)
            .fence("level", "\"settings\"")
            .write();
        clone.up_with(&["--set", "recovery.target=latest"]);
        clone.down();
        let (path, listing) = &before[0];
        assert_ne!(&Listing::of(path), listing, "the attack is not real");
    }
}

/// Runs `pbkfs` as the sandbox's user, with something forbidden to all processes.
fn forbidden(
    forbid: fn(&mut Command),
    clone: &TestClone<'_>,
    subcommand: &str,
    arguments: &[&str],
) -> Command {
    let plain = clone.command(subcommand, arguments);
    let user = &clone.sandbox.user;
    let mut command = OsUser::root().command("setpriv");
    command
        .args([
            "--clear-groups",
            "--reuid",
            &user.name,
            "--regid",
            &user.gid.to_string(),
        ])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(clone.sandbox.dir());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    forbid(&mut command);
    command
}

#[test]
fn a_host_without_namespaces_gives_settings_only_and_says_so() {
    let pg = common::require_everything();
    type Case = (OsUser, fn(&mut Command), &'static str, &'static str);
    let denied = "Operation not permitted";
    let unknown = "Function not implemented";
    let (to_user, filter) = (
        "unshare, as an unprivileged user: ",
        "filter system calls: ",
    );
    let cases: [Case; 4] = [
        (OsUser::root(), forbid_namespaces, "unshare: ", denied),
        (OsUser::postgres(), forbid_namespaces, to_user, denied),
        (OsUser::root(), forbid_filters, filter, unknown),
        (OsUser::postgres(), forbid_filters, filter, unknown),
    ];
    for (user, forbid, step, cause) in cases {
        let sandbox = Sandbox::new("pg15-debian", user);
        let forbidden = |clone: &TestClone<'_>, subcommand: &str, arguments: &[&str]| {
            forbidden(forbid, clone, subcommand, arguments)
        };
        let clone = sandbox.profile("latest").write();
        let plan = run(&mut forbidden(&clone, "plan", &[]), LIMIT).expect_ok();
        assert!(
            plan.contains(SETTINGS_ONLY) && plan.contains("OPEN: "),
            "{plan}"
        );
        let up = run(&mut forbidden(&clone, "up", &["--detach", "--json"]), LIMIT);
        assert!(up.status.success(), "{up}");
        for said in ["WARN", SETTINGS_ONLY, step, cause] {
            assert!(up.stderr.contains(said), "{said}: {up}");
        }
        let ready: serde_json::Value = serde_json::from_str(&up.stdout).unwrap();
        let fence = ready["fence"].as_str().unwrap();
        assert!(fence.starts_with(SETTINGS_ONLY), "{fence}");
        assert_eq!(clone.status()[0]["fence"], fence);
        let conninfo = ready["conninfo"].as_str().unwrap();
        assert_eq!(pg.psql(conninfo, "postgres", "show archive_mode"), "off");
        clone.down();

        let required = ["--detach", "--set", "fence.require=namespace"];
        let output = run(&mut forbidden(&clone, "up", &required), LIMIT);
        refused(&output, 7, "this host permits no namespaces");
        refused(&output, 7, step);
        assert_nothing_stays(&sandbox);
        let plan = run(
            &mut forbidden(&clone, "plan", &["--set", "fence.require=namespace"]),
            LIMIT,
        );
        assert_eq!(plan.code(), Some(7), "{plan}");
    }
}

#[test]
fn plan_tells_each_hazard_and_what_stops_it() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-hazards");
    let clone = sandbox.profile("latest").write();
    let plan = clone.pbkfs("plan", &["--json"]).expect_ok();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert!(
        plan["fence"].as_str().unwrap().starts_with("namespace: "),
        "{plan}"
    );
    let hazards = plan["hazards"].as_array().unwrap();
    for (hazard, by) in [
        ("archive_command = 'cp %p ", "'': the clone must not write"),
        ("archive_mode = 'on'", "'off'"),
        ("primary_conninfo = ", "''"),
        ("external_pid_file = ", "pg_stat_tmp"),
        ("listen_addresses = '*'", "''"),
        (
            "a tablespace at /srv/fixture/pg15-hazards/ts_fast",
            "the mount shows its files",
        ),
        ("subscriptions", "max_logical_replication_workers"),
        (
            "background workers of the libraries 'pg_stat_statements'",
            "network",
        ),
        (
            "COPY TO PROGRAM",
            "a root directory and processes of its own",
        ),
        ("set-user-ID programs", "a system call filter"),
    ] {
        let found = hazards
            .iter()
            .find(|found| found["hazard"].as_str().unwrap().starts_with(hazard));
        let found = found.unwrap_or_else(|| panic!("{hazard}: {plan:#}"));
        assert!(
            found["stopped_by"].as_str().unwrap().contains(by),
            "{found}"
        );
    }
    assert!(
        hazards.iter().all(|hazard| !hazard["stopped_by"].is_null()),
        "{plan:#}"
    );
}

#[test]
fn the_hosts_network_is_there_only_if_asked_for() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let listen = |profile: Profile<'_>| -> common::Output {
        let clone = profile.setting("listen_addresses", "127.0.0.1").write();
        clone.pbkfs("up", &["--detach"])
    };
    let output = listen(sandbox.profile("latest"));
    refused(&output, 2, "fence.network");
    let output = listen(sandbox.profile("latest").fence("network", "\"host\""));
    refused(&output, 2, "fence.allow = [\"listen_addresses\"]");

    let clone = sandbox
        .profile("latest")
        .fence("network", "\"host\"")
        .fence("allow", "[\"listen_addresses\"]")
        .setting("listen_addresses", "127.0.0.1")
        .write();
    let ready = clone.up();
    let fence = ready.fence.as_deref().unwrap();
    assert!(fence.ends_with("the network is the host's"), "{fence}");
    pg.psql(
        ready.conninfo(),
        "postgres",
        "alter role postgres password 'secret'",
    );
    let port = ready.port.unwrap();
    let tcp = format!("host=127.0.0.1 port={port} user=postgres password=secret");
    assert_eq!(pg.psql(&tcp, "postgres", "select 1"), "1");
    clone.down();
    let output = clone.pbkfs("up", &["--set", "fence.require=namespace"]);
    refused(&output, 2, "fence.network = \"host\"");
}

#[test]
fn what_beats_the_settings_is_told() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let ready = clone.up();
    for sql in [
        "alter role postgres set log_error_verbosity = 'terse'",
        "create role other",
        "alter role other in database postgres set log_error_verbosity = 'verbose'",
    ] {
        pg.psql(ready.conninfo(), "postgres", sql);
    }
    clone.down();
    let up = clone.pbkfs("up", &["--detach"]);
    assert!(up.status.success(), "{up}");
    for said in [
        "log_error_verbosity is 'terse' in this session (user)",
        "log_error_verbosity is set to 'terse' for role postgres in every database",
        "log_error_verbosity is set to 'verbose' for role other in database postgres",
    ] {
        assert!(up.stderr.contains(said), "{said}: {up}");
    }
    clone.down();
}

#[test]
fn the_server_takes_no_more_of_the_host_than_it_may() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox
        .profile("latest")
        .fence("nice", "7")
        .fence("ionice", "\"idle\"")
        .fence("memory", "\"1GB\"")
        .write();
    for level in ["fence.level=auto", "fence.level=settings"] {
        let up = clone.pbkfs("up", &["--detach", "--json", "--set", level]);
        assert!(up.status.success(), "{up}");
        let ready: serde_json::Value = serde_json::from_str(&up.stdout).unwrap();
        let pid = ready["server_pid"].to_string();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        assert_eq!(after_name.split(' ').nth(16), Some("7"), "{stat}");
        let mut ionice = OsUser::root().command("ionice");
        assert_eq!(
            run(ionice.args(["-p", &pid]), LIMIT).expect_ok().trim(),
            "idle"
        );
        // Not every host has cgroup v2.
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let warned = up
            .stderr
            .contains("the server is not limited by fence.memory");
        assert_ne!(own.contains("/pbkfs-clone-"), warned, "{own}\n{up}");
        clone.down();
        if warned {
            let arguments = ["--set", level, "--set", "fence.require=namespace"];
            let code = if level.ends_with("auto") { 7 } else { 2 };
            refused(&clone.pbkfs("up", &arguments), code, "fence.");
        }
    }
    assert_nothing_stays(&sandbox);
}

#[test]
fn a_socket_directory_that_others_use_is_an_open_door() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let shared = sandbox.path("shared");
    fs::create_dir(&shared).unwrap();
    OsUser::postgres().own(&shared);
    let clone = sandbox
        .profile("latest")
        .postgres("socket_dir", &format!("{shared:?}"))
        .write();
    let required = ["--detach", "--set", "fence.require=namespace"];
    clone.pbkfs("up", &required).expect_ok();
    clone.down();
    let _other = UnixListener::bind(shared.join(".s.PGSQL.1")).unwrap();
    refused(&clone.pbkfs("up", &required), 7, ".s.PGSQL.1");
    let up = clone.pbkfs("up", &["--detach"]);
    assert!(
        up.status.success() && up.stderr.contains(".s.PGSQL.1"),
        "{up}"
    );
    clone.down();
}

#[test]
fn what_is_exposed_can_be_read_but_not_written() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let shown = sandbox.path("shown");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("file"), "content").unwrap();
    OsUser::postgres().own(&shown);
    let hidden = sandbox.fixture.catalog.clone();
    let clone = sandbox
        .profile("latest")
        .fence("expose", &format!("[{shown:?}]"))
        .write();
    let ready = clone.up();
    let program = |command: String| {
        let sql = format!("copy (select 1) to program 'cat >/dev/null; {command}'");
        pg.try_psql(ready.conninfo(), "postgres", &sql)
    };
    assert!(
        program(format!("grep -q content {}/file", shown.display()))
            .status
            .success()
    );
    let write = program(format!("touch {}/new", shown.display()));
    assert!(
        !write.status.success() && !shown.join("new").exists(),
        "{write}"
    );
    // None of the catalog is visible: this backup needs no WAL from it.
    let list = program(format!("ls -A {} | grep -q .", hidden.display()));
    assert!(!list.status.success(), "{list}");
    clone.down();
}

/// Makes the clone's server run a shell command.
fn program(pg: &PgTools, ready: &common::Ready, command: &str) -> common::Output {
    let sql = format!("copy (select 1) to program 'cat >/dev/null; {command}'");
    pg.try_psql(ready.conninfo(), "postgres", &sql)
}

/// Returns the directory of the clone's socket on this host.
fn socket_dir(ready: &common::Ready) -> PathBuf {
    let mut words = ready.conninfo().split(' ');
    let host = words.find_map(|word| word.strip_prefix("host=")).unwrap();
    PathBuf::from(host.trim_matches('\''))
}

/// Returns the clone's processes, including all that it started.
fn processes(ready: &common::Ready) -> Vec<i32> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&ready.server_pid.unwrap().to_string());
    assert!(own.is_some());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| namespace(pid) == own)
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Returns the statistics of one of the server's own directories, after a check of
/// its size.
fn sized(ready: &common::Ready, dir: &str, megabytes: u64) -> Statvfs {
    let root = format!("/proc/{}/root{dir}", ready.server_pid.unwrap());
    let disk = statvfs(Path::new(&root)).unwrap();
    assert_eq!(
        disk.blocks() * disk.fragment_size(),
        megabytes << 20,
        "{dir}"
    );
    disk
}

/// The server's own directories are in this host's memory.
#[test]
fn what_the_server_keeps_in_memory_has_an_end() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox
            .profile("latest")
            .fence("tmp_size", "\"8MB\"")
            .fence("shm_size", "\"16MB\"")
            .write();
        let ready = clone.up();
        for (dir, megabytes) in [("/tmp", 8), ("/var/tmp", 8), ("/dev/shm", 16)] {
            let disk = sized(&ready, dir, megabytes);
            assert!(disk.files() <= 1 << 16, "{dir}: {} files", disk.files());
            let fill = |megabytes| {
                let head = format!("head -c {megabytes}M /dev/zero > {dir}/fill");
                program(
                    &pg,
                    &ready,
                    &format!("{head}; code=$?; rm {dir}/fill; exit $code"),
                )
            };
            let filled = fill(megabytes + 1);
            assert!(!filled.status.success(), "{dir}: {filled}");
            // PostgreSQL also uses some of it.
            fill(megabytes / 2).expect_ok();
        }
        clone.down();
        // The defaults.
        let clone = sandbox.profile_named("usual", "latest").write();
        let ready = clone.up();
        for (dir, megabytes) in [("/tmp", 256), ("/var/tmp", 256), ("/dev/shm", 1024)] {
            sized(&ready, dir, megabytes);
        }
        clone.down();
    }
}

/// Checks each of the server's mounts, as listed in `mountinfo`.
#[test]
fn no_mount_takes_devices_or_gives_rights() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").write();
        let ready = clone.up();
        let server = ready.server_pid.unwrap();
        let mounts = fs::read_to_string(format!("/proc/{server}/mountinfo")).unwrap();
        let mut written = Vec::new();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(4);
            let (path, options) = (fields.next().unwrap(), fields.next().unwrap());
            let has = |option| options.split(',').any(|has| has == option);
            // Devices that every program needs, each mounted individually.
            let device = path.strip_prefix("/dev/");
            if device.is_some_and(|name| name != "shm") {
                let known = ["full", "null", "random", "tty", "urandom", "zero"];
                assert!(known.contains(&device.unwrap()), "{line}");
                continue;
            }
            assert!(has("nosuid") && has("nodev"), "{line}");
            if has("rw") {
                // PostgreSQL may load a library from its data directory.
                assert!(has("noexec") || clone.target == Path::new(path), "{line}");
                written.push(PathBuf::from(path));
            }
        }
        let wal = clone.diff.as_ref().unwrap().join(".pbkfs-wal");
        let own = ["/", "/proc", "/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
        let places = [clone.target.clone(), wal, socket_dir(&ready)];
        for path in own.iter().chain(&places) {
            assert!(written.contains(path), "{}:\n{mounts}", path.display());
        }
        clone.down();
    }
}

/// Any user of this host who can reach such a program would run it as the server's
/// user: the flags that forbid that in the server's mounts do not apply here.
#[test]
fn the_server_leaves_no_program_with_its_rights() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let shared = sandbox.path("shared");
        fs::create_dir(&shared).unwrap();
        OsUser::postgres().own(&shared);
        let clone = sandbox.profile("latest").write();
        let own = clone.up();
        let attack = |ready: &common::Ready, inside: &Path, outside: &Path| {
            let evil = inside.join("evil");
            let evil = evil.display();
            for command in [
                format!("cp /bin/true {evil} && chmod 4755 {evil}"),
                format!("cp /bin/true {evil} && chmod 2755 {evil}"),
                format!("install -m 6755 /bin/true {evil}"),
            ] {
                let output = program(&pg, ready, &command);
                assert!(!output.status.success(), "{command}: {output}");
            }
            // It can leave a program, but without special permissions.
            program(
                &pg,
                ready,
                &format!("cp /bin/true {evil} && chmod 755 {evil}"),
            )
            .expect_ok();
            let mut look = sandbox.user.command("stat");
            let look = look.args(["--format", "%a"]).arg(outside.join("evil"));
            assert_eq!(
                run(look, LIMIT).expect_ok().trim(),
                "755",
                "{}",
                outside.display()
            );
            program(&pg, ready, &format!("rm {evil}")).expect_ok();
        };
        attack(&own, &socket_dir(&own), &socket_dir(&own));
        attack(&own, &clone.target, &clone.target);
        let wal = clone.diff.as_ref().unwrap().join(".pbkfs-wal");
        attack(&own, &clone.target.join("pg_wal"), &wal);
        clone.down();
        let clone = sandbox
            .profile_named("sharing", "latest")
            .postgres("socket_dir", &format!("{shared:?}"))
            .write();
        attack(&clone.up(), &shared, &shared);
        clone.down();
    }
}

/// In a user namespace, it could mount in-memory file systems of any size.
#[test]
fn the_server_makes_no_user_namespace() {
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let make = ["--user", "--map-root-user", "true"];
        let outside = run(OsUser::postgres().command("unshare").args(make), LIMIT);
        assert!(
            outside.status.success(),
            "the attack is not real: {outside}"
        );
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").write();
        let ready = clone.up();
        let inside = program(&pg, &ready, &format!("unshare {}", make.join(" ")));
        assert!(!inside.status.success(), "{inside}");
        clone.down();
    }
}

/// A fork bomb that is small enough to be harmless if nothing stops it.
#[test]
fn the_server_has_no_more_processes_than_it_may() {
    const MOST: usize = 64;
    const BOMB: usize = 4 * MOST;
    let pg = common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").write();
        // A limit that was not requested causes no warning.
        let up = clone.pbkfs("up", &["--detach"]);
        assert!(
            up.status.success() && !up.stderr.contains("limited"),
            "{up}"
        );
        clone.down();

        let set = format!("fence.processes={MOST}");
        let up = clone.pbkfs("up", &["--detach", "--json", "--set", &set]);
        let warned = up
            .stderr
            .contains("the server is not limited by fence.processes");
        let ready: common::Ready = serde_json::from_str(&up.expect_ok()).unwrap();
        let own = fs::read_to_string(format!("/proc/{}/cgroup", ready.server_pid.unwrap()));
        let in_group = own.unwrap().contains("/pbkfs-clone-");
        let bomb = format!(
            "i=0; while [ $i -lt {BOMB} ]; do sleep 600 >/dev/null 2>&1 & i=$((i+1)); done"
        );
        let bombed = program(&pg, &ready, &bomb);
        let count = processes(&ready).len();
        println!("{} processes, by {}: {bombed}", count, sandbox.user.name);
        if in_group || sandbox.user != OsUser::root() {
            assert!(!warned && !bombed.status.success(), "{bombed}");
            assert!(count <= MOST && count > MOST / 2, "{count} processes");
        } else {
            // There is no cgroup v2 here: a requested limit causes a warning, and is
            // not reported as enforced.
            assert!(warned && count >= BOMB, "{count} processes");
        }
        clone.down();
        assert_nothing_stays(&sandbox);
        if warned {
            let required = ["--set", &set, "--set", "fence.require=namespace"];
            refused(
                &clone.pbkfs("up", &required),
                7,
                "fence.processes cannot be enforced",
            );
        }
    }
}

/// A link that SQL puts among the clone's files is not followed when the next start
/// has to create the location of a tablespace behind it.
#[test]
fn a_link_in_the_clone_leads_the_set_up_nowhere() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let outside = sandbox.path("outside");
    fs::create_dir(&outside).unwrap();
    let clone = sandbox.profile("latest").write();
    let (target, victim) = (clone.target.display(), outside.join("made"));
    let (running, ready) = clone.up_in_foreground();
    let sql = |sql: &str| pg.psql(ready.conninfo(), "postgres", sql);
    sql(&format!(
        "copy (select 1) to program 'cat >/dev/null; cd {target} && mkdir trap && mkdir -m 700 trap/made'"
    ));
    sql("checkpoint");
    sql(&format!(
        "create tablespace trapped location '{target}/trap/made'"
    ));
    // While the server is up, its root has no path to the host's.
    let link = format!("/.host{}", outside.display());
    sql(&format!(
        "copy (select 1) to program 'cat >/dev/null; cd {target} && rm -r trap && ln -s {link} trap'"
    ));
    // Names are made durable every five seconds.
    thread::sleep(Duration::from_secs(8));
    kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
    let _ = running.wait_or_kill(LIMIT);
    // Whether it starts does not matter; what happens outside does.
    let up = clone.pbkfs("up", &["--detach"]);
    println!("{up}");
    assert!(!victim.exists(), "{up}");
    clone.pbkfs("down", &[]);
}

/// The server's user cannot write to what root's session opens for the server, even
/// if that user owns the file.
#[test]
fn a_descriptor_of_a_read_only_view_cannot_be_made_writable() {
    common::require_root();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let reopen = |dir: &Path| {
        let file = fs::File::open(dir.join("file")).unwrap();
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::File::options().write(true).open(again)
    };
    assert!(reopen(dir.path()).is_ok(), "the attack is not real");
    let view = read_only_view(dir.path()).unwrap();
    let error = reopen(Path::new(&format!("/proc/self/fd/{}", view.as_raw_fd()))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
}

/// The process beside the server is its only connection to pbkfs: if that process
/// dies, the server must not survive.
#[test]
fn the_server_goes_with_the_process_beside_it() {
    common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let clone = sandbox.profile("latest").write();
    let (running, ready) = clone.up_in_foreground();
    let server = ready.server_pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let parent: i32 = parent.parse().unwrap();
    assert_ne!(parent, ready.pid);
    kill(Pid::from_raw(parent), Signal::SIGKILL).unwrap();
    let output = running.wait(LIMIT);
    assert_eq!(output.code(), Some(7), "{output}");
    assert!(!is_alive(server));
    assert_nothing_stays(&sandbox);
}

/// Links on the path to the clone also resolve in the server's root.
#[test]
fn the_target_may_stand_behind_a_link() {
    let pg = common::require_everything();
    let sandbox = Sandbox::root("pg15-debian");
    let (real, link): (PathBuf, PathBuf) = (sandbox.path("real"), sandbox.path("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let clone = sandbox
        .profile("latest")
        .target_at(link.join("clone"))
        .write();
    let ready = clone.up();
    assert!(ready.fence.unwrap().starts_with("namespace"));
    let conninfo = ready.conninfo.unwrap();
    assert_eq!(pg.psql(&conninfo, "postgres", "select 1"), "1");
    clone.pbkfs("down", &[]).expect_ok();
}
