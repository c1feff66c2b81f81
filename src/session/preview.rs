//! What `up` would start, told before anything is: for `plan`.

use std::path::PathBuf;

use super::fence::{FenceLevel, Hazard};
use super::place::Place;
use super::postgres::Preparation;
use super::resolve::Resolved;
use super::{SessionError, hazards, layers};
use crate::profile::Plan;
use crate::server::Setting;

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
    /// What the fence would be made of.
    pub level: FenceLevel,
    /// What it has to stop.
    pub hazards: Vec<Hazard>,
}

/// What `up` would start.
///
/// # Errors
/// What would keep the server from starting, as far as it can be seen before.
pub fn preview_server(plan: &Plan, resolved: &Resolved) -> Result<ServerPreview, SessionError> {
    let preparation = Preparation::new(plan, resolved)?;
    let image = layers::open_image(plan, &resolved.chain)?;
    let conf = hazards::configuration(&image, preparation.run_as.as_ref())?;
    let settings = preparation.preview(plan, &Place::of(&plan.target), &image, &conf)?;
    let hazards = hazards::find(&image, &conf, &preparation, plan, &settings)?;
    let recovery = preparation.recovery.as_ref();
    Ok(ServerPreview {
        settings,
        recovery_target: recovery.map(|recovery| recovery.target.to_string()),
        recoverable: recovery.map(|recovery| recovery.holds().to_string()),
        bin_dir: preparation.binaries.dir,
        level: preparation.level,
        hazards,
    })
}
