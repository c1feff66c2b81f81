//! Directories and files that are handed on by their descriptors.
//!
//! A descriptor of the host's mount namespace cannot be mounted in another one:
//! what was opened there is of a mount that is not in here. So the helper opens
//! each path once more, in the namespace that it has made, and goes on only if
//! that is the very one which it was given. By what it opened it mounts
//! then; the path is not looked at again.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::system::in_step;
use crate::untrusted::{hold, identity};

/// A directory or file of the host's, opened by who has checked it. The server
/// finds it at the same path.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The absolute path by which it was opened.
    pub path: PathBuf,
    /// What was opened; it need not be open for reading.
    pub file: Arc<OwnedFd>,
}

impl Opened {
    /// What is open at a path, and stays the caller's as well.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(path: &Path, file: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file.as_fd().try_clone_to_owned()?),
        })
    }
}

/// An [`Opened`] on its way to the helper, which has the descriptor under the
/// same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inherited {
    path: PathBuf,
    number: RawFd,
}

impl Inherited {
    pub fn of(opened: &Opened) -> Self {
        Self {
            path: opened.path.clone(),
            number: opened.file.as_raw_fd(),
        }
    }

    /// The descriptor's number.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// The same in this mount namespace. What was inherited is closed.
    ///
    /// # Errors
    /// [`Replaced`] if something else is at its path by now; the system's own.
    pub fn reopen(self) -> io::Result<Opened> {
        // SAFETY: who started this process left the descriptor open for it, and
        // nothing else in here knows it.
        let inherited = unsafe { OwnedFd::from_raw_fd(self.number) };
        let path = self.path;
        let is_gone = |error: &io::Error| {
            let kind = error.kind();
            kind == io::ErrorKind::NotFound || kind == io::ErrorKind::NotADirectory
        };
        match hold(&path) {
            Ok(file) if identity(&file)?.id == identity(&inherited)?.id => {
                let file = Arc::new(file);
                Ok(Opened { path, file })
            }
            Err(error) if !is_gone(&error) => Err(in_step(path.display())(error)),
            _ => Err(io::Error::other(Replaced(path))),
        }
    }
}

/// A path leads elsewhere than it did. An error inside an
/// [`io::Error`].
#[derive(Debug)]
pub struct Replaced(PathBuf);

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leads elsewhere by now", self.0.display())
    }
}

impl std::error::Error for Replaced {}

/// The path that an error says was led elsewhere, if that is what it says.
pub fn replaced(error: &io::Error) -> Option<&Path> {
    let replaced: &Replaced = error.get_ref()?.downcast_ref()?;
    Some(&replaced.0)
}
