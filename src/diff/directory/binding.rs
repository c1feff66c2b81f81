//! `.pbkfs-binding.json`: which backup a diff belongs to.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::promotion::refuse_promoted;
use super::record;
use super::root::Root;
use crate::diff::error::DiffError;
use crate::diff::layout::BINDING_FILE;

/// The format that this version writes and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The backup under a diff's blocks. A block of the diff is valid only over the image
/// that it was changed on, so the whole chain is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The diff's format.
    pub version: u32,
    /// The catalog's path when the diff was created. It is for messages, and for
    /// mounting by the diff alone; a catalog that was moved still holds the same
    /// backup.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The cluster's system identifier, if the catalog records it.
    pub system_identifier: Option<u64>,
    /// The backup's id.
    pub backup: String,
    /// The chain's ids, FULL first.
    pub chain: Vec<String>,
    /// The image's fingerprint in hex; the diff's inode numbers depend on it.
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
    /// If the file cannot be read, is not a regular file, is damaged, or was written by
    /// a newer version.
    pub fn read(root: &Path) -> Result<Option<Self>, DiffError> {
        match Root::find(root)? {
            Some(root) => Self::read_in(&root),
            None => Ok(None),
        }
    }

    /// Reads the binding in a directory that is already open.
    pub(in crate::diff) fn read_in(root: &Root) -> Result<Option<Self>, DiffError> {
        match record::read::<Self>(root, BINDING_FILE)? {
            Some(binding) if binding.version > FORMAT_VERSION => Err(DiffError::Version {
                path: root.join(BINDING_FILE),
                found: binding.version,
                known: FORMAT_VERSION,
            }),
            binding => Ok(binding),
        }
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

/// Checks the diff in `root` against `wanted`; returns `None` if it is not bound yet.
pub fn check(root: &Root, wanted: &Binding) -> Result<Option<Binding>, DiffError> {
    let Some(bound) = Binding::read_in(root)? else {
        return Ok(None);
    };
    if !bound.same_image(wanted) {
        return Err(DiffError::BoundElsewhere {
            path: root.path().to_owned(),
            bound: bound.to_string(),
            wanted: wanted.to_string(),
        });
    }
    refuse_promoted(root)?;
    root.check_owners_alone()?;
    Ok(Some(bound))
}

/// Binds the diff. A crash leaves either no binding or a complete one. All else must be
/// on disk before.
pub fn write(root: &Root, binding: &Binding) -> Result<(), DiffError> {
    record::write(root, BINDING_FILE, binding)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

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

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_new_diff_is_bound_and_stays_so() {
        let (_dir, root) = root();
        assert_eq!(check(&root, &binding("BBB")).unwrap(), None);
        write(&root, &binding("BBB")).unwrap();
        let mut moved = binding("BBB");
        moved.catalog = "/elsewhere".into();
        assert_eq!(check(&root, &moved).unwrap(), Some(binding("BBB")));
        let error = check(&root, &binding("CCC")).unwrap_err();
        assert!(matches!(error, DiffError::BoundElsewhere { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("BBB") && text.contains("CCC"), "{text}");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let (dir, root) = root();
        let mut newer = binding("BBB");
        newer.version = FORMAT_VERSION + 1;
        write(&root, &newer).unwrap();
        assert!(matches!(
            Binding::read(dir.path()),
            Err(DiffError::Version { .. })
        ));
    }

    #[test]
    fn a_damaged_binding_is_an_error_not_a_new_diff() {
        let mut loud = binding("BBB");
        loud.chain = vec!["main\u{1b}[2J".to_owned()];
        let loud = serde_json::to_vec(&loud).unwrap();
        for text in [b"{ not json".as_slice(), &loud] {
            let (dir, root) = root();
            fs::write(dir.path().join(BINDING_FILE), text).unwrap();
            let error = check(&root, &binding("BBB")).unwrap_err();
            assert!(matches!(error, DiffError::BadFile { .. }), "{error}");
        }
    }

    /// Reading any of these would block, or never end.
    #[test]
    fn what_is_no_binding_is_refused_at_once() {
        let traps: [fn(&Path); 4] = [
            |at| symlink("/dev/zero", at).unwrap(),
            |at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            |at| fs::create_dir(at).unwrap(),
            |at| fs::File::create(at).unwrap().set_len(1 << 40).unwrap(),
        ];
        for (n, make) in traps.into_iter().enumerate() {
            let (dir, root) = root();
            make(&dir.path().join(BINDING_FILE));
            let error = check(&root, &binding("BBB")).unwrap_err();
            match error {
                DiffError::Foreign { .. } => assert!(n < 3),
                DiffError::Io { .. } => assert_eq!(n, 3, "{error}"),
                _ => panic!("{error}"),
            }
        }
    }

    #[test]
    fn a_bound_directory_that_others_can_write_to_is_refused() {
        let (dir, root) = root();
        write(&root, &binding("BBB")).unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o2775)).unwrap();
        let error = check(&root, &binding("BBB")).unwrap_err();
        assert!(
            matches!(error, DiffError::WritableByOthers { .. }),
            "{error}"
        );
    }
}
