//! The report that a session is ready.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::escape;
use crate::session::place::state::State;

/// The version of the document's format.
const VERSION: u32 = 1;

/// The report that a clone is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ready {
    /// The version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    pub version: u32,
    /// Always "ready".
    pub event: &'static str,
    /// A libpq connection string; absent if no server was to be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conninfo: Option<String>,
    /// The mount point.
    pub target: PathBuf,
    /// The backup's id.
    pub backup: String,
    /// The server's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The level of the fence; absent if no server was to be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<String>,
    /// The session's process id.
    pub pid: u32,
    /// The server's process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_pid: Option<u32>,
}

impl Ready {
    /// Creates the report from a session's state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self {
            version: VERSION,
            event: "ready",
            conninfo: state.conninfo.clone(),
            target: state.target.clone(),
            backup: state.backup.clone(),
            port: state.port,
            fence: state.fence.clone(),
            pid: state.pid,
            server_pid: state.server_pid,
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.conninfo {
            Some(conninfo) => write!(f, "ready {conninfo}"),
            None => write!(f, "ready target={}", escape::value(&self.target)),
        }
    }
}
