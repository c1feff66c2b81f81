//! What a server needs that can be found before anything is mounted.

use super::resolve::Resolved;
use crate::fuse::may_pass_through;
use crate::profile::{Passthrough, Plan, ProfileError};
use crate::server::settings::preload;
use crate::server::{Binaries, Conf, OsUser};
use crate::session::SessionError;
use crate::session::fence::{FenceLevel, Production};
use crate::session::recovery::Recovery;

/// What a server needs besides its data directory.
#[derive(Debug)]
pub struct ServerNeeds {
    /// The major version.
    pub major: u32,
    /// Its programs.
    pub binaries: Binaries,
    /// Whom it runs as, if that is another user.
    pub run_as: Option<OsUser>,
    /// The recovery before it answers, if there is to be one.
    pub recovery: Option<Recovery>,
    /// What the fence is made of.
    pub level: FenceLevel,
    /// Where production is.
    pub production: Production,
}

impl ServerNeeds {
    /// Finds programs and user, and refuses what cannot start.
    ///
    /// # Errors
    /// Programs, user, fence or WAL cannot be had as the plan wants them.
    pub fn find(plan: &Plan, resolved: &Resolved) -> Result<Self, SessionError> {
        // `Chain::resolve` refuses a version that is no number.
        let major = resolved.chain.target().server_major().unwrap_or_default();
        check_bin_dir(plan)?;
        let binaries = Binaries::find(major, plan.postgres.bin_dir.as_deref())?;
        binaries.check_settings(&plan.postgres.settings)?;
        let run_as = OsUser::for_server(&plan.postgres.user)?;
        let recovery = Recovery::plan(plan, resolved)?;
        if let Some(recovery) = &recovery {
            recovery.check_command(run_as.as_ref())?;
        }
        Ok(Self {
            major,
            binaries,
            run_as,
            recovery,
            level: FenceLevel::find(plan)?,
            production: Production::of(resolved),
        })
    }

    /// Whether the server most likely reaches a directory in the diff. One in
    /// namespaces gets it shown. Without them root's server, which runs as another
    /// user, does not always.
    #[must_use]
    pub fn reaches_diff(&self) -> bool {
        self.level.is_namespace() || self.run_as.is_none()
    }

    /// Whether the mount will most likely pass through.
    #[must_use]
    pub fn expects_passthrough(&self, plan: &Plan) -> bool {
        !self.reaches_diff() && passthrough(plan)
    }

    /// The lists of libraries that have to be changed.
    ///
    /// # Errors
    /// A library cannot be looked for.
    pub fn preload(&self, conf: &Conf) -> Result<Vec<preload::Preload>, SessionError> {
        let Some(pkglibdir) = self.binaries.pkglibdir() else {
            return Ok(Vec::new());
        };
        let rights = self.run_as.as_ref().map(OsUser::rights);
        Ok(preload::filter(conf, &pkglibdir, rights.as_ref())?)
    }
}

/// Whether the kernel may serve files of the diff by itself, where WAL is
/// written through the mount. Where it is not, the kernel does better to gather
/// writes, which excludes the other.
pub fn passthrough(plan: &Plan) -> bool {
    plan.fuse.passthrough == Passthrough::Auto && may_pass_through()
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
