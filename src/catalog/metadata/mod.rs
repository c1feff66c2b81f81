//! A catalog's metadata: its instances, and the metadata of their backups.
//!
//! ```text
//! CATALOG/backups/INSTANCE/pg_probackup.conf     -> Instance
//! CATALOG/backups/INSTANCE/ID/backup.control     -> Backup
//! CATALOG/backups/INSTANCE/ID/database/tablespace_map
//! ```

mod backup;
mod control;
mod instance;
mod read;
mod reference;

pub use backup::{
    Backup, BackupId, BackupMode, BackupStatus, CompressAlg, ProgramVersion, TablespaceMapping,
    UnknownWord,
};
pub use control::ControlFile;
#[cfg(feature = "encode")]
pub(super) use control::quoted;
pub(super) use control::{parse_bool, parse_time};
pub(super) use instance::visible_directories;
pub use instance::{Catalog, Instance, InstanceConfig};
pub use read::from_control;
pub(super) use read::{sort_newest_first, unknown_backup};
pub use reference::{BackupRef, InvalidBackupRef};
