//! What in a backup could reach production, and what stops it: the part of `pbkfs
//! plan` about the fence.

use std::path::Path;

use super::{FenceLevel, Hazard};
use crate::image::Image;
use crate::profile::Plan;
use crate::server::{Conf, DecidedBy, Setting};
use crate::session::SessionError;
use crate::session::steps::needs::ServerNeeds;

/// The catalog `pg_subscription`, whose file name is its oid (pg_subscription.h)
/// until it is rewritten.
const SUBSCRIPTIONS: &str = "global/6100";

/// What SQL can do whatever the settings are, and which part of the fence stops it.
const ALWAYS: [(&str, Part); 4] = [
    (
        "foreign data wrappers, dblink, subscriptions and functions that connect elsewhere",
        Part::Network,
    ),
    (
        "COPY TO PROGRAM, lo_export and functions that write files or signal processes",
        Part::Files,
    ),
    (
        "set-user-ID programs that COPY TO PROGRAM leaves where other users of this host can reach them",
        Part::Calls,
    ),
    (
        "CREATE TABLESPACE in the WAL that is replayed, at a path that has production's files",
        Part::Files,
    ),
];

/// A part of the fence that only namespaces provide.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Files,
    Calls,
    Network,
}

impl Part {
    fn of(self, level: &FenceLevel) -> Option<String> {
        let by = match (self, level) {
            (Self::Files, FenceLevel::Namespace { .. }) => {
                "a root directory and processes of its own"
            }
            (Self::Calls, FenceLevel::Namespace { .. }) => "a system call filter",
            (Self::Network, FenceLevel::Namespace { network: true }) => "a network of its own",
            _ => return None,
        };
        Some(by.to_owned())
    }
}

/// Finds the hazards of a backup with this configuration, whose clone would be started
/// with these settings.
pub fn find(
    image: &Image,
    conf: &Conf,
    needs: &ServerNeeds,
    plan: &Plan,
    settings: &[Setting],
) -> Result<Vec<Hazard>, SessionError> {
    let level = &needs.level;
    let mut hazards: Vec<Hazard> = settings
        .iter()
        .filter_map(|setting| of_setting(setting, settings, conf))
        .collect();
    hazards.extend(settings.iter().filter_map(|setting| {
        let is_allowed =
            setting.owner == DecidedBy::User && plan.fence.allow.contains(&setting.name);
        is_allowed.then(|| Hazard {
            hazard: format!("{} = '{}', set by the profile", setting.name, setting.value),
            stopped_by: Part::Network.of(level),
        })
    }));
    for place in &needs.production.tablespaces {
        let mut by = "the mount shows its files".to_owned();
        if level.is_namespace() {
            by.push_str(", and an empty directory is at that path");
        }
        hazards.push(Hazard {
            hazard: format!("a tablespace at {}", place.display()),
            stopped_by: Some(by),
        });
    }
    if let Some(node) = image.find(Path::new(SUBSCRIPTIONS))
        && image.len(node)? > 0
    {
        let name = "max_logical_replication_workers";
        let is_off = settings.iter().any(|s| s.name == name && s.value == "0");
        hazards.push(Hazard {
            hazard: "subscriptions, which are or were in pg_subscription".to_owned(),
            stopped_by: is_off.then(|| format!("{name} = '0'")),
        });
    }
    if let Some(libraries) = conf
        .get("shared_preload_libraries")
        .filter(|l| !l.is_empty())
    {
        hazards.push(Hazard {
            hazard: format!("background workers of the libraries '{libraries}'"),
            stopped_by: Part::Network.of(level),
        });
    }
    hazards.extend(ALWAYS.iter().map(|(hazard, part)| Hazard {
        hazard: (*hazard).to_owned(),
        stopped_by: part.of(level),
    }));
    Ok(hazards)
}

/// Returns the hazard of a setting of the fence, if the backup sets it to something
/// else and the profile does not override the fence.
fn of_setting(setting: &Setting, all: &[Setting], conf: &Conf) -> Option<Hazard> {
    // The requested recovery target comes after the empty one.
    let last = all.iter().rfind(|other| other.name == setting.name);
    if last != Some(setting) || setting.owner != DecidedBy::Fence {
        return None;
    }
    let backups = conf.get(&setting.name).filter(|value| !value.is_empty())?;
    (backups != setting.value).then(|| Hazard {
        hazard: format!("{} = '{backups}'", setting.name),
        stopped_by: Some(format!("'{}': {}", setting.value, setting.reason)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::conf::Host;

    fn setting(name: &str, value: &str, owner: DecidedBy) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            reason: "because",
            owner,
        }
    }

    #[test]
    fn only_what_the_backup_sets_otherwise_is_a_hazard() {
        let dir = tempfile::tempdir().unwrap();
        let text = "archive_mode = on\nport = 5432\nssl = on\narchive_command = ''\n";
        std::fs::write(dir.path().join("postgresql.conf"), text).unwrap();
        let conf = Conf::read_from(&Host::default(), dir.path()).unwrap();
        let settings = [
            setting("archive_mode", "off", DecidedBy::Fence),
            setting("archive_command", "", DecidedBy::Fence),
            setting("port", "5432", DecidedBy::Fence),
            setting("ssl", "off", DecidedBy::Clone),
            setting("archive_mode", "on", DecidedBy::User),
        ];
        let of = |index: usize, all: &[Setting]| of_setting(&all[index], all, &conf);
        let hazard = of(0, &settings[..4]).unwrap();
        assert_eq!(hazard.hazard, "archive_mode = 'on'");
        assert_eq!(hazard.stopped_by.as_deref(), Some("'off': because"));
        for (index, all) in [(1, 4), (2, 4), (3, 4), (0, 5)] {
            assert_eq!(of(index, &settings[..all]), None, "{index}");
        }
    }
}
