//! What a server in namespaces sees of the host.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::memory;
use crate::profile::Plan;
use crate::server::namespace::{Opened, root_shows};
use crate::server::settings::preload;
use crate::server::{Binaries, Conf, ConfigFiles, Enclosure, OsUser, own_program};
use crate::session::SessionError;
use crate::session::place::{Place, mounts};
use crate::session::recovery::Recovery;
use crate::session::recovery::restore_command::{named_paths, program};
use crate::session::steps::resolve::Resolved;
use crate::untrusted::{Dir, as_user, hold};

/// The inputs to the server's view of the host.
pub struct View<'a> {
    pub plan: &'a Plan,
    /// Where the clone is mounted, as the kernel knows it.
    pub mounted: &'a Path,
    pub production: &'a Production,
    pub place: &'a Place,
    pub binaries: &'a Binaries,
    /// The user that the server runs as, if not our own.
    pub run_as: Option<&'a OsUser>,
    pub recovery: Option<&'a Recovery>,
    pub conf: &'a Conf,
    pub files: &'a ConfigFiles,
    pub writable: &'a Writable,
    /// Its WAL directory, if that is outside its data directory.
    pub wal_dir: Option<Opened>,
}

/// The directories that the server writes to besides those of its data and WAL, opened
/// when they were created or checked.
pub struct Writable {
    /// The directory of its socket.
    pub socket: Opened,
    /// The same directory if the profile names it; others may use it, too.
    pub named: Option<Dir>,
    /// The directory for prefetched WAL, in a recovery.
    pub prefetch: Option<Opened>,
}

impl View<'_> {
    /// Returns the namespaces for the server.
    pub fn enclosure(&self, network: bool) -> Result<Enclosure, SessionError> {
        let plan = self.plan;
        let mut show = plan.fence.expose.clone();
        show.extend(installation(&self.binaries.dir));
        let files = self.files;
        show.extend([&files.config_file, &files.hba_file, &files.ident_file].map(Clone::clone));
        show.extend(self.binaries.pkglibdir());
        show.retain(|path| !root_shows(path) && path != Path::new("/"));
        let read = self.named_by_clone()?;
        let mut write = vec![self.writable.socket.clone()];
        write.extend(self.writable.prefetch.clone());
        write.extend(self.wal_dir.clone());
        let mut cover = self.production.places(self.conf);
        cover.extend(plan.catalog.directory().map(Path::to_owned));
        cover.extend(plan.diff_dir.clone());
        cover.retain(|path| !path.starts_with(&plan.target) || *path == plan.target);
        if let Some(recovery) = self.recovery {
            match recovery.foreign_command() {
                Some(command) => {
                    tracing::warn!(
                        "recovery.restore_command sees only those paths of this host that it \
                         names or that are in fence.expose, and the network only with \
                         fence.network = \"host\"; PostgreSQL takes most of its failures for the \
                         end of the archive"
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
            read,
            write,
            data: Some(mounts::opened(&plan.target, self.mounted)?),
            cover,
            memory: memory(plan),
            processes: Some(plan.fence.processes()),
            private_network: network,
        })
    }

    /// Opens what the clone's configuration names on the host, with the permissions
    /// of the server's user.
    fn named_by_clone(&self) -> Result<Vec<Opened>, SessionError> {
        let rights = self.run_as.map(OsUser::rights);
        let mut named = Vec::new();
        if let Some(pkglibdir) = self.binaries.pkglibdir() {
            let libraries = preload::elsewhere(self.conf, &pkglibdir, rights.as_ref())?;
            named.extend(libraries);
        }
        named.retain(|path| !root_shows(path));
        let opened = named.iter().map(|path| {
            let held = as_user(rights.as_ref(), || hold(path));
            held.and_then(|held| Opened::new(path, held))
                .map_err(|e| SessionError::io("open", path, e))
        });
        opened.collect()
    }

    /// Shows the archive to the server. A session of root opens the archive's files for
    /// its server, and so does one whose catalog is not on this host. Otherwise an
    /// unprivileged user's server reads them itself: of the catalog it sees only those
    /// files, and the one that identifies the instance.
    fn show_archive(&self, recovery: &Recovery, show: &mut Vec<PathBuf>, cover: &mut Vec<PathBuf>) {
        let Some(catalog) = self
            .plan
            .catalog
            .directory()
            .filter(|_| !geteuid().is_root())
        else {
            show.push(self.place.wal_socket());
            return;
        };
        let instance = catalog.join("backups").join(&self.plan.instance);
        show.extend(
            recovery
                .served_archive()
                .map(|archive| archive.dir().to_owned()),
        );
        show.extend(Some(instance.join("pg_probackup.conf")).filter(|path| path.exists()));
        cover.push(instance);
    }
}

/// Returns the directories of an installation. PostgreSQL finds the others relative to
/// that of its programs. Anything else beside them does not belong to it.
fn installation(bin_dir: &Path) -> Vec<PathBuf> {
    let beside = bin_dir.parent().unwrap_or(bin_dir);
    let mut dirs = vec![bin_dir.to_owned()];
    dirs.extend(["lib", "lib64", "share"].map(|name| beside.join(name)));
    dirs.retain(|dir| dir.is_dir());
    dirs
}

/// Where production's files are, as far as the backup shows.
#[derive(Debug, Clone, Default)]
pub struct Production {
    /// The locations of its tablespaces.
    pub tablespaces: Vec<PathBuf>,
    /// The data directory.
    pub data_directory: Option<PathBuf>,
}

impl Production {
    /// Reads from the catalog where the cluster's files are.
    pub fn of(resolved: &Resolved) -> Self {
        let tablespaces = &resolved.chain.target().tablespaces;
        Self {
            tablespaces: tablespaces.iter().map(|map| map.path.clone()).collect(),
            data_directory: resolved.instance.config.pgdata.clone(),
        }
    }

    /// Returns all these locations and those in the configuration, except for the ones
    /// that are the server's own in any case.
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
