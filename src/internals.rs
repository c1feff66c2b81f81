//! Not a public interface: internals that this project's own tests, benchmarks and
//! fuzzers need, and can reach only from outside the crate. They change without notice.

/// Internals of the catalog.
pub mod catalog {
    use std::path::Path;

    use crate::catalog::content::{ContentError, ContentList};
    use crate::catalog::store::StorePath;
    use crate::catalog::{Backup, ControlError, ControlFile, from_control};

    /// Reads a content list from memory.
    ///
    /// # Errors
    /// As for [`ContentList::read`].
    pub fn content_list(bytes: &[u8], path: &Path) -> Result<ContentList, ContentError> {
        ContentList::from_bytes(bytes, path)
    }

    /// Reads the `backup.control` of a backup at a given place from memory.
    ///
    /// # Errors
    /// As for [`Instance::backup`](crate::catalog::Instance::backup).
    pub fn backup(place: &StorePath, bytes: &[u8]) -> Result<Backup, ControlError> {
        let file = ControlFile::parse(&place.name(), bytes)?;
        from_control(place, &file)
    }
}

/// Internals of the diff.
#[cfg(feature = "cli")]
pub mod diff {
    pub use crate::diff::{
        BLOCKS_PER_CHUNK, Batch, Binding, BlockChunk, ContentRecord, HeldBlocks, InodeKind,
        InodeRecord, LockHolder, NameEntry, Store, system_time,
    };
}

/// Internals of the overlay.
#[cfg(feature = "cli")]
pub mod overlay {
    pub use crate::overlay::apply_delta;
}

/// Internals of the profile.
#[cfg(feature = "cli")]
pub mod profile {
    pub use crate::profile::{MomentText, Plan, Profile};
}

/// Internals of the server.
#[cfg(feature = "cli")]
pub mod server {
    pub use crate::server::{
        Binaries, Conf, ConfigFiles, FilesInput, Goal, Limits, OsUser, Server, ServerConfig,
        ServerError, SettingsInput, StopMode, conf, namespace, settings,
    };
}

/// Internals of the session.
#[cfg(feature = "cli")]
pub mod session {
    pub use crate::session::Place;
}

/// Internals of access to files that other users can write.
pub mod untrusted {
    pub use crate::untrusted::hold;
}
