//! Why something could not be read from a remote catalog.

use std::io;

/// Why a request to a remote catalog failed, after all attempts. It reaches callers of a
/// store inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is nothing of that name.
    #[error("it does not exist")]
    Missing,
    /// It was replaced, removed or cut short since it was first read.
    #[error("it was changed or removed while it was in use")]
    Changed,
    /// The credentials do not permit it, or there are none.
    #[error("access was denied: {0}")]
    Denied(String),
    /// The network or the server failed, and might work later.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The server refused, and would do so again.
    #[error("the server refused: {0}")]
    Refused(String),
}

impl Fault {
    /// Whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Missing => io::ErrorKind::NotFound,
            Self::Changed => io::ErrorKind::StaleNetworkFileHandle,
            Self::Denied(_) => io::ErrorKind::PermissionDenied,
            Self::Unreachable(_) => io::ErrorKind::HostUnreachable,
            Self::Refused(_) => io::ErrorKind::Other,
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(fault.kind(), fault)
    }
}
