//! A directory or file that is held, so that it can be told again whether a path
//! still leads to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};

use super::Kind;

/// What is held, whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device (major and minor number) and inode. While it is held, nothing else
    /// has them.
    pub id: (u32, u32, u64),
    /// The mount that it was reached by, as `/proc/self/mountinfo` numbers them.
    pub mount: u64,
    /// Whether it is that mount's uppermost directory.
    pub is_mount_root: bool,
    /// Whether it is a directory at all.
    pub is_directory: bool,
}

/// Holds what a path leads to, links followed. It is not opened to be read or
/// written, so its file system is asked for nothing.
///
/// # Errors
/// The system's own.
pub fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// A path to what is held, for calls that take no descriptor: it leads there as
/// long as it is held, whatever its own path leads to by then.
#[must_use]
pub fn path_of(held: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_fd().as_raw_fd()))
}

/// The mount that what is held was reached by, as `/proc/self/mountinfo` numbers them.
/// Its file system is not even asked whether this process may look at it.
///
/// # Errors
/// The system's own.
pub fn mount_of(held: impl AsFd) -> io::Result<u64> {
    let info = format!("/proc/self/fdinfo/{}", held.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(info)?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What is held, told by the kernel alone: a mount that this very process
/// serves is asked nothing.
///
/// # Errors
/// The system's own.
pub fn identity(held: impl AsFd) -> io::Result<Identity> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(
        held,
        "",
        flags,
        StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID,
    )?;
    Ok(Identity {
        id: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
        mount: stat.stx_mnt_id,
        is_directory: Kind::of_mode(stat.stx_mode.into()) == Kind::Directory,
        is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}
