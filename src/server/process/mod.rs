//! The running postmaster, our own child.
//!
//! It is started directly, not by `pg_ctl`, so that we can wait for it, and so that
//! the kernel stops it when its owner is killed.

mod at_target;
mod full;
mod log_end;
pub mod ready;
pub mod wait;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::binaries::Binaries;
use crate::server::error::{LogTail, ServerError};
use crate::server::limits::Limits;
use crate::server::namespace::Enclosure;
use crate::server::settings::{Setting, utf8};
use crate::server::spawn::{become_child, clean_environment, leave_open};
use crate::server::user::OsUser;
use crate::untrusted::Dir;

/// Pause between two checks of a child during a wait.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Number of log lines in an error.
pub(super) const TAIL_LINES: usize = 20;

/// The database that pbkfs connects to unless it is told otherwise.
pub(super) const DATABASE: &str = "postgres";

/// Everything needed to start a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The programs.
    pub binaries: Binaries,
    /// The data directory.
    pub data_directory: PathBuf,
    /// Its `-c` options, from [`settings::all`](super::settings::all).
    pub settings: Vec<Setting>,
    /// The file to which its output is appended.
    pub log_file: PathBuf,
    /// The directory of its WAL, if that is outside the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The directory of its socket; the same as in `settings`.
    pub socket_dir: PathBuf,
    /// Its port; the same as in `settings`.
    pub port: u16,
    /// The role that we connect as.
    pub role: String,
    /// The user to run it as, if not this process's.
    pub run_as: Option<OsUser>,
    /// The namespaces to run it in, if any.
    pub enclosure: Option<Enclosure>,
    /// How much of the host it may use.
    pub limits: Limits,
    /// A descriptor that stays open while the server, or the process beside it, runs.
    pub hold: Option<Arc<OwnedFd>>,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopMode {
    /// SIGINT: ends the sessions, then writes a checkpoint.
    Fast,
    /// SIGQUIT: stops at once; the next start runs recovery.
    Immediate,
    /// SIGKILL: the last resort.
    Kill,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
            Self::Kill => Signal::SIGKILL,
        }
    }

    fn harsher(self) -> Option<Self> {
        match self {
            Self::Fast => Some(Self::Immediate),
            Self::Immediate => Some(Self::Kill),
            Self::Kill => None,
        }
    }
}

/// How a server was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The postmaster's exit status.
    pub status: ExitStatus,
    /// The harshest mode that was used.
    pub mode: StopMode,
}

impl Stopped {
    /// Returns whether the server wrote its shutdown checkpoint.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.status.success() && self.mode <= StopMode::Fast
    }
}

/// A postmaster. Dropping it stops the server at once, in immediate mode.
#[derive(Debug)]
pub struct Server {
    /// The postmaster or, if it runs in namespaces, the process beside it, which
    /// forwards signals and exits as the postmaster does.
    child: Child,
    /// The postmaster.
    pid: u32,
    config: ServerConfig,
    /// The offset in the log file at which this run begins.
    log_start: u64,
}

/// Returns the options of all our clients. They take precedence over the backup's
/// settings for its databases and roles: the connecting role keeps its own
/// privileges, and there are no timeouts, some of which would be too short for a busy
/// host.
pub(super) fn client_options(major: u32) -> String {
    const LIMITS: [&str; 4] = [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
    ];
    let newer = (major >= 17).then_some("transaction_timeout");
    let known = LIMITS.into_iter().chain(newer);
    known.fold("-c role=none".to_owned(), |options, name| {
        options + " -c " + name + "=0"
    })
}

impl Server {
    /// Starts the postmaster and returns at once; see [`Server::wait_for`].
    ///
    /// The kernel sends the postmaster SIGQUIT when the *thread* that called
    /// this ends, so call it from one that lives as long as the process does.
    ///
    /// # Errors
    /// If the log cannot be opened, the program cannot be started, or the host does
    /// not permit the namespaces.
    pub fn start(mut config: ServerConfig) -> Result<Self, ServerError> {
        let log_error = |source| ServerError::Write {
            path: config.log_file.clone(),
            source,
        };
        let log = Dir::of_file(&config.log_file).and_then(|(dir, name)| dir.append(name, 0o600));
        let log = log.map_err(log_error)?;
        let log_start = log.metadata().map_err(log_error)?.len();

        let (child, pid) = match &config.enclosure {
            Some(enclosure) => {
                let user = config.run_as.as_ref().map(|user| user.name.clone());
                let command = (config.binaries.postgres.clone(), arguments(&config)?);
                enclosure.start(command, user, log, &config.limits, config.hold.as_ref())?
            }
            None => {
                let child = spawn(&config, log)?;
                let pid = child.id();
                (child, pid)
            }
        };
        if let Some(enclosure) = &mut config.enclosure {
            enclosure.close();
        }
        Ok(Self {
            child,
            pid,
            config,
            log_start,
        })
    }

    /// Stops the server in `mode`, and changes to the next harsher mode each time
    /// that `patience` runs out. While `hurry` returns true, it does not wait for a
    /// stop gentler than immediate.
    ///
    /// # Errors
    /// If the process cannot be signalled or waited for, or survives SIGKILL.
    pub fn stop(
        &mut self,
        mode: StopMode,
        patience: Duration,
        hurry: &dyn Fn() -> bool,
    ) -> Result<Stopped, ServerError> {
        let mut mode = mode;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Stopped { status, mode });
            }
            self.signal(mode)?;
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if let Some(status) = self.try_wait()? {
                    return Ok(Stopped { status, mode });
                }
                if mode < StopMode::Immediate && hurry() {
                    break;
                }
                thread::sleep(POLL);
            }
            mode = mode
                .harsher()
                .ok_or(ServerError::Unkillable { pid: self.pid() })?;
        }
    }

    /// Returns the server's exit status, if it has exited.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, ServerError> {
        let pid = self.pid();
        self.child
            .try_wait()
            .map_err(|source| ServerError::Control { pid, source })
    }

    /// Signals the child, which must not have been reaped: until then no other
    /// process can have its pid.
    fn signal(&self, mode: StopMode) -> Result<(), ServerError> {
        let pid = self.child.id();
        let control = |source| ServerError::Control { pid, source };
        let number = i32::try_from(pid).map_err(|_| control(io::ErrorKind::InvalidInput.into()))?;
        let signal = match mode {
            // The process beside the server cannot forward SIGKILL.
            StopMode::Kill if self.config.enclosure.is_some() => Signal::SIGALRM,
            mode => mode.signal(),
        };
        kill(Pid::from_raw(number), signal).map_err(|errno| control(errno.into()))
    }

    /// Returns the postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the offset in the log file at which this run begins, in bytes.
    pub(super) fn log_start(&self) -> u64 {
        self.log_start
    }

    /// Returns the configuration that it was started from.
    #[must_use]
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Returns a libpq connection string.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!(
            "host={} port={} user={} dbname=postgres",
            quote(&self.config.socket_dir.to_string_lossy()),
            self.config.port,
            quote(&self.config.role)
        )
    }

    /// Returns the same for our own client.
    #[must_use]
    pub fn client_config(&self) -> postgres::Config {
        let mut client = postgres::Config::new();
        client
            .host_path(&self.config.socket_dir)
            .port(self.config.port)
            .user(&self.config.role)
            .dbname(DATABASE)
            .application_name("pbkfs")
            .options(&client_options(self.config.binaries.major))
            .connect_timeout(Duration::from_secs(5));
        client
    }

    /// Returns the last `count` lines that this run wrote to its log, without those
    /// that our own early connection attempts left there. Returns none if the log
    /// cannot be read: it only serves to explain another error.
    #[must_use]
    pub fn log_tail(&self, count: usize) -> LogTail {
        log_end::tail(&self.config.log_file, self.log_start, count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failure cannot be reported here, and the kernel still stops the
        // postmaster when its owner exits.
        let _ = self.stop(StopMode::Immediate, Duration::from_secs(5), &|| false);
    }
}

fn arguments(config: &ServerConfig) -> Result<Vec<String>, ServerError> {
    let data_directory = utf8(&config.data_directory)?.to_owned();
    let mut arguments = vec!["-D".to_owned(), data_directory];
    for setting in &config.settings {
        arguments.push("-c".to_owned());
        arguments.push(format!("{}={}", setting.name, setting.value));
    }
    Ok(arguments)
}

/// Starts the postmaster among the host's own processes.
fn spawn(config: &ServerConfig, log: File) -> Result<Child, ServerError> {
    let program = &config.binaries.postgres;
    let log_error = |source| ServerError::Write {
        path: config.log_file.clone(),
        source,
    };
    let mut command = Command::new(program);
    command
        .args(arguments(config)?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(log_error)?)
        .stderr(log);
    clean_environment(&mut command);
    config.limits.apply(&mut command);
    if let Some(held) = &config.hold {
        leave_open(&mut command, held);
    }
    become_child(&mut command, config.run_as.clone());
    command.spawn().map_err(|source| ServerError::Spawn {
        program: program.clone(),
        source,
    })
}

/// Quotes a value for a libpq connection string.
fn quote(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_quoted() {
        assert_eq!(quote("/run/pbkfs/a-b.c"), "/run/pbkfs/a-b.c");
        assert_eq!(quote("it's a\\b"), r"'it\'s a\\b'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn stops_get_harsher_up_to_the_last() {
        let mut mode = Some(StopMode::Fast);
        let mut signals = Vec::new();
        while let Some(current) = mode {
            signals.push(current.signal());
            mode = current.harsher();
        }
        use Signal::{SIGINT, SIGKILL, SIGQUIT};
        assert_eq!(signals, [SIGINT, SIGQUIT, SIGKILL]);
    }
}
