//! `.pbkfs-promotion.json`: the data directory that a clone was, or is being, cut over to.
//!
//! The files of that directory are the diff's own files under second names. So from the
//! moment before the first of these names exists, nobody may write through the diff.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record;
use super::root::Root;
use crate::diff::error::DiffError;
use crate::diff::layout::PROMOTION_FILE;

/// A cut-over, as recorded in the diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The data directory, by absolute path.
    pub to: PathBuf,
    /// The inode of that directory, which it has from the beginning: under a temporary
    /// name first, and then under its own.
    pub inode: u64,
    /// Whether the directory is complete.
    pub complete: bool,
}

impl Promotion {
    /// Reads the record of the diff in `root`; `None` if the diff was never promoted.
    ///
    /// # Errors
    /// If the file cannot be read, is not a regular file or is damaged.
    pub fn read(root: &Path) -> Result<Option<Self>, DiffError> {
        let read = |root| record::read(&root, PROMOTION_FILE);
        Root::find(root)?.map_or(Ok(None), read)
    }
}

/// Refuses a diff that was promoted, or whose promotion was interrupted.
pub fn refuse_promoted(root: &Root) -> Result<(), DiffError> {
    let path = root.path().to_owned();
    match record::read(root, PROMOTION_FILE)? {
        None => Ok(()),
        Some(Promotion { to, complete, .. }) => Err(match complete {
            true => DiffError::Promoted { path, to },
            false => DiffError::PromotionInterrupted { path, to },
        }),
    }
}

/// Records a promotion, or removes the record. This is durable when it returns.
pub fn write(root: &Root, promotion: Option<&Promotion>) -> Result<(), DiffError> {
    match promotion {
        Some(promotion) => record::write(root, PROMOTION_FILE, promotion),
        None => {
            root.unlink(PROMOTION_FILE)?;
            root.sync()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promoted_diff_is_refused_and_the_record_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        refuse_promoted(&root).unwrap();
        let mut promotion = Promotion {
            to: "/srv/pg/main".into(),
            inode: 7,
            complete: false,
        };
        write(&root, Some(&promotion)).unwrap();
        let error = refuse_promoted(&root).unwrap_err();
        assert!(
            matches!(error, DiffError::PromotionInterrupted { .. }),
            "{error}"
        );
        promotion.complete = true;
        write(&root, Some(&promotion)).unwrap();
        let error = refuse_promoted(&root).unwrap_err();
        assert!(matches!(error, DiffError::Promoted { .. }), "{error}");
        assert!(error.to_string().contains("/srv/pg/main"), "{error}");
        assert_eq!(Promotion::read(dir.path()).unwrap(), Some(promotion));
        write(&root, None).unwrap();
        refuse_promoted(&root).unwrap();
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_a_diff_that_may_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let loud = r#"{"to": "/srv\u001b[2J", "inode": 7, "complete": true}"#;
        for text in ["{", loud] {
            std::fs::write(dir.path().join(PROMOTION_FILE), text).unwrap();
            let error = refuse_promoted(&Root::open(dir.path()).unwrap()).unwrap_err();
            assert!(matches!(error, DiffError::BadFile { .. }), "{error}");
        }
    }
}
