//! Directories and files that are passed on by descriptor.
//!
//! A descriptor from the host's mount namespace cannot be mounted in another one,
//! because its mount is not in there. So the helper opens each path again in the
//! namespace that it has created, and continues only if the path resolves to the very
//! file that it was given. It then mounts by the new descriptor; the path is not
//! resolved again.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::system::in_step;
use crate::untrusted::{hold, identity};

/// A directory or file of the host, opened by the code that checked it. The server
/// finds it at the same path.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The absolute path by which it was opened.
    pub path: PathBuf,
    /// The descriptor; it need not be open for reading.
    pub file: Arc<OwnedFd>,
}

impl Opened {
    /// Takes what is open at a path. The descriptor is duplicated, and the caller
    /// keeps its own.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new(path: &Path, file: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file.as_fd().try_clone_to_owned()?),
        })
    }
}

/// An [`Opened`] on its way to the helper, which inherits the descriptor under the
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

    /// Returns the descriptor's number.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// Opens the same path in this mount namespace, and closes the inherited
    /// descriptor.
    ///
    /// # Errors
    /// Returns [`Replaced`] if something else is now at the path; otherwise the
    /// system's error.
    pub fn reopen(self) -> io::Result<Opened> {
        // SAFETY: the parent process left the descriptor open for this one, and
        // nothing else in here uses it.
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

/// A path no longer resolves to what was opened. It is wrapped in an [`io::Error`].
#[derive(Debug)]
pub struct Replaced(PathBuf);

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} no longer resolves to what was opened",
            self.0.display()
        )
    }
}

impl std::error::Error for Replaced {}

/// Returns the path, if the error is a [`Replaced`].
pub fn replaced(error: &io::Error) -> Option<&Path> {
    let replaced: &Replaced = error.get_ref()?.downcast_ref()?;
    Some(&replaced.0)
}
