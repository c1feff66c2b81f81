//! `pbkfs diff`: shows what a clone changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::common::{ProfileArgs, human_bytes, value};
use crate::cli::exit::Code;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::figures::counted;
use crate::overlay::{Change, ChangeKind};
use crate::pg::relation::{Fork, RelationFile, Tablespace};
use crate::session::{self, Changes, SessionError};

/// Show what a clone changed compared with its backup
///
/// Lists every file that was changed, created, renamed or deleted, relation files by
/// database, with the blocks and bytes of each that the diff contains. Works while
/// the clone is running and afterwards. Small files of the backup are copied
/// completely when they are opened, so all of such a file counts once any of it has
/// changed.
#[derive(Debug, Args)]
#[command(
    mut_arg("profile", |arg| arg.required_unless_present("diff_dir").conflicts_with("diff_dir")),
    after_help = "\
Examples:
  pbkfs diff profile.toml
  pbkfs diff -d /srv/clone/main.diff --json | jq .totals")]
pub struct DiffArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// The diff directory, instead of a profile
    #[arg(short, long, value_name = "DIFF")]
    diff_dir: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Totals of a set of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
struct Totals {
    /// Number of files of the backup with changed content.
    changed: u64,
    /// Number of files that the clone created.
    new: u64,
    /// Number of files of the backup that the clone deleted.
    deleted: u64,
    /// Number of files of the backup that the clone renamed.
    renamed: u64,
    /// Number of 8 KiB blocks in the diff.
    blocks: u64,
    /// Number of bytes in the diff.
    bytes: u64,
}

impl Totals {
    fn add(&mut self, change: &Change) {
        let count = match change.kind {
            ChangeKind::Changed => &mut self.changed,
            ChangeKind::New => &mut self.new,
            ChangeKind::Deleted => &mut self.deleted,
            ChangeKind::Renamed => &mut self.renamed,
        };
        *count += 1;
        // A diff from elsewhere may claim any size.
        self.blocks = self.blocks.saturating_add(change.blocks);
        self.bytes = self.bytes.saturating_add(change.bytes);
    }
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report<'a> {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    #[serde(flatten)]
    of: &'a Changes,
    /// Changes to files of databases, grouped by database.
    databases: Vec<Database<'a>>,
    /// Changes to files outside all databases.
    other: Vec<&'a Change>,
    /// Totals of all changes.
    totals: Totals,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Database<'a> {
    /// OID of the database; 0 stands for the shared catalogs.
    oid: u32,
    /// Totals of the changes to its files.
    totals: Totals,
    /// Files changed in this database.
    files: Vec<File<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct File<'a> {
    #[serde(flatten)]
    change: &'a Change,
    /// Relation that the file belongs to, as derived from its name; absent for other
    /// files.
    #[serde(skip_serializing_if = "Option::is_none")]
    relation: Option<Relation>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Relation {
    /// OID of the tablespace; absent for the default and the shared tablespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    tablespace: Option<u32>,
    /// Filenode number of the relation.
    relfilenode: u32,
    /// Fork: main, fsm, vm or init.
    fork: &'static str,
    /// Number of the 1 GB segment, counted from 0.
    segment: u32,
}

impl Relation {
    fn of(file: &RelationFile) -> Self {
        Self {
            tablespace: match file.tablespace {
                Tablespace::Oid { oid, .. } => Some(oid),
                Tablespace::Default | Tablespace::Global => None,
            },
            relfilenode: file.relfilenode,
            fork: match file.fork {
                Fork::Main => "main",
                Fork::FreeSpace => "fsm",
                Fork::Visibility => "vm",
                Fork::Init => "init",
            },
            segment: file.segno,
        }
    }
}

impl<'a> Report<'a> {
    fn of(of: &'a Changes) -> Self {
        let mut databases: BTreeMap<u32, Database<'a>> = BTreeMap::new();
        let mut other = Vec::new();
        let mut totals = Totals::default();
        for change in &of.changes {
            totals.add(change);
            let file = RelationFile::parse(&change.path);
            let oid = match &file {
                Some(file) => Some(file.database),
                None => database_of(&change.path),
            };
            let Some(oid) = oid else {
                other.push(change);
                continue;
            };
            let database = databases.entry(oid).or_default();
            database.oid = oid;
            database.totals.add(change);
            let relation = file.as_ref().map(Relation::of);
            database.files.push(File { change, relation });
        }
        Self {
            version: VERSION,
            of,
            databases: databases.into_values().collect(),
            other,
            totals,
        }
    }
}

/// Returns the database of a path that is not a relation file's: `base/5/` itself, or
/// `base/5/pg_filenode.map`.
fn database_of(path: &str) -> Option<u32> {
    let mut parts = path.split('/');
    match parts.next()? {
        "base" => parts.next()?.parse().ok(),
        "pg_tblspc" => parts.nth(2)?.parse().ok(),
        _ => None,
    }
}

/// Runs the subcommand.
pub fn run(args: &DiffArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let changes = match &args.diff_dir {
        Some(dir) => {
            log::init(verbosity, None);
            let _span = log::span("diff", None);
            session::changes_of_diff(dir, &args.profile.given()?.storage()?)?
        }
        None => {
            let plan = args.profile.plan()?;
            log::init(verbosity, Some(&plan));
            let _span = log::span("diff", Some(&plan.target));
            session::changes_of_target(&plan.target, plan.diff_dir.as_deref(), &plan.storage)?
        }
    };
    let report = Report::of(&changes);
    output::document(args.json, &report, print);
    Ok(Code::Done)
}

fn print(report: &Report<'_>) {
    let of = report.of;
    say!("diff      {}", value(&of.diff_dir));
    say!("backup    {} of {}", value(&of.backup), value(&of.instance));
    for database in &report.databases {
        match database.oid {
            0 => say!("shared catalogs: {}", told(&database.totals)),
            oid => say!("database {oid}: {}", told(&database.totals)),
        }
        for file in &database.files {
            print_change(file.change);
        }
    }
    if !report.other.is_empty() {
        say!("other files:");
    }
    for change in &report.other {
        print_change(change);
    }
    say!("in all: {}", told(&report.totals));
}

fn print_change(change: &Change) {
    let kind = match change.kind {
        ChangeKind::Changed => "changed",
        ChangeKind::New => "new",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Renamed => "renamed",
    };
    let size = match (change.blocks, change.whole) {
        (0, _) => String::new(),
        (_, true) => human_bytes(change.bytes),
        (blocks, false) => counted(blocks, "block"),
    };
    let from = change
        .from
        .as_ref()
        .map(|from| format!(" (was {})", value(from)));
    let from = from.unwrap_or_default();
    say!("  {kind:<8} {size:>12}  {}{from}", value(&change.path));
}

fn told(totals: &Totals) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (totals.changed, "changed"),
        (totals.new, "new"),
        (totals.deleted, "deleted"),
        (totals.renamed, "renamed"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if parts.is_empty() {
        return "nothing changed".to_owned();
    }
    let (files, bytes) = (parts.join(", "), human_bytes(totals.bytes));
    let blocks = counted(totals.blocks, "block");
    format!("{files}; {blocks}, {bytes} in the diff")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, kind: ChangeKind, blocks: u64) -> Change {
        Change {
            path: path.to_owned(),
            kind,
            from: None,
            blocks,
            bytes: blocks * 8192,
            whole: false,
        }
    }

    #[test]
    fn files_are_gathered_by_database() {
        let changes = Changes {
            diff_dir: "/d".into(),
            instance: "main".to_owned(),
            backup: "AAA".to_owned(),
            mounted: false,
            changes: vec![
                change("base/5/1259_vm", ChangeKind::Changed, 1),
                change("base/5/pg_filenode.map", ChangeKind::Changed, 1),
                change("base/16384/", ChangeKind::Deleted, 0),
                change("global/1262", ChangeKind::Changed, 2),
                change("pg_tblspc/9/PG_15_202209061/5/77.1", ChangeKind::New, 4),
                change("pg_wal/000000010000000000000001", ChangeKind::New, 8),
            ],
        };
        let report = Report::of(&changes);
        let by_oid: Vec<_> = report
            .databases
            .iter()
            .map(|d| (d.oid, d.files.len()))
            .collect();
        assert_eq!(by_oid, [(0, 1), (5, 3), (16384, 1)]);
        assert_eq!(report.other.len(), 1);
        assert_eq!(report.totals.blocks, 16);
        assert_eq!(report.totals.new, 2);
        let json = serde_json::to_value(&report).unwrap();
        let segment = &json["databases"][1]["files"][2]["relation"];
        assert_eq!(segment["tablespace"], 9);
        assert_eq!(segment["segment"], 1);
        assert_eq!(json["diff_dir"], "/d");
    }
}
