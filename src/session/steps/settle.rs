//! What is settled about a clone before it is mounted.

use super::needs::ServerNeeds;
use crate::image::Image;
use crate::overlay::Overlay;
use crate::profile::Plan;
use crate::server::Conf;
use crate::session::SessionError;
use crate::session::clone::StartingClone;
use crate::session::recovery::{Recovery, limits, recovered};

/// What is settled about a clone before it is mounted.
pub struct Settled<'a> {
    /// Its files.
    pub clone: StartingClone<'a>,
    /// The configuration as it is in the clone.
    pub conf: Conf,
    /// The part of it that the server accepts.
    pub taken: Conf,
    /// The recovery that the server will perform.
    pub recovery: Option<&'a Recovery>,
    /// The limits that the recovery requires.
    pub least: Vec<(&'static str, i32)>,
}

impl<'a> Settled<'a> {
    /// Reads what the clone itself says about its server, and prepares it for the
    /// requested recovery. Must be called before the mount: the kernel would not learn
    /// of changes made here.
    ///
    /// # Errors
    /// If one of its files cannot be read or written, or if the recovery
    /// is no longer possible.
    pub fn new(
        plan: &'a Plan,
        needs: &'a ServerNeeds,
        overlay: &'a Overlay<Image>,
    ) -> Result<Self, SessionError> {
        let user = needs.run_as.as_ref();
        let clone = StartingClone::new(plan, overlay, user);
        let conf = clone.conf()?;
        let mut taken = conf.clone();
        taken.leave_out_refused(&needs.binaries, user)?;
        taken.tell_left_out();
        clone.leave_out_of_auto_file(&taken)?;
        let recovery = recovered::begin(&clone, needs.recovery.as_ref())?;
        let mut least = Vec::new();
        if recovery.is_some() {
            let user = &plan.postgres.settings;
            least.extend(limits::least(&clone.control_file()?, &conf, user));
        }
        Ok(Self {
            clone,
            conf,
            taken,
            recovery,
            least,
        })
    }
}
