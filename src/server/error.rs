//! What can go wrong around a PostgreSQL server.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::program::Unfinished;
use crate::server::refusal::refusal;

/// The last lines of a server's log, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogTail {
    /// The log's file.
    pub path: PathBuf,
    /// The lines, without line ends.
    pub lines: Vec<String>,
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// A directory searched for PostgreSQL's programs, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// The directory.
    pub dir: PathBuf,
    /// What was found instead.
    pub found: String,
}

/// Why a PostgreSQL server could not be found, started, reached or stopped. If the
/// server's log can explain more, its last lines are in `log`.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No usable `postgres` program.
    #[error(
        "no PostgreSQL {major} programs were found (looked in {}); \
             install PostgreSQL {major} or set postgres.bin_dir",
        places(searched)
    )]
    NoBinaries {
        /// The major version that was wanted.
        major: u32,
        /// The directories searched.
        searched: Vec<Searched>,
    },

    /// A PostgreSQL program could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A PostgreSQL program did not finish in time.
    #[error("{} did not finish within {} s", program.display(), timeout.as_secs())]
    RunTimeout {
        /// The program.
        program: PathBuf,
        /// The time limit.
        timeout: Duration,
    },

    /// A PostgreSQL program failed.
    #[error("{} failed ({status}): {stderr}", program.display())]
    RunFailed {
        /// The program.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its error output.
        stderr: String,
    },

    /// A path that cannot be the value of a PostgreSQL setting.
    #[error("the path {} is not valid UTF-8 and cannot be passed to PostgreSQL", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },

    /// `[postgres.settings]` names a setting that the user cannot change.
    #[error("postgres.settings.{name} cannot be set: {reason}")]
    ForcedSetting {
        /// The setting.
        name: String,
        /// Why it is fixed, or which key sets it.
        reason: &'static str,
    },

    /// `[postgres.settings]` names a setting that belongs to the fence.
    #[error(
        "postgres.settings.{name} cannot be set: {reason}; to permit it anyway, set fence.allow = \
         [\"{name}\"]"
    )]
    FencedSetting {
        /// The setting.
        name: String,
        /// Why the fence sets it.
        reason: &'static str,
    },

    /// `fence.allow` names a setting that does not belong to the fence.
    #[error("fence.allow names \"{name}\", which is not a setting that it can permit")]
    NothingToAllow {
        /// The name as it was written, in lower case.
        name: String,
    },

    /// The server rejects the values in `[postgres.settings]`.
    #[error("PostgreSQL rejects postgres.settings: {said}")]
    RefusedSettings {
        /// The server's message.
        said: String,
    },

    /// `[postgres.settings]` contains something that is not a setting.
    #[error("postgres.settings: {name:?} and its value are not a valid PostgreSQL setting")]
    BadSetting {
        /// The name as it was written.
        name: String,
    },

    /// A file of the server's configuration could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// One of pbkfs's own files could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// An operating system user that does not exist.
    #[error("there is no user \"{name}\" on this machine; set postgres.user")]
    NoUser {
        /// The name, or the number of a user without a name.
        name: String,
    },

    /// PostgreSQL refuses to run as root.
    #[error("PostgreSQL cannot run as root; set postgres.user to a user other than \"{name}\"")]
    RootUser {
        /// The name.
        name: String,
    },

    /// The user database could not be queried.
    #[error("cannot look up the user \"{name}\": {source}")]
    LookUp {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The socket's path does not fit into the kernel's address structure.
    #[error("the socket path {} is {length} bytes long, and the kernel accepts at most {limit}; \
             set postgres.socket_dir to a shorter path", path.display())]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The maximum length.
        limit: usize,
    },

    /// Something already listens on the wanted port.
    #[error("port {port} is in use ({by}); set postgres.port to another port, or leave it out")]
    PortTaken {
        /// The port.
        port: u16,
        /// What listens there.
        by: String,
    },

    /// All ports that are tried by default are in use.
    #[error("no free port was found between {first} and 65535")]
    NoFreePort {
        /// The first port that was tried.
        first: u16,
    },

    /// The host does not permit the namespaces that the server needs.
    #[error(
        "the server cannot have its own namespaces on this host ({reason}); fence.level = \
         \"settings\" works without them"
    )]
    NoNamespaces {
        /// The step that failed, and why.
        reason: String,
    },

    /// A path no longer resolves to what was checked.
    #[error(
        "{} no longer resolves to what was checked; let no other user write to the directories \
         above it",
        path.display()
    )]
    Replaced {
        /// The path.
        path: PathBuf,
    },

    /// The postmaster could not be started at all.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The server exited by itself.
    #[error("PostgreSQL exited during startup ({status})")]
    Died {
        /// Its exit status.
        status: ExitStatus,
        /// The end of its log.
        log: LogTail,
    },

    /// The WAL creates more tablespaces than a recovery is restarted for.
    #[error(
        "the WAL creates more than {limit} tablespaces that are not in the backup; use a newer \
         backup, which has them, or recover to a time before they were created"
    )]
    TooManyTablespaces {
        /// The most that are created.
        limit: usize,
    },

    /// The server did not answer a query in time.
    #[error("PostgreSQL did not answer a query within {} s{}", timeout.as_secs(), after(last))]
    NotReady {
        /// The time limit.
        timeout: Duration,
        /// The error of the last attempt to connect.
        last: Option<String>,
        /// The end of its log.
        log: LogTail,
    },

    /// Recovery is paused before its target. PostgreSQL pauses if a setting is lower
    /// than the primary's was, or if a user asks for it.
    #[error("PostgreSQL paused recovery before the target; its log says why")]
    Paused {
        /// The end of its log.
        log: LogTail,
    },

    /// The server is up but refuses pbkfs, and waiting would not change that.
    #[error("{}", refusal(role, source.code(), &message(source)))]
    Refused {
        /// The role that was used.
        role: String,
        /// The server's message.
        #[source]
        source: postgres::Error,
        /// The end of its log.
        log: LogTail,
    },

    /// A database was created with a locale that this host does not have. No setting
    /// can replace the locale: the database's indexes are sorted by it.
    #[error(
        "the database \"{database}\" needs the locale set by its {locale}, which is not installed \
         on this host; install it, and try again"
    )]
    MissingLocale {
        /// The database.
        database: String,
        /// For example, `LC_COLLATE "de_DE.utf8"`.
        locale: String,
    },

    /// The wait was interrupted from outside.
    #[error("interrupted while PostgreSQL was starting")]
    Interrupted,

    /// A setting of the running server lacks the value that isolates it from
    /// production.
    #[error(
        "PostgreSQL runs with {name} = {found:?} instead of {expected:?}, which is not safe; the \
         server was stopped"
    )]
    NotFenced {
        /// The setting.
        name: &'static str,
        /// The required value.
        expected: String,
        /// The actual value.
        found: String,
    },

    /// The child process could not be signalled or waited for.
    #[error("cannot control the PostgreSQL process {pid}: {source}")]
    Control {
        /// The postmaster.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The postmaster survived SIGKILL: it hangs in the kernel.
    #[error("the PostgreSQL process {pid} does not exit, not even on SIGKILL")]
    Unkillable {
        /// The postmaster.
        pid: u32,
    },
}

impl ServerError {
    /// Returns the end of the server's log, if the log can explain more.
    #[must_use]
    pub fn log(&self) -> Option<&LogTail> {
        match self {
            Self::Died { log, .. }
            | Self::NotReady { log, .. }
            | Self::Paused { log }
            | Self::Refused { log, .. } => Some(log),
            _ => None,
        }
    }

    /// A program of PostgreSQL's did not end by itself.
    pub(super) fn unfinished(program: &Path, timeout: Duration, error: Unfinished) -> Self {
        let program = program.to_owned();
        match error {
            Unfinished::Failed(source) => Self::Run { program, source },
            Unfinished::TimedOut { .. } => Self::RunTimeout { program, timeout },
        }
    }
}

fn places(searched: &[Searched]) -> String {
    let place = |place: &Searched| format!("{}: {}", place.dir.display(), place.found);
    searched.iter().map(place).collect::<Vec<_>>().join("; ")
}

fn after(last: &Option<String>) -> String {
    last.as_ref()
        .map_or_else(String::new, |last| format!("; the last attempt: {last}"))
}

/// Returns the server's own message if there is one: a `postgres::Error` prints only
/// "db error".
pub(super) fn message(error: &postgres::Error) -> String {
    if let Some(locale) = missing_locale(error) {
        return format!(
            "the database needs the locale set by its {locale}, which is not installed on this \
             host; install it, and try again"
        );
    }
    match error.as_db_error() {
        Some(answer) => answer.message().to_owned(),
        None => error.to_string(),
    }
}

/// Returns the locale that a database needs and this host does not have, such as
/// `LC_COLLATE "de_DE.utf8"`. PostgreSQL has no error code for this
/// (`CheckMyDatabase` in postinit.c), so the message decides; the fence keeps it in
/// English.
pub(super) fn missing_locale(error: &postgres::Error) -> Option<String> {
    let answer = error.as_db_error()?;
    let is_meant = answer.message() == "database locale is incompatible with operating system";
    let detail = answer.detail().filter(|_| is_meant)?;
    let (_, needed) = detail.split_once("initialized with ")?;
    let (locale, _) = needed.split_once(", ")?;
    Some(locale.to_owned())
}
