//! What a session's error offers besides its message.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::SessionError;
use crate::catalog::probackup::ProbackupError;
use crate::profile::ProfileError;
use crate::server::ServerError;

impl SessionError {
    /// Creates the error of a request that is incomplete or contradictory.
    pub fn usage(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Usage { message }
    }

    /// Creates an error about a path. An error of the overlay keeps its type, which
    /// tells a fault of the backup from one of the host.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::tree(action, path, source).unwrap_or_else(|source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }

    /// Returns an error of the overlay, or else the given error as it was.
    fn tree(action: &'static str, path: &Path, source: io::Error) -> Result<Self, io::Error> {
        let source = Box::new(source.downcast()?);
        let path = path.to_owned();
        Ok(Self::Tree {
            action,
            path,
            source,
        })
    }

    /// Does the same with an error about a clone's configuration.
    pub(crate) fn conf(error: ServerError) -> Self {
        match error {
            ServerError::Read { path, source } => Self::tree("read", &path, source)
                .unwrap_or_else(|source| ServerError::Read { path, source }.into()),
            error => error.into(),
        }
    }

    /// Returns the text of several lines that the error's message contains: a program's
    /// output, or the location in a profile.
    #[must_use]
    pub fn quoted(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Probackup(
                ProbackupError::Timeout { stderr, .. }
                | ProbackupError::Failed { stderr, .. }
                | ProbackupError::BadJson { stderr, .. },
            ) => Some(stderr.into()),
            Self::Profile(ProfileError::Toml { source, .. }) => Some(source.to_string().into()),
            Self::Extract { said, .. } => Some(said.into()),
            _ => None,
        }
    }

    /// Returns the end of the server's log if it explains the error.
    #[must_use]
    pub fn log(&self) -> Option<&crate::server::LogTail> {
        match self {
            Self::Server(e) => e.log(),
            Self::ServerDied { log, .. } | Self::RecoveryStopped { log, .. } => Some(log),
            _ => None,
        }
    }
}
