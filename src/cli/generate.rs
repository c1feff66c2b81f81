//! `pbkfs generate`: writes manual pages, schemas, a profile with every key, and shell
//! completions, generated from the definitions that the program itself uses. The manual
//! pages of section 7 cannot be generated: they are written by hand and embedded in the
//! program.

mod commands;
mod page;
mod profile;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clap_complete::Shell;

use crate::cli::document::{DOCUMENTS, profile_schema};
use crate::cli::exit::Code;
use crate::cli::verbosity::Verbosity;
use crate::cli::{log, output};
use crate::session::SessionError;
use crate::untrusted::Dir;

const PROGRAM: &str = "pbkfs";

/// The pages written by hand: their file names in `man/`, and their texts.
const WRITTEN: &[(&str, &str)] = &[
    (
        "pbkfs-recovery.7",
        include_str!("../../man/pbkfs-recovery.7"),
    ),
    ("pbkfs-safety.7", include_str!("../../man/pbkfs-safety.7")),
    (
        "pbkfs-troubleshooting.7",
        include_str!("../../man/pbkfs-troubleshooting.7"),
    ),
];

/// Write the manual pages, JSON schemas, a full profile, or shell completions
///
/// All of them are generated from the program's own definitions: its commands, its table
/// of exit codes, the types of the profile's keys, and the types that it prints. The
/// manual pages of section 7 are written by hand and embedded in the program.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "WHAT",
    after_help = "\
Examples:
  pbkfs generate man man
  pbkfs generate schema schemas
  pbkfs generate config /tmp
  pbkfs generate completions bash >/etc/bash_completion.d/pbkfs"
)]
pub struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write every manual page into a directory
    Man {
        /// The directory; created if it does not exist
        dir: PathBuf,
    },
    /// Write the JSON schemas of every document that --json prints and, for editors,
    /// of a profile into a directory
    Schema {
        /// The directory; created if it does not exist
        dir: PathBuf,
    },
    /// Write full.toml, a profile with every key and its default, into a directory
    Config {
        /// The directory; created if it does not exist
        dir: PathBuf,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs the subcommand, with the definitions of `program`.
pub fn run(
    args: &GenerateArgs,
    program: clap::Command,
    verbosity: Verbosity,
) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    match &args.what {
        What::Man { dir } => write_pages(dir, program)?,
        What::Schema { dir } => write_schemas(dir)?,
        What::Config { dir } => {
            let full = ("full.toml".to_owned(), profile::full());
            write_all(dir, std::iter::once(full))?;
        }
        What::Completions { shell } => print_completions(*shell, &program),
    }
    Ok(Code::Done)
}

fn write_pages(dir: &Path, program: clap::Command) -> Result<(), SessionError> {
    let mut pages = commands::pages(program);
    pages.push(profile::page());
    let made = pages.iter().map(|page| (page.file_name(), page.as_roff()));
    let written = WRITTEN
        .iter()
        .map(|(name, text)| ((*name).to_owned(), *text));
    write_all(dir, made.chain(written))
}

fn write_schemas(dir: &Path) -> Result<(), SessionError> {
    let documents = DOCUMENTS
        .iter()
        .map(|document| (document.name, document.schema()));
    let texts = documents
        .chain([("profile", profile_schema())])
        .map(|(name, schema)| {
            // A document of text, numbers and lists can always be serialized.
            let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
            (format!("{name}.schema.json"), text + "\n")
        });
    write_all(dir, texts)
}

fn write_all(
    dir: &Path,
    texts: impl Iterator<Item = (String, impl AsRef<str>)>,
) -> Result<(), SessionError> {
    fs::create_dir_all(dir).map_err(|e| SessionError::io("create the directory", dir, e))?;
    let opened = Dir::open(dir).map_err(|e| SessionError::io("open", dir, e))?;
    for (name, text) in texts {
        let written = opened.replace(&name, text.as_ref().as_bytes(), 0o644, None);
        written.map_err(|e| SessionError::io("write", &dir.join(&name), e))?;
    }
    Ok(())
}

fn print_completions(shell: Shell, all: &clap::Command) {
    // clap_complete would offer hidden options and commands too.
    let mut command = clap::Command::new(PROGRAM)
        .args(
            all.get_arguments()
                .filter(|arg| !arg.is_hide_set())
                .cloned(),
        )
        .subcommands(commands::visible(all).cloned());
    // Generate into memory first: clap_complete panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, PROGRAM, &mut script);
    output::verbatim(&script);
}
