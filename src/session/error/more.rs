//! What a session's error has to tell besides its sentence.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::SessionError;
use crate::catalog::probackup::ProbackupError;
use crate::profile::ProfileError;
use crate::server::ServerError;

impl SessionError {
    /// A failure on a path. What the overlay says of a file keeps its type: it tells
    /// the backup from the host.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::tree(action, path, source).unwrap_or_else(|source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }

    /// What the overlay says of a file, or else the error as it was.
    fn tree(action: &'static str, path: &Path, source: io::Error) -> Result<Self, io::Error> {
        let source = Box::new(source.downcast()?);
        let path = path.to_owned();
        Ok(Self::Tree {
            action,
            path,
            source,
        })
    }

    /// The same of a clone's configuration.
    pub(crate) fn conf(error: ServerError) -> Self {
        match error {
            ServerError::Read { path, source } => Self::tree("read", &path, source)
                .unwrap_or_else(|source| ServerError::Read { path, source }.into()),
            error => error.into(),
        }
    }

    /// A text of several lines that stands in the error's own: what a program
    /// said, or the place in a profile.
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

    /// The end of the server's log, where that explains the error.
    #[must_use]
    pub fn log(&self) -> Option<&crate::server::LogTail> {
        match self {
            Self::Server(e) => e.log(),
            Self::ServerDied { log, .. } | Self::RecoveryStopped { log, .. } => Some(log),
            _ => None,
        }
    }
}
