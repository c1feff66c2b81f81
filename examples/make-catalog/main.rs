//! Makes a catalog of pg_probackup's form from the data directory of a server
//! that was shut down: for tests and benchmarks, and for trying pbkfs on data
//! of one's own where pg_probackup is not installed.
//!
//! ```text
//! cargo run --release --example make-catalog -- -B CATALOG -D PGDATA --mode full
//! .. start the server, change something, stop it ..
//! cargo run --release --example make-catalog -- -B CATALOG -D PGDATA --mode delta
//! ```
//!
//! What it writes is a STREAM backup as pg_probackup 2.5.16 stores it, but for
//! one thing: it is a cold copy. There is no `backup_label`, since a server
//! that was shut down has nothing to recover; start and stop are both the
//! checkpoint of the shutdown; and unlogged relations are kept, since it is
//! recovery that makes them empty. `database_map` is left out, which is only
//! there for partial restores and needs a running server.
//!
//! It is no backup tool: nothing keeps the server from being started meanwhile,
//! and nothing is fsynced.

#![allow(clippy::print_stdout)]

mod source;
mod store;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use pbkfs::catalog::{BackupMode, CompressAlg};

/// An error as this program reports it.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Makes one backup of a stopped cluster, in a catalog of pg_probackup's form.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The catalog; made if it does not exist.
    #[arg(short = 'B', long, value_name = "DIR")]
    catalog: PathBuf,
    /// The instance's name.
    #[arg(long, default_value = "main")]
    instance: String,
    /// The data directory of a server that was shut down.
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,
    /// Everything, or what has changed since the newest backup.
    #[arg(long, value_enum, default_value_t = Mode::Full)]
    mode: Mode,
    /// none, zlib, pglz, lz4 or zstd.
    #[arg(long, value_name = "CODEC", default_value = "zlib")]
    compress: CompressAlg,
    /// On the codec's own scale.
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

/// Makes the backup that was asked for.
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

/// Reads a file, and says which one it was if that fails.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| named("read", path, &error))
}

fn named(action: &str, path: &Path, error: &dyn Error) -> Failure {
    format!("cannot {action} {}: {error}", path.display()).into()
}
