//! The order of set-up, and its reverse.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::control::Control;
use super::locks::{Holder, Locking};
use super::place::{HeldPlace, Place, canonical};
use super::postgres::{Preparation, SharedServer};
use super::resolve::{Resolved, resolve};
use super::state::{Phase, State, process_start};
use super::undo::Undo;
use super::{SessionError, Signals, down, mounts, target};
use crate::chain::Chain;
use crate::diff::{Binding, Diff, DiffLock, FORMAT_VERSION, LockHolder};
use crate::fuse::{FuseError, Mount, MountOptions};
use crate::image::{Image, ImageOptions};
use crate::overlay::{Overlay, OverlayOptions};
use crate::pg::control::ControlFile;
use crate::profile::{LockBackups, Passthrough, Plan};
use crate::server::{OsUser, Setting, StopMode};

/// How often the session looks whether everything still runs.
const WATCH: Duration = Duration::from_millis(50);

/// How often names and freed space are committed without being asked.
const FLUSH: Duration = Duration::from_secs(5);

/// How long an unmount waits for those who still have files open.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// What `up` is to do.
pub struct Up<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// The profile's path, for `status`.
    pub profile: Option<&'a Path>,
    /// The signals that end it.
    pub signals: &'a Signals,
    /// Whether it runs in the background: a failure after it was ready is
    /// kept for `status` then, as nobody reads its output.
    pub detached: bool,
}

/// What is told when the clone is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
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
    /// The session's process id.
    pub pid: u32,
    /// The server's process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_pid: Option<u32>,
}

impl std::fmt::Display for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.conninfo {
            Some(conninfo) => write!(f, "ready {conninfo}"),
            None => write!(f, "ready target={}", self.target.display()),
        }
    }
}

type SharedMount = Rc<RefCell<Mount>>;

/// What supervision watches.
#[derive(Default)]
struct Running {
    mount: Option<SharedMount>,
    server: Option<SharedServer>,
}

impl Up<'_> {
    /// Sets everything up, calls `ready`, waits for the end, and undoes
    /// everything; whatever fails, what was set up is undone. To be called
    /// from the main thread: the server is tied to the thread that starts it.
    ///
    /// # Errors
    /// What kept the session from being set up, what ended it, or the first
    /// thing that could not be undone.
    pub fn run(&self, ready: &mut dyn FnMut(&Ready, &Place)) -> Result<(), SessionError> {
        let target = canonical(&self.plan.target);
        let place = Rc::new(Place::of(&target).hold(&target)?);
        let state = Rc::new(RefCell::new(self.first_state(&target)));
        let mut undo = Undo::default();
        let mut running = Running::default();
        let outcome = self
            .set_up(&place, &state, &mut undo, &mut running)
            .and_then(|()| self.serve(&place, &state, &running, ready));
        let was_ready = state.borrow().phase == Phase::Ready;
        set_phase(&place, &state, Phase::Stopping);
        let undone = undo.run();
        let result = outcome.and(undone);
        match &result {
            Err(error) if self.detached && was_ready => {
                let mut state = state.borrow_mut();
                state.phase = Phase::Failed;
                state.error = Some(error.to_string());
                state.write(&place)?;
            }
            _ => place.remove()?,
        }
        result
    }

    fn first_state(&self, target: &Path) -> State {
        State {
            pid: std::process::id(),
            phase: Phase::Starting,
            profile: self.profile.map(Path::to_owned),
            target: target.to_owned(),
            catalog: self.plan.catalog.clone(),
            instance: self.plan.instance.clone(),
            backup: String::new(),
            chain: Vec::new(),
            diff_dir: self.plan.diff_dir.clone(),
            throw_away: self.plan.diff_dir.is_none(),
            made_target: false,
            since: OffsetDateTime::now_utc()
                .format(&Rfc3339)
                .unwrap_or_default(),
            conninfo: None,
            port: None,
            server_pid: None,
            server_start: None,
            error: None,
        }
    }

    fn set_up<'u>(
        &self,
        place: &Rc<HeldPlace>,
        state: &Rc<RefCell<State>>,
        undo: &mut Undo<'u>,
        running: &mut Running,
    ) -> Result<(), SessionError>
    where
        Self: 'u,
    {
        if let Some(left) = State::read(place)? {
            down::finish(place, &left)?;
        }
        target::check(&state.borrow().target)?;
        let resolved = resolve(self.plan)?;
        let preparation = match self.plan.postgres.launch {
            true => Some(Preparation::new(self.plan, &resolved.chain)?),
            false => None,
        };
        self.lock_chain(&resolved, undo)?;
        {
            let mut state = state.borrow_mut();
            state.backup = resolved.chain.target().id.to_string();
            tracing::Span::current().record("backup", &state.backup);
            state.chain = resolved
                .chain
                .ids()
                .iter()
                .map(ToString::to_string)
                .collect();
            state.write(place)?;
        }
        self.stop_if_asked()?;
        let image = self.open_image(&resolved.chain)?;
        let overlay = self.open_overlay(image, &resolved, place, state, undo)?;
        self.mount(overlay, place, state, undo, running)?;
        if let Some(preparation) = preparation {
            self.start_server(&preparation, place, state, undo, running)?;
        }
        Ok(())
    }

    fn stop_if_asked(&self) -> Result<(), SessionError> {
        if self.signals.end_asked() {
            Err(SessionError::Interrupted)
        } else {
            Ok(())
        }
    }

    fn lock_chain(&self, resolved: &Resolved, undo: &mut Undo<'_>) -> Result<(), SessionError> {
        let lock_backups = self.plan.lock_backups;
        if lock_backups == LockBackups::Never {
            tracing::info!("the backups are not locked, as the profile wants it");
            return Ok(());
        }
        match Holder::start(&resolved.chain.dirs(), &|| self.signals.end_asked())? {
            Locking::Held(mut holder) => {
                tracing::debug!(pid = holder.pid(), "the backups are locked for reading");
                undo.push("the read locks on the backups", move || holder.release());
            }
            Locking::Without(reason) if lock_backups == LockBackups::Auto => {
                tracing::warn!(
                    "the backups are not locked against pg_probackup's delete and merge: {reason}"
                );
            }
            Locking::Without(message) => return Err(SessionError::Locks { message }),
        }
        // Read again now that nobody can change it: between the first look
        // and the lock, a merge may have.
        Ok(resolved.chain.recheck(&resolved.instance)?)
    }

    fn open_image(&self, chain: &Chain) -> Result<Image, SessionError> {
        let options = ImageOptions {
            verify_checksums: self.plan.verify_checksums,
            index_cache_bytes: usize::try_from(self.plan.cache_size).unwrap_or(usize::MAX),
        };
        Ok(Image::open(chain, &options)?)
    }

    fn open_overlay(
        &self,
        image: Image,
        resolved: &Resolved,
        place: &HeldPlace,
        state: &Rc<RefCell<State>>,
        undo: &mut Undo<'_>,
    ) -> Result<Arc<Overlay<Image>>, SessionError> {
        let chain = &resolved.chain;
        let dir = match &self.plan.diff_dir {
            Some(dir) => dir.clone(),
            None => throw_away_dir(&self.plan.target),
        };
        state.borrow_mut().diff_dir = Some(dir.clone());
        state.borrow().write(place)?;
        let holder = LockHolder {
            pid: std::process::id(),
            host: host_name(),
            target: self.plan.target.clone(),
        };
        let lock = DiffLock::acquire(&dir, &holder)?;
        if self.plan.diff_dir.is_none() {
            let dir = dir.clone();
            undo.push("the throw-away diff", move || Ok(Diff::remove(&dir)?));
        }
        let owner = owner(self.plan)?;
        let binding = Binding {
            version: FORMAT_VERSION,
            catalog: self.plan.catalog.clone(),
            instance: self.plan.instance.clone(),
            system_identifier: resolved.instance.config.system_identifier,
            backup: chain.target().id.to_string(),
            chain: chain.ids().iter().map(ToString::to_string).collect(),
            image: format!("{:016x}", image.fingerprint()),
        };
        let diff = Diff::open(&dir, lock, &binding)?;
        let options = OverlayOptions {
            uid: owner.0,
            gid: owner.1,
            tablespace_version_dir: Some(tablespace_version_dir(&image, chain)?),
            passthrough: self.passthrough(),
        };
        Ok(Arc::new(Overlay::new(image, Some(diff), options)?))
    }

    fn passthrough(&self) -> bool {
        self.plan.fuse.passthrough == Passthrough::Auto && geteuid().is_root()
    }

    fn mount(
        &self,
        overlay: Arc<Overlay<Image>>,
        place: &HeldPlace,
        state: &Rc<RefCell<State>>,
        undo: &mut Undo<'_>,
        running: &mut Running,
    ) -> Result<(), SessionError> {
        let target = state.borrow().target.clone();
        if target::prepare(&target)? {
            state.borrow_mut().made_target = true;
            let made = target.clone();
            undo.push("the mount point", move || target::remove(&made));
        }
        state.borrow().write(place)?;
        let saved = overlay.clone();
        undo.push("saving the diff", move || Ok(saved.sync_all()?));
        let options = MountOptions {
            threads: self.plan.fuse.threads.get(),
            allow_other: geteuid().is_root(),
            passthrough: self.passthrough(),
            source: mounts::OUR_SOURCE.to_owned(),
        };
        let mount = Mount::new(overlay.clone(), &target, &options)?;
        let mount = Rc::new(RefCell::new(mount));
        running.mount = Some(mount.clone());
        let signals = self.signals.clone();
        undo.push("the mount", move || unmount(&mount, &signals));
        if let Some(control) = Control::start(place, overlay.clone()) {
            undo.push("the control socket", move || {
                control.stop();
                Ok(())
            });
        }
        let flusher = Flusher::start(overlay);
        undo.push("the flusher", move || {
            flusher.stop();
            Ok(())
        });
        Ok(())
    }

    fn start_server<'u>(
        &self,
        preparation: &Preparation,
        place: &HeldPlace,
        state: &Rc<RefCell<State>>,
        undo: &mut Undo<'u>,
        running: &mut Running,
    ) -> Result<(), SessionError>
    where
        Self: 'u,
    {
        let patience = self.plan.postgres.stop_timeout;
        let mut started = |server| {
            let server: SharedServer = Rc::new(RefCell::new(server));
            running.server = Some(server.clone());
            let (stopped, signals) = (server.clone(), self.signals.clone());
            undo.push("the server", move || stop(&stopped, patience, &signals));
            server
        };
        preparation.start(self.plan, place, &mut started, self.signals)?;
        let Some(server) = &running.server else {
            return Ok(());
        };
        let server = server.borrow();
        let mut state = state.borrow_mut();
        state.conninfo = Some(server.conninfo());
        state.port = Some(server.config().port);
        state.server_pid = Some(server.pid());
        state.server_start = process_start(server.pid());
        Ok(())
    }

    /// Tells that the clone is ready, and waits for its end.
    fn serve(
        &self,
        place: &HeldPlace,
        state: &Rc<RefCell<State>>,
        running: &Running,
        ready: &mut dyn FnMut(&Ready, &Place),
    ) -> Result<(), SessionError> {
        self.stop_if_asked()?;
        state.borrow_mut().phase = Phase::Ready;
        state.borrow().write(place)?;
        ready(&ready_message(&state.borrow()), place);
        loop {
            if self.signals.end_asked() {
                return Ok(());
            }
            if let Some(server) = &running.server {
                let mut server = server.borrow_mut();
                if let Some(status) = server.try_wait()? {
                    return Err(SessionError::ServerDied {
                        status,
                        log: server.log_tail(20),
                    });
                }
            }
            if let Some(mount) = &running.mount
                && !mount.borrow().is_serving()
            {
                return Err(SessionError::MountGone {
                    target: state.borrow().target.clone(),
                });
            }
            std::thread::sleep(WATCH);
        }
    }
}

fn ready_message(state: &State) -> Ready {
    Ready {
        event: "ready",
        conninfo: state.conninfo.clone(),
        target: state.target.clone(),
        backup: state.backup.clone(),
        port: state.port,
        pid: state.pid,
        server_pid: state.server_pid,
    }
}

/// The settings that `up` would start PostgreSQL with, and its programs'
/// directory.
///
/// # Errors
/// What would keep the server from starting, as far as it can be seen before.
pub fn preview_server(plan: &Plan, chain: &Chain) -> Result<(PathBuf, Vec<Setting>), SessionError> {
    let preparation = Preparation::new(plan, chain)?;
    let settings = preparation.preview(plan, &Place::of(&plan.target))?;
    Ok((preparation.binaries.dir, settings))
}

fn set_phase(place: &HeldPlace, state: &Rc<RefCell<State>>, phase: Phase) {
    state.borrow_mut().phase = phase;
    // Only `status` would have shown it.
    if let Err(error) = state.borrow().write(place) {
        tracing::debug!("{error}");
    }
}

fn stop(server: &SharedServer, patience: Duration, signals: &Signals) -> Result<(), SessionError> {
    let mode = if signals.hurry() {
        StopMode::Immediate
    } else {
        StopMode::Fast
    };
    let mut server = server.borrow_mut();
    if server.try_wait()?.is_some() {
        return Ok(());
    }
    let stopped = server.stop(mode, patience, &|| signals.hurry())?;
    if stopped.is_clean() {
        tracing::info!("PostgreSQL was stopped");
    } else {
        tracing::warn!(
            "PostgreSQL did not stop cleanly ({}); it will recover at the next start",
            stopped.status
        );
    }
    Ok(())
}

/// Unmounts; if others keep files open, takes the mount out of the tree, so
/// that at least nobody new enters.
fn unmount(mount: &SharedMount, signals: &Signals) -> Result<(), SessionError> {
    let patience = if signals.hurry() {
        Duration::ZERO
    } else {
        UNMOUNT_PATIENCE
    };
    let mut mount = mount.borrow_mut();
    match mount.unmount(patience) {
        Err(error @ FuseError::Busy { .. }) => {
            tracing::warn!("{error}; it was detached, and ends for them now");
            Ok(mount.detach()?)
        }
        other => Ok(other?),
    }
}

/// Who owns the files of the image: whom PostgreSQL runs as.
fn owner(plan: &Plan) -> Result<(u32, u32), SessionError> {
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    if !geteuid().is_root() {
        return Ok((uid, gid));
    }
    match OsUser::find(&plan.postgres.user) {
        Ok(user) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Err(_) if !plan.postgres.launch => Ok((uid, gid)),
        Err(e) => Err(e.into()),
    }
}

/// `PG_15_202209061`: PostgreSQL's `TABLESPACE_VERSION_DIRECTORY`.
fn tablespace_version_dir(image: &Image, chain: &Chain) -> Result<String, SessionError> {
    let path = Path::new("global/pg_control");
    let mut bytes = vec![0; 8192];
    let node = image.find(path).ok_or_else(|| {
        SessionError::io(
            "find in the backup",
            path,
            std::io::ErrorKind::NotFound.into(),
        )
    })?;
    let n = image.read_at(node, 0, &mut bytes)?;
    bytes.truncate(n);
    let control = ControlFile::parse(&bytes)?;
    let version = &chain.target().server_version;
    Ok(format!("PG_{version}_{}", control.catalog_version_no))
}

/// A directory beside the target, on the same disk most likely; the clone's
/// writes can be large, so it is not for /run or /tmp.
fn throw_away_dir(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let name = format!(".{name}.pbkfs-{}", std::process::id());
    let beside = target.parent().unwrap_or(Path::new("/"));
    let writable = nix::unistd::access(beside, nix::unistd::AccessFlags::W_OK).is_ok();
    if writable {
        beside.join(name)
    } else {
        Path::new("/var/tmp").join(name)
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Commits names and gives freed space back, every few seconds.
struct Flusher {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flusher {
    fn start(overlay: Arc<Overlay<Image>>) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let flush = move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(FLUSH)
            {
                if let Err(error) = overlay.sync_periodically() {
                    tracing::error!("cannot save the diff's names: {error}");
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("flusher".to_owned())
            .spawn(flush)
            .ok();
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        if let Some(thread) = self.thread {
            // It ends by itself; a panic in it was printed already.
            let _ = thread.join();
        }
    }
}
