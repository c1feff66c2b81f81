//! What pg_probackup wrote: the catalog, its instances and their backups.
//!
//! ```text
//! CATALOG/backups/INSTANCE/pg_probackup.conf
//! CATALOG/backups/INSTANCE/ID/backup.control            -> control
//! CATALOG/backups/INSTANCE/ID/backup_content.control    -> content
//! CATALOG/backups/INSTANCE/ID/page_header_map           -> page_index
//! CATALOG/backups/INSTANCE/ID/database/..               the stored files
//! CATALOG/wal/INSTANCE/..                               the WAL archive
//! ```
//!
//! Whatever is read of it is read by its [`store`], and by nothing else.
//!
//! The catalog belongs to pg_probackup. The only thing this crate ever writes
//! into it is the shared lock that pg_probackup's own restore takes ([`lock`]).

pub mod backup;
pub mod codec;
pub mod content;
pub mod control;
pub mod encode;
pub mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod instance;
pub mod lock;
pub mod native;
pub mod page_index;
pub mod pglz;
pub mod probackup;
mod show;
pub mod store;
pub mod wal;

pub use backup::{
    Backup, BackupId, BackupMode, BackupStatus, CompressAlg, ProgramVersion, TablespaceMapping,
};
pub use error::CatalogError;
pub use instance::{Catalog, Instance, InstanceConfig};
