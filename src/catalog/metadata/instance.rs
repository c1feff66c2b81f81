//! The catalog's root and its instances.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::control::ControlFile;
use crate::catalog::error::{CatalogError, ControlError};
use crate::catalog::location::Location;
use crate::catalog::store::{LocalStore, Store, StorePath};
use crate::untrusted::Kind;

/// The file with an instance's own settings.
const CONFIG: &str = "pg_probackup.conf";

/// The keys of `pg_probackup.conf` that [`InstanceConfig`] uses.
const USED_KEYS: [&str; 3] = ["pgdata", "system-identifier", "xlog-seg-size"];

/// A pg_probackup catalog: what pg_probackup takes as `-B`, or a copy of it elsewhere.
///
/// ```
/// use pbkfs::catalog::Catalog;
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let catalog = Catalog::open(&root)?;
/// for name in catalog.instances()? {
///     let instance = catalog.instance(&name)?;
///     println!("{name}: {} backups", instance.backups()?.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    location: Location,
    place: StorePath,
}

impl Catalog {
    /// Opens the catalog in the directory `root`, which is made absolute first.
    ///
    /// # Errors
    /// If it contains no directory `backups`, or if that cannot be read.
    pub fn open(root: &Path) -> Result<Self, CatalogError> {
        let root = std::path::absolute(root).map_err(|source| CatalogError::Read {
            path: root.to_owned(),
            source,
        })?;
        let store = LocalStore::new(root.clone());
        Self::through(Location::Directory(root), Arc::new(store))
    }

    /// Opens the catalog at a location that `store` reads.
    ///
    /// # Errors
    /// As for [`Catalog::open`].
    pub fn through(location: Location, store: Arc<dyn Store>) -> Result<Self, CatalogError> {
        let place = StorePath::root(store);
        let catalog = Self { location, place };
        // Listing tests both that it exists and that we may read it.
        catalog.instances()?;
        Ok(catalog)
    }

    /// Returns where the catalog is; a directory's path is absolute.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Returns the names of all instances, sorted: as in pg_probackup, every directory
    /// that is not hidden, but without the file system's own.
    ///
    /// # Errors
    /// If `backups/` cannot be listed.
    pub fn instances(&self) -> Result<Vec<String>, CatalogError> {
        let listed = visible_directories(&self.place.join("backups"));
        let mut names: Vec<String> = listed
            .map_err(|error| self.explain_no_backups(error))?
            .iter()
            .filter(|dir| !is_file_systems(dir))
            .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Returns an instance with its configuration.
    ///
    /// # Errors
    /// If there is no instance of that name, the name is not a plain directory name, or
    /// its `pg_probackup.conf` is malformed.
    pub fn instance(&self, name: &str) -> Result<Instance, CatalogError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(CatalogError::InvalidInstanceName {
                name: name.to_owned(),
            });
        }
        let existing = self.instances()?;
        if !existing.iter().any(|known| known == name) {
            return Err(CatalogError::NoSuchInstance {
                root: self.location.name(),
                name: name.to_owned(),
                existing,
            });
        }
        let place = self.place.join("backups").join(name);
        let wal = self.place.join("wal").join(name);
        Ok(Instance {
            config: InstanceConfig::read(&place.join(CONFIG))?,
            catalog: self.location.clone(),
            name: name.to_owned(),
            dir: place.name(),
            place,
            wal_dir: wal.name(),
            wal,
        })
    }

    fn explain_no_backups(&self, error: CatalogError) -> CatalogError {
        match error {
            CatalogError::Read { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                CatalogError::NotACatalog {
                    root: self.location.name(),
                }
            }
            other => other,
        }
    }
}

/// One instance of a catalog: a cluster's backups and its WAL archive.
///
/// ```
/// use pbkfs::catalog::{BackupId, BackupMode, Catalog};
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let instance = Catalog::open(&root)?.instance("main")?;
/// let backup = instance.backup(&BackupId("TOW7GA".to_owned()))?;
/// assert_eq!(backup.mode, BackupMode::Delta);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Where its catalog is.
    pub catalog: Location,
    /// The instance's name.
    pub name: String,
    /// The directory of its backups, `CATALOG/backups/NAME`.
    pub dir: PathBuf,
    /// The same directory, for reading.
    pub place: StorePath,
    /// Its WAL archive, `CATALOG/wal/NAME`; it need not exist.
    pub wal_dir: PathBuf,
    /// The same directory, for reading.
    pub wal: StorePath,
    /// Its `pg_probackup.conf`.
    pub config: InstanceConfig,
}

/// What `pg_probackup.conf` records about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceConfig {
    /// The cluster's data directory on its own host.
    pub pgdata: Option<PathBuf>,
    /// The cluster's system identifier.
    pub system_identifier: Option<u64>,
    /// WAL segment size in bytes.
    pub wal_segment_size: Option<u64>,
}

impl InstanceConfig {
    fn read(place: &StorePath) -> Result<Self, ControlError> {
        let file = match ControlFile::read(place) {
            Ok(file) => file,
            Err(ControlError::Read { source, path })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                tracing::warn!(path = %path.display(), "the instance has no configuration file");
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        // All other keys are pg_probackup's settings for its own commands.
        file.note_unknown_keys(&USED_KEYS);
        Ok(Self {
            pgdata: file.path_value("pgdata"),
            system_identifier: file.get("system-identifier")?,
            wal_segment_size: file.get("xlog-seg-size")?,
        })
    }
}

/// Returns the directories in `dir` whose names do not start with a dot, including
/// symbolic links to directories, in no particular order. pg_probackup counts the same
/// ones (`src/catalog.c`, `IsDir`).
pub(in crate::catalog) fn visible_directories(
    dir: &StorePath,
) -> Result<Vec<StorePath>, CatalogError> {
    let entries = dir.list().map_err(|source| CatalogError::Read {
        path: dir.name(),
        source,
    })?;
    let directories = entries
        .iter()
        .filter(|entry| entry.kind == Kind::Directory && !is_hidden(&entry.name));
    Ok(directories.map(|entry| dir.join(&entry.name)).collect())
}

/// Whether a directory in `backups` is the one that mkfs creates in the root of a file
/// system. An instance that a user gave this name has a configuration or backups.
fn is_file_systems(dir: &StorePath) -> bool {
    let is_there = |place: StorePath| place.open().is_ok();
    let has_backups = || {
        // An unprivileged user may not even be allowed to list it.
        let inner = visible_directories(dir).unwrap_or_default();
        let mut controls = inner.iter().map(|backup| backup.join("backup.control"));
        controls.any(is_there)
    };
    dir.file_name() == Some(OsStr::new("lost+found"))
        && !is_there(dir.join(CONFIG))
        && !has_backups()
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::catalog::fixtures;

    #[test]
    fn a_fixture_opens_with_its_configuration() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let catalog = Catalog::open(&unpacked.path().join("catalog")).unwrap();
        assert_eq!(catalog.instances().unwrap(), ["main"]);

        let main = catalog.instance("main").unwrap();
        assert_eq!(main.dir, catalog.location().name().join("backups/main"));
        assert_eq!(main.wal_dir, catalog.location().name().join("wal/main"));
        assert_eq!(
            main.config.system_identifier,
            Some(7_710_894_471_140_880_671)
        );
        assert_eq!(main.config.wal_segment_size, Some(1_048_576));
        assert_eq!(
            main.config.pgdata.as_deref(),
            Some(Path::new("/srv/fixture/pg15-hazards/data"))
        );
    }

    #[test]
    fn what_is_no_catalog_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for root in [dir.path().to_owned(), dir.path().join("nothing")] {
            let error = Catalog::open(&root).unwrap_err();
            assert!(matches!(error, CatalogError::NotACatalog { .. }));
            assert!(
                error.to_string().contains(root.to_str().unwrap()),
                "{error}"
            );
        }
        fs::write(dir.path().join("backups"), "a file").unwrap();
        let error = Catalog::open(dir.path()).unwrap_err();
        assert!(matches!(error, CatalogError::NotACatalog { .. }));
    }

    #[test]
    fn an_unknown_instance_is_answered_with_those_that_exist() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["two", "one", ".hidden"] {
            fs::create_dir_all(dir.path().join("backups").join(name)).unwrap();
        }
        let catalog = Catalog::open(dir.path()).unwrap();
        let message = catalog.instance("three").unwrap_err().to_string();
        assert!(
            message.ends_with("has no instance \"three\"; it has one, two"),
            "{message}"
        );
        for name in ["", "..", ".", "a/b", "/etc"] {
            let error = catalog.instance(name).unwrap_err();
            assert!(
                matches!(error, CatalogError::InvalidInstanceName { .. }),
                "{name}"
            );
        }
        // An instance without a configuration is unusual, but usable.
        assert_eq!(
            catalog.instance("one").unwrap().config,
            InstanceConfig::default()
        );
    }

    #[test]
    fn what_mkfs_made_is_no_instance() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("backups/lost+found");
        fs::create_dir_all(made.join("#1234")).unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        assert_eq!(catalog.instances().unwrap(), [""; 0]);
        assert!(catalog.instance("lost+found").is_err());
        // An instance that was given this name remains one.
        fs::create_dir(made.join("TOW7GA")).unwrap();
        fs::write(made.join("TOW7GA/backup.control"), "").unwrap();
        assert_eq!(catalog.instances().unwrap(), ["lost+found"]);
        fs::remove_dir_all(made.join("TOW7GA")).unwrap();
        fs::write(made.join(CONFIG), "").unwrap();
        assert_eq!(catalog.instances().unwrap(), ["lost+found"]);
    }

    #[test]
    fn a_configuration_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let instance = dir.path().join("backups/main");
        fs::create_dir_all(&instance).unwrap();
        let conf = fs::File::create(instance.join(CONFIG)).unwrap();
        conf.set_len(1 << 40).unwrap();
        let error = Catalog::open(dir.path()).unwrap().instance("main");
        let message = crate::causes::sentence(&error.unwrap_err());
        assert!(message.contains("it is larger than 256 KiB"), "{message}");
    }

    #[test]
    fn a_malformed_configuration_names_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let instance = dir.path().join("backups/main");
        fs::create_dir_all(&instance).unwrap();
        fs::write(
            instance.join("pg_probackup.conf"),
            "\nsystem-identifier = x\n",
        )
        .unwrap();
        let error = Catalog::open(dir.path())
            .unwrap()
            .instance("main")
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.ends_with("pg_probackup.conf, line 2: system-identifier cannot be \"x\""),
            "{message}"
        );
    }
}
