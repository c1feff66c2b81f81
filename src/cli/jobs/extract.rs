//! `pbkfs extract`: extracts a table or a query result from a backup.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::begin::begin;
use super::progress::Progress;
use crate::cli::common::{At, human_bytes, value};
use crate::cli::exit::Code;
use crate::cli::output;
use crate::cli::source::{BackupArgs, absolute};
use crate::cli::verbosity::Verbosity;
use crate::extract::{Destination, Extract, Format, What};
use crate::session::SessionError;

/// Extract a table or a query result from a backup
///
/// Starts PostgreSQL on a throw-away clone of the backup, recovers it to the
/// requested target, runs one pg_dump or query, and removes the clone. Only what the
/// table needs is read, however large the rest is.
///
/// The result is written completely or not at all; with "-o -" it is streamed to
/// standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs extract profile.toml --table public.orders -o orders.sql
  pbkfs extract profile.toml -t orders --at \"2026-11-22 14:32:00+00\" -o - | psql shop
  pbkfs extract profile.toml -d shop -t 'sales.*' --format custom -o sales.dump
  pbkfs extract profile.toml -d shop --query \"select * from orders\" -o -
  pbkfs extract profile.toml -d shop --query \"table orders\" --csv -o orders.csv
  pbkfs extract -B /srv/backup --instance main -t orders -o - -- --inserts")]
pub struct ExtractArgs {
    #[command(flatten)]
    backup: BackupArgs,
    /// The database to extract from; by default the one that has the tables, or
    /// "postgres" if none are given
    #[arg(short, long)]
    database: Option<String>,
    /// A table, or a table pattern as in pg_dump; may be repeated. By default, the
    /// whole database
    #[arg(short, long, value_name = "SCHEMA.NAME")]
    table: Vec<String>,
    /// Dump only the schema, no data
    #[arg(long, conflicts_with = "data_only")]
    schema_only: bool,
    /// Dump only the data
    #[arg(long)]
    data_only: bool,
    #[command(flatten)]
    at: At,
    /// Format of the result
    #[arg(long, value_enum, default_value_t = FormatArg::Plain)]
    format: FormatArg,
    /// Extract the result of this query, instead of tables
    #[arg(long, value_name = "SQL",
          conflicts_with_all = ["table", "schema_only", "data_only", "format", "pg_dump"])]
    query: Option<String>,
    /// Write the query result as CSV with a header, not in the format of psql
    #[arg(long, requires = "query")]
    csv: bool,
    /// Keep the tablespace names, which another server may lack
    #[arg(long, conflicts_with = "query")]
    tablespaces: bool,
    /// The output file, or the directory for the directory format; "-" streams the
    /// result to standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    /// Options for pg_dump itself, after "--"
    #[arg(last = true, value_name = "PG_DUMP_OPTION")]
    pg_dump: Vec<String>,
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

/// Refuses options of pg_dump for the output and its format: pbkfs has its own.
fn check_options(options: &[String]) -> Result<(), SessionError> {
    let ours = ["-f", "--fi", "-F", "--fo"];
    let is_ours = |option: &&String| ours.iter().any(|ours| option.starts_with(ours));
    match options.iter().find(is_ours) {
        Some(option) => Err(SessionError::Usage {
            message: format!(
                "{} cannot be passed on to pg_dump; use --output and --format of pbkfs",
                value(option)
            ),
        }),
        None => Ok(()),
    }
}

/// Runs the subcommand.
pub fn run(args: &ExtractArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    check_options(&args.pg_dump)?;
    let plan = args.backup.job("extract", args.at)?;
    let verbose = verbosity.is_verbose();
    let (_span, signals) = begin("extract", verbosity.for_job(), &plan)?;
    let destination = match args.output.as_os_str() == "-" {
        true => Destination::Opened(
            output::standard().map_err(|e| SessionError::io("write", &args.output, e))?,
        ),
        false => Destination::Path(absolute(&args.output)?),
    };
    let progress = Progress::new(true);
    let extract = Extract {
        plan: &plan,
        profile: args.backup.profile(),
        signals: &signals,
        database: args.database.clone(),
        what: what(args),
        output: destination,
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
        let result = match args.output.as_os_str() == "-" {
            // Only the reader knows its size.
            true => "standard output".to_owned(),
            false => format!("{}: {}", value(&args.output), human_bytes(done.bytes)),
        };
        complain!(
            "{result}, from backup {}{until}; {} were read from the backup, {} written to the diff",
            done.backup,
            human_bytes(done.read_bytes),
            human_bytes(done.diff_bytes)
        );
    }
    Ok(Code::Done)
}

fn what(args: &ExtractArgs) -> What {
    if let Some(query) = &args.query {
        return What::Query {
            sql: query.clone(),
            csv: args.csv,
        };
    }
    let flags = [
        (args.schema_only, "--schema-only"),
        (args.data_only, "--data-only"),
        (!args.tablespaces, "--no-tablespaces"),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set);
    let mut options: Vec<String> = flags.map(|(_, option)| (*option).to_owned()).collect();
    options.extend(args.pg_dump.iter().cloned());
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
