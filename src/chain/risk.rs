//! Chains from which pg_probackup's own restore may lose data.
//!
//! In PAGE and PTRACK backups, pg_probackup 2.2.7 and older mark a truncated file by a
//! record at the end of the stored file (a truncation marker). From 2.4.0 on, restore
//! proceeds from the newest backup to the oldest, so it reaches the marker after it has
//! written the later changes. If the file has grown again, restore silently truncates it
//! at the marker, and fills the space beyond with what the oldest backup has there
//! (`restore_data_file_internal` in pg_probackup's data.c). A merge copies with the same
//! function.

use std::fmt;

use super::Chain;
use crate::catalog::{Backup, BackupId, BackupMode, ProgramVersion};

/// The last version that wrote truncation markers.
const MARKERS_UNTIL: ProgramVersion = ProgramVersion::new(2, 2, 7);

/// The first version whose restore proceeds from the newest backup to the oldest.
const NEWEST_FIRST_SINCE: ProgramVersion = ProgramVersion::new(2, 4, 0);

/// A warning that restore may lose data, judged by versions alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRisk {
    /// The backup that would be restored.
    pub target: BackupId,
    /// The members that may have truncation markers, oldest first; never empty.
    pub marked: Vec<BackupId>,
}

impl fmt::Display for RestoreRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked: Vec<String> = self.marked.iter().map(ToString::to_string).collect();
        write!(
            f,
            "pg_probackup's own restore of backup {} may silently lose data, because {} was taken \
             by pg_probackup 2.2.7 or older below a newer backup; pbkfs shows all data, and pbkfs \
             plan and pbkfs verify report whether any would be lost; take a new FULL backup, and \
             do not merge this chain",
            self.target,
            marked.join(", ")
        )
    }
}

impl Chain {
    /// Returns a risk if pg_probackup's own restore of the target may lose data, judged
    /// by the members' versions alone.
    #[must_use]
    pub fn restore_risk(&self) -> Option<RestoreRisk> {
        if self.target.program_version < NEWEST_FIRST_SINCE {
            return None;
        }
        let marked = self.layers.iter().filter(|layer| may_have_markers(layer));
        let marked: Vec<BackupId> = marked.map(|layer| layer.id.clone()).collect();
        (!marked.is_empty()).then(|| RestoreRisk {
            target: self.target.id.clone(),
            marked,
        })
    }
}

fn may_have_markers(backup: &Backup) -> bool {
    let mode = matches!(backup.mode, BackupMode::Page | BackupMode::Ptrack);
    mode && backup.program_version <= MARKERS_UNTIL
}
