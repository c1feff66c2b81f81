//! Namespaces around the server: files, processes, IPC and network of its own.
//!
//! Settings cannot stop SQL that reaches out by itself. So the server runs
//! where there is nothing to reach: in a root directory made up of what it
//! needs ([`root`]), among processes of its own, with a loopback device alone,
//! and without the system calls that would outlast all that ([`calls`]).
//!
//! A multi-threaded process cannot set that up between fork and exec. pbkfs
//! starts itself a second time instead (the hidden subcommand [`SUBCOMMAND`],
//! [`helper`]):
//!
//! ```text
//! pbkfs
//!  └─ pbkfs fence-exec     outside: waits for the server, passes signals on
//!      ├─ pid 1 inside     made the root; reaps
//!      └─ pid 2 inside     postgres
//! ```
//! It reads a [`Spec`] from its standard input and says one [`Answer`] on its
//! standard output. Its exit status is that of the server.

mod calls;
mod helper;
mod opened;
mod root;
mod system;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use helper::run as fence_exec;
pub use opened::Opened;
pub use root::shows as root_shows;
pub use system::read_only_view;

use super::error::ServerError;
use super::limits::Limits;
use super::spawn::{become_child, clean_environment, leave_open};
use crate::program::first_line;
use opened::Inherited;

/// The hidden subcommand.
const SUBCOMMAND: &str = "fence-exec";

/// How long the helper may take. It needs some milliseconds, unless a file
/// system that it looks at hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server gets to see of the host. All paths are absolute.
///
/// What the server may write, and what the clone itself names, is shown by its
/// descriptor, which was checked when it was opened: whoever owns a directory
/// above could put something else in its place in the meantime. What else it may
/// read is named by the host, and shown by its path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Enclosure {
    /// The pbkfs program that is started as the helper.
    pub program: PathBuf,
    /// Files and directories that it may read.
    pub show: Vec<PathBuf>,
    /// Files that the clone names, which it may read, opened with the rights of
    /// its user.
    #[serde(skip)]
    pub read: Vec<Opened>,
    /// Directories that it may write. No program runs from there.
    #[serde(skip)]
    pub write: Vec<Opened>,
    /// The clone's data directory, which it may write, too. `None` only to see
    /// whether all can be set up.
    #[serde(skip)]
    pub data: Option<Opened>,
    /// Where it finds an empty directory of its own, whatever the host has
    /// there.
    pub cover: Vec<PathBuf>,
    /// How much of the host's memory its own directories take.
    pub memory: Memory,
    /// How many processes there may be, where namespaces can count them.
    pub processes: Option<u32>,
    /// Whether it has no network but a loopback device of its own.
    pub private_network: bool,
}

/// How much of the host's memory the server's directories in memory may take,
/// in bytes; 0 would be without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Each of `/tmp` and `/var/tmp`.
    pub tmp: u64,
    /// `/dev/shm`, where what parallel workers share is.
    pub shm: u64,
}

/// What the helper is told.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    enclosure: Enclosure,
    /// What is open of the enclosure.
    read: Vec<Inherited>,
    write: Vec<Inherited>,
    data: Option<Inherited>,
    /// Whom to run the server as, if that is not the helper's user.
    user: Option<String>,
    /// The server and its arguments. Without one, all is set up only to see
    /// whether it can be.
    command: Option<(PathBuf, Vec<String>)>,
    /// A descriptor that the helper was started with, and is to keep open. The
    /// server does not get it.
    hold: Option<RawFd>,
}

/// What the helper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The server runs; its pid, as it is known outside.
    Started(u32),
    /// Everything could be set up.
    Possible,
    /// The host does not permit it.
    Refused(String),
    /// A path leads elsewhere than to what was opened.
    Replaced(PathBuf),
    /// All was set up, but the server's program could not be run.
    Failed(String),
}

impl Enclosure {
    /// Whether this host permits it, tried out.
    ///
    /// # Errors
    /// [`ServerError::NoNamespaces`] with the reason; [`ServerError::Replaced`].
    pub fn probe(&self) -> Result<(), ServerError> {
        let spec = self.spec(None, None, None);
        let mut command = self.helper();
        command.stderr(Stdio::null());
        let (mut helper, answer) = self.ask(command, &spec)?;
        // It ends by itself, or was killed.
        let _ = helper.wait();
        match answer {
            Answer::Possible => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Closes what is open of it, once it is not needed any more: a mount is busy
    /// as long as something of it is open.
    pub(super) fn close(&mut self) {
        self.read.clear();
        self.write.clear();
        self.data = None;
    }

    /// Starts `command` inside. Gives the helper and the pid of the server.
    /// `hold` stays open until the helper and process 1 inside have ended.
    pub(super) fn start(
        &self,
        command: (PathBuf, Vec<String>),
        user: Option<String>,
        log: File,
        limits: &Limits,
        hold: Option<&Arc<OwnedFd>>,
    ) -> Result<(Child, u32), ServerError> {
        let program = command.0.clone();
        let spec = self.spec(user, Some(command), hold);
        let mut helper = self.helper();
        helper.stderr(log);
        limits.apply(&mut helper);
        if let Some(held) = hold {
            leave_open(&mut helper, held);
        }
        match self.ask(helper, &spec)? {
            (helper, Answer::Started(pid)) => Ok((helper, pid)),
            (mut helper, answer) => {
                let _ = helper.wait();
                Err(match answer {
                    Answer::Failed(reason) => ServerError::Spawn {
                        program,
                        source: io::Error::other(reason),
                    },
                    other => unexpected(other),
                })
            }
        }
    }

    fn spec(
        &self,
        user: Option<String>,
        command: Option<(PathBuf, Vec<String>)>,
        hold: Option<&Arc<OwnedFd>>,
    ) -> Spec {
        Spec {
            enclosure: self.clone(),
            read: self.read.iter().map(Inherited::of).collect(),
            write: self.write.iter().map(Inherited::of).collect(),
            data: self.data.as_ref().map(Inherited::of),
            user,
            command,
            hold: hold.map(AsRawFd::as_raw_fd),
        }
    }

    fn helper(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg0("pbkfs")
            .arg(SUBCOMMAND)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        clean_environment(&mut command);
        become_child(&mut command, None);
        for opened in self.read.iter().chain(&self.write).chain(&self.data) {
            leave_open(&mut command, &opened.file);
        }
        command
    }

    fn ask(&self, mut command: Command, spec: &Spec) -> Result<(Child, Answer), ServerError> {
        let program = || self.program.clone();
        let spawn = |source| ServerError::Spawn {
            program: program(),
            source,
        };
        let text = serde_json::to_vec(spec).map_err(|e| spawn(e.into()))?;
        let mut helper = command.spawn().map_err(spawn)?;
        let asked = || -> io::Result<Answer> {
            let (stdin, stdout) = (helper.stdin.take(), helper.stdout.take());
            let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            stdin.write_all(&text)?;
            drop(stdin);
            let line = first_line(stdout, PATIENCE, &|| false)?;
            serde_json::from_str(&line).map_err(|_| io::Error::other("it ended without an answer"))
        };
        let mut asked = asked;
        match asked() {
            Ok(answer) => Ok((helper, answer)),
            Err(source) => {
                let _ = helper.kill();
                let _ = helper.wait();
                Err(spawn(source))
            }
        }
    }
}

fn unexpected(answer: Answer) -> ServerError {
    let reason = match answer {
        Answer::Replaced(path) => return ServerError::Replaced { path },
        Answer::Refused(reason) | Answer::Failed(reason) => reason,
        Answer::Started(_) | Answer::Possible => "the helper gave a wrong answer".to_owned(),
    };
    ServerError::NoNamespaces { reason }
}
