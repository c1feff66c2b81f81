//! The input of a verification.

use std::path::Path;

use super::history::ProfileId;
use crate::profile::Plan;
use crate::session::Signals;

/// The input of a run.
pub struct Verify<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// Whether only the pages are checked, whatever else the profile asks for.
    pub partial: bool,
    /// The signals that interrupt it.
    pub signals: &'a Signals,
    /// Called with the current step, the bytes read so far and their total.
    pub progress: &'a dyn Fn(&str, u64, u64),
}

impl Verify<'_> {
    /// Returns the profile's name in reports.
    #[must_use]
    pub fn name(&self) -> String {
        let stem = self.profile.and_then(Path::file_stem);
        stem.map_or_else(
            || self.plan.instance.clone(),
            |stem| stem.to_string_lossy().into_owned(),
        )
    }

    /// Returns the profile's identity in the history. The path is left out if it is
    /// not a regular file: a pipe, for example, has a different path each time.
    #[must_use]
    pub fn id(&self) -> ProfileId {
        let path = self.profile.and_then(|path| path.canonicalize().ok());
        ProfileId {
            name: self.name(),
            path: path.filter(|path| path.is_file()),
        }
    }
}
