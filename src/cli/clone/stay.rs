//! The process that stays with a session, in the foreground or in the background: it
//! sets the session up, announces when it is ready, and watches it until its end.

use std::fs::File;
use std::io;
use std::path::Path;

use sd_notify::NotifyState;

use crate::cli::exit::Code;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::descriptors;
use crate::escape;
use crate::profile::Plan;
use crate::session::{Job, Live, Place, Ready, SessionError, Signals, Up};
use crate::untrusted::Dir;

/// The session to stay with.
pub struct Stay<'a> {
    /// The subcommand, for the log.
    pub command: &'static str,
    /// The logging options.
    pub verbosity: Verbosity,
    /// The plan of the session.
    pub plan: &'a Plan,
    /// Whether its mount is read-only.
    pub read_only: bool,
    /// The profile's path, for `status`.
    pub profile: Option<&'a Path>,
    /// Whether the ready line is JSON.
    pub json: bool,
    /// Whether another process in the foreground waits for the ready line.
    pub background: bool,
}

/// Sets the session up, prints the ready line, and returns when it has ended.
pub fn stay(mut stay: Stay<'_>) -> Result<Code, SessionError> {
    let verbosity = match stay.background {
        // Standard error becomes the session's log file.
        true => stay.verbosity.clone().without_colour(),
        false => stay.verbosity.clone(),
    };
    log::init(verbosity, Some(stay.plan));
    let _span = log::span(stay.command, Some(&stay.plan.target));
    if stay.background {
        // Run in a session of its own, see setsid(2): the terminal's signals are meant
        // for the process that waits in the foreground. A failure means that it is in
        // one already.
        let _ = nix::unistd::setsid();
    }
    let signals = Signals::install()
        .map_err(|e| SessionError::io("take signals for", Path::new("pbkfs"), e))?;
    raise_file_limit();
    let up = Up {
        plan: stay.plan,
        read_only: stay.read_only,
        profile: stay.profile,
        signals: &signals,
        detached: stay.background,
    };
    up.run(None, &mut stay)?;
    Ok(Code::Done)
}

/// Announces that the clone is ready, and waits for its end.
impl Job for Stay<'_> {
    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError> {
        let ready = live.summary();
        print(&ready, self.json);
        tell_service_manager(&ready);
        if self.background
            && let Err(error) = leave_the_terminal(live.place())
        {
            tracing::warn!("cannot log to {}: {error}", live.place().log().display());
        }
        live.wait()
    }
}

fn print(ready: &Ready, json: bool) {
    let line = match json {
        true => escape::json(&serde_json::to_string(ready).unwrap_or_default()).into_owned(),
        false => ready.to_string(),
    };
    output::ready(&line);
}

/// Tells systemd that a unit of `Type=notify` is started, and how to connect. Outside of
/// such a unit this does nothing.
fn tell_service_manager(ready: &Ready) {
    let line = ready.to_string();
    let states = [
        NotifyState::Ready,
        NotifyState::Status(&escape::line(&line)),
    ];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!("cannot tell systemd that the clone is ready: {error}");
    }
}

/// Raises this process's limit of open files as far as permitted, and warns if that
/// is low.
pub fn raise_file_limit() {
    match descriptors::raise() {
        Ok(Some(limit)) if limit < descriptors::ENOUGH => tracing::warn!(
            "at most {limit} files may be open at once, so files are opened and closed \
             repeatedly; raise the limit to {} or more (ulimit -Hn, or LimitNOFILE of a service)",
            descriptors::ENOUGH
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "cannot raise the limit of open files"),
    }
}

/// Redirects output to the session's log, so that a program waiting for the end of
/// this process's output need not wait for the end of the session.
fn leave_the_terminal(place: &Place) -> io::Result<()> {
    let log = place.log();
    let (dir, name) = Dir::of_file(&log)?;
    let log = dir.append(name, 0o600)?;
    let nothing = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}
