//! PostgreSQL on the mount: what can be checked before, and the start.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::clone::Settled;
use super::fence::{self, FenceLevel, Production, View, Writable};
use super::place::{HeldPlace, PREFETCH, Place, SOCKET};
use super::recovery::Recovery;
use super::resolve::Resolved;
use super::wal_dir::WalDir;
use super::{SessionError, Signals, layers, limits, status, wal_dir};
use crate::image::Image;
use crate::profile::{Plan, Port, ProfileError, Require};
use crate::server::namespace::Opened;
use crate::server::{
    Binaries, Conf, ConfigFiles, Enclosure, FenceInput, FilesInput, Limits, OsUser, Replay, Server,
    ServerConfig, Setting, fence as settings, port, preload,
};
use crate::untrusted::Dir;

/// What the server needs that can be found before anything is mounted.
#[derive(Debug)]
pub struct Preparation {
    pub binaries: Binaries,
    pub run_as: Option<OsUser>,
    /// The recovery before it answers, if there is to be one.
    pub recovery: Option<Recovery>,
    /// What the fence is made of.
    pub level: FenceLevel,
    /// Where production is.
    pub production: Production,
    /// Whether the mount will most likely pass through.
    passthrough: bool,
    /// The WAL directory, if not in the mount; from when the diff is opened.
    pub wal_dir: Option<WalDir>,
    /// What the server's side holds: the diff's lock; from when the diff is
    /// opened.
    pub hold: Option<Arc<OwnedFd>>,
    major: u32,
}

/// A start of the server.
pub struct Start<'a> {
    pub plan: &'a Plan,
    /// Where the clone is mounted, as the kernel knows it.
    pub mounted: &'a Path,
    pub place: &'a HeldPlace,
    pub settled: &'a Settled<'a>,
    /// Whether the mount passes through.
    pub passthrough: bool,
    pub limits: Limits,
    pub signals: &'a Signals,
}

/// What became of a server that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It answers, and has replayed so far.
    Running(Replay),
    /// It has recovered and shut itself down, as it was told to.
    ShutDown,
}

impl Preparation {
    /// Finds programs and user, and refuses what cannot start.
    pub fn new(plan: &Plan, resolved: &Resolved) -> Result<Self, SessionError> {
        let target = resolved.chain.target();
        // `Chain::resolve` refuses a version that is no number.
        let major = target.server_major().unwrap_or_default();
        check_bin_dir(plan)?;
        let binaries = Binaries::find(major, plan.postgres.bin_dir.as_deref())?;
        binaries.check_settings(&plan.postgres.settings)?;
        let run_as = OsUser::for_server(&plan.postgres.user)?;
        let recovery = Recovery::plan(plan, resolved)?;
        if let Some(recovery) = &recovery {
            recovery.check_command(run_as.as_ref())?;
        }
        let level = FenceLevel::find(plan)?;
        let in_mount = !wal_dir::is_reached(&level, run_as.as_ref());
        Ok(Self {
            binaries,
            run_as,
            recovery,
            level,
            production: Production::of(resolved),
            passthrough: in_mount && layers::passthrough(plan),
            wal_dir: None,
            hold: None,
            major,
        })
    }

    /// The settings that a server would be started with, from what is known
    /// without the mount.
    pub fn preview(
        &self,
        plan: &Plan,
        place: &Place,
        image: &Image,
        conf: &Conf,
    ) -> Result<Vec<Setting>, SessionError> {
        let socket_dir = socket_dir(plan, place);
        let (restore_command, target) = recovery_settings(self.recovery.as_ref(), place)?;
        let mut least = Vec::new();
        if self.recovery.is_some() {
            let control = layers::control_file(image)?;
            least.extend(limits::least(&control, conf, &plan.postgres.settings));
        }
        let files = ConfigFiles::paths(&self.files_input(plan, place.dir(), conf));
        Ok(settings::settings(&FenceInput {
            major: self.major,
            data_directory: &plan.target,
            files: &files,
            socket_dir: &socket_dir,
            port: choose_port(plan, &socket_dir)?,
            name: &session_name(plan),
            restore_command: restore_command.as_deref(),
            recovery_target: &target,
            limits: &least,
            preload: &self.preload(conf)?,
            passthrough: self.passthrough,
            throw_away: plan.diff_dir.is_none(),
            user: &plan.postgres.settings,
            allow: &plan.fence.allow,
        })?)
    }

    pub(super) fn config(&self, start: &Start<'_>) -> Result<ServerConfig, SessionError> {
        let Start {
            plan,
            place,
            settled,
            ..
        } = *start;
        let (conf, recovery) = (&settled.conf, settled.recovery);
        place.admit(self.run_as.as_ref())?;
        let (restore_command, target) = recovery_settings(recovery, place)?;
        let writable = self.writable(start)?;
        let socket_dir = writable.socket.path.clone();
        let config_files =
            ConfigFiles::write(&self.files_input(plan, place.dir(), &settled.taken))?;
        let port = choose_port(plan, &socket_dir)?;
        let preload = self.preload(conf)?;
        tell_dropped(&preload);
        let settings = settings::settings(&FenceInput {
            major: self.major,
            data_directory: &plan.target,
            files: &config_files,
            socket_dir: &socket_dir,
            port,
            name: &session_name(plan),
            restore_command: restore_command.as_deref(),
            recovery_target: &target,
            limits: &settled.least,
            preload: &preload,
            passthrough: start.passthrough,
            throw_away: plan.diff_dir.is_none(),
            user: &plan.postgres.settings,
            allow: &plan.fence.allow,
        })?;
        let enclosure = self.enclosure(start, &config_files, &writable, port)?;
        Ok(ServerConfig {
            binaries: self.binaries.clone(),
            data_directory: plan.target.clone(),
            settings,
            log_file: place.server_log(),
            wal_dir: self.wal_dir.as_ref().map(|wal| wal.path.clone()),
            socket_dir,
            port,
            role: plan.postgres.role.clone(),
            run_as: self.run_as.clone(),
            enclosure,
            limits: start.limits.clone(),
            hold: self.hold.clone(),
        })
    }

    /// Makes what the server writes to in the session's directory, and opens the
    /// directory that the profile names for its socket.
    fn writable(&self, start: &Start<'_>) -> Result<Writable, SessionError> {
        let (place, run_as) = (start.place, self.run_as.as_ref());
        let prefetch = start.settled.recovery.is_some();
        let prefetch = prefetch.then(|| place.make_for(OsStr::new(PREFETCH), run_as));
        let named = start.plan.postgres.socket_dir.as_deref();
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

    /// The namespaces that the server runs in, if it does in any.
    fn enclosure(
        &self,
        start: &Start<'_>,
        files: &ConfigFiles,
        writable: &Writable,
        port: u16,
    ) -> Result<Option<Enclosure>, SessionError> {
        let FenceLevel::Namespace { network } = self.level else {
            return Ok(None);
        };
        if let Some(dir) = &writable.named {
            check_socket_dir(start.plan, dir, port)?;
        }
        let view = View {
            plan: start.plan,
            mounted: start.mounted,
            production: &self.production,
            place: start.place,
            binaries: &self.binaries,
            run_as: self.run_as.as_ref(),
            recovery: start.settled.recovery,
            conf: &start.settled.conf,
            files,
            writable,
            wal_dir: self.wal_dir.as_ref(),
        };
        Ok(Some(view.enclosure(network)?))
    }

    /// The lists of libraries that have to be changed.
    fn preload(&self, conf: &Conf) -> Result<Vec<preload::Preload>, SessionError> {
        let Some(pkglibdir) = self.binaries.pkglibdir() else {
            return Ok(Vec::new());
        };
        let rights = self.run_as.as_ref().map(OsUser::rights);
        Ok(preload::filter(conf, &pkglibdir, rights.as_ref())?)
    }

    fn files_input<'a>(
        &'a self,
        plan: &'a Plan,
        run_dir: &'a Path,
        conf: &'a Conf,
    ) -> FilesInput<'a> {
        FilesInput {
            run_dir,
            conf,
            major: self.major,
            role: &plan.postgres.role,
            listens: !listen_addresses(plan).is_empty(),
            run_as: self.run_as.as_ref(),
        }
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

/// A directory that is none is a mistake in the profile, and not one without the
/// programs.
fn check_bin_dir(plan: &Plan) -> Result<(), SessionError> {
    match &plan.postgres.bin_dir {
        Some(dir) if !dir.is_dir() => {
            let reason = format!("{} is not a directory", dir.display());
            Err(ProfileError::wrong("postgres.bin_dir", reason).into())
        }
        _ => Ok(()),
    }
}

/// What is in the socket's directory can be reached from the clone.
fn check_socket_dir(plan: &Plan, dir: &Dir, port: u16) -> Result<(), SessionError> {
    let others = fence::foreign_sockets(dir, port);
    if others.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "postgres.socket_dir ({}) is not the clone's alone: it has {}",
        dir.path().display(),
        others.join(", ")
    );
    if plan.fence.require == Require::Namespace {
        return Err(SessionError::NotEnclosed { reason });
    }
    tracing::warn!("the clone can reach what is in its socket's directory: {reason}");
    Ok(())
}

/// The restore_command, and the settings that name the target.
type RecoverySettings = (Option<String>, Vec<(String, String)>);

fn recovery_settings(
    recovery: Option<&Recovery>,
    place: &Place,
) -> Result<RecoverySettings, SessionError> {
    let command = recovery.map(|r| r.command(place)).transpose()?;
    Ok((
        command,
        recovery.map(Recovery::settings).unwrap_or_default(),
    ))
}

fn choose_port(plan: &Plan, socket_dir: &Path) -> Result<u16, SessionError> {
    let others: Vec<u16> = status::all()?
        .iter()
        .filter_map(|session| session.state.port)
        .collect();
    Ok(port::choose(
        plan.postgres.port.map(Port::get),
        socket_dir,
        listen_addresses(plan),
        &others,
    )?)
}

/// A running server, shared by who watches it and who stops it.
pub type SharedServer = std::rc::Rc<std::cell::RefCell<Server>>;

fn socket_dir(plan: &Plan, place: &Place) -> std::path::PathBuf {
    let named = plan.postgres.socket_dir.clone();
    named.unwrap_or_else(|| place.socket_dir())
}

fn listen_addresses(plan: &Plan) -> &str {
    plan.postgres
        .settings
        .get("listen_addresses")
        .map_or("", String::as_str)
}

/// How the clone calls itself, in `cluster_name`.
fn session_name(plan: &Plan) -> String {
    plan.target
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
