//! The catalog's root and its instances.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::control::ControlFile;
use super::error::{CatalogError, ControlError};

/// The keys of `pg_probackup.conf` that [`InstanceConfig`] takes.
const USED_KEYS: [&str; 3] = ["pgdata", "system-identifier", "xlog-seg-size"];

/// A pg_probackup catalog: the directory that pg_probackup takes as `-B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    root: PathBuf,
}

impl Catalog {
    /// Opens the catalog at `root`, which is made absolute first.
    ///
    /// # Errors
    /// If there is no directory `backups` in it, or it cannot be read.
    pub fn open(root: &Path) -> Result<Self, CatalogError> {
        let root = std::path::absolute(root).map_err(|source| CatalogError::Read {
            path: root.to_owned(),
            source,
        })?;
        let catalog = Self { root };
        // Listing is the test for both: that it exists and that we may read it.
        catalog.instances()?;
        Ok(catalog)
    }

    /// The catalog's absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The names of all instances, sorted.
    ///
    /// # Errors
    /// If `backups/` cannot be listed.
    pub fn instances(&self) -> Result<Vec<String>, CatalogError> {
        let listed = visible_directories(&self.root.join("backups"));
        let mut names: Vec<String> = listed
            .map_err(|error| self.explain_no_backups(error))?
            .iter()
            .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// One instance with its configuration.
    ///
    /// # Errors
    /// If there is none of that name, the name is no plain directory name, or
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
                root: self.root.clone(),
                name: name.to_owned(),
                existing,
            });
        }
        let dir = self.root.join("backups").join(name);
        Ok(Instance {
            config: InstanceConfig::read(&dir.join("pg_probackup.conf"))?,
            catalog: self.root.clone(),
            name: name.to_owned(),
            wal_dir: self.root.join("wal").join(name),
            dir,
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
                    root: self.root.clone(),
                }
            }
            other => other,
        }
    }
}

/// One instance of a catalog: a cluster's backups and its WAL archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The catalog's absolute path.
    pub catalog: PathBuf,
    /// The instance's name.
    pub name: String,
    /// Its backups, `CATALOG/backups/NAME`.
    pub dir: PathBuf,
    /// Its WAL archive, `CATALOG/wal/NAME`; it need not exist.
    pub wal_dir: PathBuf,
    /// Its `pg_probackup.conf`.
    pub config: InstanceConfig,
}

/// What `pg_probackup.conf` says about the cluster that was backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceConfig {
    /// The cluster's data directory on its own host.
    pub pgdata: Option<PathBuf>,
    /// The cluster's system identifier.
    pub system_identifier: Option<u64>,
    /// Bytes in one WAL segment.
    pub wal_segment_size: Option<u64>,
}

impl InstanceConfig {
    fn read(path: &Path) -> Result<Self, ControlError> {
        let file = match ControlFile::read(path) {
            Ok(file) => file,
            Err(ControlError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
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

/// The directories in `dir` whose names do not begin with a dot, symbolic
/// links to directories included, in no order. pg_probackup counts the same
/// ones (`src/catalog.c`, `IsDir`).
pub(super) fn visible_directories(dir: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let read_error = |source| CatalogError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        if !path.file_name().is_some_and(is_hidden) && path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    #[test]
    fn a_fixture_opens_with_its_configuration() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let catalog = Catalog::open(&unpacked.path().join("catalog")).unwrap();
        assert_eq!(catalog.instances().unwrap(), ["main"]);

        let main = catalog.instance("main").unwrap();
        assert_eq!(main.dir, catalog.root().join("backups/main"));
        assert_eq!(main.wal_dir, catalog.root().join("wal/main"));
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
        // An instance without a configuration is odd, not unusable.
        assert_eq!(
            catalog.instance("one").unwrap().config,
            InstanceConfig::default()
        );
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
