//! Arguments and functions shared by the subcommands.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::causes;
pub use crate::causes::sentence;
use crate::cli::exit::Code;
pub use crate::escape::value;
pub use crate::figures::human_bytes;
use crate::profile::{MomentText, Origin, Plan, Profile};
use crate::session::SessionError;

/// The settings of the host, which every profile overrides.
pub const SYSTEM_CONFIG: &str = "/etc/pbkfs/config.toml";

/// A profile, and changes to it.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// The profile, a TOML file
    pub profile: Option<PathBuf>,
    /// Set a key of the profile, as in --set postgres.port=5433
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// The time to recover a clone to, instead of the profile's target.
#[derive(Debug, Clone, Copy, Args)]
pub struct At {
    /// Recover to this time, as in --at "2026-11-22 14:32:00+00"; if the backup is
    /// "latest", use the newest one that ended before it
    #[arg(long, value_name = "TIME")]
    pub at: Option<MomentText>,
}

impl At {
    /// Overrides the recovery target of the profile.
    pub fn apply(self, profile: &mut Profile) {
        if let Some(time) = self.at {
            profile.recover_to(time, Origin::Command("--at"));
        }
    }
}

impl ProfileArgs {
    /// Returns whether nothing is set: no profile, no key, nothing in the settings of
    /// the host, and nothing in the environment.
    pub fn is_empty(&self) -> Result<bool, SessionError> {
        Ok(self.profile.is_none() && self.given()?.is_empty())
    }

    /// Returns the values that are set, merged from all layers.
    pub fn given(&self) -> Result<Profile, SessionError> {
        let profile = self.profile.as_deref();
        Ok(Profile::load(
            profile,
            &self.sets,
            Path::new(SYSTEM_CONFIG),
        )?)
    }

    /// Returns the profile, merged and checked.
    pub fn plan(&self) -> Result<Plan, SessionError> {
        Ok(self.given()?.plan()?)
    }

    /// Like [`Self::plan`], but recovers to a time if one is given.
    pub fn plan_at(&self, at: At) -> Result<Plan, SessionError> {
        let mut profile = self.given()?;
        at.apply(&mut profile);
        Ok(profile.plan()?)
    }
}

/// Splits a text into lines of at most `width` characters, unless a word is longer.
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

/// Prints an error for people, with the end of the server's log if that explains it, and
/// returns the exit code.
pub fn report(error: &SessionError) -> Code {
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
    Code::of(error)
}
