//! What is materialized, where, and the result.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::layout::Layout;
use crate::profile::Plan;
use crate::session::Signals;

/// One materialization.
pub struct Materialize<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// The profile's path.
    pub profile: Option<&'a Path>,
    /// The signals that interrupt it.
    pub signals: &'a Signals,
    /// The data directory to create, by absolute path.
    pub to: PathBuf,
    /// Whether the backup itself is written, without what a clone has changed in the
    /// profile's diff.
    pub from_backup: bool,
    /// Whether a time to recover to was given besides the profile, which a clone that was
    /// recovered already cannot obey.
    pub at_given: bool,
    /// New directories of tablespaces, by their old ones.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Number of files written at a time.
    pub jobs: usize,
    /// Whether everything is made durable before the directory gets its name.
    pub sync: bool,
    /// Receives the current step, and how many stored bytes of the total were read.
    pub progress: &'a dyn Fn(&str, u64, u64),
}

/// The result of a materialization.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Materialized {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    pub version: u32,
    /// The backup's id.
    pub backup: String,
    /// The diff with the clone's changes; null if the backup itself was written.
    pub diff: Option<PathBuf>,
    /// The data directory.
    pub directory: PathBuf,
    /// Its tablespaces.
    pub tablespaces: Vec<PlacedTablespace>,
    /// Number of files written.
    pub files: u64,
    /// Number of files that an interrupted run had already written.
    pub resumed_files: u64,
    /// Size of the files written, in bytes; holes count.
    pub bytes: u64,
    /// Number of bytes read from the catalog.
    pub read_bytes: u64,
    /// Number of pages decoded and checked.
    pub pages: u64,
    /// Whether the directory recovers from the WAL archive when its server starts.
    pub recovers: bool,
    /// Duration, in seconds.
    pub seconds: f64,
}

/// A tablespace of the directory.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PlacedTablespace {
    /// Its OID, the name of its link below `pg_tblspc`.
    pub oid: u32,
    /// Its directory on the host that was backed up.
    pub old: PathBuf,
    /// Its directory now.
    pub new: PathBuf,
}

impl PlacedTablespace {
    /// Returns those of a data directory.
    pub(crate) fn of(layout: &Layout) -> Vec<Self> {
        let roots = layout.roots.iter();
        roots
            .filter_map(|root| {
                Some(Self {
                    oid: root.oid?,
                    old: root.old.clone(),
                    new: root.to.clone(),
                })
            })
            .collect()
    }
}
