//! Why an image, or part of it, cannot be shown.

use std::io;
use std::path::{Path, PathBuf};

use super::tree::NodeId;
use crate::catalog::BackupId;
use crate::catalog::content::ContentError;
use crate::catalog::pages::{CodecError, PageIndexError, PageStamp, RecordError};
use crate::figures::counted;
use crate::pg::BlockNumber;
use crate::pg::control::ControlFileError;
use crate::untrusted::Refused;

/// Why an image, or part of it, cannot be shown. `path` is always the path inside PGDATA,
/// and `backup` the member of the chain at fault.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The chain has no backups.
    #[error("the chain has no backups")]
    EmptyChain,
    /// A content list cannot be read.
    #[error("the content list of backup {backup} cannot be used")]
    Content {
        /// The backup.
        backup: BackupId,
        /// The reason.
        #[source]
        source: ContentError,
    },
    /// The file belongs to a compressed tablespace, which PostgreSQL itself cannot read.
    #[error(
        "{path} in backup {backup} belongs to a compressed tablespace (CFS), which only \
         Postgres Pro Enterprise can read"
    )]
    Cfs {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
    },
    /// The content list has two entries for the same path, or cannot be laid out as a
    /// tree.
    #[error("{path} in backup {backup} cannot be shown: {why}")]
    Misplaced {
        /// The path.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The reason.
        why: &'static str,
    },
    /// Content was requested of something that is not a file.
    #[error("node {} is not a file", node.0)]
    NotAFile {
        /// The node.
        node: NodeId,
    },
    /// A file is stored as pages in one backup and whole in another.
    #[error(
        "backups {target} and {backup} store {path} differently: one as pages, the other whole"
    )]
    KindChanged {
        /// The file.
        path: PathBuf,
        /// The backup that disagrees.
        backup: BackupId,
        /// The backup to show.
        target: BackupId,
    },
    /// An unchanged file is missing from the older backups.
    #[error(
        "{path} is recorded as unchanged since an older backup, but backup {backup} does not \
         have it"
    )]
    NotInParent {
        /// The file.
        path: PathBuf,
        /// The backup that should contain it.
        backup: BackupId,
    },
    /// A stored file cannot be opened or read.
    #[error("{file}, which holds {path} of backup {backup}, cannot be read")]
    Stored {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The stored file.
        file: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Something else, such as a link, a FIFO or a directory, is in place of a stored
    /// file.
    #[error("{file}, which should hold {path} of backup {backup}, was not read: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The stored file.
        file: PathBuf,
        /// What is there instead.
        reason: Refused,
    },
    /// A stored file is shorter than recorded.
    #[error(
        "the stored file of {path} in backup {backup} is truncated: it has {} instead of \
         {expected}",
        counted(*found, "byte")
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// Bytes recorded.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The locations of a file's pages cannot be determined.
    #[error("the pages of {path} in backup {backup} cannot be located")]
    Index {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The reason.
        #[source]
        source: PageIndexError,
    },
    /// A stored file is longer than recorded. Reading ignores this; verification reports
    /// it.
    #[error(
        "the stored file of {path} in backup {backup} is too long: it has {}, \
         but {expected} were recorded",
        counted(*found, "byte")
    )]
    Long {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// Bytes recorded.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A stored file is not the one that was written. Reading does not check this;
    /// verification does.
    #[error(
        "the stored file of {path} in backup {backup} is damaged: its checksum is \
         {computed:08X}, but the content list records {recorded:08X}"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The checksum in the content list.
        recorded: u32,
        /// The checksum calculated from the bytes.
        computed: u32,
    },
    /// The cluster's control file is invalid.
    #[error("{path} in backup {backup} cannot be used")]
    Control {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The reason.
        #[source]
        source: ControlFileError,
    },
    /// A stored page is damaged.
    #[error(transparent)]
    Page(Box<BadPage>),
}

impl ImageError {
    /// Returns the file inside PGDATA that the error concerns.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.place().0
    }

    /// Returns the backup at fault.
    #[must_use]
    pub fn backup(&self) -> Option<&BackupId> {
        self.place().1
    }

    fn place(&self) -> (Option<&Path>, Option<&BackupId>) {
        match self {
            Self::EmptyChain | Self::NotAFile { .. } => (None, None),
            Self::Content { backup, .. } => (None, Some(backup)),
            Self::Cfs { path, backup }
            | Self::Misplaced { path, backup, .. }
            | Self::KindChanged { path, backup, .. }
            | Self::NotInParent { path, backup }
            | Self::Stored { path, backup, .. }
            | Self::Refused { path, backup, .. }
            | Self::Short { path, backup, .. }
            | Self::Long { path, backup, .. }
            | Self::Index { path, backup, .. }
            | Self::Checksum { path, backup, .. }
            | Self::Control { path, backup, .. } => (Some(path), Some(backup)),
            Self::Page(page) => (Some(&page.path), Some(&page.backup)),
        }
    }
}

/// A stored page that is not what was backed up.
#[derive(Debug, thiserror::Error)]
#[error(
    "block {block} of {path} is damaged in backup {backup}, at offset {offset} in the stored \
     file: {fault}"
)]
pub struct BadPage {
    /// The file, by its path inside PGDATA.
    pub path: PathBuf,
    /// The backup.
    pub backup: BackupId,
    /// The block within its segment.
    pub block: BlockNumber,
    /// Byte offset of its record in the stored file.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: PageFault,
}

/// What is wrong with a stored page.
#[derive(Debug, thiserror::Error)]
pub enum PageFault {
    /// The record is not the one that belongs in its place.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The page cannot be decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The page can be decoded, but its checksum is wrong.
    #[error("its page checksum is {stored:04X}, but the calculated one is {computed:04X}")]
    Checksum {
        /// The checksum in the page.
        stored: u16,
        /// The checksum calculated from its content and block number.
        computed: u16,
    },
    /// The page can be decoded, but is not the one that was backed up. Reading does not
    /// check this; verification does.
    #[error(
        "page_header_map records LSN {} and checksum {:04X}, but the page has {} and {:04X}",
        recorded.lsn, recorded.checksum, found.lsn, found.checksum
    )]
    Stamp {
        /// The header map's entry.
        recorded: PageStamp,
        /// The values of the page itself.
        found: PageStamp,
    },
}
