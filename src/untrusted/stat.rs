//! The attributes and the owner of a file.

use std::fs::File;
use std::io;

use nix::unistd::geteuid;

use super::Kind;

/// A file's attributes; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its kind.
    pub kind: Kind,
    /// `st_mode`'s permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owner's group.
    pub gid: u32,
    /// Size in bytes, for a regular file.
    pub len: u64,
    /// Size on disk in bytes.
    pub disk_bytes: u64,
    /// Last change of the content, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Number of hard links.
    pub links: u64,
    /// Device and inode, which identify the file.
    pub id: (u64, u64),
}

impl From<&rustix::fs::Stat> for Stat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: Kind::of_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            disk_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            mtime_ns: i64::try_from(stat.st_mtime_nsec)
                .unwrap_or(0)
                .saturating_add(stat.st_mtime.saturating_mul(1_000_000_000)),
            // The type differs on other architectures.
            #[allow(clippy::useless_conversion)]
            links: u64::from(stat.st_nlink),
            id: (stat.st_dev, stat.st_ino),
        }
    }
}

/// Returns device and inode of an opened file, as in [`Stat::id`].
///
/// # Errors
/// If the system call fails.
pub fn id_of(file: &File) -> io::Result<(u64, u64)> {
    Ok(Stat::from(&rustix::fs::fstat(file)?).id)
}

/// Whether the user is root or our own, so that nobody else can change the user's
/// files.
pub(super) fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}
