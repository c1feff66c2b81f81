//! `promote`: a running clone becomes an ordinary data directory.
//!
//! ```text
//! wanted    what is promoted, where to, and the result
//! run       the order: hydrate while the clone serves, stop it, cut over
//! live      hydrating a clone that runs, by asking its session
//! cut_over  making the directory out of the diff of a clone that is down
//! left      what an interrupted cut-over has left
//! ```

mod cut_over;
mod left;
mod live;
mod run;
mod wanted;

pub use wanted::{Promote, Promoted};
