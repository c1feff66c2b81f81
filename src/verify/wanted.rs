//! What a verification is done with.

use std::path::Path;

use super::history::ProfileId;
use crate::profile::Plan;
use crate::session::Signals;

/// What a run is done with.
pub struct Verify<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// Whether only the pages are looked at, whatever else the profile asks for.
    pub partial: bool,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// Told what is being done, with how many bytes of how many are read.
    pub progress: &'a dyn Fn(&str, u64, u64),
}

impl Verify<'_> {
    /// The name by which reports call the profile.
    #[must_use]
    pub fn name(&self) -> String {
        let stem = self.profile.and_then(Path::file_stem);
        stem.map_or_else(
            || self.plan.instance.clone(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    }

    /// The profile, as the history knows it. What is no file, as a pipe is, has another
    /// path each time.
    #[must_use]
    pub fn id(&self) -> ProfileId {
        let path = self.profile.and_then(|path| path.canonicalize().ok());
        ProfileId {
            name: self.name(),
            path: path.filter(|path| path.is_file()),
        }
    }
}
