//! Creates a catalog in pg_probackup's format from the data directory of a server that
//! was shut down: for tests and benchmarks, and for trying pbkfs on your own data where
//! pg_probackup is not installed.
//!
//! ```text
//! cargo run --release --example make-catalog -- -B CATALOG -D PGDATA --mode full
//! .. start the server, change something, stop it ..
//! cargo run --release --example make-catalog -- -B CATALOG -D PGDATA --mode delta
//! ```
//!
//! It writes a STREAM backup as pg_probackup 2.5.16 stores it, with one difference: it is
//! a cold copy. There is no `backup_label`, because a server that was shut down has
//! nothing to recover; start and stop are both the shutdown checkpoint; and unlogged
//! relations are kept, because it is recovery that empties them. `database_map` is left
//! out: it serves only partial restores and needs a running server.
//!
//! It is not a backup tool: nothing prevents the server from being started in the
//! meantime, and nothing is fsynced.

#![allow(clippy::print_stdout)]

mod source;
mod store;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use pbkfs::catalog::{BackupMode, CompressAlg};

/// An error that this program reports.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Creates one backup of a stopped cluster, in a catalog in pg_probackup's format.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The catalog; created if it does not exist.
    #[arg(short = 'B', long, value_name = "DIR")]
    catalog: PathBuf,
    /// The instance's name.
    #[arg(long, default_value = "main")]
    instance: String,
    /// The data directory of a server that was shut down.
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,
    /// Back up everything, or only what has changed since the newest backup.
    #[arg(long, value_enum, default_value_t = Mode::Full)]
    mode: Mode,
    /// The codec: none, zlib, pglz, lz4 or zstd.
    #[arg(long, value_name = "CODEC", default_value = "zlib")]
    compress: CompressAlg,
    /// The compression level, on the codec's own scale.
    #[arg(long, default_value_t = 1)]
    level: i32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Full,
    Delta,
}

fn main() -> ExitCode {
    match make(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make-catalog: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Creates the requested backup.
pub fn make(arguments: &Arguments) -> Result<(), Failure> {
    let cluster = source::Cluster::read(&arguments.pgdata)?;
    let instance = store::open_instance(&arguments.catalog, &arguments.instance, &cluster)?;
    let settings = store::Settings {
        mode: match arguments.mode {
            Mode::Full => BackupMode::Full,
            Mode::Delta => BackupMode::Delta,
        },
        compress_alg: arguments.compress,
        compress_level: arguments.level,
    };
    let backup = store::store(&cluster, &instance, &settings)?;
    println!(
        "{} {} {} files, {} of {} bytes stored in {}",
        backup.id,
        backup.mode,
        cluster.files.len(),
        backup.data_bytes.unwrap_or(0),
        backup.pgdata_bytes.unwrap_or(0),
        backup.dir.display()
    );
    Ok(())
}

/// Reads a file, and names it in the error if that fails.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| named("read", path, &error))
}

fn named(action: &str, path: &Path, error: &dyn Error) -> Failure {
    format!("cannot {action} {}: {error}", path.display()).into()
}
