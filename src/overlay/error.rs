//! The errors of operations on the overlay.

use std::io;

use crate::diff::DiffError;
use crate::image::ImageError;

/// An operation's failure. `fuse/errno.rs` maps each to an errno.
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
    /// An argument is invalid.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The file would exceed the maximum size.
    #[error("the file would be too large")]
    TooLarge,
    /// The name is longer than 255 bytes.
    #[error("the name is too long")]
    NameTooLong,
    /// The overlay does not have this operation.
    #[error("the operation is not supported")]
    Unsupported,
    /// There is no data or hole after the requested offset.
    #[error("no data or hole there")]
    NoSuchOffset,
    /// The backup cannot be read there.
    #[error(transparent)]
    Lower(Box<ImageError>),
    /// The diff failed.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// The diff's file system returned an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The diff's data file is shorter than its metadata requires.
    #[error(
        "the diff's data file of inode {ino} lacks block {block}: the diff is damaged; \
         use a fresh diff_dir"
    )]
    MissingBlock {
        /// The file's inode.
        ino: u64,
        /// The missing block.
        block: u32,
    },
    /// The diff's metadata does not match the image.
    #[error("the diff does not match the backup: {0}; use a fresh diff_dir")]
    Mismatch(String),
}

impl From<ImageError> for OverlayError {
    fn from(error: ImageError) -> Self {
        Self::Lower(Box::new(error))
    }
}
