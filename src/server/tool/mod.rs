//! Programs that are run against a clone: PostgreSQL's own, and the user's. Each runs
//! as the server's user, below a process that kills it together with everything it
//! has started ([`mod@keeper`]).

pub mod keeper;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::first_line;
use crate::server::error::ServerError;
use crate::server::process::{Server, ServerConfig, client_options};
use crate::server::spawn::{become_child, clean_environment, own_program};

/// Number of bytes kept of a program's errors: of the beginning, because the first
/// error is there.
const KEPT: usize = 64 << 10;

/// How long the keeper may take to start a program. It needs a few milliseconds,
/// unless a file system hangs.
const START: Duration = Duration::from_secs(30);

/// Where a program's standard output goes.
#[derive(Debug)]
pub enum Output {
    /// It is kept, together with the errors.
    Kept,
    /// It is written to this file.
    To(File),
    /// It is discarded.
    Nowhere,
}

/// A running program.
#[derive(Debug)]
pub struct Tool {
    /// Its keeper, which exits as the program did, once nothing of the program is
    /// left.
    child: Child,
    said: Vec<Said>,
    ended: Option<ExitStatus>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its output, as far as it was kept.
    pub said: String,
}

/// Further options that programs run against the clone rely on. Production's event
/// triggers could keep extensions from being created, and would run production's
/// code.
const TOOL_OPTIONS: &str =
    " -c session_replication_role=replica -c default_transaction_read_only=off";

impl Tool {
    /// Starts one of the programs installed beside the server.
    ///
    /// # Errors
    /// If it does not exist, or cannot be started.
    pub fn postgres<A: AsRef<OsStr>>(
        server: &Server,
        name: &str,
        database: &str,
        arguments: &[A],
        output: Output,
    ) -> Result<Self, ServerError> {
        let program = server.config().binaries.dir.join(name);
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = keeper(server.config(), &program, &arguments);
        speak_english(&mut command);
        Self::start(server.config(), command, &program, database, output)
    }

    /// Starts a shell command.
    ///
    /// # Errors
    /// If the shell cannot be started.
    pub fn shell(server: &Server, line: &str) -> Result<Self, ServerError> {
        let program = Path::new("/bin/sh");
        let arguments = ["-c", line].map(OsStr::new);
        let command = keeper(server.config(), program, &arguments);
        Self::start(server.config(), command, program, "postgres", Output::Kept)
    }

    fn start(
        config: &ServerConfig,
        mut command: Command,
        program: &Path,
        database: &str,
        output: Output,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Spawn {
            program: program.to_owned(),
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        command
            .env("PGHOST", &config.socket_dir)
            .env("PGPORT", config.port.to_string())
            .env("PGUSER", &config.role)
            .env("PGDATABASE", database)
            .env("PGDATA", &config.data_directory)
            .env(
                "PGOPTIONS",
                client_options(config.binaries.major) + TOOL_OPTIONS,
            )
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped());
        let is_kept = matches!(output, Output::Kept);
        command.stdout(match output {
            Output::Kept => Stdio::piped(),
            Output::To(file) => file.into(),
            Output::Nowhere => Stdio::null(),
        });
        let mut child = command.spawn().map_err(failed)?;
        // This closes our copy of the keeper's end of the socket, so that the
        // keeper's death ends the wait.
        drop(command);
        let mut said: Vec<_> = child.stderr.take().map(Said::listen).into_iter().collect();
        if is_kept {
            said.extend(child.stdout.take().map(Said::listen));
        }
        let tool = Self {
            child,
            said,
            ended: None,
        };
        started(ours).map_err(failed)?;
        Ok(tool)
    }

    /// Returns whether it has exited.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn try_wait(&mut self) -> Result<bool, ServerError> {
        let pid = self.child.id();
        let ended = self.child.try_wait();
        self.ended = ended.map_err(|source| ServerError::Control { pid, source })?;
        Ok(self.ended.is_some())
    }

    /// Waits until it exits and its output ends; returns both.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn finish(mut self) -> Result<Ended, ServerError> {
        let pid = self.child.id();
        let status = self.ended.map_or_else(|| self.child.wait(), Ok);
        let status = status.map_err(|source| ServerError::Control { pid, source })?;
        self.ended = Some(status);
        let said = self.said.drain(..).map(Said::text);
        let said = said
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Ended { status, said })
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // If it has exited, the signal is harmless: it has not been reaped yet.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Returns whether it exits within `patience`.
    fn ends_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Tool {
    /// Ends it together with everything it has started.
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // The keeper itself waits up to `PATIENCE` for what it may not kill.
        for (signal, patience) in [
            (Signal::SIGTERM, keeper::PATIENCE),
            (Signal::SIGQUIT, keeper::PATIENCE * 2),
        ] {
            self.signal(signal);
            if self.ends_within(patience) {
                return;
            }
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Returns the command that starts a program's keeper.
fn keeper(config: &ServerConfig, program: &Path, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(own_program());
    command.arg0("pbkfs").arg(keeper::SUBCOMMAND);
    if let Some(user) = &config.run_as {
        command.arg("--user").arg(&user.name);
    }
    command.arg("--").arg(program).args(arguments);
    clean_environment(&mut command);
    become_child(&mut command, None);
    command
}

/// Keeps a program's messages untranslated, because the verdict may depend on them.
/// The rest of the user's locale stays in effect.
fn speak_english(command: &mut Command) {
    if let Some(all) = std::env::var_os("LC_ALL") {
        command.env_remove("LC_ALL").env("LC_CTYPE", all);
    }
    command.env_remove("LANGUAGE").env("LC_MESSAGES", "C");
}

/// Waits until the keeper has started its program.
fn started(answer: UnixStream) -> io::Result<()> {
    let line = first_line(answer, START, &|| false)?;
    match serde_json::from_str(&line)? {
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Ok(()),
    }
}

/// A program's output, of which the beginning is kept.
#[derive(Debug)]
struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    end: Receiver<()>,
}

impl Said {
    /// Reads a stream to its end, in a thread of its own.
    fn listen(mut stream: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (ended, end) = mpsc::channel();
        let keep = kept.clone();
        thread::spawn(move || {
            let mut part = vec![0; 8 << 10];
            loop {
                let read = match stream.read(&mut part) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                let read = read.min(KEPT.saturating_sub(kept.len()));
                kept.extend_from_slice(part.get(..read).unwrap_or_default());
            }
            drop(ended);
        });
        Self { kept, end }
    }

    /// Returns what was kept, once the program has exited. The wait is limited: a
    /// process that the program has left behind and that cannot be killed would keep
    /// the output open.
    fn text(self) -> String {
        let _ = self.end.recv_timeout(keeper::PATIENCE);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim_end().to_owned()
    }
}
