//! What an operation on the overlay can answer besides success.

use std::io;

use crate::diff::DiffError;
use crate::image::ImageError;

/// An operation's failure. `fuse/errno.rs` turns each into an errno.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// No such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The tree has no diff.
    #[error("mounted read-only")]
    ReadOnly,
    /// The operation is not allowed on this object.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// An argument that makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Beyond the largest file.
    #[error("the file would be too large")]
    TooLarge,
    /// The name is longer than 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// A kind of operation that the overlay does not have.
    #[error("the operation is not supported")]
    Unsupported,
    /// No data or hole after the offset asked for.
    #[error("no data or hole there")]
    NoSuchOffset,
    /// The backup cannot be read there.
    #[error(transparent)]
    Lower(Box<ImageError>),
    /// The diff failed.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// The diff's file system answered with an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The diff's data file is shorter than its metadata says.
    #[error(
        "the diff's data file of inode {ino} lacks block {block}: the diff is damaged; \
         take a fresh diff_dir"
    )]
    MissingBlock {
        /// The file.
        ino: u64,
        /// The block that should be there.
        block: u32,
    },
    /// The diff's metadata does not fit the image.
    #[error("the diff does not fit the backup: {0}; take a fresh diff_dir")]
    Mismatch(String),
}

impl From<ImageError> for OverlayError {
    fn from(error: ImageError) -> Self {
        Self::Lower(Box::new(error))
    }
}
