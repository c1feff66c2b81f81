//! Gets data out of a backup: a throw-away clone at a moment, one pg_dump or
//! query against it, and gone. The result is there whole or not at all.
//!
//! ```text
//! wanted    what is extracted, and where to
//! run       one extraction
//! database  which database has what is wanted
//! asking    asking the server, without losing sight of the session
//! output    a result that is there whole or not at all
//! ```

mod asking;
mod database;
mod output;
mod run;
mod wanted;

pub use wanted::{Destination, Extract, Format, What};
