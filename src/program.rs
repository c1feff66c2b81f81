//! Programs that are run to completion: their output is read while they run, and a
//! program that exceeds its time limit is killed together with everything it started. Of
//! programs that stay, the first line is read.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Maximum number of bytes read from the standard output. `pg_probackup show` prints about
/// 1.5 kB for a backup, so no program that is run here exceeds this.
const STDOUT_LIMIT: u64 = 256 << 20;

/// Interval of checks whether a program that closed its output has exited.
const REAP_INTERVAL: Duration = Duration::from_millis(2);

/// Time limit for a killed program to exit.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// Interval of checks whether to keep waiting for a first line.
const POLL: Duration = Duration::from_millis(50);

/// The outcome of a program that exited by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, up to the requested number of bytes.
    pub stderr: String,
}

/// Why there is no outcome.
#[derive(Debug)]
pub enum Unfinished {
    /// The program could not be started, or its output could not be read.
    Failed(io::Error),
    /// It was still running at the deadline and was killed.
    TimedOut {
        /// The end of its standard error, if it could still be read.
        stderr: String,
    },
}

impl From<io::Error> for Unfinished {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Unfinished> for io::Error {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Failed(error) => error,
            Unfinished::TimedOut { .. } => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// Runs a program until it exits, and keeps the last `keep` bytes of its standard error.
///
/// The caller sets its standard input, and makes it the leader of a process group
/// (`process_group(0)` or `server::become_child`): at the deadline, the group is killed.
///
/// # Errors
/// Returns [`Unfinished`] if the program could not be run or did not exit in time.
pub fn run(command: &mut Command, deadline: Instant, keep: usize) -> Result<Ended, Unfinished> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let reaped = false;
    let mut process = Process { child, reaped };
    // Both pipes are drained by separate threads: a program that fills one while we wait
    // for the other would never finish.
    let stdout = drain(process.child.stdout.take(), read_limited);
    let stderr = drain(process.child.stderr.take(), move |pipe| {
        read_tail(pipe, keep)
    });
    let ended = receive(&stdout, deadline).and_then(|stdout| {
        let stderr = receive(&stderr, deadline)?;
        Some((stdout, stderr, process.wait_until(deadline)?))
    });
    let Some((stdout, stderr, status)) = ended else {
        drop(process);
        // The killed program has closed its end, unless one of its processes escaped.
        let said = receive(&stderr, Instant::now() + Duration::from_millis(200));
        let stderr = said.and_then(Result::ok).map(as_text).unwrap_or_default();
        return Err(Unfinished::TimedOut { stderr });
    };
    Ok(Ended {
        status: status?,
        stdout: stdout?,
        stderr: as_text(stderr?),
    })
}

/// Returns the first line that a program prints; an empty one if it exits without
/// printing.
///
/// # Errors
/// Returns `TimedOut` if there is none within `patience`, `Interrupted` if `interrupted`
/// returned true meanwhile, or the system's error.
pub fn first_line(
    said: impl Read + Send + 'static,
    patience: Duration,
    interrupted: &dyn Fn() -> bool,
) -> io::Result<String> {
    let receiver = drain(Some(said), |said| {
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).map(|_| line)
    });
    let deadline = Instant::now() + patience;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(line) => return line,
            Err(RecvTimeoutError::Timeout) if interrupted() => {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn as_text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A running program. If this is dropped before the program was reaped, its process group
/// is killed.
struct Process {
    child: Child,
    reaped: bool,
}

impl Process {
    /// Returns the exit status; `None` if the program is still running at the deadline.
    fn wait_until(&mut self, deadline: Instant) -> Option<io::Result<ExitStatus>> {
        loop {
            match self.child.try_wait().transpose() {
                Some(ended) => {
                    self.reaped = true;
                    return Some(ended);
                }
                None if Instant::now() >= deadline => return None,
                None => thread::sleep(REAP_INTERVAL),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The id is certain to be its own only until it is reaped.
        if self.reaped {
            return;
        }
        if let Ok(group) = i32::try_from(self.child.id()) {
            // A failure means that the group has just exited.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        // The wait is limited: a process waiting for a dead file server cannot die.
        let _ = self.wait_until(Instant::now() + REAP_LIMIT);
    }
}

type Drained<T> = Receiver<io::Result<T>>;

/// Reads a pipe in a separate thread, which lives as long as the pipe.
fn drain<R: Read + Send + 'static, T: Send + 'static>(
    pipe: Option<R>,
    read: impl FnOnce(R) -> io::Result<T> + Send + 'static,
) -> Drained<T> {
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = pipe {
        // Sending fails if the receiver was dropped because the answer is no longer needed.
        thread::spawn(move || drop(sender.send(read(pipe))));
    }
    receiver
}

/// Returns the drained bytes; `None` if the pipe is still open at the deadline.
fn receive(drained: &Drained<Vec<u8>>, deadline: Instant) -> Option<io::Result<Vec<u8>>> {
    let left = deadline.saturating_duration_since(Instant::now());
    drained.recv_timeout(left).ok()
}

/// Reads and discards what exceeds the limit, so that the program can finish.
fn read_limited(mut pipe: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.by_ref().take(STDOUT_LIMIT).read_to_end(&mut bytes)?;
    match io::copy(&mut pipe, &mut io::sink())? {
        0 => Ok(bytes),
        _ => Err(io::Error::other(format!(
            "it printed more than {} MiB",
            STDOUT_LIMIT >> 20
        ))),
    }
}

fn read_tail(mut pipe: impl Read, keep: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(kept),
            Ok(count) => kept.extend(chunk.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let excess = kept.len().saturating_sub(keep);
        kept.drain(..excess);
    }
}
