//! How much of the host a clone may use.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::FenceLevel;
use crate::profile::{IoNice, Plan, Require};
use crate::server::Limits;
use crate::server::limits::{self, Wanted};
use crate::session::SessionError;
use crate::session::place::Place;

/// Returns the limits that a plan sets, and creates a control group with as many of
/// them as it can have. A limit that the plan asks for but that cannot be set causes
/// a warning, or an error if the plan requires more than settings; one that nobody
/// asked for causes neither.
pub fn limits(plan: &Plan, level: &FenceLevel, place: &Place) -> Result<Limits, SessionError> {
    let fence = &plan.fence;
    let all = Wanted {
        memory: fence.memory.map(|memory| memory.0),
        cpus: fence.cpus.map(|cpus| cpus.0),
        processes: Some(fence.processes()),
        nice: fence.nice.0.into(),
        idle_io: fence.ionice == IoNice::Idle,
    };
    let mut limits = Limits::of_process(&all);
    let name = place.dir().file_name().unwrap_or_default();
    let name = format!("pbkfs-{}", name.to_string_lossy());
    let without_processes = Wanted {
        processes: None,
        ..all
    };
    let processes_alone = Wanted {
        memory: None,
        cpus: None,
        ..all
    };
    let mut first = None;
    let mut kept = Wanted::default();
    for wanted in [all, without_processes, processes_alone] {
        match limits::make_cgroup(&wanted, &name) {
            Ok(cgroup) => {
                limits.cgroup = cgroup;
                kept = wanted;
                break;
            }
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let Some(error) = first else {
        return Ok(limits);
    };
    let in_namespaces = level.is_namespace() && limits::counted_in_namespaces();
    let missing = missing(plan, &kept, in_namespaces).join(" and ");
    if missing.is_empty() {
        tracing::debug!("no control group limits the server's processes: {error}");
    } else if fence.require == Require::Settings {
        tracing::warn!("the server is not limited by {missing}: {error}");
    } else {
        limits.cgroup.as_deref().map_or(Ok(()), remove_cgroup)?;
        let reason = format!("{missing} cannot be enforced ({error})");
        return Err(SessionError::NotEnclosed { reason });
    }
    Ok(limits)
}

/// Returns the keys of the limits that a plan asks for and that are not kept. Processes
/// may be counted in the namespaces instead.
fn missing(plan: &Plan, kept: &Wanted, in_namespaces: bool) -> Vec<&'static str> {
    let fence = &plan.fence;
    let processes = kept.processes.is_some() || in_namespaces;
    let keys = [
        (
            "fence.memory",
            fence.memory.is_some() && kept.memory.is_none(),
        ),
        ("fence.cpus", fence.cpus.is_some() && kept.cpus.is_none()),
        ("fence.processes", fence.processes.is_some() && !processes),
    ];
    let missing = keys.into_iter().filter(|(_, is_missing)| *is_missing);
    missing.map(|(key, _)| key).collect()
}

/// Removes a control group whose last process may have exited only just now.
pub fn remove_cgroup(dir: &Path) -> Result<(), SessionError> {
    const TRIES: u32 = 100;
    let mut tries = 0..TRIES;
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tries.next().is_some() => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(SessionError::io("remove", dir, e));
            }
            _ => return Ok(()),
        }
    }
}
