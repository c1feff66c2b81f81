//! The life of a clone: what `up` sets up, in which order, and how it is undone in reverse.
//!
//! ```text
//! up        the order of the steps, and of undoing them
//! context   what is passed to each step
//! steps/    the steps, each of which sets up one thing
//! job       the work in between: waiting for a signal, or a one-shot job
//! place/    a session's directory, and what outlasts it
//! locks/    the read locks on the chain, held by a process of the catalog's owner
//! clone     a clone's own files, read safely, without its mount
//! backup_conf  the configuration in a backup, read without a mount
//! recovery/ which recovery is wanted, whether the archive reaches its target, how it ended
//! hydrate/  bringing all of the backup into the diff of a running clone
//! fence/    what keeps the server away from production, besides its settings
//! outside/  what others see of a session and can do to it
//! ready     the report that a session is ready
//! source    opening the catalog that a plan names
//! preview   what `up` would start
//! ```

mod backup_conf;
mod clone;
mod context;
mod error;
mod fence;
mod hydrate;
mod job;
mod locks;
mod outside;
mod place;
mod preview;
mod ready;
mod recovery;
mod signals;
mod source;
mod steps;
mod undo;
mod up;

pub use context::Up;
pub use error::{MaterializeError, PromoteError, SessionError, Side, TargetError};
pub use fence::Hazard;
pub use hydrate::{
    Destination, Hydration, HydrationState, Pace, Progress as HydrationProgress,
    Run as HydrationRun, hydrate, hydration, stop_hydration,
};
pub use job::{Account, Job, Live, Needs, Then, WATCH};
pub use locks::{forget_locks, hold_locks};
pub use outside::changes::{Changes, of_diff as changes_of_diff, of_target as changes_of_target};
pub use outside::down::{Down, down};
pub use outside::jobs::job_plan;
pub use outside::metrics::{Counts, METRICS, MetricKind};
pub use outside::orphans::all as all_orphans;
pub use outside::others::{Other, all as all_others, at as other_at};
pub use outside::status::{
    Condition, Status, all as all_sessions, count as count_sessions,
    of_profile as sessions_of_profile, of_target as session_of,
};
pub use outside::unmount::{is_mounted, unmount};
pub use place::Place;
pub use place::lasting::{job_target, lasting_root, make as make_lasting, open as open_lasting};
pub use place::state::State;
pub use preview::{obstacles, overridden, preview_server};
pub use ready::Ready;
pub use recovery::Recovery;
pub use recovery::recovered::{SIGNAL as RECOVERY_SIGNAL, SIGNALS as RECOVERY_SIGNALS};
pub use recovery::restore_command::{
    ours as restore_command_of, quote as quote_word, text as path_text,
};
pub use recovery::wal_service::archive_of_session;
pub use signals::Signals;
pub use source::open_catalog;
pub use steps::image::open_image;
pub use steps::resolve::{Resolved, all_backups, find_probackup, resolve};
pub use steps::target::{check as check_target, owner as files_owner};
