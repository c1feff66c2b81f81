//! The steps of a session's set-up. Each sets up one thing and registers its undoing;
//! their order is in `up.rs`. What one finds, the next is made from:
//!
//! ```text
//! target    the mount point: checked, made, cleared of a dead mount
//! resolve   plan -> instance and chain, by pg_probackup or natively
//! needs     what the server needs that can be found before anything is mounted
//! layers    what is mounted: the image, and the diff over it
//! image     the image, and what of it is read before a server is started
//! wal_dir   where the server has its WAL
//! settle    what is settled about the clone before the mount
//! mount     the mount itself, and saving its changes
//! settings  the settings of the server, for `plan` as for `up`
//! launch    what the server is started from
//! server    the server, started until its recovery ends where it was told to
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
