//! `pbkfs generate`: manual pages and shell completions, made from the same
//! definitions that the program runs by.

mod commands;
mod page;
mod profile;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::exit::Code;
use super::{Cli, Verbosity, log, output};
use crate::session::SessionError;
use crate::untrusted::Dir;

const PROGRAM: &str = "pbkfs";

/// Write the manual pages, or completions for a shell
///
/// Both are made from the program's own definitions: its commands, its table
/// of exit codes, and its table of the profile's keys.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "WHAT",
    after_help = "\
Examples:
  pbkfs generate man man
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
        /// The directory; it is made if it does not exist
        dir: PathBuf,
    },
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Runs the subcommand.
pub fn run(args: &GenerateArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    log::init(verbosity, None);
    match &args.what {
        What::Man { dir } => write_pages(dir)?,
        What::Completions { shell } => print_completions(*shell),
    }
    Ok(Code::Done)
}

fn write_pages(dir: &Path) -> Result<(), SessionError> {
    fs::create_dir_all(dir).map_err(|e| SessionError::io("make the directory", dir, e))?;
    let opened = Dir::open(dir).map_err(|e| SessionError::io("open", dir, e))?;
    let mut pages = commands::pages(Cli::command());
    pages.push(profile::page());
    for page in pages {
        let name = page.file_name();
        let written = opened.replace(&name, page.as_roff().as_bytes(), 0o644, None);
        written.map_err(|e| SessionError::io("write", &dir.join(&name), e))?;
    }
    Ok(())
}

fn print_completions(shell: Shell) {
    let all = Cli::command();
    // clap_complete would offer what is hidden too.
    let mut command = clap::Command::new(PROGRAM)
        .args(
            all.get_arguments()
                .filter(|arg| !arg.is_hide_set())
                .cloned(),
        )
        .subcommands(commands::visible(&all).cloned());
    // Into memory first: clap_complete panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, PROGRAM, &mut script);
    output::verbatim(&script);
}
