//! The settings that a clone's server is started with, for both `plan` and `up`.

use std::path::{Path, PathBuf};

use super::image::control_file;
use super::needs::ServerNeeds;
use crate::image::Image;
use crate::profile::{Plan, Port};
use crate::server::settings::port;
use crate::server::settings::preload::Preload;
use crate::server::{Conf, ConfigFiles, FilesInput, Setting, SettingsInput, settings};
use crate::session::SessionError;
use crate::session::outside::status;
use crate::session::place::Place;
use crate::session::recovery::{Recovery, limits};

/// What determines a server's settings.
pub struct ServerSettings<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// What the server needs.
    pub needs: &'a ServerNeeds,
    /// The session's directory.
    pub place: &'a Place,
    /// The recovery that it will perform.
    pub recovery: Option<&'a Recovery>,
    /// The limits that the recovery requires.
    pub least: &'a [(&'static str, i32)],
    /// The library lists that have to be changed.
    pub preload: &'a [Preload],
    /// Whether the mount uses passthrough.
    pub passthrough: bool,
}

impl ServerSettings<'_> {
    /// Returns all settings, for a server with these files and this port.
    ///
    /// # Errors
    /// If the restore_command cannot be composed, or if the profile has a setting
    /// that it may not set.
    pub fn all(&self, files: &ConfigFiles, port: u16) -> Result<Vec<Setting>, SessionError> {
        let plan = self.plan;
        let command = self.recovery.map(|r| r.command(self.place)).transpose()?;
        let target = self.recovery.map(Recovery::settings).unwrap_or_default();
        Ok(settings::all(&SettingsInput {
            major: self.needs.major,
            data_directory: &plan.target,
            files,
            socket_dir: &socket_dir(plan, self.place),
            port,
            name: &session_name(plan),
            restore_command: command.as_deref(),
            recovery_target: &target,
            limits: self.least,
            preload: self.preload,
            passthrough: self.passthrough,
            throw_away: plan.diff_dir.is_none(),
            user: &plan.postgres.settings,
            allow: &plan.fence.allow,
        })?)
    }
}

/// Returns the settings that a server would be started with, from what is
/// known without the mount.
///
/// # Errors
/// If [`ServerSettings::all`] fails, or if the backup's control file cannot be read.
pub fn preview(
    plan: &Plan,
    needs: &ServerNeeds,
    image: &Image,
    conf: &Conf,
) -> Result<Vec<Setting>, SessionError> {
    let place = Place::of(&plan.target);
    let mut least = Vec::new();
    if needs.recovery.is_some() {
        let user = &plan.postgres.settings;
        least.extend(limits::least(&control_file(image)?, conf, user));
    }
    let of_server = ServerSettings {
        plan,
        needs,
        place: &place,
        recovery: needs.recovery.as_ref(),
        least: &least,
        preload: &needs.preload(conf)?,
        passthrough: needs.expects_passthrough(plan),
    };
    let files = ConfigFiles::paths(&files_input(plan, needs, place.dir(), conf));
    of_server.all(&files, choose_port(plan, &socket_dir(plan, &place))?)
}

/// Returns what the server's configuration files are created from.
pub fn files_input<'a>(
    plan: &'a Plan,
    needs: &'a ServerNeeds,
    run_dir: &'a Path,
    conf: &'a Conf,
) -> FilesInput<'a> {
    FilesInput {
        run_dir,
        conf,
        major: needs.major,
        role: &plan.postgres.role,
        listens: !listen_addresses(plan).is_empty(),
        run_as: needs.run_as.as_ref(),
    }
}

/// Chooses a port that no other clone has.
///
/// # Errors
/// If the profile's port is taken, or if none is free.
pub fn choose_port(plan: &Plan, socket_dir: &Path) -> Result<u16, SessionError> {
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

/// Returns the directory of the server's socket.
pub fn socket_dir(plan: &Plan, place: &Place) -> PathBuf {
    let named = plan.postgres.socket_dir.clone();
    named.unwrap_or_else(|| place.socket_dir())
}

fn listen_addresses(plan: &Plan) -> &str {
    plan.postgres
        .settings
        .get("listen_addresses")
        .map_or("", String::as_str)
}

/// Returns the name of the clone, for `cluster_name`.
fn session_name(plan: &Plan) -> String {
    plan.target
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
