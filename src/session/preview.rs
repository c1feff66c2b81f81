//! What `up` would start, determined in advance for `plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::image::Image;
use crate::overlay::Overlay;
use crate::profile::{LockBackups, Plan};
use crate::server::settings::forced;
use crate::server::{LeftOut, OsUser, Setting};
use crate::session::clone::StartingClone;
use crate::session::fence::{FenceLevel, Hazard, hazards};
use crate::session::place::canonical;
use crate::session::steps::needs::ServerNeeds;
use crate::session::steps::resolve::Resolved;
use crate::session::steps::{image, layers, settings, target};
use crate::session::{SessionError, backup_conf, locks};

/// What is known about a server before it is started.
#[derive(Debug)]
pub struct ServerPreview {
    /// The directory of its programs.
    pub bin_dir: PathBuf,
    /// The settings that it would be started with.
    pub settings: Vec<Setting>,
    /// The recovery target.
    pub recovery_target: Option<String>,
    /// What recovery could reach.
    pub recoverable: Option<String>,
    /// The values of these settings in the backup's own configuration, by name.
    pub backed_up: BTreeMap<String, String>,
    /// The parts of that configuration that cannot work here.
    pub left_out: Vec<LeftOut>,
    /// The level that the fence would have.
    pub level: FenceLevel,
    /// The hazards that the fence has to stop.
    pub hazards: Vec<Hazard>,
}

/// Returns what would keep `up` from mounting, as far as that can be seen in advance.
/// It makes the same checks in the same order, but creates nothing, and locks only a
/// used diff, for as long as it takes to read it.
#[must_use]
pub fn obstacles(plan: &Plan, resolved: &Resolved) -> Vec<SessionError> {
    let target = canonical(&plan.target);
    let owner = target::owner(plan);
    let safe = owner.and_then(|owner| target::check_safe(&plan.target, owner));
    let unlocked = match plan.lock_backups {
        _ if resolved.kept => Ok(()),
        LockBackups::Never => Ok(()),
        _ => locks::look(&resolved.chain.dirs()),
    };
    let layers = image::open_image(plan, &resolved.chain).and_then(|image| {
        layers::check_diff(plan, &image, resolved)?;
        image::check_files(plan, &image)
    });
    let found = [target::check(&target).map(drop), safe, unlocked, layers];
    found.into_iter().filter_map(Result::err).collect()
}

/// Returns the settings in a clone's own configuration that its server was not given
/// because pbkfs decides them, by name. `overlay` is the clone's tree.
///
/// # Errors
/// If its configuration cannot be read.
pub fn overridden(
    plan: &Plan,
    resolved: &Resolved,
    overlay: &Overlay<Image>,
) -> Result<BTreeMap<String, String>, SessionError> {
    let major = resolved.chain.target().server_major().unwrap_or_default();
    let user = OsUser::for_server(&plan.postgres.user).ok().flatten();
    let conf = StartingClone::new(plan, overlay, user.as_ref()).conf()?;
    let found = forced(major).filter_map(|name| {
        let value = conf.get(name)?;
        Some((name.to_owned(), value.to_owned()))
    });
    Ok(found.collect())
}

/// Returns what `up` would start.
///
/// # Errors
/// If anything would keep the server from starting, as far as that can be seen in advance.
pub fn preview_server(plan: &Plan, resolved: &Resolved) -> Result<ServerPreview, SessionError> {
    let needs = ServerNeeds::find(plan, resolved)?;
    let image = image::open_image(plan, &resolved.chain)?;
    let conf = backup_conf::read(&image, needs.run_as.as_ref())?;
    let mut taken = conf.clone();
    taken.leave_out_refused(&needs.binaries, needs.run_as.as_ref())?;
    let settings = settings::preview(plan, &needs, &image, &conf)?;
    let hazards = hazards::find(&image, &conf, &needs, plan, &settings)?;
    let recovery = needs.recovery.as_ref();
    let of_backup = |setting: &Setting| {
        let value = conf.get(&setting.name)?;
        Some((setting.name.clone(), value.to_owned()))
    };
    Ok(ServerPreview {
        backed_up: settings.iter().filter_map(of_backup).collect(),
        settings,
        left_out: taken.left_out,
        recovery_target: recovery.map(|recovery| recovery.target.to_string()),
        recoverable: recovery.map(|recovery| recovery.holds().to_string()),
        bin_dir: needs.binaries.dir,
        level: needs.level,
        hazards,
    })
}
