//! `pbkfs verify`: proves that a backup restores.

use std::path::{Path, PathBuf};

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::begin::begin;
use super::progress::Progress;
use crate::causes::sentence;
use crate::cli::common::{At, value};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::cli::source::BackupArgs;
use crate::cli::verbosity::Verbosity;
use crate::profile::{Databases, Plan};
use crate::session::SessionError;
use crate::untrusted::Dir;
use crate::verify::{self, Document, History, Verdict, Verify};

/// Prove that a backup restores, for cron
///
/// Reads every page of the backup, starts PostgreSQL on a throw-away clone of it, and
/// runs the other checks in the section [verify] of the profile: queries with their
/// expected answers, pg_amcheck, pg_dump, and commands of your own. It needs neither
/// the space nor the time of a restore. The clone has a separate mount point, so a
/// clone of the same profile may be running meanwhile.
///
/// Exits with 0 if everything requested passed, with 1 if a backup is bad, with 2 on
/// a usage or profile error, and with 3 if verify could not tell, because the host
/// ran out of time, space or permissions. A problem of the host is never reported as
/// a bad backup, nor a bad backup as a problem of the host.
///
/// verify remembers a bad backup. Every later run reports it and counts it in the
/// exit code (see verify.known_bad) and the metrics, until the backup is proved or
/// deleted.
///
/// Prints nothing if everything passed and standard output is not a terminal, so that
/// cron sends no mail. Otherwise lists each bad block on one screen: its relation,
/// its backup, its offset in the stored file, and the other backups that have it
/// intact. Further outputs are --json, a textfile for Prometheus, an HTML page with
/// the history, and a URL to ping.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs verify profile.toml
  pbkfs verify profile.toml --pages
  pbkfs verify profile.toml --at \"2026-11-22 14:32:00+00\"
  pbkfs verify -B /srv/backup --instance main -i SBOL8S
  pbkfs verify profile.toml --json --set verify.backup=all
  15 3 * * *  pbkfs verify /etc/pbkfs/main.toml")]
pub struct VerifyArgs {
    #[command(flatten)]
    backup: BackupArgs,
    #[command(flatten)]
    at: At,
    /// Only read the pages: no mount, no server; proves nothing if the profile asks
    /// for more
    #[arg(long)]
    pages: bool,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &VerifyArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let (plan, partial) = plan(args)?;
    let verbose = verbosity.is_verbose();
    let (_span, signals) = begin("verify", verbosity.for_job(), &plan)?;
    let ping = |what: &str, report: &str| {
        if let Some(url) = &plan.verify.ping {
            verify::ping(url, what, report);
        }
    };
    ping("start", "");
    let progress = Progress::new(!args.json);
    let verify = Verify {
        plan: &plan,
        profile: args.backup.profile(),
        partial,
        signals: &signals,
        progress: &|what, done, total| progress.show(what, done, total),
    };
    let result = verify.run();
    progress.clear();
    let (document, history) = match result {
        Ok(done) => done,
        // A usage or profile error.
        Err(error) => {
            let code = Code::Usage;
            ping(&(code as u8).to_string(), &sentence(&error));
            crate::cli::common::report(&error);
            return Ok(code);
        }
    };
    let error = document
        .error
        .as_deref()
        .map(|error| format!("pbkfs: {error}\n"));
    if let Some(error) = &error {
        output::complain_lines(error);
    }
    let text = error.unwrap_or_default() + &verify::human(&document, true);
    tell(&document, args.json, verbose);
    write(&plan, &document, history.as_ref());
    ping(&document.exit_code.to_string(), &text);
    Ok(match document.exit_code {
        0 => Code::Done,
        1 => Code::Bad,
        _ => Code::Failed,
    })
}

/// Returns the plan, and whether the profile asks for more than it.
fn plan(args: &VerifyArgs) -> Result<(Plan, bool), SessionError> {
    let mut plan = args.backup.job("verify", args.at)?;
    let verify = &mut plan.verify;
    let partial = args.pages && verify.start;
    if args.pages {
        (verify.pages, verify.start) = (true, false);
        (verify.amcheck, verify.dump) = (Databases::Every(false), Databases::Every(false));
        verify.sql.clear();
        verify.command.clear();
    }
    Ok((plan, partial))
}

/// Prints the result: a failure always, success only on a terminal or with `-v`.
fn tell(document: &Document, json: bool, verbose: bool) {
    if json {
        output::json(document);
        return;
    }
    let verbose = verbose || output::is_terminal();
    let text = verify::human(document, verbose);
    match document.exit_code {
        _ if text.is_empty() => {}
        0 if verbose => output::lines(&text),
        0 => {}
        _ => output::complain_lines(&text),
    }
}

/// Writes a report that others may read, completely or not at all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let (dir, name) = Dir::of_file(path)?;
    dir.replace(name, text.as_bytes(), 0o644, None)
}

/// Writes the files that the profile names. Failure to write one is logged, and
/// changes no verdict.
fn write(plan: &Plan, document: &Document, history: Option<&History>) {
    let entries = history.map(|history| &*history.entries).unwrap_or_default();
    let put = |path: &Option<PathBuf>, text: &dyn Fn() -> String| {
        if let Some(path) = path
            && let Err(error) = replace(path, &text())
        {
            tracing::error!("cannot write {}: {error}", value(path));
        }
    };
    let last = entries
        .iter()
        .rev()
        .find(|entry| entry.by().is(&document.by) && entry.verdict == Verdict::Proved);
    let last = last.and_then(|entry| OffsetDateTime::parse(&entry.started, &Rfc3339).ok());
    let last = last.map(OffsetDateTime::unix_timestamp);
    put(&plan.verify.prometheus, &|| {
        verify::prometheus(document, last)
    });
    put(&plan.verify.html, &|| verify::html(document, entries));
}
