//! A clone's life: what `up` sets up, in which order, and its exact reverse.
//!
//! ```text
//! resolve   plan -> instance and chain, by pg_probackup or natively
//! place     the session's directory: lock, state, socket, logs
//! locks     the read locks on the chain, held by a process of the catalog's owner
//! target    the mount point: checked, made, cleared of a dead mount
//! up        the order of set-up; the undo of each step as it succeeds
//! down      ends a session from outside, and finishes the work of a dead owner
//! control   the socket on which a session's owner answers questions
//! metrics   the one table of what a mount counts
//! changes   what a clone changed
//! status    what runs, for people and programs
//! ```

mod changes;
mod control;
mod down;
mod error;
mod locks;
mod metrics;
mod mounts;
mod place;
mod postgres;
mod resolve;
mod signals;
mod state;
mod status;
mod target;
mod undo;
mod up;

pub use changes::{Changes, of_diff as changes_of_diff, of_target as changes_of_target};
pub use down::{Down, down};
pub use error::SessionError;
pub use locks::{hold_locks, own_program};
pub use metrics::{Counts, METRICS, Metric, MetricKind};
pub use place::{Place, run_root};
pub use resolve::{Resolved, resolve};
pub use signals::Signals;
pub use state::{Phase, State};
pub use status::{Status, all as all_sessions, count as count_sessions, of_target as session_of};
pub use target::check as check_target;
pub use up::{Ready, Up, preview_server};
