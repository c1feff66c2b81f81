//! What others see of a session and can do to it: other processes, other
//! users, the next run.
//!
//! ```text
//! status    what is running, for people and programs
//! control   the socket on which a session's owner answers questions
//! metrics   the one table of a mount's counters
//! changes   what a clone changed
//! down      ends a session, and finishes the work of a dead owner
//! jobs      where one-shot jobs mount, and what killed ones have left
//! unmount   ends a mount without a server, unless it is in use
//! owner     the process that owns a session
//! occupants which processes are using a mount
//! orphans   throw-away diffs whose owner died with the host
//! others    clones of other users
//! ```

pub mod changes;
pub mod control;
pub mod down;
pub mod jobs;
pub mod metrics;
pub mod occupants;
pub mod orphans;
pub mod others;
pub mod owner;
pub mod status;
pub mod unmount;
