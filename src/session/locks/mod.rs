//! The read locks on the chain, held by a small process that runs as the catalog's owner.
//!
//! pg_probackup considers a lock valid if the process that it names is alive, and fails
//! if that process belongs to another user. So the pid in the lock must be that of a
//! process of the catalog's owner, while pbkfs may be root: pbkfs starts itself a
//! second time. The second process becomes that user, takes the locks, and reports that
//! on its standard output. It releases them at end of file on its standard input, which
//! comes even if the session's owner is killed.
//!
//! A holder that is killed releases nothing. Whichever process finishes the session
//! then starts another holder, which only removes what the killed one has left.
//!
//! Each line of its output is an answer in JSON ([`answer::HolderAnswer`]): what it is
//! waiting for, each time that changes, and finally the result.
//!
//! ```text
//! chain    locks the chain as the profile wants it
//! holder   the holder, as seen by the session's owner
//! helper   the holder itself
//! answer   what it reports to the session's owner
//! left     what a killed holder has left
//! ```

mod answer;
mod chain;
mod helper;
mod holder;
mod left;

pub use chain::lock_chain;
pub use helper::{forget_locks, hold_locks};
pub use holder::{HeldLocks, look};
pub use left::clear;
