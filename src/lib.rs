//! Reads the backups that [pg_probackup] makes of PostgreSQL directly from its catalog,
//! without restoring them and without pg_probackup.
//!
//! A [`Catalog`](catalog::Catalog) has instances, and an [`Instance`](catalog::Instance)
//! has backups. A backup and the backups it builds on form a [`Chain`](chain::Chain), and
//! a chain is presented as an [`Image`](image::Image): the data directory that
//! `pg_probackup restore` would write, with the same names, attributes and bytes. Each
//! page is read from the newest backup that contains it, decoded, and verified against
//! its checksum.
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
//! # Modules
//!
//! | module | what it reads |
//! |---|---|
//! | [`pg`] | PostgreSQL's own formats: pages and checksums, `pg_control`, file names, WAL |
//! | [`catalog`] | instances, backups, lists of files, stored pages, locks, the WAL archive |
//! | [`chain`] | which backups belong together, and whether they can be read |
//! | [`image`] | the data directory that a chain holds, and what is wrong with it |
//!
//! # Guarantees and limits
//!
//! - A catalog is untrusted data. Whatever it holds yields a value or an error: it causes
//!   no panic, leads to no path outside the catalog, and gets no memory allocated for a
//!   size that it only claims.
//! - Nothing is written into a catalog except the lock that pg_probackup's own restore
//!   takes, and that only by [`Chain::lock`](chain::Chain::lock). Programs that read for
//!   longer should take it: `pg_probackup delete` and `merge` wait for it.
//! - The API is synchronous, and whatever is open may be read by several threads at once.
//! - Only Linux is supported: paths are opened with `openat2(2)`.
//! # Features
//!
//! - `cli`, on by default: the program `pbkfs`, with all its dependencies. To use only
//!   the library, set `default-features = false`.
//! - `remote`, a part of `cli`: catalogs in buckets (`catalog::store::remote`).
//! - `encode`: the reverse, writing what pg_probackup writes, for programs that create
//!   catalogs.
//!
//! [pg_probackup]: https://github.com/postgrespro/pg_probackup

// The program uses every module in full; the library uses some of them only in part.
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
mod parallel;
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
mod materialize;
#[cfg(feature = "cli")]
mod overlay;
#[cfg(feature = "cli")]
mod profile;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod promote;
#[cfg(feature = "cli")]
mod server;
#[cfg(feature = "cli")]
mod session;
#[cfg(feature = "cli")]
mod verify;

/// The program `pbkfs`: parses the arguments, carries them out, and returns the exit
/// code.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main;
