//! `pbkfs status`: what runs.

mod prometheus;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{ProfileArgs, human_bytes, value};
use super::exit::Code;
use super::{Verbosity, log, output};
use crate::diff::counted;
use crate::session::{self, Counts, METRICS, SessionError, State, Status};

/// Show what runs: on which backup, since when, how to connect
///
/// Each mount also tells what it has done: reads, pages decoded, writes,
/// errors. Reads and writes that the kernel serves by itself (passthrough)
/// do not come by pbkfs and are not in its counters.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs status
  pbkfs status profile.toml --counters
  pbkfs status profile.toml --json | jq '.sessions[].counters'
  pbkfs status --prometheus > pbkfs.prom.$$ && mv pbkfs.prom.$$ pbkfs.prom")]
pub struct StatusArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Print a JSON object of sessions
    #[arg(long, conflicts_with_all = ["prometheus", "counters"])]
    json: bool,
    /// Print metrics in Prometheus' text format
    #[arg(long, conflicts_with = "counters")]
    prometheus: bool,
    /// Show every counter
    #[arg(long)]
    counters: bool,
    /// Let the sessions shown count from anew after this
    #[arg(long)]
    reset: bool,
}

/// The version of what `--json` prints.
const VERSION: u32 = 1;

/// What `--json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this document's form; it grows when a field goes or changes its
    /// meaning.
    version: u32,
    /// The clones that are known, or that of the profile.
    sessions: Vec<Status>,
}

/// Runs the subcommand.
pub fn run(args: &StatusArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let _span = log::span("status", None);
    let mut sessions: Vec<Status> = match &args.profile.profile {
        Some(_) => session::session_of(&args.profile.plan()?.target)?
            .into_iter()
            .collect(),
        None => session::all_sessions()?,
    };
    session::count_sessions(&mut sessions, args.reset);
    if args.json {
        output::json(&Report {
            version: VERSION,
            sessions,
        });
    } else if args.prometheus {
        output::lines(&prometheus::text(&sessions));
    } else {
        if sessions.is_empty() {
            say!("nothing runs");
        }
        for session in &sessions {
            print(session, args.counters);
        }
    }
    Ok(Code::Done)
}

fn print(status: &Status, every_counter: bool) {
    let state = &status.state;
    say!("{} {}", status.word, value(&state.target));
    if status.word == "orphaned" {
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
    line("since", &state.since);
    if let Some(conninfo) = &state.conninfo {
        line("connect", conninfo);
    }
    let fate = match state.throw_away {
        true => ", thrown away at the end",
        false => "",
    };
    print_diff(status, fate);
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
    match status.word {
        "dead" => say!(
            "  its pbkfs was killed; finish its work: {}",
            way_out(state)
        ),
        "failed" => {
            line(
                "error",
                state.error.as_deref().unwrap_or("no reason was kept"),
            );
            say!("  clear it away: {}", way_out(state));
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

/// What a session has left that ended with the host.
fn print_orphan(status: &Status) {
    line("since", &status.state.since);
    print_diff(status, ", was to be thrown away");
    say!("  its session ended with the host; remove what is left: pbkfs cleanup --orphans");
}

/// The command that ends a session, to be copied. What `mount` made may be
/// elsewhere than its profile says.
fn way_out(state: &State) -> String {
    match &state.profile {
        Some(profile) if state.with_server => format!("pbkfs down {}", value(profile)),
        _ => format!("pbkfs unmount -D {}", value(&state.target)),
    }
}

fn line(name: &str, value: &str) {
    say!("  {name:<10} {value}");
}

/// The counters that tell most, in three lines, and a fourth if something
/// went wrong.
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
