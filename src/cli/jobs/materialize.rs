//! `pbkfs materialize`: writes a backup as an ordinary data directory.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::begin::begin;
use super::progress::Progress;
use crate::cli::common::{At, human_bytes, value};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::cli::source::{BackupArgs, absolute};
use crate::cli::verbosity::Verbosity;
use crate::figures::counted;
use crate::materialize::{Materialize, Materialized};
use crate::session::SessionError;

/// Write a backup as an ordinary data directory
///
/// Writes what pg_probackup restore writes, byte for byte, with the recovery settings of
/// the same target. Every stored byte is read, checked and written once, so no separate
/// validation is needed. The result no longer needs pbkfs.
///
/// The directory exists completely or not at all: it is written beside its name and
/// renamed at the end. If the command is interrupted, the same command continues where
/// it stopped, until the host is rebooted.
///
/// If the profile's diff_dir has the changes of a clone, and the clone is down, the
/// directory is what the clone has become.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs materialize profile.toml --to /srv/pg/main
  pbkfs materialize profile.toml --to /srv/pg/main --at \"2026-11-22 14:32:00+00\"
  pbkfs materialize -B /srv/backup --instance main -i latest --to /srv/pg/main
  pbkfs materialize profile.toml --to /srv/pg/main -T /mnt/fast=/srv/pg/fast")]
pub struct MaterializeArgs {
    #[command(flatten)]
    backup: BackupArgs,
    /// The data directory to create; an existing one must be empty
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    at: At,
    /// The new directory of the tablespace that was in OLD; may be repeated. By default,
    /// a tablespace is put beside the data directory
    #[arg(short = 'T', long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Number of files written at a time. By default, fuse.threads
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Write the backup itself, without the changes in the profile's diff_dir
    #[arg(long)]
    from_backup: bool,
    /// Do not wait until everything is on disk: a crash of the host may damage the result
    #[arg(long)]
    no_sync: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Parses a mapping as pg_probackup does: in a path, `\=` stands for an equals sign.
pub fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (mut paths, mut escaped) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '=' if !escaped => paths.push(String::new()),
            c => {
                if let Some(path) = paths.last_mut() {
                    path.extend((escaped && c != '=').then_some('\\'));
                    path.push(c);
                }
            }
        }
        escaped = false;
    }
    match &paths[..] {
        [old, new] if old.starts_with('/') && new.starts_with('/') => Ok((old.into(), new.into())),
        _ => Err("expected OLD=NEW, two absolute paths".to_owned()),
    }
}

/// Runs the subcommand.
pub fn run(args: &MaterializeArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let plan = args.backup.job("materialize", args.at)?;
    let (_span, signals) = begin("materialize", verbosity.for_job(), &plan)?;
    let progress = Progress::new(true);
    let materialize = Materialize {
        plan: &plan,
        profile: args.backup.profile(),
        signals: &signals,
        to: absolute(&args.to)?,
        tablespaces: args.tablespace_mapping.clone(),
        jobs: args.jobs.unwrap_or(plan.fuse.threads()).get(),
        from_backup: args.from_backup,
        at_given: args.at.at.is_some(),
        sync: !args.no_sync,
        progress: &|what, read, total| progress.show(what, read, total),
    };
    let outcome = materialize.run();
    progress.clear();
    let done = outcome?;
    output::document(args.json, &done, report);
    Ok(Code::Done)
}

fn report(done: &Materialized) {
    let rate = done.bytes as f64 / done.seconds.max(0.001);
    say!(
        "{}: backup {}, {} of {} in {:.1} s, {}/s",
        value(&done.directory),
        done.backup,
        human_bytes(done.bytes),
        counted(done.files, "file"),
        done.seconds,
        human_bytes(rate as u64)
    );
    if done.resumed_files > 0 {
        let left = counted(done.resumed_files, "file");
        say!("an interrupted run had already written {left}");
    }
    for space in &done.tablespaces {
        say!(
            "tablespace {}: {} (was {})",
            space.oid,
            value(&space.new),
            value(&space.old)
        );
    }
    if done.recovers {
        say!("its server recovers from the WAL archive first; see postgresql.auto.conf");
    }
    say!("start it: pg_ctl start -D {}", value(&done.directory));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_two_absolute_paths() {
        let parsed = |text: &str| mapping(text).ok();
        let paths = |old: &str, new: &str| Some((PathBuf::from(old), PathBuf::from(new)));
        assert_eq!(parsed("/a=/b"), paths("/a", "/b"));
        assert_eq!(parsed(r"/a\=1=/b\c"), paths("/a=1", r"/b\c"));
        for bad in ["/a", "a=/b", "/a=b", "/a=/b=/c", "", "="] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
