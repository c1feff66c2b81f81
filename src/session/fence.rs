//! The fence of one clone: which level this host gives it, what the server
//! gets to see in its namespaces, and which hazards of the backup it stops.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;

use super::SessionError;
use super::locks::own_program;
use super::place::Place;
use super::recovery::Recovery;
use super::resolve::Resolved;
use super::restore_command::{named_paths, program};
use crate::profile::{IoNice, Level, Network, Plan, Require};
use crate::server::limits::Wanted;
use crate::server::namespace::{Memory, root_shows};
use crate::server::{
    Binaries, Conf, ConfigFiles, Enclosure, Limits, LogTail, ServerError, limits, preload,
};

/// What the fence is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceLevel {
    /// Namespaces, besides settings.
    Namespace {
        /// Whether that of the network is among them.
        network: bool,
    },
    /// Settings only.
    Settings {
        /// What the host does not permit; `None` if no more is wanted.
        refused: Option<String>,
    },
}

impl fmt::Display for FenceLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { network: true } => {
                f.write_str("namespace: files, processes and a network of its own")
            }
            Self::Namespace { network: false } => {
                f.write_str("namespace: files and processes of its own; the network is the host's")
            }
            Self::Settings { refused: None } => {
                f.write_str("settings only, as fence.level says; SQL can reach out of the clone")
            }
            Self::Settings {
                refused: Some(reason),
            } => write!(
                f,
                "settings only, as this host permits no namespaces ({reason}); SQL can reach out \
                 of the clone"
            ),
        }
    }
}

impl FenceLevel {
    /// The level that a plan gets on this host, tried out.
    ///
    /// # Errors
    /// [`SessionError::NotEnclosed`] if the plan requires more.
    pub fn find(plan: &Plan) -> Result<Self, SessionError> {
        if plan.fence.level == Level::Settings {
            return Ok(Self::Settings { refused: None });
        }
        let network = plan.fence.network == Network::None;
        let probe = Enclosure {
            program: own_program(),
            memory: memory(plan),
            private_network: network,
            ..Enclosure::default()
        };
        match (probe.probe(), plan.fence.require) {
            (Ok(()), _) => Ok(Self::Namespace { network }),
            (Err(ServerError::NoNamespaces { reason }), Require::Settings) => Ok(Self::Settings {
                refused: Some(reason),
            }),
            (Err(ServerError::NoNamespaces { reason }), Require::Namespace) => {
                Err(SessionError::NotEnclosed {
                    reason: format!("this host permits no namespaces ({reason})"),
                })
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Tells it in the log. Namespaces that were wanted and cannot be had are
    /// worth a warning.
    pub fn tell(&self) {
        match self {
            Self::Settings { refused: Some(_) } => tracing::warn!("fence {self}"),
            level => tracing::info!("fence {level}"),
        }
    }

    /// Whether the server runs in namespaces.
    #[must_use]
    pub fn is_namespace(&self) -> bool {
        matches!(self, Self::Namespace { .. })
    }
}

/// What the server's view of the host is made from.
pub struct View<'a> {
    pub plan: &'a Plan,
    pub production: &'a Production,
    pub place: &'a Place,
    pub binaries: &'a Binaries,
    pub recovery: Option<&'a Recovery>,
    pub conf: &'a Conf,
    /// Files outside the data directory that the configuration includes.
    pub includes: &'a [PathBuf],
    pub files: &'a ConfigFiles,
    pub socket_dir: &'a Path,
    pub wal_dir: Option<&'a Path>,
}

impl View<'_> {
    /// The namespaces for that server.
    pub fn enclosure(&self, network: bool) -> Result<Enclosure, SessionError> {
        let plan = self.plan;
        let mut show = plan.fence.expose.clone();
        show.extend(installation(&self.binaries.dir));
        show.extend(self.files.config_file.clone());
        show.extend([self.files.hba_file.clone(), self.files.ident_file.clone()]);
        show.extend(self.includes.iter().cloned());
        if let Some(pkglibdir) = self.binaries.pkglibdir() {
            show.extend(preload::elsewhere(self.conf, &pkglibdir));
            show.push(pkglibdir);
        }
        show.retain(|path| !root_shows(path) && path != Path::new("/"));
        let mut write = vec![self.socket_dir.to_owned()];
        write.extend(self.wal_dir.map(Path::to_owned));
        let mut cover = self.production.places(self.conf);
        cover.push(plan.catalog.clone());
        cover.extend(plan.diff_dir.clone());
        cover.retain(|path| !path.starts_with(&plan.target) || *path == plan.target);
        if let Some(recovery) = self.recovery {
            write.push(self.place.prefetch_dir());
            match recovery.foreign_command() {
                Some(command) => {
                    tracing::warn!(
                        "recovery.restore_command sees of this host the paths that it names and \
                         those of fence.expose, and the network only with fence.network = \
                         \"host\"; PostgreSQL takes most of its failures for the end of the archive"
                    );
                    show.extend(named_paths(command));
                }
                None => {
                    show.push(program()?);
                    self.show_archive(recovery, &mut show, &mut cover);
                }
            }
        }
        Ok(Enclosure {
            program: own_program(),
            show,
            write,
            data: Some(plan.target.clone()),
            cover,
            memory: memory(plan),
            processes: Some(plan.fence.processes()),
            private_network: network,
        })
    }

    /// Root's sessions open the archive's files for their servers. An ordinary
    /// user's server reads them by itself: of the catalog it finds those, and
    /// what tells that it is one.
    fn show_archive(&self, recovery: &Recovery, show: &mut Vec<PathBuf>, cover: &mut Vec<PathBuf>) {
        if geteuid().is_root() {
            show.push(self.place.wal_socket());
            return;
        }
        let instance = self.plan.catalog.join("backups").join(&self.plan.instance);
        show.extend(
            recovery
                .served_archive()
                .map(|archive| archive.dir().to_owned()),
        );
        show.extend(Some(instance.join("pg_probackup.conf")).filter(|path| path.exists()));
        cover.push(instance);
    }
}

/// How much memory the server's own directories take.
fn memory(plan: &Plan) -> Memory {
    Memory {
        tmp: plan.fence.tmp_size,
        shm: plan.fence.shm_size,
    }
}

/// The directories of an installation, of which PostgreSQL finds the others
/// relative to that of its programs. What else is beside them is not its.
fn installation(bin_dir: &Path) -> Vec<PathBuf> {
    let beside = bin_dir.parent().unwrap_or(bin_dir);
    let mut dirs = vec![bin_dir.to_owned()];
    dirs.extend(["lib", "lib64", "share"].map(|name| beside.join(name)));
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// Where production's files are, as far as the backup tells.
#[derive(Debug, Clone, Default)]
pub struct Production {
    /// The tablespaces' places.
    pub tablespaces: Vec<PathBuf>,
    /// The data directory.
    pub data_directory: Option<PathBuf>,
}

impl Production {
    /// What the catalog says of the cluster.
    pub fn of(resolved: &Resolved) -> Self {
        let tablespaces = &resolved.chain.target().tablespaces;
        Self {
            tablespaces: tablespaces.iter().map(|map| map.path.clone()).collect(),
            data_directory: resolved.instance.config.pgdata.clone(),
        }
    }

    /// All the places with those of the configuration, but for those that are
    /// the server's own in any case.
    fn places(&self, conf: &Conf) -> Vec<PathBuf> {
        let data_directory = conf.get("data_directory").map(PathBuf::from);
        let mut places = self.tablespaces.clone();
        places.extend(self.data_directory.clone());
        places.extend(data_directory);
        places.extend(conf.socket_dirs());
        let own = ["/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run"];
        places.retain(|path| path.is_absolute() && !own.iter().any(|own| path == Path::new(own)));
        places
    }
}

/// The place of a tablespace that recovery could not make, out of the log of
/// the server that ended of it. `CONTEXT` is translated, but not the record's
/// name and content (`tblspc_desc`, `tblspc_identify` in tblspcdesc.c):
///
/// ```text
/// CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 "/srv/ts"
/// ```
pub fn refused_tablespace(log: &LogTail) -> Option<PathBuf> {
    let record = |line: &String| {
        let (_, record) = line.split_once(" Tablespace/CREATE: ")?;
        let (_, path) = record.split_once(" \"")?;
        Some(PathBuf::from(path.strip_suffix('"')?))
    };
    let path = log.lines.iter().rev().find_map(record)?;
    path.is_absolute().then_some(path)
}

/// Sockets of other servers in the directory that the profile names. They can
/// be reached from the clone.
pub fn foreign_sockets(dir: &Path, port: u16) -> Vec<String> {
    let own = format!(".s.PGSQL.{port}");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(&own) && !name.ends_with(".lock"))
        .collect()
}

/// The limits that a plan sets. What can be had of its control group is taken.
/// What it asks for and cannot be had is warned of, or an error where the plan
/// requires more than settings; what nobody asked for is not.
pub fn limits(plan: &Plan, level: &FenceLevel, place: &Place) -> Result<Limits, SessionError> {
    let fence = &plan.fence;
    let all = Wanted {
        memory: fence.memory,
        cpus: fence.cpus,
        processes: Some(fence.processes()),
        nice: fence.nice.into(),
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
        let reason = format!("{missing} cannot be kept ({error})");
        return Err(SessionError::NotEnclosed { reason });
    }
    Ok(limits)
}

/// The keys of what a plan asks for beyond what is kept; processes may be
/// counted in the namespaces.
fn missing(plan: &Plan, kept: &Wanted, in_namespaces: bool) -> Vec<&'static str> {
    let fence = &plan.fence;
    let processes = kept.processes.is_some() || in_namespaces;
    let keys = [
        (
            "fence.memory",
            fence.memory.is_some() && kept.memory.is_none(),
        ),
        ("fence.cpus", fence.cpus.is_some() && kept.cpus.is_none()),
        (
            "fence.processes",
            fence.asked_processes.is_some() && !processes,
        ),
    ];
    let missing = keys.into_iter().filter(|(_, is_missing)| *is_missing);
    missing.map(|(key, _)| key).collect()
}

/// Removes a control group, whose last process may only just have ended.
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

/// Something in the backup, or that SQL can do, by which a clone could reach
/// production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hazard {
    /// What it is.
    pub hazard: String,
    /// What stops it; `None` if nothing does.
    pub stopped_by: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_the_tablespace_that_recovery_ended_at() {
        let log = |lines: &[&str]| LogTail {
            path: PathBuf::new(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let path = refused_tablespace(&log(&[
            "FATAL:  directory \"/srv/a \"b\"\" does not exist",
            "HINT:  Create this directory for the tablespace before restarting the server.",
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 \"/srv/a \"b\"\"",
            "LOG:  startup process (PID 25) exited with exit code 1",
        ]));
        assert_eq!(path, Some(PathBuf::from("/srv/a \"b\"")));
        for other in [
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/DROP: 16400",
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 \"\"",
            "Tablespace/CREATE",
        ] {
            assert_eq!(refused_tablespace(&log(&[other])), None, "{other}");
        }
    }
}
