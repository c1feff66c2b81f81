//! Programs that are run against a clone: PostgreSQL's own, and the user's.
//! Each runs as the server's user, in a process group of its own, so that it
//! can be ended with everything that it started.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::ServerError;
use super::process::{Server, ServerConfig};
use super::spawn::{become_child, clean_environment};

/// How much of a program's errors is kept, in bytes: of the beginning, where
/// the first one is.
const KEPT: usize = 64 << 10;

/// How long a program has to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a program's standard output.
#[derive(Debug)]
pub enum Output {
    /// It is kept together with the errors.
    Kept,
    /// It is read through [`Tool::stdout`].
    Piped,
    /// It goes into this file.
    To(File),
    /// It is thrown away.
    Nowhere,
}

/// A running program.
#[derive(Debug)]
pub struct Tool {
    child: Child,
    said: Vec<JoinHandle<String>>,
    ended: Option<ExitStatus>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said, as far as that was kept.
    pub said: String,
}

/// What programs against the clone rely on, whatever the backup says for its
/// database or role. Event triggers of production would keep extensions from being
/// made, and run its code.
const TOOL_OPTIONS: &str = "-c session_replication_role=replica \
                            -c default_transaction_read_only=off -c statement_timeout=0 \
                            -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";

impl Tool {
    /// Starts one of the programs beside the server's.
    ///
    /// # Errors
    /// It is not there, or cannot be started.
    pub fn postgres<A: AsRef<OsStr>>(
        server: &Server,
        name: &str,
        database: &str,
        arguments: &[A],
        output: Output,
    ) -> Result<Self, ServerError> {
        let program = server.config().binaries.dir.join(name);
        let mut command = Command::new(&program);
        command.args(arguments);
        Self::start(server.config(), command, &program, database, output)
    }

    /// Starts a command of the shell.
    ///
    /// # Errors
    /// The shell cannot be started.
    pub fn shell(server: &Server, line: &str) -> Result<Self, ServerError> {
        let program = Path::new("/bin/sh");
        let mut command = Command::new(program);
        command.arg("-c").arg(line);
        Self::start(server.config(), command, program, "postgres", Output::Kept)
    }

    fn start(
        config: &ServerConfig,
        mut command: Command,
        program: &Path,
        database: &str,
        output: Output,
    ) -> Result<Self, ServerError> {
        clean_environment(&mut command);
        command
            .env("PGHOST", &config.socket_dir)
            .env("PGPORT", config.port.to_string())
            .env("PGUSER", &config.role)
            .env("PGDATABASE", database)
            .env("PGDATA", &config.data_directory)
            .env("PGOPTIONS", TOOL_OPTIONS)
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let is_kept = matches!(output, Output::Kept);
        command.stdout(match output {
            Output::Kept | Output::Piped => Stdio::piped(),
            Output::To(file) => file.into(),
            Output::Nowhere => Stdio::null(),
        });
        // That makes it the leader of its own session, and so of its group.
        become_child(&mut command, config.run_as.clone());
        let mut child = command.spawn().map_err(|source| ServerError::Spawn {
            program: program.to_owned(),
            source,
        })?;
        let mut said: Vec<_> = child.stderr.take().map(keep).into_iter().collect();
        if is_kept {
            said.extend(child.stdout.take().map(keep));
        }
        Ok(Self {
            child,
            said,
            ended: None,
        })
    }

    /// Its standard output, once, if that is piped.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn try_wait(&mut self) -> Result<bool, ServerError> {
        let pid = self.child.id();
        let ended = self.child.try_wait();
        self.ended = ended.map_err(|source| ServerError::Control { pid, source })?;
        Ok(self.ended.is_some())
    }

    /// How it ended; waits for that, and for the end of what it said.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn finish(mut self) -> Result<Ended, ServerError> {
        let pid = self.child.id();
        let status = match self.ended {
            Some(status) => status,
            None => self
                .child
                .wait()
                .map_err(|source| ServerError::Control { pid, source })?,
        };
        self.ended = Some(status);
        // What it has left behind would keep its output open.
        self.signal(Signal::SIGKILL);
        let said = self
            .said
            .drain(..)
            .map(|kept| kept.join().unwrap_or_default());
        let said = said
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Ended { status, said })
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // Nothing of it may be left, and that is as good.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

impl Drop for Tool {
    /// Ends it with everything that it has started.
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end, and keeps its beginning.
fn keep(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = stream.by_ref().take(KEPT as u64).read_to_end(&mut kept);
        let _ = io::copy(&mut stream, &mut io::sink());
        String::from_utf8_lossy(&kept).trim_end().to_owned()
    })
}
