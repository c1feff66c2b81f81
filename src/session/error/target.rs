//! Why a mount point cannot be used.

use std::io;
use std::path::PathBuf;

use super::told::pid_of;

/// What is wrong with a mount point.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target is in use by another session.
    #[error(
        "the target {} is in use by another pbkfs{}; end that one first (pbkfs unmount or pbkfs down)",
        target.display(), pid_of(*pid)
    )]
    Busy {
        /// The mount point.
        target: PathBuf,
        /// The session's owner, if that is known.
        pid: Option<u32>,
    },
    /// The target is a mount point of another file system.
    #[error("the target {} is already a mount point ({kind}); unmount it, or choose another target", target.display())]
    Mounted {
        /// The mount point.
        target: PathBuf,
        /// Its file system's type.
        kind: String,
    },
    /// The target is the mount of a live pbkfs whose session directory is not
    /// where this one looks.
    #[error(
        "the target {} is mounted by another pbkfs{} with a different session directory \
         (XDG_RUNTIME_DIR, or another user); end that one first, or choose another target",
        target.display(), pid_of(*pid)
    )]
    Served {
        /// The mount point.
        target: PathBuf,
        /// The process that mounted it, if that is known.
        pid: Option<u32>,
    },
    /// The target is inside another clone, and would disappear with it.
    #[error("the target {} is inside the clone on {}; choose one outside it", target.display(), mount.display())]
    Inside {
        /// The mount point.
        target: PathBuf,
        /// Where the other one is mounted.
        mount: PathBuf,
    },
    /// The target holds files, which the mount would hide.
    #[error("the target {} is not empty; choose an empty or new directory", target.display())]
    NotEmpty {
        /// The mount point.
        target: PathBuf,
    },
    /// The target is not a directory.
    #[error("the target {} is not a directory", target.display())]
    NotADirectory {
        /// The mount point.
        target: PathBuf,
    },
    /// The target does not exist, nor does the directory that it would be created in.
    #[error("cannot create the mount point {}: the directory {} does not exist; create it first",
        target.display(), parent.display())]
    ParentMissing {
        /// The mount point.
        target: PathBuf,
        /// The directory above it.
        parent: PathBuf,
    },
    /// Another user could redirect the mount.
    #[error(
        "the mount point {} is not safe from other users: {source}; choose one below \
         directories that only root and postgres.user can write to",
        target.display()
    )]
    Unsafe {
        /// The mount point.
        target: PathBuf,
        /// Which directory is unsafe, and why.
        #[source]
        source: io::Error,
    },
}
