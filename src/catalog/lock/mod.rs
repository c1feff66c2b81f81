//! pg_probackup's shared lock on a backup: the one thing that we ever write
//! into the catalog.
//!
//! Each backup's directory may hold two files:
//!
//! ```text
//! backup.pid      the exclusive lock: "PID\n", created with O_EXCL
//! backup_ro.pid   the readers: "PID\n" each, replaced through backup_ro.pidtmp
//! ```
//!
//! A reader takes `backup.pid` for a moment, enters itself into
//! `backup_ro.pid`, and gives `backup.pid` back. Who wants to change the backup
//! (delete, merge) takes `backup.pid` and waits until every listed reader is
//! gone. A lock whose process is dead counts for nothing. Source: pg_probackup's
//! `src/catalog.c` (`lock_backup` and what it calls).
//!
//! The pids mean something only on the host, and in the PID namespace, that
//! wrote them. They should belong to the catalog's owner: pg_probackup, run by
//! another user, cannot tell whether a process lives that it may not signal,
//! and gives up (EPERM). Here such a process counts as living: as a reader it
//! is in nobody's way, and an exclusive lock that it holds is waited for.
//!
//! The files are the catalog owner's to fill with anything, and root reads
//! them; so all is done in the opened directory (`untrusted`), and
//! what is no small regular file is refused.

mod error;
mod exclusive;
mod holder;
mod process;
mod readers;
mod shared;

pub use error::LockError;
pub(crate) use exclusive::Waiting;
pub use process::Process;
pub(crate) use process::{owner_of, user_name};
pub use shared::{LockOutcome, ReadLock};
pub(crate) use shared::{forget, lock_chain, look, open};

/// The most that is read of a lock file, in bytes: thousands of readers.
const LIMIT: u64 = 64 << 10;
