//! Programs that are run against a clone: PostgreSQL's own, and the user's.
//! Each runs as the server's user, below a process that ends it with everything
//! that it has started ([`mod@keeper`]).

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

/// How much of a program's errors is kept, in bytes: of the beginning, where
/// the first one is.
const KEPT: usize = 64 << 10;

/// How long the keeper has to start a program. It needs some milliseconds, unless
/// a file system hangs.
const START: Duration = Duration::from_secs(30);

/// What becomes of a program's standard output.
#[derive(Debug)]
pub enum Output {
    /// It is kept together with the errors.
    Kept,
    /// It goes into this file.
    To(File),
    /// It is thrown away.
    Nowhere,
}

/// A running program.
#[derive(Debug)]
pub struct Tool {
    /// Its keeper, which ends as it does, once nothing of it is left.
    child: Child,
    said: Vec<Said>,
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

/// What programs against the clone rely on besides. Event triggers of production would
/// keep extensions from being made, and run its code.
const TOOL_OPTIONS: &str =
    " -c session_replication_role=replica -c default_transaction_read_only=off";

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
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = keeper(server.config(), &program, &arguments);
        speak_english(&mut command);
        Self::start(server.config(), command, &program, database, output)
    }

    /// Starts a command of the shell.
    ///
    /// # Errors
    /// The shell cannot be started.
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
        // With it goes the keeper's end of the socket, so that its death ends the wait.
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
        let said = self.said.drain(..).map(Said::text);
        let said = said
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Ended { status, said })
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended, and that is as good: it is not waited for yet.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Whether it has ended by then.
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
    /// Ends it with everything that it has started.
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // The keeper itself waits that long for what it may not end.
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

/// The keeper of a program.
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

/// Has a program's messages untranslated, as its words may be judged by. All else
/// stays as the user has it.
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

/// What a program says, of which the beginning is kept.
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

    /// What was kept, once the program has ended. Something that it has left behind
    /// and that cannot be ended would keep its output open.
    fn text(self) -> String {
        let _ = self.end.recv_timeout(keeper::PATIENCE);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim_end().to_owned()
    }
}
