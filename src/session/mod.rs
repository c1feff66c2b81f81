//! A clone's life: what `up` sets up, in which order, and its exact reverse.
//!
//! ```text
//! resolve   plan -> instance and chain, by pg_probackup or natively
//! choice    which backups lead to the recovery target
//! run_root  the directory of all sessions' directories
//! place     a session's directory: lock, state, socket, logs
//! locks     the read locks on the chain, held by a process of the catalog's owner
//! locking   locks the chain as the profile wants it
//! target    the mount point: checked, made, cleared of a dead mount
//! layers    what is mounted: the image, and the diff over it
//! mounting  the mount itself, and saving its changes
//! recovery  the recovery that is wanted, and whether the WAL archive gets there
//! clone     a mounted clone's own files, read without being led astray
//! limits    settings that recovery needs to be as high as the primary's
//! recovered what a diff knows of its recovery
//! fence     what keeps the server from production besides its settings
//! hazards   what of a backup could reach production, and what stops it
//! up        the order of set-up; the undo of each step as it succeeds
//! start     starting the server until its recovery ends where it was told to
//! preview   what `up` would start
//! job       what is done in between: waiting for a signal, or a one-shot job
//! down      ends a session from outside, and finishes the work of a dead owner
//! unmount   the same for a mount alone, unless somebody is in it
//! control   the socket on which a session's owner answers questions
//! wal_service opens files of the WAL archive for the server
//! metrics   the one table of what a mount counts
//! changes   what a clone changed
//! status    what runs, for people and programs
//! others    clones of other users
//! orphans   throw-away diffs whose owner died with the host
//! lasting   the directory for what outlasts a reboot
//! ```

mod changes;
mod choice;
mod clone;
mod control;
mod down;
mod error;
mod fence;
mod fnv;
mod hazards;
mod job;
mod lasting;
mod layers;
mod limits;
mod locking;
mod locks;
mod meter;
mod metrics;
mod mounting;
mod mounts;
mod occupants;
mod orphans;
mod others;
mod owner;
mod place;
mod postgres;
mod preview;
mod ready;
mod recovered;
mod recovery;
mod resolve;
mod restore_command;
mod run_root;
mod signals;
mod socket;
mod start;
mod state;
mod status;
mod tablespace;
mod target;
mod undo;
mod unmount;
mod up;
mod wal_dir;
mod wal_service;

pub use changes::{Changes, of_diff as changes_of_diff, of_target as changes_of_target};
pub use down::{Down, down};
pub use error::{SessionError, Side, TargetError};
pub use fence::{FenceLevel, Hazard};
pub use job::{Account, Job, Live, Needs, Then, WATCH};
pub use lasting::{job_target, lasting_root, make as make_lasting, open as open_lasting};
pub use locks::{ReadLocks, forget_locks, hold_locks};
pub use metrics::{Counts, METRICS, Metric, MetricKind};
pub use occupants::Occupant;
pub use orphans::{ThrowAway, all as all_orphans};
pub use others::{Other, all as all_others, at as other_at};
pub use place::Place;
pub use preview::{ServerPreview, obstacles, preview_server};
pub use ready::Ready;
pub use resolve::{Resolved, all_backups, resolve};
pub use run_root::job_place;
pub use signals::Signals;
pub use state::{Phase, State};
pub use status::{
    Status, all as all_sessions, count as count_sessions, of_profile as sessions_of_profile,
    of_target as session_of,
};
pub use target::check as check_target;
pub use unmount::{is_mounted, unmount};
pub use up::Up;
pub use wal_service::archive_of_session;
