//! Extracts data from a backup: it starts a throw-away clone at a point in time,
//! runs one pg_dump or query against it, and removes it. The result is there
//! completely or not at all.
//!
//! ```text
//! wanted    what is extracted, and where it is written to
//! run       one extraction
//! database  which database has what is wanted
//! asking    querying the server while watching the session
//! output    a result that is there completely or not at all
//! ```

mod asking;
mod database;
mod output;
mod run;
mod wanted;

pub use wanted::{Destination, Extract, Format, What};
