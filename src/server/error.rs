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

/// A place where PostgreSQL's programs were looked for, and why not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// The directory.
    pub dir: PathBuf,
    /// What was found instead.
    pub found: String,
}

/// A PostgreSQL server that cannot be found, started, reached or stopped.
/// Where the server's log can tell more, its last lines are in `log`.
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
        /// Where they were looked for.
        searched: Vec<Searched>,
    },

    /// A program of PostgreSQL's could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A program of PostgreSQL's did not finish in time.
    #[error("{} did not finish within {} s", program.display(), timeout.as_secs())]
    RunTimeout {
        /// The program.
        program: PathBuf,
        /// How long it was given.
        timeout: Duration,
    },

    /// A program of PostgreSQL's failed.
    #[error("{} failed ({status}): {stderr}", program.display())]
    RunFailed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        stderr: String,
    },

    /// A path that PostgreSQL's settings cannot hold.
    #[error("the path {} is not valid UTF-8 and cannot be given to PostgreSQL", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },

    /// `[postgres.settings]` names a setting that is not the user's to make.
    #[error("postgres.settings.{name} cannot be set: {reason}")]
    ForcedSetting {
        /// The setting.
        name: String,
        /// Why it is fixed, or which key sets it.
        reason: &'static str,
    },

    /// `[postgres.settings]` names a setting of the fence's.
    #[error(
        "postgres.settings.{name} cannot be set: {reason}; fence.allow = [\"{name}\"] permits it \
             all the same"
    )]
    FencedSetting {
        /// The setting.
        name: String,
        /// Why the fence has it.
        reason: &'static str,
    },

    /// `fence.allow` names something that is not the fence's.
    #[error("fence.allow names \"{name}\", which is none of the settings that it can permit")]
    NothingToAllow {
        /// The name as it was written, in lower case.
        name: String,
    },

    /// The server does not take what `[postgres.settings]` holds.
    #[error("PostgreSQL does not take what postgres.settings holds: {said}")]
    RefusedSettings {
        /// What the server said.
        said: String,
    },

    /// `[postgres.settings]` holds something that is no setting.
    #[error("postgres.settings: {name:?} is not the name and value of a PostgreSQL setting")]
    BadSetting {
        /// The name as it was written.
        name: String,
    },

    /// A file that tells how the server is configured could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// A file of ours could not be written.
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
    #[error("PostgreSQL cannot run as root; set postgres.user to another user than \"{name}\"")]
    RootUser {
        /// The name.
        name: String,
    },

    /// The user database could not be asked.
    #[error("cannot look up the user \"{name}\": {source}")]
    LookUp {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The socket's path does not fit into the kernel's address structure.
    #[error("the socket path {} has {length} bytes, and {limit} are the most that \
             the kernel takes; set postgres.socket_dir to a shorter path", path.display())]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The most that is possible.
        limit: usize,
    },

    /// Something already listens on the wanted port.
    #[error("port {port} is taken ({by}); set postgres.port to another, or leave it out")]
    PortTaken {
        /// The port.
        port: u16,
        /// What listens there.
        by: String,
    },

    /// All ports that are tried by default are taken.
    #[error("no free port was found between {first} and 65535")]
    NoFreePort {
        /// The first that was tried.
        first: u16,
    },

    /// The host does not permit the namespaces that the server is to run in.
    #[error(
        "the server cannot have namespaces of its own here ({reason}); \
             fence.level = \"settings\" does without them"
    )]
    NoNamespaces {
        /// The step that failed, and why.
        reason: String,
    },

    /// A path leads elsewhere than it did when that was checked.
    #[error(
        "{} leads elsewhere by now than when it was checked; let no other user write to \
             the directories above it",
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

    /// The server ended by itself.
    #[error("PostgreSQL ended during its start ({status})")]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: LogTail,
    },

    /// The WAL makes more tablespaces than a recovery is started again for.
    #[error(
        "the WAL makes more than {limit} tablespaces that the backup does not know; take a \
             backup that is newer than they are, or recover to a time before them"
    )]
    TooManyTablespaces {
        /// The most that are made.
        limit: usize,
    },

    /// The server did not answer a query in time.
    #[error("PostgreSQL did not answer a query within {} s{}", timeout.as_secs(), after(last))]
    NotReady {
        /// How long it was given.
        timeout: Duration,
        /// What the last attempt to connect said.
        last: Option<String>,
        /// The end of its log.
        log: LogTail,
    },

    /// Recovery waits and is not at its target: PostgreSQL does that when a setting
    /// is lower than the primary's was, or when a user says so.
    #[error("PostgreSQL paused its recovery before the target; its log says why")]
    Paused {
        /// The end of its log.
        log: LogTail,
    },

    /// The server is up but refuses us, and waiting would not change that.
    #[error("{}", refusal(role, source.code(), &message(source)))]
    Refused {
        /// The role that was used.
        role: String,
        /// What the server said.
        #[source]
        source: postgres::Error,
        /// The end of its log.
        log: LogTail,
    },

    /// A database was made with a locale that this host does not have. That is no
    /// setting: its indexes are in that order.
    #[error(
        "the database \"{database}\" needs the locale of its {locale}, which is not installed \
             here; install it on this host, and try again"
    )]
    MissingLocale {
        /// The database.
        database: String,
        /// As in `LC_COLLATE "de_DE.utf8"`.
        locale: String,
    },

    /// The wait was broken off from outside.
    #[error("interrupted while PostgreSQL was starting")]
    Interrupted,

    /// The running server does not have a value that keeps it from production.
    #[error(
        "PostgreSQL runs with {name} = {found:?} instead of {expected:?}, which is not safe; \
             it was stopped"
    )]
    NotFenced {
        /// The setting.
        name: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
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

    /// The postmaster outlived SIGKILL: it hangs in the kernel.
    #[error("the PostgreSQL process {pid} does not end, not even by SIGKILL")]
    Unkillable {
        /// The postmaster.
        pid: u32,
    },
}

impl ServerError {
    /// The end of the server's log, where it can tell more.
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

/// The server's own words where there are any: a `postgres::Error` prints as
/// "db error" alone.
pub(super) fn message(error: &postgres::Error) -> String {
    if let Some(locale) = missing_locale(error) {
        return format!(
            "the database needs the locale of its {locale}, which is not installed here; \
             install it on this host, and try again"
        );
    }
    match error.as_db_error() {
        Some(answer) => answer.message().to_owned(),
        None => error.to_string(),
    }
}

/// What a database needs that this host does not have, as in `LC_COLLATE
/// "de_DE.utf8"`. PostgreSQL has no code of its own for that (`CheckMyDatabase` in
/// postinit.c); the fence has it speak English.
pub(super) fn missing_locale(error: &postgres::Error) -> Option<String> {
    let answer = error.as_db_error()?;
    let is_meant = answer.message() == "database locale is incompatible with operating system";
    let detail = answer.detail().filter(|_| is_meant)?;
    let (_, needed) = detail.split_once("initialized with ")?;
    let (locale, _) = needed.split_once(", ")?;
    Some(locale.to_owned())
}
