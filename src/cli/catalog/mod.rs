//! Commands that inspect a catalog: its backups and its WAL.

pub mod list;
pub mod own_wal;
pub mod wal;
pub mod wal_get;
