//! How users refer to a backup.

use std::fmt;
use std::str::FromStr;

use super::backup::BackupId;

/// A reference to a backup of an instance: `latest`, or an id. Letters match in either
/// case, as in pg_probackup.
///
/// ```
/// use pbkfs::catalog::{BackupId, BackupRef};
///
/// assert_eq!("latest".parse(), Ok(BackupRef::Latest));
/// assert_eq!("tow7ga".parse(), Ok(BackupRef::Id(BackupId("TOW7GA".to_owned()))));
/// assert!("../TOW7GA".parse::<BackupRef>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupRef {
    /// The newest backup that can be restored, is supported, and whose content list can
    /// be read, all of which applies to its parents, too.
    Latest,
    /// The backup with this id.
    Id(BackupId),
}

/// Text that does not refer to a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is neither \"latest\" nor a backup id such as TOW7GA")]
pub struct InvalidBackupRef(pub String);

impl FromStr for BackupRef {
    type Err = InvalidBackupRef;

    fn from_str(text: &str) -> Result<Self, InvalidBackupRef> {
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest);
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidBackupRef(text.to_owned()));
        }
        Ok(Self::Id(BackupId(text.to_ascii_uppercase())))
    }
}

impl fmt::Display for BackupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_latest_or_an_id_in_any_case() {
        let id = |text: &str| BackupRef::Id(BackupId(text.to_owned()));
        assert_eq!("latest".parse(), Ok(BackupRef::Latest));
        assert_eq!("LATEST".parse(), Ok(BackupRef::Latest));
        assert_eq!("tow7ga".parse(), Ok(id("TOW7GA")));
        assert_eq!("TOW7GA".parse(), Ok(id("TOW7GA")));
        for bad in ["", "a b", "../x", "\u{fc}"] {
            assert!(bad.parse::<BackupRef>().is_err(), "{bad}");
        }
    }
}
