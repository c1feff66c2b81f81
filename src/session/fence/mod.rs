//! The fence of one clone: which level this host allows, what the server sees in its
//! namespaces, and which hazards of the backup it stops.

pub mod hazards;
mod limits;
mod view;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::profile::{Level, Network, Plan, Require};
use crate::server::namespace::Memory;
use crate::server::{Enclosure, ServerError, own_program};
use crate::session::SessionError;
use crate::untrusted::Dir;

pub use limits::{limits, remove_cgroup};
pub use view::{Production, View, Writable};

/// The level of the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceLevel {
    /// Namespaces in addition to settings.
    Namespace {
        /// Whether a network namespace is among them.
        network: bool,
    },
    /// Settings only.
    Settings {
        /// What the host does not permit; `None` if the profile wants no more.
        refused: Option<String>,
    },
}

impl fmt::Display for FenceLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { network: true } => {
                f.write_str("namespace: files, processes and a network of its own")
            }
            Self::Namespace { network: false } => {
                f.write_str("namespace: files and processes of its own; the network is the host's")
            }
            Self::Settings { refused: None } => {
                f.write_str("settings only, as fence.level says; SQL can reach out of the clone")
            }
            Self::Settings {
                refused: Some(reason),
            } => write!(
                f,
                "settings only, because this host permits no namespaces ({reason}); SQL can reach out \
                 of the clone"
            ),
        }
    }
}

impl FenceLevel {
    /// Returns the level that a plan gets on this host, by trying it.
    ///
    /// # Errors
    /// Returns [`SessionError::NotEnclosed`] if the plan requires more.
    pub fn find(plan: &Plan) -> Result<Self, SessionError> {
        if plan.fence.level == Level::Settings {
            return Ok(Self::Settings { refused: None });
        }
        let network = plan.fence.network == Network::None;
        let probe = Enclosure {
            program: own_program(),
            memory: memory(plan),
            private_network: network,
            ..Enclosure::default()
        };
        match (probe.probe(), plan.fence.require) {
            (Ok(()), _) => Ok(Self::Namespace { network }),
            (Err(ServerError::NoNamespaces { reason }), Require::Settings) => Ok(Self::Settings {
                refused: Some(reason),
            }),
            (Err(ServerError::NoNamespaces { reason }), Require::Namespace) => {
                Err(SessionError::NotEnclosed {
                    reason: format!("this host permits no namespaces ({reason})"),
                })
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Logs the level. It is a warning if namespaces were wanted and cannot be had.
    pub fn log(&self) {
        match self {
            Self::Settings { refused: Some(_) } => tracing::warn!("fence {self}"),
            level => tracing::info!("fence {level}"),
        }
    }

    /// Returns whether the server runs in namespaces.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        matches!(self, Self::Namespace { .. })
    }
}

/// Returns how much memory the server's own directories may take.
fn memory(plan: &Plan) -> Memory {
    Memory {
        tmp: plan.fence.tmp_size.0,
        shm: plan.fence.shm_size.0,
    }
}

/// Returns the sockets of other servers in the directory that the profile names, which
/// can be reached from the clone.
pub fn foreign_sockets(dir: &Dir, port: u16) -> Vec<String> {
    let own = format!(".s.PGSQL.{port}");
    let names = dir.names().into_iter().flatten();
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(&own) && !name.ends_with(".lock"))
        .collect()
}

/// Something in the backup, or something that SQL can do, through which a clone
/// could reach production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hazard {
    /// What it is.
    pub hazard: String,
    /// What stops it; null if nothing does.
    pub stopped_by: Option<String>,
}
