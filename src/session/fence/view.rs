//! What a server in namespaces gets to see of the host.

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

/// What the server's view of the host is made from.
pub struct View<'a> {
    pub plan: &'a Plan,
    /// Where the clone is mounted, as the kernel knows it.
    pub mounted: &'a Path,
    pub production: &'a Production,
    pub place: &'a Place,
    pub binaries: &'a Binaries,
    /// Whom the server runs as, if that is another user.
    pub run_as: Option<&'a OsUser>,
    pub recovery: Option<&'a Recovery>,
    pub conf: &'a Conf,
    pub files: &'a ConfigFiles,
    pub writable: &'a Writable,
    /// Its WAL directory, if that is not in its data.
    pub wal_dir: Option<Opened>,
}

/// The directories that the server writes to besides its data and its WAL,
/// opened when they were made or looked at.
pub struct Writable {
    /// Where its socket is.
    pub socket: Opened,
    /// The same where the profile names it, and others may use it, too.
    pub named: Option<Dir>,
    /// Where WAL is fetched ahead to, in a recovery.
    pub prefetch: Option<Opened>,
}

impl View<'_> {
    /// The namespaces for that server.
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
        cover.push(plan.catalog.clone());
        cover.extend(plan.diff_dir.clone());
        cover.retain(|path| !path.starts_with(&plan.target) || *path == plan.target);
        if let Some(recovery) = self.recovery {
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
            read,
            write,
            data: Some(mounts::opened(&plan.target, self.mounted)?),
            cover,
            memory: memory(plan),
            processes: Some(plan.fence.processes()),
            private_network: network,
        })
    }

    /// What the clone's configuration names of the host, as its server's user
    /// reaches it.
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
