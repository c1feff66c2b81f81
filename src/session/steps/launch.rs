//! What a server is started from, assembled from the results of the earlier steps.

use std::ffi::OsStr;
use std::path::Path;

use super::layers::Layers;
use super::needs::ServerNeeds;
use super::settings::{ServerSettings, choose_port, files_input};
use super::settle::Settled;
use super::wal_dir::WalDir;
use crate::profile::{Plan, Require};
use crate::server::namespace::Opened;
use crate::server::settings::preload;
use crate::server::{ConfigFiles, Enclosure, Limits, ServerConfig};
use crate::session::SessionError;
use crate::session::fence::{self, FenceLevel, View, Writable};
use crate::session::place::{HeldPlace, PREFETCH, SOCKET};
use crate::untrusted::Dir;

/// What a server is started from.
pub struct Launch<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// What the server needs.
    pub needs: &'a ServerNeeds,
    /// What is mounted.
    pub layers: &'a Layers,
    /// What is settled about the clone.
    pub settled: &'a Settled<'a>,
    /// Where the clone is mounted, as the kernel knows it.
    pub mounted: &'a Path,
    /// The session's directory.
    pub place: &'a HeldPlace,
    /// Whether the mount uses passthrough.
    pub passthrough: bool,
    /// How much of the host the server may use.
    pub limits: Limits,
}

impl Launch<'_> {
    /// Writes the server's files and creates the directories that it writes to.
    ///
    /// # Errors
    /// If one of them cannot be created, or if the fence cannot be as the plan requires.
    pub fn config(&self) -> Result<ServerConfig, SessionError> {
        let (plan, needs, place, settled) = (self.plan, self.needs, self.place, self.settled);
        place.admit(needs.run_as.as_ref())?;
        let writable = self.writable()?;
        let socket_dir = writable.socket.path.clone();
        let files = ConfigFiles::write(&files_input(plan, needs, place.dir(), &settled.taken))?;
        let port = choose_port(plan, &socket_dir)?;
        let preload = needs.preload(&settled.conf)?;
        tell_dropped(&preload);
        let of_server = ServerSettings {
            plan,
            needs,
            place,
            recovery: settled.recovery,
            least: &settled.least,
            preload: &preload,
            passthrough: self.passthrough,
        };
        Ok(ServerConfig {
            binaries: needs.binaries.clone(),
            data_directory: plan.target.clone(),
            settings: of_server.all(&files, port)?,
            log_file: place.server_log(),
            wal_dir: self.layers.wal_dir.as_ref().map(|wal| wal.path.clone()),
            enclosure: self.enclosure(&files, &writable, port)?,
            socket_dir,
            port,
            role: plan.postgres.role.clone(),
            run_as: needs.run_as.clone(),
            limits: self.limits.clone(),
            hold: self.layers.hold.clone(),
        })
    }

    /// Creates the directories that the server writes to in the session's directory,
    /// and opens the one that the profile names for its socket.
    fn writable(&self) -> Result<Writable, SessionError> {
        let (place, run_as) = (self.place, self.needs.run_as.as_ref());
        let prefetch = self.settled.recovery.is_some();
        let prefetch = prefetch.then(|| place.make_for(OsStr::new(PREFETCH), run_as));
        let named = self.plan.postgres.socket_dir.as_deref();
        let named = named.map(|dir| Dir::open(dir).map_err(|e| SessionError::io("open", dir, e)));
        let named = named.transpose()?;
        let socket = match &named {
            None => place.make_for(OsStr::new(SOCKET), run_as)?,
            Some(dir) => {
                Opened::new(dir.path(), dir).map_err(|e| SessionError::io("open", dir.path(), e))?
            }
        };
        Ok(Writable {
            socket,
            named,
            prefetch: prefetch.transpose()?,
        })
    }

    /// Returns the namespaces that the server runs in, if it runs in any.
    fn enclosure(
        &self,
        files: &ConfigFiles,
        writable: &Writable,
        port: u16,
    ) -> Result<Option<Enclosure>, SessionError> {
        let FenceLevel::Namespace { network } = self.needs.level else {
            return Ok(None);
        };
        if let Some(dir) = &writable.named {
            check_socket_dir(self.plan, dir, port)?;
        }
        let view = View {
            plan: self.plan,
            mounted: self.mounted,
            production: &self.needs.production,
            place: self.place,
            binaries: &self.needs.binaries,
            run_as: self.needs.run_as.as_ref(),
            recovery: self.settled.recovery,
            conf: &self.settled.conf,
            files,
            writable,
            wal_dir: self
                .layers
                .wal_dir
                .as_ref()
                .map(WalDir::opened)
                .transpose()?,
        };
        Ok(Some(view.enclosure(network)?))
    }
}

fn tell_dropped(preload: &[preload::Preload]) {
    for dropped in preload.iter().flat_map(|list| &list.dropped) {
        tracing::warn!(
            "the library {} is not loaded: {}",
            dropped.library,
            dropped.reason
        );
    }
}

/// Checks that the socket's directory is the clone's alone: the clone can
/// reach whatever is in it.
fn check_socket_dir(plan: &Plan, dir: &Dir, port: u16) -> Result<(), SessionError> {
    let others = fence::foreign_sockets(dir, port);
    if others.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "postgres.socket_dir ({}) is not the clone's alone: it also has {}",
        dir.path().display(),
        others.join(", ")
    );
    if plan.fence.require == Require::Namespace {
        return Err(SessionError::NotEnclosed { reason });
    }
    tracing::warn!("the clone can reach what is in its socket's directory: {reason}");
    Ok(())
}
