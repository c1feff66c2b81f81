//! PostgreSQL as a child process: found, fenced off from production, started,
//! watched, stopped.
//!
//! ```text
//! Binaries::find     which postgres program serves this major version
//! conf               the backup's own configuration, and which of its settings work here
//! settings::preload  the libraries that it would load
//! ConfigFiles        our postgresql.conf, pg_hba.conf and pg_ident.conf
//! settings::all      every -c that the server is started with, and why
//! namespace          its own root, processes and network
//! limits             how much of the host it may use
//! settings::port     a port whose socket name is free
//! Server             the running postmaster
//! Goal               the state that a start waits for, recovery included
//! Tool, query        programs and queries against a running server
//! ```
//!
//! Nothing here knows about backups or mounts; a data directory is enough.

pub mod binaries;
pub mod conf;
pub mod error;
pub mod limits;
pub mod namespace;
pub mod process;
pub mod query;
mod refusal;
pub mod settings;
mod spawn;
mod start;
pub mod tool;
pub mod user;

pub use binaries::Binaries;
pub use conf::{Conf, LeftOut};
pub use error::{LogTail, ServerError};
pub use limits::Limits;
pub use namespace::{Enclosure, fence_exec};
#[cfg(test)]
pub(crate) use process::ready::tests::refuse_with;
pub use process::ready::{Replay, is_recovering};
pub use process::wait::{Goal, Outcome};
pub use process::{Server, ServerConfig, StopMode};
pub use query::{About, QueryError};
pub use settings::files::{ConfigFiles, FilesInput};
pub use settings::{DecidedBy, Setting, SettingsInput};
pub(crate) use spawn::{become_child, own_program};
pub use start::{Starter, major_of};
pub use tool::keeper::run as keep;
pub use tool::{Ended, Output, Tool};
pub use user::OsUser;
