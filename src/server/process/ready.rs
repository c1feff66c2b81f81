//! A starting server is ready once it answers a query.
//!
//! `postmaster.pid` would show that, too. But the data directory may be a mount that
//! this very process serves. A process that is killed while it waits for an answer
//! from itself never exits, because the kernel gives up the mount only after the
//! process has exited.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, Config, Error, NoTls};

use crate::pg::Lsn;

/// Returns whether trying again cannot help: the server answered, and not that it is
/// starting, shutting down or out of connections.
pub fn is_final(error: &Error) -> bool {
    error.as_db_error().is_some_and(|answer| {
        ![
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
        ]
        .contains(answer.code())
    })
}

/// Further options that the queries rely on: names resolve to PostgreSQL's own
/// objects, no missing library is loaded, and the transaction is one that a standby
/// permits. Options take precedence over what `ALTER ROLE` and `ALTER DATABASE` have
/// set in the clone.
const OPTIONS: &str = "-c search_path=pg_catalog \
                       -c session_preload_libraries= -c local_preload_libraries= \
                       -c default_transaction_isolation=read\\ committed \
                       -c default_transaction_deferrable=off";

/// The server's answer about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfReport {
    /// `SHOW data_directory`.
    pub data_directory: String,
    /// `SHOW archive_mode`.
    pub archive_mode: String,
    /// How far it has replayed.
    pub replay: Replay,
    /// What overrides its options, and where, as text.
    pub beaten: Vec<String>,
}

/// How far a server has replayed the WAL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replay {
    /// Whether it is still in recovery.
    pub in_recovery: bool,
    /// Whether recovery is paused, as it is at a target.
    pub paused: bool,
    /// The end of the last record replayed; `None` if there is none.
    pub lsn: Option<Lsn>,
    /// End time of the last transaction replayed, in UTC.
    pub time: Option<String>,
}

/// One attempt to get an answer, in a thread of its own: the client has no timeout
/// for a server that accepts a connection and then sends nothing. Such a thread ends
/// with the server.
pub struct Probe(Receiver<Result<SelfReport, Error>>);

impl Probe {
    /// Starts the attempt. `options` are the names of the settings that the server
    /// was started with.
    pub fn start(mut config: Config, options: Vec<String>) -> Self {
        let given = config.get_options().unwrap_or_default();
        let all = format!("{given} {OPTIONS}");
        config.options(&all);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // The receiver is dropped if the wait was abandoned.
            let _ = sender.send(ask(config, &options));
        });
        Self(receiver)
    }

    /// Returns the outcome, once there is one.
    pub fn poll(&self) -> Option<Result<SelfReport, Error>> {
        self.0.try_recv().ok()
    }
}

/// Returns whether the server at `conninfo` currently refuses connections because it
/// is in recovery, as it also is after one of its processes has died. Returns `false`
/// if it answers anything else, or nothing within `patience`.
#[must_use]
pub fn is_recovering(conninfo: &str, patience: Duration) -> bool {
    let Ok(mut config) = conninfo.parse::<Config>() else {
        return false;
    };
    config.connect_timeout(patience);
    let (sender, receiver) = mpsc::channel();
    // A server that accepts and sends nothing blocks the thread, not the caller.
    thread::spawn(move || {
        let refused = config.connect(NoTls).err();
        let _ = sender.send(refused.and_then(|error| error.code().cloned()));
    });
    let code = receiver.recv_timeout(patience).ok().flatten();
    code == Some(SqlState::CANNOT_CONNECT_NOW)
}

fn ask(mut config: Config, options: &[String]) -> Result<SelfReport, Error> {
    let mut client = match config.connect(NoTls) {
        // The database "postgres" can be dropped; template1 hardly ever is.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
            config.dbname("template1").connect(NoTls)?
        }
        client => client?,
    };
    let mut show = |name: &str| -> Result<String, Error> {
        client
            .query_one("select current_setting($1)", &[&name])?
            .try_get(0)
    };
    Ok(SelfReport {
        data_directory: show("data_directory")?,
        archive_mode: show("archive_mode")?,
        replay: ask_replay(&mut client)?,
        beaten: ask_beaten(&mut client, options)?,
    })
}

/// Returns what overrides the options: what `pg_settings` shows for this session, and
/// what `ALTER ROLE` and `ALTER DATABASE` set for the sessions they apply to.
fn ask_beaten(client: &mut Client, options: &[String]) -> Result<Vec<String>, Error> {
    let shown = client.query(
        "select format('%s is ''%s'' in this session (%s)', name, current_setting(name), source) \
         from pg_settings where lower(name) = any($1) \
         and source not in ('command line', 'override', 'client')",
        &[&options],
    )?;
    let altered = client.query(
        "select format('%s is set to ''%s'' for %s in %s', name, value, \
           coalesce('role ' || rolname, 'every role'), \
           coalesce('database ' || datname, 'every database')) \
         from pg_db_role_setting s \
         left join pg_database d on d.oid = s.setdatabase \
         left join pg_roles r on r.oid = s.setrole, \
         unnest(s.setconfig) item, \
         lateral (select split_part(item, '=', 1), substr(item, strpos(item, '=') + 1)) \
           as parts (name, value) \
         where lower(name) = any($1)",
        &[&options],
    )?;
    shown
        .iter()
        .chain(&altered)
        .map(|row| row.try_get(0))
        .collect()
}

fn ask_replay(client: &mut Client) -> Result<Replay, Error> {
    let row = client.query_one(
        "select pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, \
         to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', \
         'YYYY-MM-DD HH24:MI:SS.US') || '+00'",
        &[],
    )?;
    let in_recovery = row.try_get(0)?;
    let lsn: Option<&str> = row.try_get(1)?;
    // Recovery may end in between; the function then fails.
    let paused = in_recovery
        && client
            .query_one("select pg_get_wal_replay_pause_state() = 'paused'", &[])
            .and_then(|row| row.try_get(0))
            .unwrap_or(false);
    Ok(Replay {
        in_recovery,
        paused,
        lsn: lsn.and_then(|lsn| lsn.parse().ok()),
        time: row.try_get(2)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;

    /// Starts a server that refuses one connection with this code, at a socket in
    /// `dir`. Returns its connection string.
    pub fn refuse_with(code: &'static str, dir: &Path) -> String {
        let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).unwrap();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            client.read_exact(&mut length).unwrap();
            let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
            client.read_exact(&mut rest).unwrap();
            let fields = format!("SFATAL\0VFATAL\0C{code}\0Mno\0\0");
            let length = u32::try_from(fields.len() + 4).unwrap();
            client.write_all(b"E").unwrap();
            client.write_all(&length.to_be_bytes()).unwrap();
            client.write_all(fields.as_bytes()).unwrap();
        });
        format!("host={} port=5432 user=u dbname=d", dir.display())
    }

    #[test]
    fn who_recovers_lets_nobody_in() {
        const PATIENCE: Duration = Duration::from_secs(20);
        for (code, recovers) in [("57P03", true), ("53300", false), ("28000", false)] {
            let dir = tempfile::tempdir().unwrap();
            let conninfo = refuse_with(code, dir.path());
            assert_eq!(is_recovering(&conninfo, PATIENCE), recovers, "{code}");
        }
        assert!(!is_recovering("host=/nowhere user=u", PATIENCE));
        let dir = tempfile::tempdir().unwrap();
        let _silent = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let conninfo = format!("host={} user=u", dir.path().display());
        assert!(!is_recovering(&conninfo, Duration::from_millis(50)));
    }
}
