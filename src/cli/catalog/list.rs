//! `pbkfs list`: shows the backups of a catalog, and which of them can be mounted.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::own_wal::WalReport;
use crate::catalog::wal::OwnWalFinder;
use crate::catalog::{Backup, BackupRef, Catalog, Instance};
use crate::chain::Chain;
use crate::cli::common::{human_bytes, report, sentence, value};
use crate::cli::exit::Code;
use crate::cli::source::CatalogArgs;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::session::SessionError;

/// Show the backups of a catalog, and which of them can be mounted
///
/// Reads pg_probackup's own files; pg_probackup need not be installed. Incremental
/// backups are listed below the FULL backup that they are based on.
///
/// A note below a backup reports missing or wrongly sized WAL that the backup itself
/// needs; pg_probackup validate marks such a backup CORRUPT. Another note warns that
/// pg_probackup restore may lose data: PAGE and PTRACK backups taken by 2.2.7 and
/// older record a truncation in a way that restore by 2.4.0 and newer applies to
/// newer backups of the chain, too. pbkfs shows such a backup completely; plan and
/// verify show what restore would lose. In that case, take a new FULL backup, and do
/// not merge the chain.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs list -B /srv/backup
  pbkfs list -B /srv/backup --instance main --json | jq '.instances[].backups[] | .id'")]
pub struct ListArgs {
    #[command(flatten)]
    source: CatalogArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    /// The catalog's path or URL.
    catalog: PathBuf,
    /// Its instances, or only the requested one.
    instances: Vec<Listed>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The instance's name.
    name: String,
    /// The cluster's system identifier, as text: a double could not hold the number
    /// exactly.
    system_identifier: Option<String>,
    /// Data directory of the cluster, as configured in pg_probackup.
    pgdata: Option<PathBuf>,
    /// Its backups, in the order of their start times.
    backups: Vec<Line>,
}

/// One backup. Sizes are in bytes, times in RFC 3339.
#[derive(Debug, Serialize, JsonSchema)]
struct Line {
    /// The backup's id.
    id: String,
    /// The backup that it is based on; null for a FULL backup.
    parent: Option<String>,
    /// FULL, DELTA, PAGE or PTRACK. Like wal, compress_alg and server_version, it is
    /// null if the backup's control file cannot be read.
    mode: Option<String>,
    /// Status in pg_probackup's terms: OK, DONE, CORRUPT and so on.
    status: String,
    /// Location of the WAL that it needs: STREAM or ARCHIVE.
    wal: Option<&'static str>,
    /// Compression algorithm of its pages.
    compress_alg: Option<String>,
    /// PostgreSQL's major version.
    server_version: Option<String>,
    /// Start time, RFC 3339.
    start_time: Option<String>,
    /// End time, RFC 3339.
    end_time: Option<String>,
    /// Earliest time that it can be recovered to, RFC 3339.
    recovery_time: Option<String>,
    /// Size in the catalog in bytes, without WAL.
    data_bytes: Option<u64>,
    /// Size of the WAL stored in it, in bytes.
    wal_bytes: Option<u64>,
    /// Size of the data directory that it was taken from, in bytes.
    pgdata_bytes: Option<u64>,
    /// Note attached to it.
    note: Option<String>,
    /// Ids of the backups in its chain, FULL first; empty if the chain is not
    /// complete.
    chain: Vec<String>,
    /// Whether pbkfs can mount it.
    mountable: bool,
    /// Reason why it is not mountable.
    reason: Option<String>,
    /// State of the WAL that it needs itself, judged by names and sizes; null if its
    /// status rules out a restore.
    own_wal: Option<WalReport>,
    /// Members of its chain that may cause pg_probackup's own restore to lose data.
    restore_may_lose: Vec<String>,
    /// The same as a message.
    restore_warning: Option<String>,
}

impl Line {
    fn of(instance: &Instance, backup: &Backup, all: &[Backup], wal: &OwnWalFinder<'_>) -> Self {
        let time = |time: OffsetDateTime| time.format(&Rfc3339).ok();
        let wanted = BackupRef::Id(backup.id.clone());
        let (chain, reason) = match Chain::resolve(&instance.name, all, &wanted) {
            Ok(chain) => (Some(chain), None),
            Err(error) => (None, Some(sentence(&error))),
        };
        let risk = chain.as_ref().and_then(Chain::restore_risk);
        let chain = chain.map_or_else(Vec::new, |chain| chain.ids());
        let is_restorable = backup.status.is_restorable();
        let is_readable = backup.is_readable();
        let known = |text: String| is_readable.then_some(text);
        let unreadable = (!is_readable)
            .then(|| instance.backup(&backup.id).err())
            .flatten();
        let reason = unreadable.map(|error| sentence(&error)).or(reason);
        Self {
            id: backup.id.to_string(),
            parent: backup.parent.as_ref().map(ToString::to_string),
            mode: known(backup.mode.to_string()),
            status: backup.status.to_string(),
            wal: is_readable.then_some(if backup.stream { "STREAM" } else { "ARCHIVE" }),
            compress_alg: known(backup.compress_alg.to_string()),
            server_version: known(backup.server_version.clone()),
            start_time: time(backup.start_time),
            end_time: backup.end_time.and_then(time),
            recovery_time: backup.recovery_time.and_then(time),
            data_bytes: backup.data_bytes,
            wal_bytes: backup.wal_bytes,
            pgdata_bytes: backup.pgdata_bytes,
            note: backup.note.clone(),
            chain: chain.iter().map(ToString::to_string).collect(),
            mountable: reason.is_none(),
            reason,
            own_wal: is_restorable.then(|| WalReport::of(wal.look(backup))),
            restore_warning: risk.as_ref().map(ToString::to_string),
            restore_may_lose: risk.map_or_else(Vec::new, |risk| {
                risk.marked.iter().map(ToString::to_string).collect()
            }),
        }
    }
}

/// Runs the subcommand. An instance that cannot be read does not prevent the others
/// from being listed.
pub fn run(args: &ListArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    let _span = log::span("list", None);
    let (catalog, names) = args.source.open()?;
    let mut code = Code::Done;
    let mut instances = Vec::new();
    for name in &names {
        match list(&catalog, name) {
            Ok(listed) => instances.push(listed),
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => code = report(&error),
        }
    }
    let listed = Report {
        version: VERSION,
        catalog: catalog.location().name(),
        instances,
    };
    output::document(args.json, &listed, print);
    Ok(code)
}

fn list(catalog: &Catalog, name: &str) -> Result<Listed, SessionError> {
    let instance = catalog.instance(name)?;
    let mut backups = instance.backups()?;
    backups.sort_by(|a, b| (a.start_time, &a.id).cmp(&(b.start_time, &b.id)));
    let wal = OwnWalFinder::new(&instance);
    let line = |backup| Line::of(&instance, backup, &backups, &wal);
    Ok(Listed {
        name: name.to_owned(),
        system_identifier: instance.config.system_identifier.map(|id| id.to_string()),
        pgdata: instance.config.pgdata.clone(),
        backups: backups.iter().map(line).collect(),
    })
}

fn print(report: &Report) {
    if report.instances.is_empty() {
        say!("the catalog {} has no instance", value(&report.catalog));
    }
    let branches = Branches::of_locale();
    for instance in &report.instances {
        say!("instance {}", value(&instance.name));
        if instance.backups.is_empty() {
            say!("  no backups");
            continue;
        }
        print_columns(
            "ID",
            [
                "MODE",
                "STATUS",
                "WAL",
                "STARTED (UTC)",
                "STORED",
                "CLUSTER",
                "PG",
            ],
        );
        let ordered = by_chain(&instance.backups);
        for (at, (depth, line)) in ordered.iter().enumerate() {
            let next = ordered.get(at + 1).map_or(0, |(depth, _)| *depth);
            let branch = match (*depth, next) {
                (0, _) => "",
                (_, 0) => branches.last,
                _ => branches.inner,
            };
            let above = at.checked_sub(1).and_then(|at| ordered.get(at));
            let above = above.map(|(_, line)| line.id.as_str());
            print_line(branch, line, above);
        }
    }
}

/// The characters that draw a chain.
struct Branches {
    inner: &'static str,
    last: &'static str,
}

impl Branches {
    /// Returns line-drawing characters if the locale has them.
    fn of_locale() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL")
            .or_else(|| set("LC_CTYPE"))
            .or_else(|| set("LANG"));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        match locale.contains("utf-8") || locale.contains("utf8") {
            true => Self {
                inner: "├ ",
                last: "└ ",
            },
            false => Self {
                inner: "|-",
                last: "`-",
            },
        }
    }
}

/// Prints one line of the table, of at most 80 columns for usual values.
fn print_columns(id: &str, [mode, status, wal, started, stored, cluster, pg]: [&str; 7]) {
    let line = format!(
        "{id:<10} {mode:<6} {status:<8} {wal:<7} {started:<19} {stored:>9} {cluster:>9} {pg}"
    );
    say!("{}", line.trim_end());
}

/// Prints a backup. `above` is the id on the line above it.
fn print_line(branch: &str, line: &Line, above: Option<&str>) {
    let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), human_bytes);
    let text = |text: &Option<String>| {
        text.as_deref()
            .map_or_else(|| "?".to_owned(), |text| value(text).into_owned())
    };
    print_columns(
        &format!("{branch}{}", value(&line.id)),
        [
            &text(&line.mode),
            &value(&line.status),
            line.wal.unwrap_or("?"),
            &line
                .start_time
                .as_deref()
                .and_then(in_utc)
                .unwrap_or_else(|| "?".to_owned()),
            &size(line.data_bytes),
            &size(line.pgdata_bytes),
            &text(&line.server_version),
        ],
    );
    // In an unbranched chain, the parent is on the line above.
    if let Some(parent) = line
        .parent
        .as_deref()
        .filter(|parent| above != Some(parent))
    {
        say!("      on {}", value(parent));
    }
    if let Some(reason) = &line.reason {
        say!("      not mountable: {reason}");
    }
    if let Some(problem) = line.own_wal.as_ref().and_then(WalReport::problem) {
        say!("      WAL: {problem}");
    }
    if let Some(warning) = &line.restore_warning {
        say!("      restore: {warning}");
    }
}

/// Returns a time in UTC, formatted for people.
fn in_utc(time: &str) -> Option<String> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    let time = time.to_offset(UtcOffset::UTC).truncate_to_second();
    let text = time.format(&Rfc3339).ok()?;
    Some(text.trim_end_matches('Z').replace('T', " "))
}

/// Returns the backups with their depth: each FULL backup, and each one without a
/// known parent, at depth 0, followed by all that are based on it, oldest first, at
/// depth 1. (An incremental is usually based on the previous one; a deeper tree would
/// be a long staircase.)
fn by_chain(backups: &[Line]) -> Vec<(usize, &Line)> {
    let known = |id: &str| backups.iter().find(|line| line.id == id);
    let root_of = |line: &'_ Line| {
        let mut root = line.id.clone();
        let mut parent = line.parent.as_deref().and_then(known);
        // Parents may form a cycle.
        for _ in 0..backups.len() {
            let Some(line) = parent else { break };
            root.clone_from(&line.id);
            parent = line.parent.as_deref().and_then(known);
        }
        root
    };
    let roots: Vec<String> = backups.iter().map(root_of).collect();
    let mut ordered = Vec::new();
    let is_root = |line: &Line, root: &String| line.id == *root;
    for (line, root) in backups.iter().zip(&roots) {
        if is_root(line, root) {
            ordered.push((0, line));
            let members = backups.iter().zip(&roots);
            let members = members.filter(|(member, of)| *of == root && !is_root(member, of));
            ordered.extend(members.map(|(member, _)| (1, member)));
        }
    }
    // In a cycle, no backup need be its own root.
    for line in backups {
        if !ordered.iter().any(|(_, listed)| listed.id == line.id) {
            ordered.push((0, line));
        }
    }
    ordered
}
