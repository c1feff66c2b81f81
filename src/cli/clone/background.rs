//! Starts a session in the background: runs the same command again, as the process
//! that stays with the session, while this process waits for its ready line.

use std::cell::Cell;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::exit::Code;
use crate::cli::output;
use crate::program::first_line;
use crate::server::own_program;
use crate::session::{SessionError, Signals};

/// The hidden flag that marks the process that stays.
pub const FLAG: &str = "--background";

const POLL: Duration = Duration::from_millis(50);

/// Practically unlimited, but no deadline overflows.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The time that a session that was too slow has to undo its setup.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// Starts this command again as the process that stays, and waits until it is ready
/// or has failed, for at most `limit`. Its errors go straight to our standard error.
pub fn start(limit: Option<Duration>) -> Result<Code, SessionError> {
    let program = own_program();
    let failed = |e| SessionError::io("run", &program, e);
    let signals = Signals::install().map_err(failed)?;
    // Put the flag first, where it cannot be taken for an argument.
    let mut child = Command::new(&program)
        .arg0("pbkfs")
        .arg(FLAG)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    // A signal to end is passed on, and the wait goes on until the child exits.
    let passed_on = Cell::new(0);
    let pass_on = || {
        let wanted = u8::from(signals.end_asked()) + u8::from(signals.hurry());
        if wanted > passed_on.get() {
            passed_on.set(passed_on.get() + 1);
            ask_to_end(&child);
        }
        false
    };
    match first_line(stdout, limit.unwrap_or(FOR_EVER), &pass_on) {
        Ok(line) if !line.is_empty() => {
            output::ready(&line);
            Ok(Code::Done)
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            give_up(&mut child).map_err(failed)?;
            Ok(Code::Failed)
        }
        Ok(_) | Err(_) => Ok(code_of(child.wait().map_err(failed)?)),
    }
}

/// Returns the child's code; the child has reported the reason. If a signal killed
/// it, it has not, but neither has it found out anything about the backup.
fn code_of(status: ExitStatus) -> Code {
    let code = status.code().and_then(Code::from_number);
    code.unwrap_or(Code::Failed)
}

fn ask_to_end(child: &Child) {
    // The child has not been waited for, so its pid cannot have been reused.
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
}

/// Makes the child undo its setup.
fn give_up(child: &mut Child) -> io::Result<()> {
    complain!("pbkfs: the mount was not ready in time; it is being undone");
    ask_to_end(child);
    let deadline = Instant::now() + UNDO_PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            complain!("pbkfs: pid {} is still undoing it", child.id());
            break;
        }
        thread::sleep(POLL);
    }
    Ok(())
}
