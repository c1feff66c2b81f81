//! PostgreSQL on the mount: what can be checked before, and the start.

use std::fs;
use std::path::Path;

use super::place::Place;
use super::{SessionError, Signals, status};
use crate::chain::Chain;
use crate::profile::Plan;
use crate::server::{
    Binaries, Conf, ConfigFiles, FenceInput, FilesInput, OsUser, Server, ServerConfig, Setting,
    fence, files, port, preload,
};

/// What the server needs that can be found before anything is mounted.
#[derive(Debug)]
pub struct Preparation {
    pub binaries: Binaries,
    pub run_as: Option<OsUser>,
    major: u32,
}

impl Preparation {
    /// Finds programs and user, and refuses what cannot start.
    pub fn new(plan: &Plan, chain: &Chain) -> Result<Self, SessionError> {
        let target = chain.target();
        if !target.stream {
            return Err(SessionError::NeedsArchive {
                backup: target.id.to_string(),
            });
        }
        // `Chain::resolve` refuses a version that is no number.
        let major = target.server_major().unwrap_or_default();
        let binaries = Binaries::find(major, plan.postgres.bin_dir.as_deref())?;
        let run_as = OsUser::for_server(&plan.postgres.user)?;
        Ok(Self {
            binaries,
            run_as,
            major,
        })
    }

    /// The settings that a server would be started with, from what is known
    /// without the mount. The backup's own list of preloaded libraries is
    /// looked at only when it starts.
    pub fn preview(&self, plan: &Plan, place: &Place) -> Result<Vec<Setting>, SessionError> {
        let socket_dir = socket_dir(plan, place);
        let files = ConfigFiles::paths(&self.files_input(plan, place.dir(), true));
        Ok(fence::settings(&FenceInput {
            major: self.major,
            data_directory: &plan.target,
            files: &files,
            socket_dir: &socket_dir,
            port: choose_port(plan, &socket_dir)?,
            name: &session_name(plan),
            restore_command: None,
            recovery_target: &[],
            preload: &[],
            user: &plan.postgres.settings,
        })?)
    }

    /// Starts the server on the mounted target and waits until it answers.
    /// The calling thread must live as long as the process.
    pub fn start(
        &self,
        plan: &Plan,
        place: &Place,
        started: &mut dyn FnMut(Server) -> SharedServer,
        signals: &Signals,
    ) -> Result<(), SessionError> {
        let conf = Conf::read(&plan.target)?;
        for missing in &conf.missing_includes {
            tracing::warn!(
                "the backup's configuration includes {}, which is not there; \
                 PostgreSQL will not start without it",
                missing.display()
            );
        }
        let config = self.config(plan, place, &conf)?;
        let server = started(Server::start(config)?);
        let ready = server
            .borrow_mut()
            .wait_ready(plan.postgres.start_timeout, &|| signals.end_asked());
        match ready {
            Err(crate::server::ServerError::Interrupted) => Err(SessionError::Interrupted),
            other => Ok(other?),
        }
    }

    fn config(
        &self,
        plan: &Plan,
        place: &Place,
        conf: &Conf,
    ) -> Result<ServerConfig, SessionError> {
        let run_as = self.run_as.as_ref();
        let socket_dir = socket_dir(plan, place);
        if plan.postgres.socket_dir.is_none() {
            fs::create_dir(&socket_dir)
                .map_err(|e| SessionError::io("make the directory", &socket_dir, e))?;
            files::hand_over(&socket_dir, run_as)?;
        }
        let config_files =
            ConfigFiles::write(&self.files_input(plan, place.dir(), conf.has_main_file))?;
        let port = choose_port(plan, &socket_dir)?;
        let preload = match self.binaries.pkglibdir() {
            Some(pkglibdir) => preload::filter(conf, &pkglibdir),
            None => Vec::new(),
        };
        for dropped in preload.iter().flat_map(|list| &list.dropped) {
            tracing::warn!(
                "the library {} is not loaded: {}",
                dropped.library,
                dropped.reason
            );
        }
        let settings = fence::settings(&FenceInput {
            major: self.major,
            data_directory: &plan.target,
            files: &config_files,
            socket_dir: &socket_dir,
            port,
            name: &session_name(plan),
            restore_command: None,
            recovery_target: &[],
            preload: &preload,
            user: &plan.postgres.settings,
        })?;
        Ok(ServerConfig {
            binaries: self.binaries.clone(),
            data_directory: plan.target.clone(),
            settings,
            log_file: place.server_log(),
            socket_dir,
            port,
            role: plan.postgres.role.clone(),
            run_as: self.run_as.clone(),
        })
    }

    fn files_input<'a>(
        &'a self,
        plan: &'a Plan,
        run_dir: &'a Path,
        has_main_file: bool,
    ) -> FilesInput<'a> {
        FilesInput {
            run_dir,
            has_main_file,
            major: self.major,
            role: &plan.postgres.role,
            listens: !listen_addresses(plan).is_empty(),
            run_as: self.run_as.as_ref(),
        }
    }
}

fn choose_port(plan: &Plan, socket_dir: &Path) -> Result<u16, SessionError> {
    let others: Vec<u16> = status::all()?
        .iter()
        .filter_map(|session| session.state.port)
        .collect();
    Ok(port::choose(
        plan.postgres.port,
        socket_dir,
        listen_addresses(plan),
        &others,
    )?)
}

/// A running server, shared by who watches it and who stops it.
pub type SharedServer = std::rc::Rc<std::cell::RefCell<Server>>;

fn socket_dir(plan: &Plan, place: &Place) -> std::path::PathBuf {
    plan.postgres
        .socket_dir
        .clone()
        .unwrap_or_else(|| place.socket_dir())
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
