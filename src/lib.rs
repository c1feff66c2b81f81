//! pbkfs: a pg_probackup backup as a writable PostgreSQL data directory.
//!
//! The modules stand in one direction only, each using those to its left:
//!
//! ```text
//! pg <- catalog <- chain <- image <- overlay -> diff
//!                                    fuse -> overlay
//!                                    session -> server, and all below it
//!                                    verify, extract -> session
//!                                    cli -> verify, extract, session, profile
//! cache, causes, descriptors, escape, exposition, figures and untrusted, which
//! everything may use
//! ```

mod cache;
pub mod catalog;
mod causes;
pub mod chain;
pub mod cli;
mod clock;
mod descriptors;
pub mod diff;
mod escape;
mod exposition;
pub mod extract;
mod figures;
pub mod fuse;
pub mod image;
pub mod overlay;
pub mod pg;
pub mod profile;
pub mod server;
pub mod session;
pub mod untrusted;
pub mod verify;
