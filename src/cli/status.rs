//! `pbkfs status`: what runs.

use clap::Args;

use super::common::{ProfileArgs, human_bytes};
use super::exit::Code;
use super::{Verbosity, log};
use crate::session::{self, SessionError, Status};

/// Show what runs: on which backup, since when, how to connect
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs status
  pbkfs status profile.toml --json")]
pub struct StatusArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Print a JSON array of sessions
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &StatusArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let sessions = match &args.profile.profile {
        Some(_) => session::session_of(&args.profile.plan()?.target)?
            .into_iter()
            .collect(),
        None => session::all_sessions()?,
    };
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&sessions).unwrap_or_default()
        );
        return Ok(Code::Done);
    }
    if sessions.is_empty() {
        println!("nothing runs");
    }
    for session in &sessions {
        print(session);
    }
    Ok(Code::Done)
}

fn print(status: &Status) {
    let state = &status.state;
    let line = |name: &str, value: &str| println!("  {name:<10} {value}");
    println!("{} {}", status.word, state.target.display());
    line(
        "backup",
        &format!(
            "{} of {} (chain {})",
            state.backup,
            state.instance,
            state.chain.join(" > ")
        ),
    );
    line("since", &state.since);
    if let Some(conninfo) = &state.conninfo {
        line("connect", conninfo);
    }
    if let Some(dir) = &state.diff_dir {
        let size = status
            .diff_bytes
            .map_or("size unknown".to_owned(), human_bytes);
        let fate = if state.throw_away {
            ", thrown away at the end"
        } else {
            ""
        };
        line("diff", &format!("{} ({size}{fate})", dir.display()));
    }
    match state.server_pid {
        Some(server) => line("pids", &format!("pbkfs {}, postgres {server}", state.pid)),
        None => line("pid", &state.pid.to_string()),
    }
    line("logs", &status.run_dir.display().to_string());
    match status.word {
        "dead" => println!("  its pbkfs was killed; finish its work with pbkfs down"),
        "failed" => {
            line(
                "error",
                state.error.as_deref().unwrap_or("no reason was kept"),
            );
            println!("  clear it away with pbkfs down");
        }
        _ => {}
    }
}
