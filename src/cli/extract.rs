//! `pbkfs extract`: gets a table, or the answer to a query, out of a backup.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::common::{ProfileArgs, human_bytes, value};
use super::exit::Code;
use super::progress::Progress;
use super::stay::raise_file_limit;
use super::{Verbosity, log, output};
use crate::extract::{Extract, Format, What};
use crate::profile::MomentText;
use crate::session::{SessionError, Signals};

/// Get a table, or the answer to a query, out of a backup
///
/// Starts PostgreSQL on a throw-away clone of the backup, recovers it to the
/// moment that is asked for, runs one pg_dump or query, and takes the clone
/// away again. Only what the table needs is read, however large the rest is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs extract profile.toml --database shop --table public.orders -o orders.sql
  pbkfs extract profile.toml --database shop --table public.orders --at \"2026-11-22 14:32:00+00\" -o orders.sql
  pbkfs extract profile.toml --database shop --table 'sales.*' --format custom -o sales.dump
  pbkfs extract profile.toml --database shop --query \"select * from orders where id < 9\" --csv -o orders.csv")]
pub struct ExtractArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// The database to get it from
    #[arg(short, long, default_value = "postgres")]
    database: String,
    /// A table, or a pattern of tables as pg_dump takes it; may be repeated.
    /// Without it, the whole database
    #[arg(short, long, value_name = "SCHEMA.NAME")]
    table: Vec<String>,
    /// Only how the tables are made, no rows
    #[arg(long, conflicts_with = "data_only")]
    schema_only: bool,
    /// Only rows
    #[arg(long)]
    data_only: bool,
    /// Recover to that time, as in --at "2026-11-22 14:32:00+00"; where the
    /// backup is "latest", the newest that ended before it is taken
    #[arg(long, value_name = "TIME")]
    at: Option<MomentText>,
    /// How the result is written
    #[arg(long, value_enum, default_value_t = FormatArg::Plain)]
    format: FormatArg,
    /// The answer to this query, instead of tables
    #[arg(long, value_name = "SQL", requires = "csv",
          conflicts_with_all = ["table", "schema_only", "data_only", "format"])]
    query: Option<String>,
    /// Write the answer to the query as CSV with a header
    #[arg(long, requires = "query")]
    csv: bool,
    /// Where the result goes: a file, or the directory of the directory format
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// SQL, for psql
    Plain,
    /// One file for pg_restore
    Custom,
    /// A directory for pg_restore
    Directory,
}

/// Runs the subcommand.
pub fn run(args: &ExtractArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let plan = args.profile.plan_at(args.at)?;
    let verbose = verbosity.is_verbose();
    log::init(verbosity.for_job(), Some(&plan.log));
    let _span = log::span("extract", Some(&plan.target));
    let signals = Signals::install()
        .map_err(|e| SessionError::io("take signals for", Path::new("pbkfs"), e))?;
    raise_file_limit();
    let file =
        std::path::absolute(&args.output).map_err(|e| SessionError::io("find", &args.output, e))?;
    let progress = Progress::new(true);
    let extract = Extract {
        plan: &plan,
        profile: args.profile.profile.as_deref(),
        signals: &signals,
        database: args.database.clone(),
        what: what(args),
        output: file,
        replace: args.force,
        progress: &|what, bytes| progress.show(what, bytes, 0),
    };
    let outcome = extract.run();
    progress.clear();
    let done = outcome?;
    if verbose || output::has_spectators() {
        let until = done
            .recovered
            .map_or(String::new(), |time| format!(", at {time}"));
        complain!(
            "{}: {} of backup {}{until}; {} were read from the backup, {} written meanwhile",
            value(&args.output),
            human_bytes(done.bytes),
            done.backup,
            human_bytes(done.read_bytes),
            human_bytes(done.diff_bytes)
        );
    }
    Ok(Code::Done)
}

fn what(args: &ExtractArgs) -> What {
    if let Some(query) = &args.query {
        return What::Query(query.clone());
    }
    let mut options = Vec::new();
    if args.schema_only {
        options.push("--schema-only");
    }
    if args.data_only {
        options.push("--data-only");
    }
    What::Dump {
        tables: args.table.clone(),
        options,
        format: match args.format {
            FormatArg::Plain => Format::Plain,
            FormatArg::Custom => Format::Custom,
            FormatArg::Directory => Format::Directory,
        },
    }
}
