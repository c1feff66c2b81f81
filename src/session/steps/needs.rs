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
    /// The user that it runs as, if not our own.
    pub run_as: Option<OsUser>,
    /// The recovery that it performs before it answers, if any.
    pub recovery: Option<Recovery>,
    /// The level of the fence.
    pub level: FenceLevel,
    /// Where production's files are.
    pub production: Production,
}

impl ServerNeeds {
    /// Finds the programs and the user, and refuses what cannot start.
    ///
    /// # Errors
    /// If the programs, the user, the fence or the WAL are not available as
    /// the plan wants them.
    pub fn find(plan: &Plan, resolved: &Resolved) -> Result<Self, SessionError> {
        // `Chain::resolve` refuses a version that is not a number.
        let major = resolved.chain.target().server_major().unwrap_or_default();
        check_bin_dir(plan)?;
        let binaries = Binaries::find(major, plan.postgres.bin_dir.as_deref())?;
        binaries.check_settings(&plan.postgres.settings)?;
        let run_as = OsUser::for_server(&plan.postgres.user)?;
        // A diff that has all of the backup was past its recovery by then.
        let recovery = match resolved.kept {
            true => None,
            false => Recovery::plan(plan, resolved)?,
        };
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

    /// Returns whether the server can most likely reach a directory in the diff. A
    /// server in namespaces has it there. Without them, root's server, which runs as
    /// another user, cannot always reach it.
    #[must_use]
    pub fn reaches_diff(&self) -> bool {
        self.level.is_namespace() || self.run_as.is_none()
    }

    /// Returns whether the mount will most likely use passthrough.
    #[must_use]
    pub fn expects_passthrough(&self, plan: &Plan) -> bool {
        !self.reaches_diff() && passthrough(plan)
    }

    /// Returns the library lists that have to be changed.
    ///
    /// # Errors
    /// If looking for a library fails.
    pub fn preload(&self, conf: &Conf) -> Result<Vec<preload::Preload>, SessionError> {
        let Some(pkglibdir) = self.binaries.pkglibdir() else {
            return Ok(Vec::new());
        };
        let rights = self.run_as.as_ref().map(OsUser::rights);
        Ok(preload::filter(conf, &pkglibdir, rights.as_ref())?)
    }
}

/// Returns whether the kernel may serve files of the diff by itself, when WAL is
/// written through the mount. When it is not, it is better for the kernel to gather
/// writes, which excludes passthrough.
pub fn passthrough(plan: &Plan) -> bool {
    plan.fuse.passthrough == Passthrough::Auto && may_pass_through()
}

/// Checks the given directory: one that does not exist is a mistake in the profile,
/// rather than a directory without the programs.
fn check_bin_dir(plan: &Plan) -> Result<(), SessionError> {
    match &plan.postgres.bin_dir {
        Some(dir) if !dir.is_dir() => {
            let reason = format!("{} is not a directory", dir.display());
            Err(ProfileError::wrong("postgres.bin_dir", reason).into())
        }
        _ => Ok(()),
    }
}
