//! `pbkfs up`: mounts the backup and runs PostgreSQL on it.

use clap::Args;

use super::background;
use super::stay::{Stay, stay};
use crate::cli::common::{At, ProfileArgs};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::cli::verbosity::Verbosity;
use crate::session::SessionError;

/// Mount the backup and run PostgreSQL on it
///
/// Stays in the foreground: when the server answers, prints one line that begins with
/// "ready" and contains a connection string; then watches the server until a signal
/// arrives or the server exits, and cleans up. Before that, the log describes the
/// fence around the server. As a systemd service of Type=notify, it tells systemd when
/// the server answers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs up profile.toml
  pbkfs up profile.toml --detach --set postgres.port=5433
  pbkfs up profile.toml --at \"2026-11-22 14:32:00+00\"
  psql \"$(pbkfs up profile.toml --detach --json | jq -r .conninfo)\"")]
pub struct UpArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    at: At,
    /// Return when the clone is ready, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Print the ready line as one JSON object
    #[arg(long)]
    json: bool,
}

/// The hint for a user who gives no profile.
const BEGINNING: &str = "\
pbkfs: up takes a profile, a TOML file that names a backup and a mount point:

    catalog = \"/srv/backup\"    # as for pg_probackup -B
    instance = \"main\"
    backup = \"latest\"          # or an id
    target = \"/srv/clone\"      # where the data directory appears

  pbkfs list -B /srv/backup    shows the instances and backups of a catalog
  pbkfs plan profile.toml      shows what up would do
  pbkfs up profile.toml        starts it; pbkfs down profile.toml stops it

Every key is in the manual: man pbkfs.toml";

/// Runs the subcommand. `is_background` is set in the process that stays with the
/// session.
pub fn run(args: &UpArgs, verbosity: Verbosity, is_background: bool) -> Result<Code, SessionError> {
    if args.profile.is_empty()? {
        output::complain_lines(BEGINNING);
        return Ok(Code::Usage);
    }
    if args.detach && !is_background {
        return background::start(None);
    }
    let plan = args.profile.plan_at(args.at)?;
    stay(Stay {
        command: "up",
        verbosity,
        plan: &plan,
        read_only: false,
        profile: args.profile.profile.as_deref(),
        json: args.json,
        background: is_background,
    })
}
