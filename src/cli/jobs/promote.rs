//! `pbkfs promote`: makes an ordinary data directory of a clone, while it serves.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::geteuid;

use super::begin::begin;
use super::materialize::mapping;
use super::progress::Progress;
use crate::cli::common::{ProfileArgs, human_bytes, sentence, value};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::cli::source::absolute;
use crate::cli::verbosity::Verbosity;
use crate::figures::counted;
use crate::profile::{ByteSize, Plan};
use crate::promote::{Promote, Promoted};
use crate::server::{Binaries, OsUser, Starter, major_of};
use crate::session::{HydrationState, PromoteError, SessionError};

/// Turn a clone into an ordinary data directory, while it serves
///
/// Brings all of the backup into the clone's diff in the background. Then it stops the
/// clone and makes the data directory out of the diff's files, which takes about a second
/// whatever their size, if the directory is on the file system of the diff. Nothing is
/// replayed: the directory is the clone as it was stopped, and no longer needs pbkfs or
/// the catalog.
///
/// Without --at-once it waits before it stops the clone, until pbkfs promote --finish is
/// run elsewhere. Ctrl-C leaves the clone running; what was brought into the diff stays
/// there, and the same command continues. A clone that is down is promoted directly.
///
/// The directory exists completely or not at all. Until then the clone is unchanged, and
/// pbkfs up starts it again. The diff is not used any more afterwards; remove it with
/// pbkfs cleanup --force, which leaves the directory alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs promote profile.toml --to /srv/pg/main
  pbkfs promote profile.toml --to /srv/pg/main --at-once --start
  pbkfs promote profile.toml --finish
  pbkfs promote profile.toml --to /srv/pg/main --rate 50MB")]
pub struct PromoteArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// The data directory to create; an existing one must be empty. --finish knows it
    /// from the command that waits
    #[arg(long, value_name = "DIR", required_unless_present_any = ["finish", "abandon"])]
    to: Option<PathBuf>,
    /// The new directory of the tablespace that was in OLD; may be repeated. By default,
    /// a tablespace is put beside the data directory
    #[arg(short = 'T', long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Read at most this much of the backup per second. By default, it rests whenever the
    /// clone itself reads or writes
    #[arg(long, value_name = "BYTES")]
    rate: Option<ByteSize>,
    /// Stop the clone as soon as all of the backup is in the diff, without waiting
    #[arg(long, conflicts_with = "abandon")]
    at_once: bool,
    /// The same, for a promotion that waits or that was interrupted
    #[arg(long, conflicts_with_all = ["abandon", "at_once"])]
    finish: bool,
    /// Undo a cut-over that was interrupted, so that the clone can be started again
    #[arg(long, conflicts_with_all = ["start", "to"])]
    abandon: bool,
    /// Start PostgreSQL on the directory with pg_ctl, and wait until it answers; with
    /// pg_ctlcluster if a cluster of Debian has it as its data_directory
    #[arg(long)]
    start: bool,
    /// Number of files worked on at a time while the clone is down. By default,
    /// fuse.threads
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &PromoteArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let plan = args.profile.plan()?;
    let (_span, signals) = begin("promote", verbosity, &plan)?;
    let progress = Progress::new(true);
    let promote = Promote {
        plan: &plan,
        profile: args.profile.profile.as_deref(),
        signals: &signals,
        to: args.to.as_deref().map(absolute).transpose()?,
        tablespaces: args.tablespace_mapping.clone(),
        rate: args.rate.map(|rate| rate.0),
        at_once: args.at_once || args.finish,
        jobs: args.jobs.unwrap_or(plan.fuse.threads()).get(),
        progress: &|now| match now.state {
            HydrationState::Running => {
                progress.show("hydrating", now.bytes - now.bytes_left, now.bytes);
            }
            _ => progress.clear(),
        },
        say: &|line| complain!("pbkfs: {line}"),
    };
    if args.abandon {
        promote.abandon()?;
        say!("nothing of a cut-over is left; pbkfs up starts the clone");
        return Ok(Code::Done);
    }
    let outcome = promote.run();
    progress.clear();
    let done = outcome?;
    let started = args.start.then(|| start(&plan, &done));
    let is_started = matches!(started, Some(Ok(())));
    output::document(args.json, &done, |done| report(done, is_started));
    started.unwrap_or(Ok(()))?;
    Ok(Code::Done)
}

fn start(plan: &Plan, done: &Promoted) -> Result<(), SessionError> {
    let not_started = |reason: String| PromoteError::NotStarted {
        to: done.directory.clone(),
        reason,
    };
    let unknown = || {
        not_started(
            "its configuration is not in it, and no cluster below /etc/postgresql has it as its \
             data_directory"
                .to_owned(),
        )
    };
    let major = major_of(&done.directory)
        .ok_or_else(|| not_started("its PG_VERSION cannot be read".to_owned()))?;
    let starter = Starter::find(&done.directory, major).ok_or_else(unknown)?;
    let start = || {
        let binaries = Binaries::find(major, plan.postgres.bin_dir.as_deref())?;
        let user = OsUser::for_server(&plan.postgres.user)?;
        let patience = plan.postgres.start_timeout.0;
        binaries.start(&starter, &done.directory, user, patience)
    };
    start().map_err(|error| not_started(sentence(&error)).into())
}

fn report(done: &Promoted, is_started: bool) {
    let directory = value(&done.directory);
    match done.files {
        0 => say!("{directory}: promoted by another pbkfs"),
        files => say!(
            "{directory}: the clone of backup {}, {} of {}; {:.1} s from stopping it to here",
            done.backup,
            human_bytes(done.bytes),
            counted(files, "file"),
            done.cut_over_seconds
        ),
    }
    if done.copied_files > 0 {
        say!(
            "{} could not be linked and were copied",
            counted(done.copied_files, "file")
        );
    }
    for space in &done.tablespaces {
        let old = match space.old.as_os_str().is_empty() {
            true => "created by the clone".into(),
            false => format!("was {}", value(&space.old)),
        };
        say!("tablespace {}: {} ({old})", space.oid, value(&space.new));
    }
    if !done.overridden.is_empty() {
        say!("pbkfs had overridden these settings, which have an effect now:");
        for setting in &done.overridden {
            say!("  {} = {}", setting.name, value(&setting.value));
        }
    }
    say!(
        "its diff is not used any more: pbkfs cleanup --force -d {}",
        value(&done.diff)
    );
    if is_started {
        say!("its server is running and answers");
        return;
    }
    let as_user = if geteuid().is_root() {
        " as its owner"
    } else {
        ""
    };
    match &done.start {
        Some(command) => say!("start it{as_user}: {command}"),
        None => say!(
            "its configuration is not in it, as on Debian; start it with the configuration of its \
             host"
        ),
    }
}
