//! What a clone changed, obtained from its session if one is running, and read
//! from its diff otherwise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::control::{self, Request};
use crate::catalog::{BackupId, BackupRef, Location};
use crate::chain::Chain;
use crate::diff::{Binding, DiffError, DiffLock, LockHolder, inspect};
use crate::image::{Image, ImageOptions};
use crate::overlay::{Change, changes};
use crate::profile::StoragePlan;
use crate::session::SessionError;
use crate::session::hydrate::kept;
use crate::session::place::state::State;
use crate::session::place::{Place, canonical};
use crate::session::source::open_catalog;

/// How long an owner may take to go through its diff.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a clone changed, and the backup it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Changes {
    /// The diff.
    pub diff_dir: PathBuf,
    /// The instance.
    pub instance: String,
    /// The backup that the clone was made from.
    pub backup: String,
    /// Whether a session has it mounted.
    pub mounted: bool,
    /// The changes, by path.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

/// Returns what the clone on `target` changed. `diff_dir` is where its profile keeps
/// that while nothing is running.
///
/// # Errors
/// Returns [`SessionError::NoDiff`] if there is no diff, and [`SessionError::NoAnswer`]
/// if the session does not answer; errors of the diff.
pub fn of_target(
    target: &Path,
    diff_dir: Option<&Path>,
    storage: &StoragePlan,
) -> Result<Changes, SessionError> {
    let place = Place::of(&canonical(target));
    if place.is_held()?
        && let Some(state) = place.state()?
        && let Some(dir) = state.diff_dir.clone()
    {
        return ask(&place, state, dir);
    }
    match diff_dir {
        Some(dir) => of_diff(dir, storage),
        None => Err(SessionError::NoDiff {
            target: target.to_owned(),
        }),
    }
}

/// Returns what a diff holds; `storage` tells how a catalog over the network is read.
///
/// # Errors
/// Returns [`SessionError::NoAnswer`] if a session has the diff and does not
/// answer; errors of the diff.
pub fn of_diff(dir: &Path, storage: &StoragePlan) -> Result<Changes, SessionError> {
    // The server of a dead session does not answer, but will exit.
    let holder = DiffLock::holder(dir)?.filter(|holder| !holder.has_died());
    if let Some(holder) = holder {
        let place = Place::of(&canonical(&holder.target));
        return match place.state()?.filter(|state| state.pid == holder.pid) {
            Some(state) => ask(&place, state, dir.to_owned()),
            None => Err(SessionError::Diff(DiffError::Busy {
                path: dir.to_owned(),
                holder,
            })),
        };
    }
    let reader = LockHolder::this_process(Path::new(""));
    let (binding, records) = inspect(dir, &reader)?;
    let image = match image_of(dir, &binding, storage) {
        Ok(image) => Some(image),
        Err(error) => {
            tracing::warn!(
                "some names are unknown, because the backup {} cannot be opened: {error}",
                binding.backup
            );
            None
        }
    };
    Ok(Changes {
        diff_dir: dir.to_owned(),
        changes: changes(&records, image.as_ref(), dir),
        instance: binding.instance,
        backup: binding.backup,
        mounted: false,
    })
}

fn ask(place: &Place, state: State, diff_dir: PathBuf) -> Result<Changes, SessionError> {
    let changes = control::ask(place, &Request::Changes, PATIENCE);
    Ok(Changes {
        changes: changes.map_err(|source| SessionError::NoAnswer {
            target: state.target.clone(),
            pid: state.pid,
            log: place.log(),
            source,
        })?,
        diff_dir,
        instance: state.instance,
        backup: state.backup,
        mounted: true,
    })
}

/// Opens the image that a diff is bound to, as far as its catalog still has it, or the diff
/// itself has kept what is needed for that.
fn image_of(dir: &Path, binding: &Binding, storage: &StoragePlan) -> Result<Image, SessionError> {
    if let Some((_, chain)) = kept::open(dir, binding)? {
        return Ok(Image::open(&chain, &ImageOptions::default())?);
    }
    let location = Location::new(&binding.catalog);
    let location = location.map_err(|error| {
        let invalid = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        SessionError::io("find the catalog of", dir, invalid)
    })?;
    let catalog = open_catalog(&location, storage)?;
    let instance = catalog.instance(&binding.instance)?;
    let backups = instance.backups()?;
    let wanted = BackupRef::Id(BackupId(binding.backup.clone()));
    let chain = Chain::resolve(&instance.name, &backups, &wanted)?;
    let image = Image::open(&chain, &ImageOptions::default())?;
    if format!("{:016x}", image.fingerprint()) != binding.image {
        let changed = std::io::Error::other("it is not the one that the diff was created on");
        let dir = binding.catalog.clone();
        return Err(SessionError::io("use the backup in", &dir, changed));
    }
    Ok(image)
}
