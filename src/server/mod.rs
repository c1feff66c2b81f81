//! PostgreSQL as a child process: found, fenced off from production, started,
//! watched, stopped.
//!
//! ```text
//! Binaries::find     which postgres program serves this major version
//! conf               what the backup's own configuration says, and what of it works here
//! preload            which libraries it would load
//! ConfigFiles        our postgresql.conf, pg_hba.conf and pg_ident.conf
//! settings::all      every -c that the server is started with, and why
//! namespace          a root, processes and a network of its own around it
//! limits             how much of the host it may take
//! port::choose       a port whose socket name is free
//! Server             the running postmaster
//! Goal               what is awaited of a starting one, recovery included
//! Tool, query        programs and queries against a running one
//! ```
//!
//! Nothing in here knows of backups or mounts; a data directory is enough.

mod at_target;
pub mod binaries;
pub mod conf;
pub mod error;
pub mod files;
mod full;
pub mod limits;
mod log_end;
pub mod namespace;
pub mod port;
pub mod preload;
pub mod process;
pub mod query;
mod ready;
pub mod settings;
mod spawn;
pub mod tool;
pub mod user;
mod wait;

pub use binaries::Binaries;
pub use conf::{Conf, LeftOut};
pub use error::{LogTail, ServerError};
pub use files::{ConfigFiles, FilesInput};
pub use limits::Limits;
pub use namespace::{Enclosure, fence_exec};
pub use preload::{Dropped, Preload};
pub use process::{Server, ServerConfig, StopMode, Stopped};
pub use query::{About, Query, QueryError};
#[cfg(test)]
pub(crate) use ready::tests::refuse_with;
pub use ready::{Replay, is_recovering};
pub use settings::{Owner, Setting, SettingsInput};
pub(crate) use spawn::{become_child, own_program};
pub use tool::keeper::run as keep;
pub use tool::{Ended, Output, Tool};
pub use user::OsUser;
pub use wait::{Goal, Outcome};
