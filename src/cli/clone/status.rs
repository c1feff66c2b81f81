//! `pbkfs status`: shows what is running.

mod prometheus;

use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::geteuid;
use schemars::JsonSchema;
use serde::Serialize;

use super::which::SessionArgs;
use crate::cli::common::{human_bytes, value};
use crate::cli::exit::Code;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::figures::counted;
use crate::session::{
    self, Condition, Counts, Hydration, HydrationState, METRICS, Other, SessionError, State, Status,
};

/// Show what is running: on which backup, since when, how to connect
///
/// Also shows counters of each mount: reads, decoded pages, writes, errors. Reads and
/// writes that the kernel serves by itself (passthrough) bypass pbkfs and are not
/// counted.
///
/// Root sees the clones of all users; other users see only the owner and the target
/// of clones that are not theirs. For a single clone, named by its profile or its
/// target, the exit code is 0 if it is ready, and 3 if it is not or nothing is
/// running.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs status
  pbkfs status profile.toml --counters
  pbkfs status profile.toml || pbkfs up profile.toml --detach
  pbkfs status --target /srv/clone --json | jq '.sessions[].counters'
  pbkfs status --prometheus > pbkfs.prom.$$ && mv pbkfs.prom.$$ pbkfs.prom")]
pub struct StatusArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// Print one JSON object
    #[arg(long, conflicts_with_all = ["prometheus", "counters"])]
    json: bool,
    /// Print metrics in the Prometheus text format
    #[arg(long, conflicts_with = "counters")]
    prometheus: bool,
    /// Show every counter
    #[arg(long)]
    counters: bool,
    /// Reset the counters of the sessions shown, after showing them
    #[arg(long)]
    reset: bool,
}

/// Runs the subcommand.
pub fn run(args: &StatusArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let _span = log::span("status", None);
    let target = match args.session.names_one() {
        true => Some(args.session.target(args.session.plan())?),
        false => None,
    };
    let mut report = Report::of(target.as_deref())?;
    session::count_sessions(&mut report.sessions, args.reset);
    if args.json {
        output::json(&report);
    } else if args.prometheus {
        output::lines(&prometheus::text(&report.sessions));
    } else {
        report.print(target.as_deref(), args.counters);
    }
    let is_ready = report
        .sessions
        .iter()
        .any(|session| session.condition == Condition::Ready);
    Ok(match target.is_none() || is_ready {
        true => Code::Done,
        false => Code::Failed,
    })
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`: what is running.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    /// All known clones, or only the requested one.
    sessions: Vec<Status>,
    /// Clones of other users about which this user may know no more.
    hidden: Vec<Hidden>,
}

/// A clone of another user.
#[derive(Debug, Serialize, JsonSchema)]
struct Hidden {
    /// The user's name.
    user: String,
    /// The user's numeric id.
    uid: u32,
    /// The mount point.
    target: PathBuf,
}

impl Report {
    fn of(target: Option<&Path>) -> Result<Self, SessionError> {
        let (sessions, others) = match target {
            Some(target) => (
                session::session_of(target)?.into_iter().collect(),
                session::other_at(target)?.into_iter().collect(),
            ),
            None => (session::all_sessions()?, session::all_others()?),
        };
        let hidden = others.into_iter().filter(|other| !other.is_visible());
        Ok(Self {
            version: VERSION,
            sessions,
            hidden: hidden
                .map(
                    |Other {
                         user, uid, target, ..
                     }| Hidden { user, uid, target },
                )
                .collect(),
        })
    }

    fn print(&self, target: Option<&Path>, every_counter: bool) {
        match target {
            _ if !self.sessions.is_empty() => {}
            _ if !self.hidden.is_empty() => say!("none of your clones is running"),
            Some(target) => say!("nothing runs on {}", value(target)),
            None => say!("nothing runs"),
        }
        for session in &self.sessions {
            print(session, every_counter);
        }
        for Hidden { user, target, .. } in &self.hidden {
            let by = match user.as_str() {
                "root" => "",
                _ if geteuid().is_root() => "",
                _ => " or as root",
            };
            let user = value(user);
            say!(
                "not shown: a clone of user {user} on {}; run pbkfs status as {user}{by}",
                value(target)
            );
        }
    }
}

fn print(status: &Status, every_counter: bool) {
    let state = &status.state;
    say!("{} {}", status.condition.word(), value(&state.target));
    if status.condition == Condition::Orphaned {
        return print_orphan(status);
    }
    line(
        "backup",
        &format!(
            "{} of {} (chain {})",
            value(&state.backup),
            value(&state.instance),
            state.chain.join(" > ")
        ),
    );
    if let Some(user) = &status.user {
        line("user", &value(user));
    }
    line("since", &state.since);
    if let Some(conninfo) = &state.conninfo {
        line("connect", conninfo);
    }
    let fate = match state.throw_away {
        true => ", thrown away at the end",
        false => "",
    };
    print_diff(status, fate);
    if let Some(hydration) = &status.hydration {
        line("promotion", &promotion(hydration));
    }
    if let Some(fence) = &state.fence {
        line("fence", fence);
    }
    match state.server_pid {
        Some(server) => line("pids", &format!("pbkfs {}, postgres {server}", state.pid)),
        None => line("pid", &state.pid.to_string()),
    }
    line("logs", &value(&status.run_dir));
    match &status.counters {
        Some(counts) if every_counter => print_all(counts),
        Some(counts) => print_most(counts),
        None => {}
    }
    match status.condition {
        Condition::Dead => say!("  its pbkfs was killed; clean up with: {}", way_out(state)),
        Condition::Failed => {
            line(
                "error",
                state.error.as_deref().unwrap_or("no reason was recorded"),
            );
            say!("  clear it with: {}", way_out(state));
        }
        _ => {}
    }
}

fn print_diff(status: &Status, fate: &str) {
    if let Some(dir) = &status.state.diff_dir {
        let size = status
            .diff_bytes
            .map_or("size unknown".to_owned(), human_bytes);
        line("diff", &format!("{} ({size}{fate})", value(dir)));
    }
}

/// Returns how far a promotion is.
fn promotion(hydration: &Hydration) -> String {
    let to = value(&hydration.destination.to);
    let left = || {
        format!(
            "{} in {} left for {to}",
            human_bytes(hydration.bytes_left),
            counted(hydration.files_left, "file")
        )
    };
    match hydration.state {
        HydrationState::Running => {
            let rate = human_bytes(hydration.bytes_per_second);
            let time = hydration.seconds_left;
            let time = time.map_or(String::new(), |seconds| format!(", {seconds} s"));
            format!("hydrating, {}, {rate}/s{time}", left())
        }
        HydrationState::Complete => format!(
            "all of the backup is in the diff; pbkfs promote --finish cuts over to {to} in about \
             {:.1} s",
            hydration.cut_over_milliseconds as f64 / 1000.0
        ),
        HydrationState::Stopped => format!("stopped, {}", left()),
        HydrationState::Failed => {
            let error = hydration.error.as_deref().unwrap_or_default();
            format!("failed, {}: {error}", left())
        }
    }
}

/// Prints what is left of a session that ended with the host.
fn print_orphan(status: &Status) {
    line("since", &status.state.since);
    print_diff(status, ", was to be thrown away");
    say!("  its session ended with the host; remove its diff: pbkfs cleanup --orphans");
}

/// Returns the command that ends a session, for the user to copy. It names the
/// target, because the profile may be gone or changed, and the clone of a job has
/// another target anyway.
fn way_out(state: &State) -> String {
    let target = value(&state.target);
    match state.with_server {
        true => format!("pbkfs down --target {target}"),
        false => format!("pbkfs unmount -D {target}"),
    }
}

fn line(name: &str, value: &str) {
    say!("  {name:<10} {value}");
}

/// Prints the most important counters in three lines, and a fourth if there were
/// errors.
fn print_most(counts: &Counts) {
    let get = |key: &str| counts.get(key).copied().unwrap_or(0);
    let sum = |family: &str| -> u64 {
        let of_family = METRICS.iter().filter(|metric| metric.family == family);
        of_family.map(|metric| get(metric.key)).sum()
    };
    line(
        "reads",
        &format!(
            "{} ({}), {} decoded",
            get("reads"),
            human_bytes(get("read_bytes")),
            counted(sum("pages_decoded_total"), "page"),
        ),
    );
    line(
        "writes",
        &format!(
            "{} ({}), {}, {} in the diff",
            get("writes"),
            human_bytes(get("written_bytes")),
            counted(get("fsyncs"), "fsync"),
            counted(get("diff_blocks"), "changed block"),
        ),
    );
    line(
        "kernel",
        &format!(
            "{}, {} copied up",
            counted(get("passthrough_opens"), "passthrough open"),
            counted(get("copy_ups"), "file"),
        ),
    );
    let errors = sum("errors_total");
    if errors > 0 {
        line(
            "errors",
            &format!("{errors} requests failed; see the log, and --counters for their kinds"),
        );
    }
}

fn print_all(counts: &Counts) {
    say!("  counters");
    for metric in METRICS {
        if let Some(count) = counts.get(metric.key) {
            say!("    {:<22} {count}", metric.key);
        }
    }
}
