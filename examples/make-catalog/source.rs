//! The cluster, and which of its files go into a backup.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pbkfs::catalog::TablespaceMapping;
use pbkfs::pg::control::{ClusterState, ControlFile};
use pbkfs::pg::relation::{Fork, RelationFile};
use pbkfs::pg::wal::segment::{SegmentId, SegmentSize};

use super::{Failure, named, read};

/// Directories whose contents are left out (`pgdata_exclude_dir` in pg_probackup's
/// dir.c); the one segment that a start needs is added back to `pg_wal`.
const EMPTY_DIRECTORIES: [&str; 10] = [
    "pg_wal",
    "pg_stat_tmp",
    "pgsql_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "log",
];

/// Files that are left out (`pgdata_exclude_files`).
const LEFT_OUT: [&str; 9] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "postmaster.pid",
    "postmaster.opts",
    "recovery.signal",
    "standby.signal",
    "backup_label",
    "tablespace_map",
    "pg_internal.init",
];

/// A file or directory of the cluster.
pub struct Found {
    /// Path inside PGDATA.
    pub path: String,
    /// Location to read it from.
    pub source: PathBuf,
    /// `st_mode`.
    pub mode: u32,
    /// Size in bytes.
    pub length: u64,
    /// What its name encodes, if it is a relation's file.
    pub relation: Option<RelationFile>,
}

impl Found {
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Returns whether it is stored page by page.
    pub fn is_paged(&self) -> bool {
        self.relation.is_some_and(|r| r.fork == Fork::Main)
    }

    pub fn is_wal(&self) -> bool {
        self.path.starts_with("pg_wal/") && !self.path.ends_with(".history")
    }

    /// Returns the database that it belongs to, or 0; a directory can belong to one, too.
    pub fn database(&self) -> u32 {
        let mut parts = self.path.split('/');
        let place = match parts.next() {
            Some("base") => parts.next(),
            Some("pg_tblspc") => parts.nth(2),
            _ => None,
        };
        place.and_then(|name| name.parse().ok()).unwrap_or(0)
    }
}

/// A stopped cluster.
pub struct Cluster {
    pub pgdata: PathBuf,
    pub control: ControlFile,
    /// Content of `PG_VERSION`, such as `15`.
    pub version: String,
    pub tablespaces: Vec<TablespaceMapping>,
    /// Sorted by path.
    pub files: Vec<Found>,
}

impl Cluster {
    /// Examines a cluster, which must have been shut down.
    pub fn read(pgdata: &Path) -> Result<Self, Failure> {
        let pgdata = fs::canonicalize(pgdata).map_err(|e| named("find", pgdata, &e))?;
        let path = pgdata.join("global/pg_control");
        let control = ControlFile::parse(&read(&path)?).map_err(|e| named("use", &path, &e))?;
        if control.state != ClusterState::ShutDown {
            return Err(format!("{} was not shut down cleanly", pgdata.display()).into());
        }
        let version = read(&pgdata.join("PG_VERSION"))?;
        let mut walk = Walk::default();
        walk.directory(&pgdata, "")?;
        let size = SegmentSize::new(control.wal_segment_size.into());
        let size = size.ok_or("pg_control has an invalid WAL segment size")?;
        let segment = SegmentId::containing(control.checkpoint, control.timeline, size);
        walk.file(&pgdata, &format!("pg_wal/{}", segment.name(size)))?;
        if control.timeline > 1 {
            walk.file(&pgdata, &format!("pg_wal/{:08X}.history", control.timeline))?;
        }
        Ok(Self {
            pgdata,
            control,
            version: String::from_utf8_lossy(version.trim_ascii()).into_owned(),
            tablespaces: walk.tablespaces,
            files: walk.found.into_values().collect(),
        })
    }

    /// Whether a data file belongs to an unlogged relation, which always has an `_init`
    /// fork.
    pub fn is_unlogged(&self, found: &Found) -> bool {
        let node = found.path.split('.').next().unwrap_or_default();
        let init = format!("{node}_init");
        self.files
            .binary_search_by(|file| file.path.cmp(&init))
            .is_ok()
    }
}

#[derive(Default)]
struct Walk {
    found: BTreeMap<String, Found>,
    tablespaces: Vec<TablespaceMapping>,
}

impl Walk {
    fn directory(&mut self, directory: &Path, inside: &str) -> Result<(), Failure> {
        let list = || fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>();
        for entry in list().map_err(|e| named("list", directory, &e))? {
            let Ok(name) = entry.file_name().into_string() else {
                return Err(
                    format!("{} contains a name that is not UTF-8", directory.display()).into(),
                );
            };
            let path = match inside {
                "" => name.clone(),
                _ => format!("{inside}/{name}"),
            };
            if is_left_out(&path, &name) {
                continue;
            }
            let mut source = entry.path();
            if inside == "pg_tblspc" {
                source = self.tablespace(&name, source)?;
            }
            let meta = fs::metadata(&source).map_err(|e| named("examine", &source, &e))?;
            if meta.is_dir() {
                self.add(path.clone(), &source, &meta);
                if !EMPTY_DIRECTORIES.contains(&name.as_str()) {
                    self.directory(&source, &path)?;
                }
            } else if !meta.file_type().is_socket() {
                self.add(path, &source, &meta);
            }
        }
        Ok(())
    }

    /// Records a tablespace, and returns its location.
    fn tablespace(&mut self, name: &str, link: PathBuf) -> Result<PathBuf, Failure> {
        let (Ok(oid), Ok(path)) = (name.parse(), fs::read_link(&link)) else {
            return Ok(link);
        };
        self.tablespaces.push(TablespaceMapping {
            oid,
            path: path.clone(),
        });
        Ok(path)
    }

    fn file(&mut self, pgdata: &Path, path: &str) -> Result<(), Failure> {
        let source = pgdata.join(path);
        let meta = fs::metadata(&source).map_err(|e| named("examine", &source, &e))?;
        self.add(path.to_owned(), &source, &meta);
        Ok(())
    }

    fn add(&mut self, path: String, source: &Path, meta: &Metadata) {
        let found = Found {
            relation: RelationFile::parse(&path),
            path: path.clone(),
            source: source.to_owned(),
            mode: meta.mode(),
            length: match meta.is_dir() {
                true => 0,
                false => meta.len(),
            },
        };
        self.found.insert(path, found);
    }
}

fn is_left_out(path: &str, name: &str) -> bool {
    let is_temporary = RelationFile::parse(path).is_some_and(|r| r.temp_backend.is_some());
    LEFT_OUT.contains(&name) || name.starts_with('.') || is_temporary
}
