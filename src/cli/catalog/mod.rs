//! Commands that look at a catalog: its backups, its WAL.

pub mod list;
pub mod own_wal;
pub mod wal;
pub mod wal_get;
