//! The steps of a session's setup. Each sets up one thing and registers its undo; their
//! order is in `up.rs`. Each builds on what the earlier ones have found:
//!
//! ```text
//! target    the mount point: checked, created, cleared of a dead mount
//! resolve   plan -> instance and chain, by pg_probackup or natively
//! needs     what the server needs that can be found before anything is mounted
//! layers    what is mounted: the image, and the diff over it
//! image     the image, and what is read from it before a server is started
//! wal_dir   the location of the server's WAL
//! settle    what is settled about the clone before the mount
//! mount     the mount itself, and saving its changes
//! settings  the settings of the server, for both `plan` and `up`
//! launch    what the server is started from
//! server    the server, started until its recovery ends at its target
//! ```

pub mod image;
pub mod launch;
pub mod layers;
pub mod mount;
pub mod needs;
pub mod resolve;
pub mod server;
pub mod settings;
pub mod settle;
pub mod target;
pub mod wal_dir;
