//! The kernel's mount table, `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::fuse::MountPoint;
use crate::server::ServerError;
use crate::server::namespace::Opened;
use crate::session::SessionError;
use crate::untrusted::{found, hold, identity};

/// The source of our mounts.
pub const OUR_SOURCE: &str = "pbkfs";

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its mount ID.
    pub id: u64,
    /// The mount point.
    pub target: PathBuf,
    /// Its file system's type.
    pub kind: String,
    /// Its source.
    pub source: String,
    /// The user who mounted it, as FUSE file systems show it.
    pub user: Option<u32>,
}

impl MountEntry {
    /// Returns whether it is a mount of pbkfs.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        // A mount made by root with an older version has the type fuse.
        self.kind.starts_with("fuse") && self.source == OUR_SOURCE
    }
}

/// Opens the mount that this user's pbkfs has created at `mounted`, for its
/// server's namespaces, through the path `target`, which may contain links. No
/// request is sent to the mount.
///
/// # Errors
/// Returns [`ServerError::Replaced`] if something else is there; I/O errors.
pub fn opened(target: &Path, mounted: &Path) -> Result<Opened, SessionError> {
    let io = |e| SessionError::io("open", target, e);
    let dir = hold(target).map_err(io)?;
    let found = identity(&dir).map_err(io)?;
    let user = geteuid().as_raw();
    // The mount of another clone would be that clone's data directory.
    let is_it = |mount: &MountEntry| {
        mount.id == found.mount
            && mount.target == mounted
            && mount.is_ours()
            && mount.user == Some(user)
    };
    let table = table()?;
    if !found.is_mount_root || !parse(&table).any(|mount| is_it(&mount)) {
        let path = target.to_owned();
        return Err(ServerError::Replaced { path }.into());
    }
    Opened::new(target, dir).map_err(io)
}

fn table() -> Result<Vec<u8>, SessionError> {
    std::fs::read(TABLE).map_err(|e| SessionError::io("read", Path::new(TABLE), e))
}

/// Returns the topmost mount at exactly `target`. Works where `stat` does not: on a
/// mount whose FUSE server has died.
///
/// # Errors
/// If the table cannot be read.
pub fn at(target: &Path) -> Result<Option<MountEntry>, SessionError> {
    Ok(parse(&table()?)
        .filter(|mount| mount.target == target)
        .last())
}

/// Returns all mounts of pbkfs, whoever created them.
///
/// # Errors
/// If the table cannot be read.
pub fn ours() -> Result<Vec<MountEntry>, SessionError> {
    Ok(parse(&table()?).filter(MountEntry::is_ours).collect())
}

/// Returns the mount that `target` is inside, but not one at `target` itself.
///
/// # Errors
/// If the table cannot be read.
pub fn around(target: &Path) -> Result<Option<MountEntry>, SessionError> {
    let table = table()?;
    let above = |mount: &MountEntry| mount.target != target && target.starts_with(&mount.target);
    // Of stacked mounts, the last is the topmost.
    Ok(parse(&table)
        .filter(above)
        .max_by_key(|mount| mount.target.components().count()))
}

/// Parses the table. Its fields (`proc(5)`): id, parent, major:minor, root, mount
/// point, options, optional fields up to a `-`, type, source, super options. Spaces and
/// backslashes in paths are escaped, as in `\040`.
fn parse(table: &[u8]) -> impl Iterator<Item = MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = String::from_utf8_lossy(fields.next()?).parse().ok()?;
        let target = unescape(fields.nth(3)?);
        fields.find(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.next()?).into_owned();
        let source = String::from_utf8_lossy(fields.next()?).into_owned();
        let options = String::from_utf8_lossy(fields.next().unwrap_or_default());
        let mut options = options.split(',');
        let user = options.find_map(|option| option.strip_prefix("user_id="));
        Some(MountEntry {
            id,
            target,
            kind,
            source,
            user: user.and_then(|user| user.parse().ok()),
        })
    })
}

fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\');
        let decoded = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match decoded {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Removes a mount point that was created, unless it is already gone, with its parent
/// directory or without. One that is no longer empty now belongs to somebody else; it
/// stays, and that is an error.
///
/// # Errors
/// I/O errors.
pub fn remove_point(target: &Path) -> Result<(), SessionError> {
    let removed = found(MountPoint::find(target)).and_then(|point| match point {
        Some(point) => point.parent().remove_dir(point.name()),
        None => Ok(()),
    });
    removed.map_err(|e| SessionError::io("remove the mount point", target, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_of_ours_is_not_the_clones() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), Path::new("/proc")] {
            let error = opened(path, path).unwrap_err();
            let replaced = SessionError::Server(ServerError::Replaced {
                path: path.to_owned(),
            });
            assert_eq!(error.to_string(), replaced.to_string());
        }
    }

    #[test]
    fn a_mount_point_may_be_gone_with_all_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("clones/main");
        remove_point(&made).unwrap();
        std::fs::create_dir_all(&made).unwrap();
        remove_point(&made).unwrap();
        assert!(!made.exists());
        remove_point(&made).unwrap();
    }

    #[test]
    fn lines_with_optional_fields_and_escapes_are_read() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
            37 35 0:50 / /srv/a\\040b\\134c rw - fuse.pbkfs pbkfs rw,user_id=7,group_id=8\n\
            broken line\n";
        let mounts: Vec<MountEntry> = parse(table).collect();
        assert_eq!(
            mounts,
            vec![
                MountEntry {
                    id: 36,
                    target: "/mnt2".into(),
                    kind: "ext3".into(),
                    source: "/dev/root".into(),
                    user: None,
                },
                MountEntry {
                    id: 37,
                    target: "/srv/a b\\c".into(),
                    kind: "fuse.pbkfs".into(),
                    source: "pbkfs".into(),
                    user: Some(7),
                },
            ]
        );
        assert!(!mounts[0].is_ours() && mounts[1].is_ours());
    }
}
