//! What is promoted, where to, and the result.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::materialize::PlacedTablespace;
use crate::profile::Plan;
use crate::session::{Hydration, Signals};

/// One promotion.
pub struct Promote<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// The profile's path.
    pub profile: Option<&'a Path>,
    /// The signals that interrupt it.
    pub signals: &'a Signals,
    /// The data directory to create, by absolute path. `None` stands for the one that
    /// the promotion which is under way was given.
    pub to: Option<PathBuf>,
    /// New directories of tablespaces, by their old ones.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Limit of hydration in bytes per second; by default it steps back for the clone.
    pub rate: Option<u64>,
    /// Whether the cut-over follows at once. If not, it waits for another process that is
    /// told to finish.
    pub at_once: bool,
    /// Number of files worked on at a time once the clone is down.
    pub jobs: usize,
    /// Receives how far the hydration of a running clone is.
    pub progress: &'a dyn Fn(&Hydration),
    /// Receives sentences about what comes next.
    pub say: &'a dyn Fn(&str),
}

/// The result of a promotion.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Promoted {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    pub version: u32,
    /// The id of the backup that the clone was made from.
    pub backup: String,
    /// The clone's diff, which is not used any more.
    pub diff: PathBuf,
    /// The data directory.
    pub directory: PathBuf,
    /// Its tablespaces.
    pub tablespaces: Vec<PlacedTablespace>,
    /// Number of its files.
    pub files: u64,
    /// How many of them were copied, because they are on another file system than the
    /// diff.
    pub copied_files: u64,
    /// The files' size in bytes; holes count.
    pub bytes: u64,
    /// Settings of the directory's own configuration that pbkfs had overridden in the
    /// clone and that have an effect now.
    pub overridden: Vec<Overridden>,
    /// The command that starts its server; null if its configuration is not in the
    /// directory, as on Debian, and no cluster of this host has it either.
    pub start: Option<String>,
    /// Time from the beginning of the cut-over, when the clone is stopped, to the
    /// complete directory, in seconds.
    pub cut_over_seconds: f64,
    /// Total duration, in seconds.
    pub seconds: f64,
}

/// A setting of the directory's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Overridden {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}
