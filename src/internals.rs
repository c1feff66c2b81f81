//! Not an interface. What this project's own tests, benchmarks and fuzzers need of
//! the inside, and can only reach from outside: it changes without notice.

/// Of the catalog.
pub mod catalog {
    use std::path::Path;

    use crate::catalog::content::{ContentError, ContentList};
    use crate::catalog::store::Place;
    use crate::catalog::{Backup, ControlError, ControlFile, from_control};

    /// Reads a content list from memory.
    ///
    /// # Errors
    /// As [`ContentList::read`].
    pub fn content_list(bytes: &[u8], path: &Path) -> Result<ContentList, ContentError> {
        ContentList::from_bytes(bytes, path)
    }

    /// Reads a `backup.control` from memory: that of a backup at some place.
    ///
    /// # Errors
    /// As [`Instance::backup`](crate::catalog::Instance::backup).
    pub fn backup(place: &Place, bytes: &[u8]) -> Result<Backup, ControlError> {
        let file = ControlFile::parse(&place.name(), bytes)?;
        from_control(place, &file)
    }
}

/// Of the diff.
#[cfg(feature = "cli")]
pub mod diff {
    pub use crate::diff::{
        BLOCKS_PER_CHUNK, Batch, Binding, BlockChunk, ContentRecord, HeldBlocks, InodeKind,
        InodeRecord, LockHolder, NameEntry, Store, system_time,
    };
}

/// Of the overlay.
#[cfg(feature = "cli")]
pub mod overlay {
    pub use crate::overlay::apply_delta;
}

/// Of the profile.
#[cfg(feature = "cli")]
pub mod profile {
    pub use crate::profile::{MomentText, Plan, Profile};
}

/// Of the server.
#[cfg(feature = "cli")]
pub mod server {
    pub use crate::server::{
        Binaries, Conf, ConfigFiles, FilesInput, Goal, Limits, OsUser, Server, ServerConfig,
        ServerError, SettingsInput, StopMode, conf, namespace, settings,
    };
}

/// Of the session.
#[cfg(feature = "cli")]
pub mod session {
    pub use crate::session::Place;
}

/// Of the way to files that somebody else can write.
pub mod untrusted {
    pub use crate::untrusted::hold;
}
