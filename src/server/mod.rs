//! PostgreSQL as a child process: found, fenced off from production, started,
//! watched, stopped.
//!
//! ```text
//! Binaries::find     which postgres program serves this major version
//! conf               what the backup's own configuration says, and what of it works here
//! settings::preload  which libraries it would load
//! ConfigFiles        our postgresql.conf, pg_hba.conf and pg_ident.conf
//! settings::all      every -c that the server is started with, and why
//! namespace          a root, processes and a network of its own around it
//! limits             how much of the host it may take
//! settings::port     a port whose socket name is free
//! Server             the running postmaster
//! Goal               what is awaited of a starting one, recovery included
//! Tool, query        programs and queries against a running one
//! ```
//!
//! Nothing in here knows of backups or mounts; a data directory is enough.

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
pub use settings::{Owner, Setting, SettingsInput};
pub(crate) use spawn::{become_child, own_program};
pub use tool::keeper::run as keep;
pub use tool::{Ended, Output, Tool};
pub use user::OsUser;
