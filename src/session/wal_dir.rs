//! Where the server's WAL directory is: in the diff, as a directory of its own,
//! whenever the server can reach it there, and a link leads to it.

use std::fs;
use std::os::unix::fs::MetadataExt;
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
/// user, does not: the diff is root's alone, unless somebody made it otherwise.
pub fn is_reached(level: &FenceLevel, run_as: Option<&OsUser>) -> bool {
    level.is_namespace() || run_as.is_none()
}

/// The user whom the permissions of the directories above keep from `dir`, if
/// that is the server's.
fn kept_out<'a>(server: &'a Preparation, dir: &Path) -> Option<&'a OsUser> {
    let user = server.run_as.as_ref();
    let user = user.filter(|_| !is_reached(&server.level, user))?;
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
    let mut above = dir.ancestors().skip(1);
    (!above.all(enters)).then_some(user)
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
    let place = |dir: &Path| std::path::absolute(dir).unwrap_or(dir.to_owned());
    let dir = place(&diff.wal_dir());
    let kept_out = server.and_then(|server| kept_out(server, &dir));
    match overlay.wal_place() {
        Ok(WalPlace::Diff(link)) => {
            if let Some(user) = kept_out {
                let user = user.name.clone();
                return Err(SessionError::WalOutOfReach { dir, user });
            }
            if link != dir {
                overlay.link_wal(&dir)?;
            }
            Ok(Some(dir))
        }
        Ok(WalPlace::Tree(bytes))
            if server.is_some() && kept_out.is_none() && bytes <= COPY_LIMIT =>
        {
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
