//! Mount points of one-shot jobs: each job has its own, in the run directory.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::down;
use crate::causes::sentence;
use crate::profile::Plan;
use crate::session::SessionError;
use crate::session::place::run_root::{self, MOUNTS};
use crate::session::place::{HeldPlace, Place};

/// The one-shot jobs.
const JOBS: [&str; 4] = ["extract", "materialize", "promote", "verify"];

/// The number of mount points where dead jobs are looked for: more than a
/// profile ever has at once.
const MOST: u32 = 32;

/// Returns the plan of a clone for a one-shot job on a profile, which keeps nothing, and
/// the session's directory for it, held.
///
/// The mount point is the job's own, so that the profile's clone may be up meanwhile, and
/// in the run directory, so that the job needs no other directory. It is the first that
/// is free, because several jobs may run at once. Whatever killed jobs of the profile
/// have left is cleared away.
///
/// # Errors
/// Returns [`SessionError::RunDir`] if the run directory is not this user's; I/O errors.
pub fn job_plan(plan: &Plan, job: &str) -> Result<(Plan, HeldPlace), SessionError> {
    let (point, held) = job_place(&plan.target, job)?;
    let mut plan = plan.clone();
    plan.throw_away(point);
    Ok((plan, held))
}

fn job_place(target: &Path, job: &str) -> Result<(PathBuf, HeldPlace), SessionError> {
    let dir = run_root::path().join(MOUNTS);
    let made = run_root::make()?.dir_or_new(OsStr::new(MOUNTS), 0o755);
    made.map_err(|e| SessionError::io("create the directory", &dir, e))?;
    let of_profile = Place::of(target);
    let name = of_profile.dir().file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let point = |job: &str, number: u32| dir.join(format!("{job}-{name}-{number}"));
    for job in JOBS {
        (1..=MOST).for_each(|number| clear_dead(&point(job, number)));
    }
    for number in 1_u32.. {
        let path = point(job, number);
        if let Some(held) = Place::of(&path).try_hold()? {
            return Ok((path, held));
        }
    }
    Err(SessionError::io(
        "find a name in",
        &dir,
        io::ErrorKind::QuotaExceeded.into(),
    ))
}

/// Clears away what a killed job has left. If that fails, the next job tries again;
/// this one has its own place.
fn clear_dead(point: &Path) {
    let place = Place::of(point);
    let is_there = place.dir().exists() || fs::symlink_metadata(point).is_ok();
    if !is_there || place.is_held().unwrap_or(true) {
        return;
    }
    if let Err(error) = down::finish_dead(point, None) {
        let point = point.display();
        tracing::warn!(
            "cannot clean up what a killed job left behind at {point}: {}",
            sentence(&error)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_a_place_of_its_own_from_the_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("clone");
        let (first, held) = job_place(&target, "verify").unwrap();
        // The first job has no state yet that would reveal it.
        let (second, other) = job_place(&target, "verify").unwrap();
        assert_ne!(first, second);
        held.remove().unwrap();
        let (again, held) = job_place(&target, "verify").unwrap();
        assert_eq!(again, first);
        // Once killed, they are cleared away by a job of the other kind.
        let left = [held.dir().to_owned(), other.dir().to_owned()];
        drop((held, other));
        assert!(left.iter().all(|dir| dir.exists()));
        let (_, held) = job_place(&target, "extract").unwrap();
        assert!(left.iter().all(|dir| !dir.exists()));
        held.remove().unwrap();
    }
}
