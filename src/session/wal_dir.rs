//! Where the server's WAL directory is: in the diff, as a directory of its own,
//! whenever the server can reach it there, and a link leads to it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::SessionError;
use super::fence::FenceLevel;
use super::postgres::Preparation;
use crate::image::Image;
use crate::overlay::{Overlay, WalPlace};
use crate::server::OsUser;

/// How much WAL is copied out of a backup before the server starts. What STREAM
/// backups bring is mostly less. More is left where it is, and the clone writes
/// its own through the mount, too.
const COPY_LIMIT: u64 = 256 << 20;

/// Whether a server most likely reaches a directory in the diff. One in
/// namespaces gets it shown. Without them root's server, which runs as another
/// user, does not always.
pub fn is_reached(level: &FenceLevel, run_as: Option<&OsUser>) -> bool {
    level.is_namespace() || run_as.is_none()
}

/// Lets the server enter the diff's directory, which is root's alone, if it has
/// to by itself; what else is in there stays closed to it. Tells whether it can
/// get that far.
fn let_in(server: &Preparation, diff: &Path) -> io::Result<bool> {
    let user = match &server.run_as {
        Some(user) if !is_reached(&server.level, Some(user)) => user,
        _ => return Ok(true),
    };
    let enters = |dir: &Path| {
        fs::metadata(dir).is_ok_and(|dir| {
            let shift = match () {
                () if dir.uid() == user.uid.as_raw() => 6,
                () if user.groups.iter().any(|group| dir.gid() == group.as_raw()) => 3,
                () => 0,
            };
            (dir.mode() >> shift) & 1 == 1
        })
    };
    if !diff.ancestors().skip(1).all(enters) {
        return Ok(false);
    }
    if !enters(diff) {
        let mode = fs::metadata(diff)?.mode() | 0o011;
        fs::set_permissions(diff, Permissions::from_mode(mode))?;
    }
    Ok(true)
}

/// Moves the WAL directory out of the tree for the server that is to come, if
/// one is, or finds where it was moved to before. Gives its place.
///
/// # Errors
/// [`SessionError::WalOutOfReach`] if this server cannot use a WAL directory
/// that an earlier one has written; those of the diff.
pub fn settle(
    overlay: &Overlay<Image>,
    server: Option<&Preparation>,
    kept: bool,
) -> Result<Option<PathBuf>, SessionError> {
    let Some(diff) = overlay.layer() else {
        return Ok(None);
    };
    // The link has to be true wherever it is read.
    let dir = std::path::absolute(diff.wal_dir()).unwrap_or(diff.wal_dir());
    let reach = |server| {
        let root = dir.parent().unwrap_or(&dir);
        let_in(server, root).map_err(|e| SessionError::io("change the mode of", root, e))
    };
    let reached = server.map(reach).transpose()?;
    match overlay.wal_place() {
        Ok(WalPlace::Diff(link)) => {
            if reached == Some(false) {
                return Err(SessionError::WalOutOfReach { dir });
            }
            if link != dir {
                overlay.link_wal(&dir)?;
            }
            Ok(Some(dir))
        }
        Ok(WalPlace::Tree(bytes)) if reached == Some(true) && bytes <= COPY_LIMIT => {
            diff.remove_wal_dir()?;
            if let Err(error) = overlay.copy_wal(&dir, kept) {
                tracing::warn!("WAL is written through the mount, which is slower: {error}");
                diff.remove_wal_dir()?;
                return Ok(None);
            }
            overlay.link_wal(&dir)?;
            Ok(Some(dir))
        }
        // What cannot be copied is the server's to fail on, if it needs it.
        _ => Ok(None),
    }
}
