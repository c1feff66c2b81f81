//! `pbkfs up`: mounts the backup and runs PostgreSQL on it.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::ProfileArgs;
use super::exit::Code;
use super::{Verbosity, log};
use crate::session::{Place, Ready, SessionError, Signals, Up, own_program};

/// Mount the backup and run PostgreSQL on it
///
/// Stays in the foreground: prints one line that begins with "ready" and
/// holds a connection string when the server answers, then watches over it
/// until a signal comes or the server ends, and cleans up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs up profile.toml
  pbkfs up profile.toml --detach --set postgres.port=5433
  psql \"$(pbkfs up profile.toml --detach --json | jq -r .conninfo)\"")]
pub struct UpArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Return when the clone is ready, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Print the ready line as one JSON object
    #[arg(long)]
    json: bool,
    /// This process is the one that stays
    #[arg(long, hide = true, conflicts_with = "detach")]
    background: bool,
}

/// Runs the subcommand.
pub fn run(args: &UpArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    if args.detach {
        return detach();
    }
    let plan = args.profile.plan()?;
    let verbosity = match args.background {
        // Standard error becomes the session's log file.
        true => verbosity.without_colour(),
        false => verbosity,
    };
    log::init(verbosity, Some(&plan.log));
    let _span = log::span("up", Some(&plan.target));
    if args.background {
        // A session of its own: the terminal's signals are for the one that
        // waits in front. Failing means that it has one already.
        let _ = nix::unistd::setsid();
    }
    let signals = Signals::install()
        .map_err(|e| SessionError::io("take signals for", Path::new("pbkfs up"), e))?;
    raise_file_limit();
    let up = Up {
        plan: &plan,
        profile: args.profile.profile.as_deref(),
        signals: &signals,
        detached: args.background,
    };
    up.run(&mut |ready, place| {
        print(ready, args.json);
        if args.background
            && let Err(error) = leave_the_terminal(place)
        {
            tracing::warn!("cannot log to {}: {error}", place.log().display());
        }
    })?;
    Ok(Code::Done)
}

fn print(ready: &Ready, json: bool) {
    let line = match json {
        true => serde_json::to_string(ready).unwrap_or_default(),
        false => ready.to_string(),
    };
    // If nobody reads it, the clone is no less ready.
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// The clone's files and the catalog's count against the same limit, and the
/// usual soft limit of 1024 is small for a database.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// From now on, output goes into the session's log, so that whoever waits for
/// the end of this process's output need not wait for the session's.
fn leave_the_terminal(place: &Place) -> io::Result<()> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(place.log())?;
    let nothing = OpenOptions::new().read(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

/// Starts the same command again to stay, and waits until it is ready or has
/// failed. Its errors go straight to our standard error.
fn detach() -> Result<Code, SessionError> {
    let program = own_program();
    let failed = |e| SessionError::io("run", &program, e);
    let signals = Signals::install().map_err(failed)?;
    let arguments = std::env::args_os().skip(1).map(|argument| {
        let is_flag = argument == "--detach" || argument == "-d";
        if is_flag {
            "--background".into()
        } else {
            argument
        }
    });
    let mut child = Command::new(&program)
        .arg0("pbkfs")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    match first_line(&mut child, &signals) {
        Some(line) => {
            let mut stdout = io::stdout().lock();
            let _ = stdout
                .write_all(line.as_bytes())
                .and_then(|()| stdout.flush());
            Ok(Code::Done)
        }
        None => {
            let status = child.wait().map_err(failed)?;
            // It has said why. Killed by a signal it has not, but then it was
            // no answer about the backup either.
            Ok(status
                .code()
                .and_then(Code::from_number)
                .unwrap_or(Code::Failed))
        }
    }
}

/// The child's first line, or `None` when it ended without one. A signal to
/// end is passed on.
fn first_line(child: &mut Child, signals: &Signals) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let _ = sender.send(read.ok().filter(|n| *n > 0).map(|_| line));
    });
    let mut passed_on = 0;
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => return line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let wanted = u8::from(signals.end_asked()) + u8::from(signals.hurry());
        if wanted > passed_on {
            passed_on += 1;
            // Our child, not waited for yet: the number is its own.
            let pid = i32::try_from(child.id()).map(Pid::from_raw);
            let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
        }
    }
}
