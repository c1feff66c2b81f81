//! What the subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::causes;
pub use crate::causes::sentence;
pub use crate::escape::value;
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

/// A number of bytes for people: `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{size:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 40), "5.0 TiB");
    }
}
