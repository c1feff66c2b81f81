//! Where the server's WAL directory is: in the diff, as a directory of its own with a
//! link to it, whenever the server can reach it there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

use super::needs::ServerNeeds;
use crate::diff::WAL_DIR;
use crate::image::Image;
use crate::overlay::{Overlay, WalPlace};
use crate::server::OsUser;
use crate::server::namespace::Opened;
use crate::session::SessionError;
use crate::untrusted::{Dir, refused};

/// The maximum amount of WAL copied out of a backup before the server starts. STREAM
/// backups mostly bring less. More than that is left where it is, and the clone writes
/// its own WAL through the mount, too.
const COPY_LIMIT: u64 = 256 << 20;

/// The server's WAL directory in the diff.
#[derive(Debug)]
pub struct WalDir {
    /// Its absolute path, which the link points to.
    pub path: PathBuf,
    /// The directory itself, as it was checked.
    pub dir: Dir,
}

impl WalDir {
    /// Opens it for the server's namespaces.
    pub fn opened(&self) -> Result<Opened, SessionError> {
        let opened = Opened::new(&self.path, &self.dir);
        opened.map_err(|e| SessionError::io("open", &self.path, e))
    }
}

/// Returns the user as which the server has to reach the diff by itself, or `None` if
/// it does not have to.
fn walker(server: &ServerNeeds) -> Option<&OsUser> {
    let user = server.run_as.as_ref();
    user.filter(|_| !server.reaches_diff())
}

fn enters(user: &OsUser, (uid, gid, mode): (u32, u32, u32)) -> bool {
    let shift = match () {
        () if uid == user.uid.as_raw() => 6,
        () if user.groups.iter().any(|group| gid == group.as_raw()) => 3,
        () => 0,
    };
    (mode >> shift) & 1 == 1
}

/// Returns whether the server can reach the diff's directory.
fn gets_to(server: &ServerNeeds, root: &Path) -> bool {
    walker(server).is_none_or(|user| {
        let mut above = root.ancestors().skip(1);
        let rights = |dir: Metadata| (dir.uid(), dir.gid(), dir.mode());
        above.all(|dir| fs::metadata(dir).is_ok_and(|dir| enters(user, rights(dir))))
    })
}

/// Lets the server enter the diff's directory, which is root's alone, if the server has
/// to reach it by itself. Everything else in there stays closed to it.
fn let_in(server: &ServerNeeds, root: &Dir) -> io::Result<()> {
    let Some(user) = walker(server) else {
        return Ok(());
    };
    let stat = root.stat_self()?;
    if !enters(user, (stat.uid, stat.gid, stat.mode)) {
        root.set_mode(stat.mode | 0o011)?;
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or(path.to_owned())
}

/// Returns what keeps the server from using the WAL directory, if anything does.
fn obstacle(server: &ServerNeeds, root: &Dir, wal: &Dir) -> io::Result<Option<&'static str>> {
    let owner = server.run_as.as_ref().map_or(geteuid(), |user| user.uid);
    Ok(match wal.stat_self()?.uid {
        uid if uid != owner.as_raw() => Some("which is another user's; copy a diff with cp -a"),
        _ if !gets_to(server, &absolute(root.path())) => Some(
            "which it cannot reach without namespaces; let its user enter the directories above, \
             or set fence.level = \"auto\"",
        ),
        _ => None,
    })
}

/// Opens the WAL directory that the server or an earlier one has written. Only the link
/// shows that there is one.
fn open(server: &ServerNeeds, root: &Dir, path: PathBuf) -> Result<WalDir, SessionError> {
    let io = |e| SessionError::io("open", &path, e);
    let obstacle = match root.dir(WAL_DIR) {
        Ok(dir) => match obstacle(server, root, &dir).map_err(io)? {
            None => return Ok(WalDir { path, dir }),
            Some(obstacle) => obstacle,
        },
        Err(e) if refused(&e).is_some() => "which is not a directory",
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            "which does not exist; without it, the diff is of no use"
        }
        Err(e) => return Err(io(e)),
    };
    let dir = path;
    Err(SessionError::WalUnusable { dir, obstacle })
}

/// Moves the WAL directory out of the tree for the server to be started, if there is
/// one, or finds where it was moved before. Returns it opened: from here on, nobody who
/// can change a directory above it can redirect it.
///
/// # Errors
/// Returns [`SessionError::WalUnusable`] if this server cannot use a WAL directory that
/// an earlier one has written; errors of the diff.
pub fn settle(
    overlay: &Overlay<Image>,
    server: Option<&ServerNeeds>,
    kept: bool,
) -> Result<Option<WalDir>, SessionError> {
    let Some((diff, root)) = overlay.layer().and_then(|diff| Some((diff, diff.dir()?))) else {
        return Ok(None);
    };
    // The link has to be valid wherever it is read.
    let path = absolute(&diff.wal_dir());
    let let_in =
        |server| let_in(server, root).map_err(|e| SessionError::io("chmod", root.path(), e));
    match (overlay.wal_place(), server) {
        (Ok(WalPlace::Diff(link)), _) => {
            let mut found = None;
            if let Some(server) = server {
                found = Some(open(server, root, path.clone())?);
                let_in(server)?;
            }
            if link != path {
                overlay.link_wal(&path)?;
            }
            Ok(found)
        }
        (Ok(WalPlace::Tree(bytes)), Some(server))
            if bytes <= COPY_LIMIT && gets_to(server, path.parent().unwrap_or(&path)) =>
        {
            diff.remove_wal_dir()?;
            let user = server.run_as.as_ref();
            let (uid, gid) = user.map_or((geteuid(), getegid()), |user| (user.uid, user.gid));
            if let Err(error) = overlay.copy_wal((uid.as_raw(), gid.as_raw()), kept) {
                tracing::warn!("WAL is written through the mount, which is slower: {error}");
                diff.remove_wal_dir()?;
                return Ok(None);
            }
            let made = open(server, root, path)?;
            let_in(server)?;
            overlay.link_wal(&made.path)?;
            Ok(Some(made))
        }
        // If WAL cannot be copied, it is up to the server to fail, if it needs it.
        _ => Ok(None),
    }
}
