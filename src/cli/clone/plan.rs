//! `pbkfs plan`: shows what `up` would do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::catalog::Backup;
use crate::catalog::wal::OwnWalFinder;
use crate::cli::catalog::own_wal::WalReport;
use crate::cli::common::{At, ProfileArgs, human_bytes, sentence, value, wrapped};
use crate::cli::exit::Code;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::clock::rfc3339;
use crate::profile::Plan;
use crate::server::{LeftOut, Setting};
use crate::session::{self, Hazard, SessionError};
use crate::verify::{LossReport, restore_losses};

/// Show what up would do, and what would prevent it
///
/// Changes nothing; a used diff is locked while it is read. Shows the chain, the
/// paths, and every setting of the server with its reason. Lists the settings of the
/// backup that are left out because they cannot work on this host. Reports WAL that
/// the backup needs but lacks, and the blocks that pg_probackup restore would lose.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs plan profile.toml
  pbkfs plan profile.toml --json | jq '.settings[] | {name, value}'")]
pub struct PlanArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    at: At,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    /// The catalog's path.
    catalog: PathBuf,
    /// Name of the instance.
    instance: String,
    /// Id of the backup.
    backup: String,
    /// Source of the backups' metadata.
    metadata: String,
    /// Backups in its chain, FULL first.
    chain: Vec<Member>,
    /// The mount point.
    target: PathBuf,
    /// Current state of the mount point.
    target_state: String,
    /// Directory that would keep the writes; null if they are thrown away.
    diff_dir: Option<PathBuf>,
    /// Whether PostgreSQL would be started.
    launch: bool,
    /// Directory of PostgreSQL's programs.
    bin_dir: Option<PathBuf>,
    /// Settings that PostgreSQL would be started with.
    settings: Vec<Setting>,
    /// Values of these settings in the backup's own configuration, by name.
    backed_up: BTreeMap<String, String>,
    /// Entries of that configuration that are left out, with the reasons.
    left_out: Vec<LeftOut>,
    /// Components of the fence.
    fence: Option<String>,
    /// Hazards that the fence has to stop.
    hazards: Vec<Hazard>,
    /// Target at which recovery would end; null without recovery.
    recovery_target: Option<String>,
    /// Range that recovery could reach, described for people.
    recoverable: Option<String>,
    /// State of the WAL that the backup needs itself, judged by names and sizes.
    own_wal: WalReport,
    /// Losses of pg_probackup's own restore of the backup, file by file.
    restore_losses: Vec<LossReport>,
    /// Problems that would prevent the clone from starting.
    problems: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Member {
    /// Id of the backup.
    id: String,
    /// FULL, DELTA, PAGE or PTRACK.
    mode: String,
    /// Status in pg_probackup's terms: OK or DONE.
    status: String,
    /// Location of the WAL that it needs: STREAM or ARCHIVE.
    wal: &'static str,
    /// Compression algorithm of its pages.
    compress_alg: String,
    /// PostgreSQL's major version.
    server_version: String,
    /// Start time, RFC 3339.
    start_time: String,
    /// Size in the catalog in bytes, without WAL.
    data_bytes: Option<u64>,
    /// Size of the data directory that it was taken from, in bytes.
    pgdata_bytes: Option<u64>,
}

impl Member {
    fn of(backup: &Backup) -> Self {
        Self {
            id: backup.id.to_string(),
            mode: backup.mode.to_string(),
            status: backup.status.to_string(),
            wal: if backup.stream { "STREAM" } else { "ARCHIVE" },
            compress_alg: backup.compress_alg.to_string(),
            server_version: backup.server_version.clone(),
            start_time: rfc3339(backup.start_time),
            data_bytes: backup.data_bytes,
            pgdata_bytes: backup.pgdata_bytes,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &PlanArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let plan = args.profile.plan_at(args.at)?;
    log::init(verbosity, Some(&plan));
    let _span = log::span("plan", Some(&plan.target));
    let (report, first_problem) = make(&plan)?;
    output::document(args.json, &report, print);
    Ok(first_problem.as_ref().map_or(Code::Done, Code::of))
}

/// Creates the report, and returns it with the first error of `up`.
fn make(plan: &Plan) -> Result<(Report, Option<SessionError>), SessionError> {
    let resolved = session::resolve(plan, &|| true)?;
    let mut problems = session::obstacles(plan, &resolved);
    let target_state = match session::check_target(&plan.target) {
        Ok(state) => format!("{state:?}").to_lowercase(),
        Err(_) => "unusable".to_owned(),
    };
    let mut server = None;
    if plan.postgres.launch {
        match session::preview_server(plan, &resolved) {
            Ok(preview) => server = Some(preview),
            // Report a problem that both find only once.
            Err(error)
                if problems
                    .iter()
                    .any(|told| sentence(told) == sentence(&error)) => {}
            Err(error) => problems.push(error),
        }
    }
    let own_wal = OwnWalFinder::new(&resolved.instance).look(resolved.chain.target());
    let (restore_losses, untold) = restore_losses(&resolved.chain)?;
    let untold = untold.into_iter().map(SessionError::Image);
    problems.extend(untold);
    let mut report = Report {
        version: VERSION,
        own_wal: WalReport::of(own_wal),
        restore_losses,
        catalog: plan.catalog.name(),
        instance: plan.instance.clone(),
        backup: resolved.chain.target().id.to_string(),
        metadata: resolved
            .probackup
            .unwrap_or_else(|| "read natively".to_owned()),
        chain: resolved.chain.layers().iter().map(Member::of).collect(),
        target: plan.target.clone(),
        target_state,
        diff_dir: plan.diff_dir.clone(),
        launch: plan.postgres.launch,
        problems: problems.iter().map(|error| sentence(error)).collect(),
        ..Report::default()
    };
    if let Some(server) = server {
        report.bin_dir = Some(server.bin_dir);
        report.settings = server.settings;
        report.backed_up = server.backed_up;
        report.left_out = server.left_out;
        report.fence = Some(server.level.to_string());
        report.hazards = server.hazards;
        report.recovery_target = server.recovery_target;
        report.recoverable = server.recoverable;
    }
    Ok((report, problems.into_iter().next()))
}

/// Prints a setting in three columns of 80 characters: its name, the backup's value
/// and the clone's, with the reason below. Values that do not fit get lines of their
/// own.
fn print_setting(setting: &Setting, backed_up: Option<&str>) {
    const NAME: usize = 33;
    const VALUE: usize = 20;
    let name = &setting.name;
    let old = backed_up.map_or_else(|| "-".to_owned(), |value| format!("'{value}'"));
    let new = format!("'{}'", setting.value);
    let fits = |text: &str, width: usize| text.chars().count() < width;
    match fits(name, NAME) && fits(&old, VALUE) && fits(&new, 80 - 4 - NAME - VALUE + 1) {
        true => say!("    {name:<NAME$}{old:<VALUE$}{new}"),
        false => {
            say!("    {name}");
            say!("        backup: {old}");
            say!("        clone:  {new}");
        }
    }
    print_indented("        ", setting.reason);
}

fn print_left_out(left_out: &[LeftOut]) {
    if !left_out.is_empty() {
        say!("left out  of the backup's configuration:");
    }
    for what in left_out {
        let file = what.file.display();
        print_indented(
            "    ",
            &format!("{} ({file}, line {})", what.text, what.line),
        );
        print_indented("        ", &what.reason);
    }
}

fn print_indented(indent: &str, text: &str) {
    for line in wrapped(text, 80 - indent.len()) {
        say!("{indent}{line}");
    }
}

fn print(report: &Report) {
    say!(
        "catalog   {} (metadata: {})",
        value(&report.catalog),
        report.metadata
    );
    say!("instance  {}", value(&report.instance));
    say!(
        "backup    {}, a chain of {}:",
        value(&report.backup),
        report.chain.len()
    );
    for member in &report.chain {
        let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), human_bytes);
        say!(
            "    {}  {:<6} {:<4} {:<7} {:<4}  {}  stored {}, cluster {}",
            value(&member.id),
            value(&member.mode),
            value(&member.status),
            member.wal,
            value(&member.compress_alg),
            member.start_time,
            size(member.data_bytes),
            size(member.pgdata_bytes),
        );
    }
    say!(
        "target    {} ({})",
        value(&report.target),
        report.target_state
    );
    match &report.diff_dir {
        Some(dir) => say!("diff      {}", value(dir)),
        None => say!("diff      a throw-away directory beside the target"),
    }
    if let Some(target) = &report.recovery_target {
        say!("recovery  {target}");
    }
    if let Some(recoverable) = &report.recoverable {
        say!("          {recoverable}");
    }
    match &report.bin_dir {
        Some(dir) => say!("server    {}, started with:", value(dir)),
        None if report.launch => {}
        None => say!("server    none, only the mount"),
    }
    if !report.settings.is_empty() {
        say!("    {:<33}{:<20}the clone's", "setting", "the backup's");
    }
    for setting in &report.settings {
        let backed_up = report.backed_up.get(&setting.name);
        print_setting(setting, backed_up.map(String::as_str));
    }
    print_left_out(&report.left_out);
    if let Some(fence) = &report.fence {
        say!("fence     {fence}");
    }
    for hazard in &report.hazards {
        let open = match hazard.stopped_by {
            Some(_) => "",
            None => "OPEN: ",
        };
        print_indented("    ", &format!("{open}{}", hazard.hazard));
        if let Some(by) = &hazard.stopped_by {
            print_indented("        ", &format!("stopped by {by}"));
        }
    }
    if let Some(problem) = report.own_wal.problem() {
        say!("WAL       {problem}");
    }
    for loss in &report.restore_losses {
        say!("restore   {}", loss.message);
    }
    for problem in &report.problems {
        say!("PROBLEM   {problem}");
    }
}
