//! What the subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::causes;
pub use crate::causes::sentence;
pub use crate::escape::value;
pub use crate::figures::human_bytes;
use crate::profile::{MomentText, Origin, Plan, Profile};
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
            profile.recover_to(time, Origin::Command("--at"));
        }
    }
}

impl ProfileArgs {
    /// Whether nobody set anything: no profile, no key, and nothing in the settings
    /// of the host and in the environment.
    pub fn is_empty(&self) -> Result<bool, SessionError> {
        Ok(self.profile.is_none() && self.given()?.is_empty())
    }

    /// What somebody set, merged from all layers.
    pub fn given(&self) -> Result<Profile, SessionError> {
        let profile = self.profile.as_deref();
        Ok(Profile::load(
            profile,
            &self.sets,
            Path::new(SYSTEM_CONFIG),
        )?)
    }

    /// The profile, merged and checked.
    pub fn plan(&self) -> Result<Plan, SessionError> {
        Ok(self.given()?.plan()?)
    }

    /// The same, but recovering to a time, if one is given.
    pub fn plan_at(&self, at: At) -> Result<Plan, SessionError> {
        let mut profile = self.given()?;
        at.apply(&mut profile);
        Ok(profile.plan()?)
    }
}

/// A text in lines of so many characters at most, where its words permit that.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
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
