//! The session that a subcommand works on: the one on a target, or the one of a
//! profile.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::common::{ProfileArgs, value};
use crate::cli::source::absolute;
use crate::profile::Plan;
use crate::session::{self, SessionError};

/// A session.
#[derive(Debug, Args)]
pub struct SessionArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// The mount point of the clone, instead of a profile
    #[arg(short = 'D', long, value_name = "DIR", conflicts_with_all = ["profile", "sets"])]
    target: Option<PathBuf>,
}

impl SessionArgs {
    /// Returns whether one session is requested rather than all.
    pub fn names_one(&self) -> bool {
        self.target.is_some() || self.profile.profile.is_some()
    }

    /// Returns whether nothing was given that could name a session.
    pub fn is_empty(&self) -> Result<bool, SessionError> {
        Ok(self.target.is_none() && self.profile.is_empty()?)
    }

    /// Returns the profile's current plan; `None` if a target was given instead.
    pub fn plan(&self) -> Option<Result<Plan, SessionError>> {
        self.target.is_none().then(|| self.profile.plan())
    }

    /// Returns the target of the session. If nothing is on the target that the
    /// profile names, or it names none, this is the target of the clone that was
    /// started with the profile.
    pub fn target(
        &self,
        plan: Option<Result<Plan, SessionError>>,
    ) -> Result<PathBuf, SessionError> {
        let planned = match (&self.target, plan) {
            (Some(target), _) => return absolute(target),
            (None, Some(plan)) => plan.map(|plan| plan.target),
            (None, None) => self.profile.plan().map(|plan| plan.target),
        };
        let Some(profile) = &self.profile.profile else {
            return planned;
        };
        if let Ok(target) = &planned
            && (session::is_mounted(target) || session::session_of(target)?.is_some())
        {
            return planned;
        }
        let begun = session::sessions_of_profile(profile)?;
        match begun.as_slice() {
            [] => planned,
            [only] => {
                tell(profile, planned.as_deref().ok(), &only.state.target);
                Ok(only.state.target.clone())
            }
            several => {
                let targets = several.iter().map(|session| &session.state.target);
                let targets: Vec<_> = targets.map(|target| value(target).into_owned()).collect();
                let message = format!(
                    "{} was used to start clones on {}; name one of them with --target DIR",
                    value(profile),
                    targets.join(" and ")
                );
                Err(SessionError::Usage { message })
            }
        }
    }
}

fn tell(profile: &Path, planned: Option<&Path>, found: &Path) {
    let profile = value(profile);
    let says = match planned {
        Some(target) => format!("names {}", value(target)),
        None => "cannot be used".to_owned(),
    };
    complain!(
        "pbkfs: {profile} {says} now; the clone that was started with it is on {}",
        value(found)
    );
}
