//! Writes a backup, or what a clone has made of it, as an ordinary data directory. Of a
//! backup it is what `pg_probackup restore` writes, in one pass: each stored byte is
//! read, summed, decoded and checked once, and written once.
//!
//! ```text
//! clone     what a clone has made of its backup
//! wanted    what is requested, and the result
//! run       the order of the steps
//! layout    what the directory consists of, and where each part belongs
//! staging   the directories while they are written, beside their final names
//! journal   which files of a staged directory are complete
//! files     writing the files, several at once
//! recovery  the recovery settings that restore writes
//! ```

mod clone;
mod files;
mod journal;
mod layout;
mod recovery;
mod run;
mod staging;
mod wanted;

pub use clone::Source;
pub use files::{Writer, Written};
pub use layout::Layout;
pub use staging::Staging;
pub use wanted::{Materialize, Materialized, PlacedTablespace};
