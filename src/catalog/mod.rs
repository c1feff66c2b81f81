//! pg_probackup's files: the catalog, its instances and their backups.
//!
//! ```text
//! CATALOG/backups/INSTANCE/pg_probackup.conf            -> metadata
//! CATALOG/backups/INSTANCE/ID/backup.control            -> metadata
//! CATALOG/backups/INSTANCE/ID/backup_content.control    -> content
//! CATALOG/backups/INSTANCE/ID/page_header_map           -> pages
//! CATALOG/backups/INSTANCE/ID/database/..               the stored files
//! CATALOG/backups/INSTANCE/ID/backup.pid, backup_ro.pid -> lock
//! CATALOG/wal/INSTANCE/..                               -> wal
//! ```
//!
//! Everything in it is read through its [`store`], and in no other way.
//!
//! The catalog belongs to pg_probackup. The only thing this crate ever writes
//! into it is the shared lock that pg_probackup's own restore takes ([`lock`]).

pub mod content;
#[cfg(feature = "encode")]
pub mod encode;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod location;
pub mod lock;
mod metadata;
pub mod pages;
#[cfg(feature = "cli")]
pub(crate) mod probackup;
pub mod store;
pub mod wal;

pub use error::{CatalogError, ControlError};
pub use location::{InvalidLocation, Location};
pub use metadata::{
    Backup, BackupId, BackupMode, BackupRef, BackupStatus, Catalog, CompressAlg, Instance,
    InstanceConfig, InvalidBackupRef, ProgramVersion, TablespaceMapping, UnknownWord,
};
pub(crate) use metadata::{ControlFile, from_control};
