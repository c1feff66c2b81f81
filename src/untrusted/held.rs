//! A directory or file that is held open, so that later checks can tell whether a path
//! still resolves to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};

use super::Kind;

/// The identity of what is held, independent of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device (major and minor number) and inode. No other file can have them while it
    /// is held.
    pub id: (u32, u32, u64),
    /// The mount through which it was reached, by its number in `/proc/self/mountinfo`.
    pub mount: u64,
    /// Whether it is the root of that mount.
    pub is_mount_root: bool,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// Opens a handle to the target of a path, following links. The handle permits neither
/// reading nor writing, so the file system gets no request.
///
/// # Errors
/// If the system call fails.
pub fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Returns a path to what is held, for calls that take no descriptor. The path resolves
/// to it as long as it is held, even after its own path has changed.
#[must_use]
pub fn path_of(held: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_fd().as_raw_fd()))
}

/// Returns the mount through which a held file was reached, by its number in
/// `/proc/self/mountinfo`. Its file system is not even asked for permission.
///
/// # Errors
/// If a system call fails.
pub fn mount_of(held: impl AsFd) -> io::Result<u64> {
    let info = format!("/proc/self/fdinfo/{}", held.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(info)?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the identity of what is held, from the kernel alone: a mount that this very
/// process serves gets no request.
///
/// # Errors
/// If the system call fails.
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
