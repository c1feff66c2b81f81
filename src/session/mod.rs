//! A clone's life: what `up` sets up, in which order, and its exact reverse.
//!
//! ```text
//! resolve   plan -> instance and chain, by pg_probackup or natively
//! place     the session's directory: lock, state, socket, logs
//! locks     the read locks on the chain, held by a process of the catalog's owner
//! target    the mount point: checked, made, cleared of a dead mount
//! up        the order of set-up; the undo of each step as it succeeds
//! down      ends a session from outside, and finishes the work of a dead owner
//! status    what runs, for people and programs
//! ```

mod down;
mod error;
mod locks;
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

pub use down::{Down, down};
pub use error::SessionError;
pub use locks::{hold_locks, own_program};
pub use place::{Place, run_root};
pub use resolve::{Resolved, resolve};
pub use signals::Signals;
pub use state::{Phase, State};
pub use status::{Status, all as all_sessions, of_target as session_of};
pub use target::check as check_target;
pub use up::{Ready, Up, preview_server};
