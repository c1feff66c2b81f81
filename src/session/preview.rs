//! What `up` would start, told before anything is: for `plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::profile::{LockBackups, Plan};
use crate::server::{LeftOut, Setting};
use crate::session::fence::{FenceLevel, Hazard, hazards};
use crate::session::place::canonical;
use crate::session::steps::needs::ServerNeeds;
use crate::session::steps::resolve::Resolved;
use crate::session::steps::{image, layers, settings, target};
use crate::session::{SessionError, backup_conf, locks};

/// What can be said of a server before it is started.
#[derive(Debug)]
pub struct ServerPreview {
    /// Where its programs are.
    pub bin_dir: PathBuf,
    /// The settings that it would be started with.
    pub settings: Vec<Setting>,
    /// The recovery target.
    pub recovery_target: Option<String>,
    /// What recovery could reach.
    pub recoverable: Option<String>,
    /// What the backup's own configuration has for them, by name.
    pub backed_up: BTreeMap<String, String>,
    /// What of that configuration cannot work here.
    pub left_out: Vec<LeftOut>,
    /// What the fence would be made of.
    pub level: FenceLevel,
    /// What it has to stop.
    pub hazards: Vec<Hazard>,
}

/// What would keep `up` from mounting, as far as it can be seen before: the same
/// looks in the same order, but nothing is made, and only a used diff is locked
/// for the moment in which it is read.
#[must_use]
pub fn obstacles(plan: &Plan, resolved: &Resolved) -> Vec<SessionError> {
    let target = canonical(&plan.target);
    let owner = target::owner(plan);
    let safe = owner.and_then(|owner| target::check_safe(&plan.target, owner));
    let unlocked = match plan.lock_backups {
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

/// What `up` would start.
///
/// # Errors
/// What would keep the server from starting, as far as it can be seen before.
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
