//! The names in a diff's directory.

/// Which backup the diff belongs to.
pub(super) const BINDING_FILE: &str = ".pbkfs-binding.json";

/// What older versions wrote the binding as before it got its name.
pub(super) const TEMPORARY_FILE: &str = ".pbkfs-binding.json.tmp";

/// The lock, which is never deleted while the directory is a diff.
pub(super) const LOCK_FILE: &str = ".pbkfs-lock";

/// The metadata's store.
pub(super) const META_FILE: &str = "meta.redb";

/// The directory of the data files.
pub(super) const DATA_DIR: &str = "data";

/// The server's WAL directory. A link of the overlay that ends in it is ours.
pub const WAL_DIR: &str = ".pbkfs-wal";

/// What is said of a part that a diff cannot be without.
pub(super) const NOT_THERE: &str = "it is not there";
