//! The one table from the overlay's errors to errno.

use fuser::Errno;

use crate::overlay::OverlayError;

/// Returns the errno for `error`. There is no catch-all, so that a new kind of error
/// has to be considered here.
pub fn errno(error: &OverlayError) -> Errno {
    match error {
        OverlayError::NotFound => Errno::ENOENT,
        OverlayError::Exists => Errno::EEXIST,
        OverlayError::NotADirectory => Errno::ENOTDIR,
        OverlayError::IsADirectory => Errno::EISDIR,
        OverlayError::NotEmpty => Errno::ENOTEMPTY,
        OverlayError::ReadOnly => Errno::EROFS,
        OverlayError::NotPermitted(_) => Errno::EPERM,
        OverlayError::Invalid(_) => Errno::EINVAL,
        OverlayError::TooLarge => Errno::EFBIG,
        OverlayError::NameTooLong => Errno::ENAMETOOLONG,
        OverlayError::Unsupported => Errno::EOPNOTSUPP,
        OverlayError::NoSuchOffset => Errno::ENXIO,
        OverlayError::Lower(_) | OverlayError::MissingBlock { .. } | OverlayError::Mismatch(_) => {
            Errno::EIO
        }
        OverlayError::Diff(e) => e.os_error().map_or(Errno::EIO, Errno::from_i32),
        OverlayError::Io(e) => e.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
    }
}

/// Whether an administrator has to look at it: something is broken or full. Errors that
/// a program may well expect are not faults.
pub fn is_fault(error: &OverlayError) -> bool {
    match error {
        OverlayError::NotFound
        | OverlayError::Exists
        | OverlayError::NotADirectory
        | OverlayError::IsADirectory
        | OverlayError::NotEmpty
        | OverlayError::ReadOnly
        | OverlayError::NotPermitted(_)
        | OverlayError::Invalid(_)
        | OverlayError::TooLarge
        | OverlayError::NameTooLong
        | OverlayError::Unsupported
        | OverlayError::NoSuchOffset => false,
        OverlayError::Lower(_)
        | OverlayError::MissingBlock { .. }
        | OverlayError::Mismatch(_)
        | OverlayError::Diff(_) => true,
        OverlayError::Io(e) => e.raw_os_error() != Some(nix::libc::ENXIO),
    }
}
