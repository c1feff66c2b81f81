//! `.pbkfs-lock`: one user at a time.
//!
//! The lock is `flock`, which belongs to the open file and not to a process: the kernel
//! releases it when the last duplicate of the descriptor is closed. The owner's server
//! has a duplicate ([`DiffLock::share`]), so the lock outlives a killed owner until its
//! server has exited, too. A stale lock cannot exist, and nothing ever needs to delete
//! the file. Its content is for people, and shows whether the owner is alive.

mod held;
mod holder;

pub use held::DiffLock;
pub use holder::{LockHolder, has_ended};
