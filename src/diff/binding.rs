//! `.pbkfs-binding.json`: which backup a diff belongs to.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::DiffError;

/// The binding's file name.
pub const BINDING_FILE: &str = ".pbkfs-binding.json";

/// What it is written as before it gets its name.
pub const TEMPORARY_FILE: &str = ".pbkfs-binding.json.tmp";

/// The format that this version writes and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The backup that a diff's blocks lie over. A block of the diff makes sense
/// over exactly the image that it was made on, so the whole chain is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The diff's format.
    pub version: u32,
    /// The catalog's path when the diff was made. For people, and for
    /// mounting by the diff alone; a moved catalog is not another backup.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The cluster's system identifier, where the catalog records it.
    pub system_identifier: Option<u64>,
    /// The backup's id.
    pub backup: String,
    /// The chain's ids, FULL first.
    pub chain: Vec<String>,
    /// The image's fingerprint, in hex: inode numbers of the diff refer to it.
    pub image: String,
}

impl Binding {
    /// Whether `other` names the same image. The catalog's path may differ.
    #[must_use]
    pub fn same_image(&self, other: &Self) -> bool {
        self.instance == other.instance
            && self.system_identifier == other.system_identifier
            && self.backup == other.backup
            && self.chain == other.chain
            && self.image == other.image
    }

    /// Reads the binding of the diff in `root`; `None` if there is none.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or a newer version wrote it.
    pub fn read(root: &Path) -> Result<Option<Self>, DiffError> {
        let path = root.join(BINDING_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiffError::io("read", &path, e)),
        };
        let binding: Self =
            serde_json::from_slice(&text).map_err(|source| DiffError::BadBinding {
                path: path.clone(),
                source,
            })?;
        if binding.version > FORMAT_VERSION {
            let found = binding.version;
            return Err(DiffError::Version {
                path,
                found,
                known: FORMAT_VERSION,
            });
        }
        Ok(Some(binding))
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of instance {} (chain {})",
            self.backup,
            self.instance,
            self.chain.join(" > ")
        )
    }
}

/// Checks the diff in `root` against `wanted`, or binds it if it is new.
pub fn bind(root: &Path, wanted: &Binding) -> Result<Binding, DiffError> {
    if let Some(bound) = Binding::read(root)? {
        if !bound.same_image(wanted) {
            return Err(DiffError::BoundElsewhere {
                path: root.to_owned(),
                bound: bound.to_string(),
                wanted: wanted.to_string(),
            });
        }
        return Ok(bound);
    }
    write(root, wanted)?;
    Ok(wanted.clone())
}

/// Written beside and renamed, both synced: a crash leaves either no binding
/// (and then no metadata either) or a whole one.
fn write(root: &Path, binding: &Binding) -> Result<(), DiffError> {
    let path = root.join(BINDING_FILE);
    let temporary = root.join(TEMPORARY_FILE);
    let mut text = serde_json::to_vec_pretty(binding).map_err(|source| DiffError::BadBinding {
        path: path.clone(),
        source,
    })?;
    text.push(b'\n');
    let save = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(root)?.sync_all()
    };
    save().map_err(|e| DiffError::io("write", &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(backup: &str) -> Binding {
        Binding {
            version: FORMAT_VERSION,
            catalog: "/srv/backup".into(),
            instance: "main".into(),
            system_identifier: Some(7),
            backup: backup.into(),
            chain: vec!["AAA".into(), backup.into()],
            image: "00ff".into(),
        }
    }

    #[test]
    fn a_new_diff_is_bound_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        bind(dir.path(), &binding("BBB")).unwrap();
        let mut moved = binding("BBB");
        moved.catalog = "/elsewhere".into();
        assert_eq!(bind(dir.path(), &moved).unwrap(), binding("BBB"));
        let error = bind(dir.path(), &binding("CCC")).unwrap_err();
        assert!(matches!(error, DiffError::BoundElsewhere { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("BBB") && text.contains("CCC"), "{text}");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut newer = binding("BBB");
        newer.version = FORMAT_VERSION + 1;
        write(dir.path(), &newer).unwrap();
        assert!(matches!(
            Binding::read(dir.path()),
            Err(DiffError::Version { .. })
        ));
    }

    #[test]
    fn a_damaged_binding_is_an_error_not_a_new_diff() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(BINDING_FILE), b"{ not json").unwrap();
        assert!(matches!(
            bind(dir.path(), &binding("BBB")),
            Err(DiffError::BadBinding { .. })
        ));
    }
}
