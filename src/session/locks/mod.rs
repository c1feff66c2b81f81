//! The read locks on the chain, held by a small process of the catalog's
//! owner.
//!
//! pg_probackup judges a lock by whether the process that it names lives, and
//! fails on one of another user. So the pid in it must be of the catalog's
//! owner, while pbkfs may be root: it starts itself a second time, which
//! becomes that user, takes the locks, says so on its standard output, and
//! lets go when its standard input ends — which it does even if the owner of
//! the session is killed.
//!
//! A holder that was killed lets nothing go. Who finishes the session starts another
//! one that only takes away what the killed one has left.
//!
//! Each line of its output is an answer in JSON ([`answer::Answer`]): what it waits
//! for, each time that this is something else, and at last what came of it.
//!
//! ```text
//! chain    locks the chain as the profile wants it
//! holder   the holder, seen by the session's owner
//! helper   the holder itself
//! answer   what it says to its owner
//! left     what a holder leaves that was killed
//! ```

mod answer;
mod chain;
mod helper;
mod holder;
mod left;

pub use chain::lock_chain;
pub use helper::{forget_locks, hold_locks};
pub use holder::look;
pub use left::clear;
