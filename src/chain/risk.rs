//! Chains of which pg_probackup's own restore may lose data.
//!
//! PAGE and PTRACK backups of pg_probackup 2.2.7 and older say by a record at
//! the end of a stored file that the file was cut (a truncation marker). From
//! 2.4.0 on, restore goes from the newest backup to the oldest, and meets the
//! marker when it has written already what came after it: a file that has grown
//! again is cut at the marker, without a word, and what the oldest backup has
//! beyond comes back in place of it (`restore_data_file_internal` in
//! pg_probackup's data.c). A merge copies by the same function.

use std::fmt;

use super::Chain;
use crate::catalog::{Backup, BackupId, BackupMode, ProgramVersion};

/// The last version that wrote markers.
const MARKERS_UNTIL: ProgramVersion = ProgramVersion::new(2, 2, 7);

/// From here on restore goes from the newest backup to the oldest.
const NEWEST_FIRST_SINCE: ProgramVersion = ProgramVersion::new(2, 4, 0);

/// That restore may lose data, as far as the versions tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRisk {
    /// The backup that would be restored.
    pub target: BackupId,
    /// The members that may have markers, the oldest first; there is one.
    pub marked: Vec<BackupId>,
}

impl fmt::Display for RestoreRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked: Vec<String> = self.marked.iter().map(ToString::to_string).collect();
        write!(
            f,
            "pg_probackup's own restore of backup {} may lose data without a word, as {} was \
             taken by pg_probackup 2.2.7 or older below a newer backup; pbkfs shows all of it, and \
             pbkfs plan and pbkfs verify tell whether something would be lost; take a new FULL \
             backup, and do not merge this chain",
            self.target,
            marked.join(", ")
        )
    }
}

impl Chain {
    /// Whether pg_probackup's own restore of the target may lose data, by the
    /// versions of the members alone.
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
