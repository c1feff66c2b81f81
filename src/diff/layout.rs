//! The names in a diff's directory.

/// The file with the backup that the diff belongs to.
pub(super) const BINDING_FILE: &str = ".pbkfs-binding.json";

/// The temporary name that older versions gave the binding while writing it.
pub(super) const TEMPORARY_FILE: &str = ".pbkfs-binding.json.tmp";

/// The file with the data directory that the diff was cut over to.
pub(super) const PROMOTION_FILE: &str = ".pbkfs-promotion.json";

/// The lock file, which is never deleted while the directory is a diff.
pub(super) const LOCK_FILE: &str = ".pbkfs-lock";

/// The metadata store.
pub(super) const META_FILE: &str = "meta.redb";

/// The directory of the data files.
pub(super) const DATA_DIR: &str = "data";

/// The server's WAL directory. A link in the overlay whose target ends in it is ours.
pub const WAL_DIR: &str = ".pbkfs-wal";

/// What a diff keeps of the catalog once it has all of the backup.
pub const CATALOG_DIR: &str = ".pbkfs-catalog";

/// The same, while it is written.
pub(super) const NEW_CATALOG_DIR: &str = ".pbkfs-catalog-new";

/// How many levels of the WAL directory are read; PostgreSQL's has one level below it.
pub const WAL_DEPTH: usize = 4;

/// The reason given for a missing part that a diff must have.
pub(super) const NOT_THERE: &str = "it is missing";
