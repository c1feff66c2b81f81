//! The directories that lead to a path.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Refused, is_ours};

const STICKY: u32 = 0o1000;

/// Checks that nobody but this process's user, root and the users `trusted`
/// can put something else in the place of `path`, which is absolute: each
/// directory on the way belongs to one of them, and others cannot write to it,
/// or only add to it (the sticky bit).
///
/// # Errors
/// [`Refused::OthersWay`] with the first such directory; the system's own.
pub fn check_way(path: &Path, trusted: &[(u32, u32)]) -> io::Result<()> {
    let mut way: Vec<&Path> = path.ancestors().skip(1).collect();
    way.reverse();
    for dir in way {
        let meta = std::fs::symlink_metadata(dir)?;
        let mode = meta.mode() & 0o7777;
        let owner = meta.uid();
        let owner_is_ours = is_ours(owner) || trusted.iter().any(|(user, _)| *user == owner);
        let group_is_ours = meta.gid() == 0 || trusted.iter().any(|(_, gid)| *gid == meta.gid());
        let others = if group_is_ours { 0o002 } else { 0o022 };
        if !owner_is_ours || (mode & others != 0 && mode & STICKY == 0) {
            return Err(Refused::OthersWay {
                dir: dir.to_owned(),
                uid: owner,
                mode,
            }
            .into());
        }
    }
    Ok(())
}
