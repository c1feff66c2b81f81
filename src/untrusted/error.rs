//! Refusals, as errors inside an [`io::Error`].

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

#[cfg(feature = "cli")]
use serde::{Deserialize, Serialize};

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(Serialize, Deserialize))]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device.
    Device,
    /// Something else.
    Other,
}

impl Kind {
    /// Returns the kind of an opened file.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        Self::of_mode(meta.mode())
    }

    /// Returns the kind by the type bits of `st_mode`.
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        use rustix::fs::FileType as Type;
        match Type::from_raw_mode(mode) {
            Type::RegularFile => Self::File,
            Type::Directory => Self::Directory,
            Type::Symlink => Self::Symlink,
            Type::Fifo => Self::Fifo,
            Type::Socket => Self::Socket,
            Type::CharacterDevice | Type::BlockDevice => Self::Device,
            Type::Unknown => Self::Other,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "of an unknown kind",
        })
    }
}

/// Why something that exists is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "cli", derive(Serialize, Deserialize))]
pub enum Refused {
    /// It is not of the expected kind.
    #[error("it is {0}, which does not belong there")]
    Is(Kind),
    /// The path leaves its directory.
    #[error("it leads outside its directory")]
    LeadsOut,
    /// A link or something else is in the place of a directory of ours.
    #[error("it is not a directory")]
    NoDirectory,
    /// A directory that another user owns or can write to.
    #[error("it is not this user's alone (user {uid} owns it, with mode {mode:04o})")]
    NotOurs {
        /// The owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A file that has another name, too.
    #[error("it has another hard link, through which other users may have access to it")]
    Linked,
    /// A directory on the path can be changed by another user, who could redirect the
    /// path.
    #[error(
        "{} belongs to user {uid} with mode {mode:04o}, so other users can redirect the path",
        dir.display()
    )]
    OthersWay {
        /// The directory.
        dir: PathBuf,
        /// The owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A link on the path belongs to another user, who could redirect the path.
    #[error(
        "{} is a link that belongs to user {uid}, who can redirect the path; \
         name its target instead",
        link.display()
    )]
    OthersLink {
        /// The link.
        link: PathBuf,
        /// The owner.
        uid: u32,
    },
    /// The file is larger than its limit.
    #[error("it is larger than {} KiB, the limit for this file", limit >> 10)]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::other(refused)
    }
}

/// Returns why something was refused, if the error is a refusal.
#[must_use]
pub fn refused(error: &io::Error) -> Option<Refused> {
    error.get_ref()?.downcast_ref().cloned()
}
