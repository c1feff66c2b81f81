//! Writes a backup as an ordinary data directory, as `pg_probackup restore` does, in one
//! pass: each stored byte is read, summed, decoded and checked once, and written once.
//!
//! ```text
//! wanted    what is requested, and the result
//! run       the order of the steps
//! layout    what the directory consists of, and where each part belongs
//! staging   the directories while they are written, beside their final names
//! journal   which files of a staged directory are complete
//! files     writing the files, several at once
//! recovery  the recovery settings that restore writes
//! ```

mod files;
mod journal;
mod layout;
mod recovery;
mod run;
mod staging;
mod wanted;

pub use wanted::{Materialize, Materialized};
