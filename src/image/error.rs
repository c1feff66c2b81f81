//! Why an image, or a part of it, cannot be shown.

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

/// Why an image, or a part of it, cannot be shown. `path` is always the path
/// inside PGDATA, `backup` the member of the chain that is at fault.
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
        /// Why.
        #[source]
        source: ContentError,
    },
    /// A file of a compressed tablespace, which PostgreSQL itself cannot read.
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
    /// The content list puts two things in one place.
    #[error("{path} in backup {backup} cannot be shown: {why}")]
    Misplaced {
        /// The path.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// What is in its way.
        why: &'static str,
    },
    /// Content of something that is no file.
    #[error("node {} is not a file", node.0)]
    NotAFile {
        /// The node.
        node: NodeId,
    },
    /// A file is stored as pages in one backup and whole in another.
    #[error(
        "the backups {target} and {backup} store {path} differently: one by pages, the other whole"
    )]
    KindChanged {
        /// The file.
        path: PathBuf,
        /// The backup that disagrees.
        backup: BackupId,
        /// The backup to show.
        target: BackupId,
    },
    /// An unchanged file that no older backup has.
    #[error(
        "{path} is recorded as unchanged since an older backup, but backup {backup} does not \
         have it"
    )]
    NotInParent {
        /// The file.
        path: PathBuf,
        /// The backup that should have it.
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
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else stands where a stored file belongs: a link, a FIFO, a
    /// directory.
    #[error("{file}, which should hold {path} of backup {backup}, is not read: {reason}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// The stored file.
        file: PathBuf,
        /// What is there.
        reason: Refused,
    },
    /// A stored file is shorter than recorded.
    #[error(
        "the stored file of {path} in backup {backup} is cut off: it has {} of {expected}",
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
    /// The places of a file's pages cannot be told.
    #[error("the pages of {path} in backup {backup} cannot be located")]
    Index {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// Why.
        #[source]
        source: PageIndexError,
    },
    /// A stored file has more bytes than recorded. Reading does not mind;
    /// verification does.
    #[error(
        "the stored file of {path} in backup {backup} is too long: it has {}, \
         {expected} were recorded",
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
    /// A stored file is not the one that was written. Reading does not look;
    /// verification does.
    #[error(
        "the stored file of {path} in backup {backup} is damaged: the content list records \
         checksum {recorded:08X}, it has {computed:08X}"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// As the content list has it.
        recorded: u32,
        /// As the bytes give it.
        computed: u32,
    },
    /// The cluster's control file does not make sense.
    #[error("{path} in backup {backup} cannot be used")]
    Control {
        /// The file.
        path: PathBuf,
        /// The backup.
        backup: BackupId,
        /// Why.
        #[source]
        source: ControlFileError,
    },
    /// A stored page is damaged.
    #[error(transparent)]
    Page(Box<BadPage>),
}

impl ImageError {
    /// The file inside PGDATA that it is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::EmptyChain | Self::Content { .. } | Self::NotAFile { .. } => None,
            Self::Cfs { path, .. }
            | Self::Misplaced { path, .. }
            | Self::KindChanged { path, .. }
            | Self::NotInParent { path, .. }
            | Self::Stored { path, .. }
            | Self::Refused { path, .. }
            | Self::Short { path, .. }
            | Self::Long { path, .. }
            | Self::Index { path, .. }
            | Self::Checksum { path, .. }
            | Self::Control { path, .. } => Some(path),
            Self::Page(page) => Some(&page.path),
        }
    }

    /// The backup that is at fault.
    #[must_use]
    pub fn backup(&self) -> Option<&BackupId> {
        match self {
            Self::EmptyChain | Self::NotAFile { .. } => None,
            Self::Content { backup, .. }
            | Self::Cfs { backup, .. }
            | Self::Misplaced { backup, .. }
            | Self::KindChanged { backup, .. }
            | Self::NotInParent { backup, .. }
            | Self::Stored { backup, .. }
            | Self::Refused { backup, .. }
            | Self::Short { backup, .. }
            | Self::Long { backup, .. }
            | Self::Index { backup, .. }
            | Self::Checksum { backup, .. }
            | Self::Control { backup, .. } => Some(backup),
            Self::Page(page) => Some(&page.backup),
        }
    }
}

/// A stored page that is not what was backed up.
#[derive(Debug, thiserror::Error)]
#[error(
    "block {block} of {path} is damaged in backup {backup}, at byte {offset} of the stored file: \
     {fault}"
)]
pub struct BadPage {
    /// The file, by its path inside PGDATA.
    pub path: PathBuf,
    /// The backup.
    pub backup: BackupId,
    /// The block within its segment.
    pub block: BlockNumber,
    /// Where its record begins in the stored file, in bytes.
    pub offset: u64,
    /// What is wrong with it.
    pub fault: PageFault,
}

/// What is wrong with a stored page.
#[derive(Debug, thiserror::Error)]
pub enum PageFault {
    /// Another record stands where the page's should.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It does not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It decodes, but its checksum is wrong.
    #[error("its page checksum is {stored:04X}, its content gives {computed:04X}")]
    Checksum {
        /// As the page has it.
        stored: u16,
        /// As its content and place give it.
        computed: u16,
    },
    /// It decodes, but is not the page that was backed up. Reading does not
    /// look; verification does.
    #[error(
        "page_header_map records LSN {} and checksum {:04X}, the page has {} and {:04X}",
        recorded.lsn, recorded.checksum, found.lsn, found.checksum
    )]
    Stamp {
        /// As the header map has it.
        recorded: PageStamp,
        /// As the page gives it.
        found: PageStamp,
    },
}
