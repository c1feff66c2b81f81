//! Why a data directory was not written.

use std::path::PathBuf;

use crate::image::ImageError;

/// A materialization that did not create its directory.
#[derive(Debug, thiserror::Error)]
pub enum MaterializeError {
    /// The backup is damaged.
    #[error(
        "the backup is damaged, and {} was not created: {first}{}; pbkfs verify lists all damage, \
         and other backups in which it is intact",
        directory.display(), more_damage(*more)
    )]
    Damaged {
        /// The directory that was to be created.
        directory: PathBuf,
        /// The first damage.
        first: Box<ImageError>,
        /// Number of further damaged places.
        more: u64,
    },
    /// It was interrupted.
    #[error(
        "interrupted before {} was complete; the same command {}",
        directory.display(), match continues {
            true => "continues where it stopped",
            false => "removes what was begun and starts again, because the clone may change",
        }
    )]
    Unfinished {
        /// The directory that was to be created.
        directory: PathBuf,
        /// Whether the files that are complete will not be written again.
        continues: bool,
    },
}

fn more_damage(more: u64) -> String {
    match more {
        0 => String::new(),
        1 => " (and 1 more place is damaged)".to_owned(),
        more => format!(" (and {more} more places are damaged)"),
    }
}
