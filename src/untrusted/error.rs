//! What is refused, as an error inside an [`io::Error`].

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

#[cfg(feature = "cli")]
use serde::{Deserialize, Serialize};

/// The kind of what stands at a name.
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
    /// What was opened.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        Self::of_mode(meta.mode())
    }

    /// By the type bits of `st_mode`.
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

/// Why something that is there is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "cli", derive(Serialize, Deserialize))]
pub enum Refused {
    /// It is of another kind than belongs there.
    #[error("it is {0}, which does not belong there")]
    Is(Kind),
    /// The path leads out of its directory.
    #[error("it leads out of its directory")]
    LeadsOut,
    /// A link or something else stands where a directory of ours has to be.
    #[error("it is no directory")]
    NoDirectory,
    /// A directory of another user's, or one that others may write to.
    #[error("it is not this user's alone (user {uid} owns it, with mode {mode:04o})")]
    NotOurs {
        /// Who owns it.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A file that is there by another name as well.
    #[error("it has another hard link, by which other users may have access to it")]
    Linked,
    /// A directory on the way can be changed by another user, who could lead
    /// the path elsewhere.
    #[error(
        "{} belongs to user {uid} with mode {mode:04o}, so others can lead the path elsewhere",
        dir.display()
    )]
    OthersWay {
        /// The directory.
        dir: PathBuf,
        /// Who owns it.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A link on the way is another user's, who could lead the path elsewhere.
    #[error(
        "{} is a link of user {uid}'s, who can lead the path elsewhere; name the place itself",
        link.display()
    )]
    OthersLink {
        /// The link.
        link: PathBuf,
        /// Who owns it.
        uid: u32,
    },
    /// More than is ever read of such a file.
    #[error("it has more than {} KiB, more than belongs there", limit >> 10)]
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

/// Why an error refused something, if that is what it did.
#[must_use]
pub fn refused(error: &io::Error) -> Option<Refused> {
    error.get_ref()?.downcast_ref().cloned()
}
