//! Hydration of a running clone: bringing all of its backup into the diff while it serves.
//!
//! ```text
//! hydrator   a thread of the session's owner: started, watched and stopped through the
//!            control socket
//! run        the files, one after the other, and what becomes of errors
//! pace       a rate, or stepping back while the clone itself reads and writes
//! kept       what is still needed of the catalog then, kept in the diff
//! report     how far it is
//! client     the same, asked for by other processes
//! ```

mod client;
mod hydrator;
pub mod kept;
mod pace;
mod report;
mod run;

pub use client::{hydrate, hydration, stop_hydration};
pub use hydrator::{Hydrator, Source};
pub use pace::Pace;
pub use report::{Destination, Hydration, HydrationState};
pub use run::{Progress, Run};
