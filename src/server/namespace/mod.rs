//! Namespaces around the server: its own files, processes, IPC and network.
//!
//! Settings cannot stop SQL that reaches out by itself. So the server runs where
//! there is nothing to reach: in a root directory that contains only what it needs
//! ([`root`]), among its own processes, with only a loopback device, and without the
//! system calls whose effects would outlast all that ([`calls`]).
//!
//! A multi-threaded process cannot set that up between fork and exec. pbkfs therefore
//! starts itself a second time (the hidden subcommand [`SUBCOMMAND`], [`helper`]):
//!
//! ```text
//! pbkfs
//!  └─ pbkfs fence-exec     outside: waits for the server, forwards signals
//!      ├─ pid 1 inside     has set up the root; reaps
//!      └─ pid 2 inside     postgres
//! ```
//! The helper reads a [`Spec`] from its standard input and writes one [`HelperAnswer`] to
//! its standard output. Its exit status is that of the server.

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

/// How long the helper may take. It needs a few milliseconds, unless a file system
/// that it accesses hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The part of the host that the server can see. All paths are absolute.
///
/// Whatever the server may write, and whatever the clone itself names, is passed by a
/// descriptor that was checked when it was opened: otherwise the owner of a directory
/// above could replace it in the meantime. Everything else that the server may read
/// is named by the host, and passed by path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Enclosure {
    /// The pbkfs program that is started as the helper.
    pub program: PathBuf,
    /// Files and directories that the server may read.
    pub show: Vec<PathBuf>,
    /// Files named by the clone that the server may read, opened with its user's
    /// permissions.
    #[serde(skip)]
    pub read: Vec<Opened>,
    /// Directories that the server may write to. No program can run from there.
    #[serde(skip)]
    pub write: Vec<Opened>,
    /// The clone's data directory, which the server may write to as well. `None` only
    /// if the setup is just tried out.
    #[serde(skip)]
    pub data: Option<Opened>,
    /// Paths at which the server finds an empty directory of its own, whatever the
    /// host has there.
    pub cover: Vec<PathBuf>,
    /// How much of the host's memory its own directories may use.
    pub memory: Memory,
    /// The limit of processes, if namespaces can count them.
    pub processes: Option<u32>,
    /// Whether the server has no network but its own loopback device.
    pub private_network: bool,
}

/// How much of the host's memory the server's in-memory directories may use, in
/// bytes; 0 would mean no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Each of `/tmp` and `/var/tmp`.
    pub tmp: u64,
    /// `/dev/shm`, which holds what parallel workers share.
    pub shm: u64,
}

/// The helper's instructions.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    enclosure: Enclosure,
    /// The open descriptors of the enclosure.
    read: Vec<Inherited>,
    write: Vec<Inherited>,
    data: Option<Inherited>,
    /// The user to run the server as, if not the helper's.
    user: Option<String>,
    /// The server and its arguments. Without them, the setup is only tried out.
    command: Option<(PathBuf, Vec<String>)>,
    /// A descriptor that the helper inherits and keeps open. The server does not
    /// inherit it.
    hold: Option<RawFd>,
}

/// The helper's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HelperAnswer {
    /// The server runs; its pid as seen from outside.
    Started(u32),
    /// Everything could be set up.
    Possible,
    /// The host does not permit the setup.
    Refused(String),
    /// A path no longer resolves to what was opened.
    Replaced(PathBuf),
    /// The setup succeeded, but the server's program could not be run.
    Failed(String),
}

impl Enclosure {
    /// Tries out whether this host permits the enclosure.
    ///
    /// # Errors
    /// Returns [`ServerError::NoNamespaces`] with the reason if it does not, or
    /// [`ServerError::Replaced`] if a path no longer resolves to what was opened.
    pub fn probe(&self) -> Result<(), ServerError> {
        let spec = self.spec(None, None, None);
        let mut command = self.helper();
        command.stderr(Stdio::null());
        let (mut helper, answer) = self.ask(command, &spec)?;
        // It exits by itself, or was killed.
        let _ = helper.wait();
        match answer {
            HelperAnswer::Possible => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Closes the enclosure's descriptors once they are no longer needed: a mount is
    /// busy as long as something in it is open.
    pub(super) fn close(&mut self) {
        self.read.clear();
        self.write.clear();
        self.data = None;
    }

    /// Starts `command` inside. Returns the helper and the pid of the server. `hold`
    /// stays open until the helper and process 1 inside have exited.
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
            (helper, HelperAnswer::Started(pid)) => Ok((helper, pid)),
            (mut helper, answer) => {
                let _ = helper.wait();
                Err(match answer {
                    HelperAnswer::Failed(reason) => ServerError::Spawn {
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

    fn ask(&self, mut command: Command, spec: &Spec) -> Result<(Child, HelperAnswer), ServerError> {
        let spawn = |source| ServerError::Spawn {
            program: self.program.clone(),
            source,
        };
        let text = serde_json::to_vec(spec).map_err(|e| spawn(e.into()))?;
        let mut helper = command.spawn().map_err(spawn)?;
        let mut asked = || -> io::Result<HelperAnswer> {
            let (stdin, stdout) = (helper.stdin.take(), helper.stdout.take());
            let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            stdin.write_all(&text)?;
            drop(stdin);
            let line = first_line(stdout, PATIENCE, &|| false)?;
            serde_json::from_str(&line).map_err(|_| io::Error::other("it exited without an answer"))
        };
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

fn unexpected(answer: HelperAnswer) -> ServerError {
    let reason = match answer {
        HelperAnswer::Replaced(path) => return ServerError::Replaced { path },
        HelperAnswer::Refused(reason) | HelperAnswer::Failed(reason) => reason,
        HelperAnswer::Started(_) | HelperAnswer::Possible => {
            "the helper gave an unexpected answer".to_owned()
        }
    };
    ServerError::NoNamespaces { reason }
}
