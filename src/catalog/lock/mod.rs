//! pg_probackup's shared lock on a backup: the only thing that we ever write into the
//! catalog.
//!
//! Each backup's directory may contain two files:
//!
//! ```text
//! backup.pid      the exclusive lock: "PID\n", created with O_EXCL
//! backup_ro.pid   the readers: "PID\n" each, replaced through backup_ro.pidtmp
//! ```
//!
//! A reader briefly takes `backup.pid`, adds itself to `backup_ro.pid`, and releases
//! `backup.pid`. A process that wants to change the backup (delete, merge) takes
//! `backup.pid` and waits until every listed reader has exited. A lock whose process is
//! dead is ignored. Source: pg_probackup's `src/catalog.c` (`lock_backup` and what it
//! calls).
//!
//! The pids are meaningful only on the host, and in the PID namespace, where they were
//! written. The processes should belong to the catalog's owner: a pg_probackup run by
//! another user cannot tell whether a process that it may not signal is running, and
//! gives up (EPERM). Here such a process counts as running: as a reader it blocks nobody,
//! and if it holds an exclusive lock, we wait for it.
//!
//! The catalog's owner can put anything into these files, and root reads them. Therefore
//! all operations use the opened directory (`untrusted`), and anything but a small
//! regular file is refused.

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

/// Maximum number of bytes read from a lock file: thousands of readers.
const LIMIT: u64 = 64 << 10;
