//! `.pbkfs-lock`: one user at a time.
//!
//! The lock is `flock`, which belongs to the open file and not to a process:
//! the kernel drops it when the last copy of the descriptor is closed. The
//! owner's server has a copy ([`DiffLock::share`]), so the lock outlives a
//! killed owner until its server has ended too. A stale lock cannot exist, and
//! nothing ever needs to delete the file. Its content is for people, and tells
//! whether the owner lives.

mod held;
mod holder;

pub use held::DiffLock;
pub use holder::{LockHolder, has_ended};
