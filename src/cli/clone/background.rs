//! Starting a session in the background: the same command once more, as the
//! process that stays, while this one waits for its ready line.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::exit::Code;
use crate::cli::output;
use crate::server::own_program;
use crate::session::{SessionError, Signals};

/// The hidden flag by which the process that stays knows itself.
pub const FLAG: &str = "--background";

const POLL: Duration = Duration::from_millis(50);

/// How long a session that was too slow has to undo what it had set up.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// Starts this command again to stay, and waits until it is ready or has
/// failed; with a `limit`, that long at most. Its errors go straight to our
/// standard error.
pub fn start(limit: Option<Duration>) -> Result<Code, SessionError> {
    let program = own_program();
    let failed = |e| SessionError::io("run", &program, e);
    let signals = Signals::install().map_err(failed)?;
    // In front, where it cannot be taken for an argument.
    let mut child = Command::new(&program)
        .arg0("pbkfs")
        .arg(FLAG)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    match first_line(&mut child, &signals, limit) {
        Answer::Ready(line) => {
            output::ready(&line);
            Ok(Code::Done)
        }
        Answer::Ended => Ok(code_of(child.wait().map_err(failed)?)),
        Answer::TooLate => {
            give_up(&mut child).map_err(failed)?;
            Ok(Code::Failed)
        }
    }
}

enum Answer {
    Ready(String),
    Ended,
    TooLate,
}

/// The child has said why. Killed by a signal it has not, but then it was no
/// answer about the backup either.
fn code_of(status: ExitStatus) -> Code {
    let code = status.code().and_then(Code::from_number);
    code.unwrap_or(Code::Failed)
}

/// Waits for the child's first line. A signal to end is passed on.
fn first_line(child: &mut Child, signals: &Signals, limit: Option<Duration>) -> Answer {
    let begin = Instant::now();
    let lines = read_line(child);
    let mut passed_on = 0;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => return Answer::Ready(line),
            Err(RecvTimeoutError::Disconnected) => return Answer::Ended,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if limit.is_some_and(|limit| begin.elapsed() > limit) {
            return Answer::TooLate;
        }
        let wanted = u8::from(signals.end_asked()) + u8::from(signals.hurry());
        if wanted > passed_on {
            passed_on += 1;
            ask_to_end(child);
        }
    }
}

/// Gives the child's first line; nothing if it ends without one.
fn read_line(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut line = String::new();
            if matches!(BufReader::new(stdout).read_line(&mut line), Ok(n) if n > 0) {
                // Gone only if nobody waits for the line any more.
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

fn ask_to_end(child: &Child) {
    // Our child, not waited for yet: the number is its own.
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
}

/// Has the child undo what it has set up.
fn give_up(child: &mut Child) -> io::Result<()> {
    complain!("pbkfs: the mount was not ready in time; it is being undone");
    ask_to_end(child);
    let deadline = Instant::now() + UNDO_PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            complain!("pbkfs: pid {} still does that", child.id());
            break;
        }
        thread::sleep(POLL);
    }
    Ok(())
}
