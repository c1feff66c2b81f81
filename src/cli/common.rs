//! What the subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::causes;
pub use crate::causes::sentence;
pub use crate::escape::value;
pub use crate::figures::human_bytes;
use crate::profile::{self, MomentText, Plan, Profile};
use crate::session::SessionError;

/// Settings of the host, below every profile.
pub const SYSTEM_CONFIG: &str = "/etc/pbkfs/config.toml";

/// Which profile, and what is changed of it.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// The profile, a TOML file
    pub profile: Option<PathBuf>,
    /// Set a key of the profile, as in --set postgres.port=5433
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// The time that a clone is recovered to, instead of the profile's target.
#[derive(Debug, Clone, Copy, Args)]
pub struct At {
    /// Recover to that time, as in --at "2026-11-22 14:32:00+00"; where the
    /// backup is "latest", the newest that ended before it is taken
    #[arg(long, value_name = "TIME")]
    pub at: Option<MomentText>,
}

impl At {
    /// Over the profile.
    pub fn apply(self, profile: &mut Profile) {
        if let Some(time) = self.at {
            profile.recovery.set_time(time);
        }
    }
}

impl ProfileArgs {
    /// Whether nobody set anything: no profile, no key, and nothing in the settings
    /// of the host and in the environment.
    pub fn is_empty(&self) -> Result<bool, SessionError> {
        Ok(self.profile.is_none() && self.given()? == Profile::default())
    }

    /// What somebody set, without the defaults.
    pub fn given(&self) -> Result<Profile, SessionError> {
        let profile = self.profile.as_deref();
        Ok(profile::load_given(
            profile,
            &self.sets,
            Path::new(SYSTEM_CONFIG),
        )?)
    }

    /// The profile, merged from all its layers.
    pub fn load(&self) -> Result<Profile, SessionError> {
        let profile = self.profile.as_deref();
        Ok(profile::load(
            profile,
            &self.sets,
            Path::new(SYSTEM_CONFIG),
        )?)
    }

    /// The profile, merged and checked.
    pub fn plan(&self) -> Result<Plan, SessionError> {
        Ok(Plan::check(&self.load()?)?)
    }

    /// The same, but recovering to a time, if one is given.
    pub fn plan_at(&self, at: At) -> Result<Plan, SessionError> {
        let mut profile = self.load()?;
        at.apply(&mut profile);
        Ok(Plan::check(&profile)?)
    }
}

/// Prints an error for a person, with the end of the server's log where that
/// explains it.
pub fn report(error: &SessionError) {
    let quoted = error.quoted();
    for (at, line) in causes::lines(error, quoted.as_deref()).iter().enumerate() {
        let prefix = if at == 0 { "pbkfs: " } else { "" };
        complain!("{prefix}{line}");
    }
    if let Some(log) = error.log().filter(|log| !log.lines.is_empty()) {
        complain!("the last lines of PostgreSQL's log:");
        for line in &log.lines {
            complain!("    {line}");
        }
    }
}
