//! Reads the backups that [pg_probackup] has made of PostgreSQL, as they lie in its
//! catalog: without restoring them, and without pg_probackup.
//!
//! A [`Catalog`](catalog::Catalog) has instances, an
//! [`Instance`](catalog::Instance) has backups. A backup and those that it is an
//! increment of are a [`Chain`](chain::Chain), and a chain is shown as an
//! [`Image`](image::Image): the data directory that `pg_probackup restore` would
//! write, with names, attributes and bytes. Each page is read from the newest backup
//! that has it, decoded, and compared with its checksum.
//!
//! ```
//! use std::path::Path;
//!
//! use pbkfs::catalog::{BackupRef, Catalog};
//! use pbkfs::chain::Chain;
//! use pbkfs::image::{Image, ImageOptions};
//! use pbkfs::pg::control::ControlFile;
//!
//! # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
//! # let root = unpacked.path().join("catalog");
//! let instance = Catalog::open(&root)?.instance("main")?;
//! let backups = instance.backups()?;
//! for backup in &backups {
//!     println!("{} {} {}", backup.id, backup.mode, backup.status);
//! }
//!
//! let chain = Chain::resolve(&instance.name, &backups, &BackupRef::Latest)?;
//! let image = Image::open(&chain, &ImageOptions::default())?;
//!
//! let node = image.find(Path::new("global/pg_control")).ok_or("no pg_control")?;
//! let mut bytes = vec![0; 8192];
//! let length = image.read_at(node, 0, &mut bytes)?;
//! let control = ControlFile::parse(&bytes[..length])?;
//! assert_eq!(Some(control.system_identifier), instance.config.system_identifier);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! | module | what it reads |
//! |---|---|
//! | [`pg`] | PostgreSQL's own formats: pages and checksums, `pg_control`, file names, WAL |
//! | [`catalog`] | instances, backups, lists of files, stored pages, locks, the WAL archive |
//! | [`chain`] | which backups belong together, and whether they can be read |
//! | [`image`] | the data directory that a chain holds, and what is wrong with it |
//!
//! # What to know
//!
//! - A catalog is somebody else's data. Whatever it holds gives a value or an error: it
//!   does not panic, does not lead out of the catalog, and takes no memory for what it
//!   only claims to have.
//! - Nothing is written into a catalog but the lock that pg_probackup's own restore
//!   takes, and that only by [`Chain::lock`](chain::Chain::lock). Who reads for longer
//!   should take it: `pg_probackup delete` and `merge` wait for it.
//! - It is synchronous, and what is open may be read by several threads at once.
//! - Linux only: paths are opened by `openat2(2)`.
//!
//! # Features
//!
//! - `cli`, on by default: the program `pbkfs`, with all its dependencies. Who wants the
//!   library sets `default-features = false`.
//! - `encode`: the opposite, writing what pg_probackup writes, for who makes catalogs.
//!
//! [pg_probackup]: https://github.com/postgrespro/pg_probackup

// The program uses all of the modules that the library has only a part of.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

mod cache;
pub mod catalog;
mod causes;
pub mod chain;
mod clock;
mod descriptors;
mod escape;
mod figures;
pub mod image;
#[doc(hidden)]
pub mod internals;
pub mod pg;
mod untrusted;

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod diff;
#[cfg(feature = "cli")]
mod exposition;
#[cfg(feature = "cli")]
mod extract;
#[cfg(feature = "cli")]
mod fuse;
#[cfg(feature = "cli")]
mod overlay;
#[cfg(feature = "cli")]
mod profile;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod server;
#[cfg(feature = "cli")]
mod session;
#[cfg(feature = "cli")]
mod verify;

/// The program `pbkfs`: reads the arguments, does what they say, and gives the exit
/// code.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main;
