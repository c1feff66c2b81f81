//! The mount point: a name in a directory that is opened once.
//!
//! Anyone who can change a directory further up can put something else at the path of a
//! mount point at any time. So root mounts on and unmounts from what was opened and
//! checked, not what the path resolves to later. For other users this is done by
//! `fusermount3`, which takes a path and resolves it with the user's own permissions.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getgid, getuid};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::untrusted::{Dir, mount_of, path_of};

const DEVICE: &str = "/dev/fuse";

/// The type that the kernel's mount table shows.
const TYPE: &str = "fuse.pbkfs";

/// See the module's documentation.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    parent: Dir,
    name: OsString,
}

impl MountPoint {
    /// Creates the mount point `name` in `parent`, which is known as `path`.
    #[must_use]
    pub fn new(path: PathBuf, parent: Dir, name: OsString) -> Self {
        Self { path, parent, name }
    }

    /// Opens the mount point at `path`, which must have no links in it. Thus a link put
    /// there later is not followed.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn find(path: &Path) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let name = path.file_name().ok_or_else(invalid)?;
        let root = Dir::open(Path::new("/"))?;
        let parent = path.parent().and_then(|dir| dir.strip_prefix("/").ok());
        let parent = match parent.ok_or_else(invalid)? {
            top if top.as_os_str().is_empty() => root,
            below => root.through(below)?,
        };
        Ok(Self::new(path.to_owned(), parent, name.to_owned()))
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory that contains it.
    #[must_use]
    pub fn parent(&self) -> &Dir {
        &self.parent
    }

    /// Returns its name in that directory.
    #[must_use]
    pub fn name(&self) -> &OsString {
        &self.name
    }

    /// Returns a path to it through the opened directory.
    fn pinned(&self) -> PathBuf {
        path_of(&self.parent).join(&self.name)
    }

    /// Mounts an empty FUSE file system on `dir`, the directory at this name, and
    /// returns the descriptor by which the kernel sends its requests.
    ///
    /// # Errors
    /// If a system call fails.
    pub(super) fn mount(&self, dir: &Dir, source: &str, read_only: bool) -> io::Result<OwnedFd> {
        let device = File::options().read(true).write(true).open(DEVICE)?;
        let data = format!(
            "fd={},rootmode={:o},user_id={},group_id={},default_permissions,allow_other",
            device.as_raw_fd(),
            nix::libc::S_IFDIR | dir.stat_self()?.mode,
            getuid(),
            getgid()
        );
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        if read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        mount(
            Some(source),
            &path_of(dir),
            Some(TYPE),
            flags,
            Some(data.as_str()),
        )?;
        Ok(device.into())
    }

    /// Holds what is mounted there now. A mount whose server died can be held, too.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn mounted(&self) -> io::Result<HeldMount> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = openat(CWD, self.pinned(), flags, Mode::empty())?;
        Ok(HeldMount {
            number: mount_of(&held)?,
            held,
        })
    }

    /// Unmounts it by the system call.
    ///
    /// # Errors
    /// If the system call fails; with `EBUSY` while files are open, unless `lazily`.
    pub(super) fn unmount(&self, lazily: bool) -> Result<(), Errno> {
        umount2(&self.pinned(), flags(lazily))
    }
}

/// A held mount, whatever is mounted at its path later.
#[derive(Debug)]
pub struct HeldMount {
    held: OwnedFd,
    /// The kernel's number for the mount.
    pub number: u64,
}

impl HeldMount {
    /// Returns a path to its root directory, valid while it is held.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.held)
    }

    /// Detaches it from the tree by the system call.
    ///
    /// # Errors
    /// If the system call fails.
    pub(super) fn detach(&self) -> Result<(), Errno> {
        // The path is a magic link, which the kernel resolves to what is held.
        umount2(&self.path(), MntFlags::MNT_DETACH)
    }
}

/// Returns the flags for `umount2(2)`; a link at the path is not followed.
fn flags(lazily: bool) -> MntFlags {
    match lazily {
        true => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
        false => MntFlags::UMOUNT_NOFOLLOW,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn mounts_in(dir: &Path) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let targets = targets.map(PathBuf::from);
        targets.filter(|target| target.starts_with(dir)).collect()
    }

    /// The owner of the directory above can do this between any two calls.
    #[test]
    fn a_mount_stays_where_it_was_meant_to_be() {
        assert!(nix::unistd::geteuid().is_root(), "run this test as root");
        let temp = tempfile::tempdir().unwrap();
        let temp = temp.path().canonicalize().unwrap();
        let [above, moved, victim] = ["above", "moved", "victim"].map(|name| temp.join(name));
        for dir in [&above, &victim] {
            fs::create_dir_all(dir.join("target")).unwrap();
        }
        let point = MountPoint::find(&above.join("target")).unwrap();
        let dir = point.parent().dir(point.name()).unwrap();
        fs::rename(&above, &moved).unwrap();
        symlink(&victim, &above).unwrap();
        let mounted = point.mount(&dir, "pbkfs-test", false).unwrap();
        assert_eq!(mounts_in(&temp), [moved.join("target")]);
        // There is nothing to unmount at the path, and no link is followed there.
        assert!(MountPoint::find(&above.join("target")).is_err());
        drop(mounted);
        point.unmount(true).unwrap();
        assert_eq!(mounts_in(&temp), Vec::<PathBuf>::new());
    }

    /// The mount that was checked is unmounted, not one on top of it or in its place.
    #[test]
    fn another_mount_at_the_path_is_not_the_one_that_is_held() {
        assert!(nix::unistd::geteuid().is_root(), "run this test as root");
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().canonicalize().unwrap().join("target");
        fs::create_dir(&target).unwrap();
        let point = MountPoint::find(&target).unwrap();
        let mount = || {
            let dir = point.parent().dir(point.name()).unwrap();
            // Nobody serves the mount after this line.
            drop(point.mount(&dir, "pbkfs-test", false).unwrap());
        };
        mount();
        let judged = point.mounted().unwrap();
        point.unmount(true).unwrap();
        mount();
        let other = point.mounted().unwrap();
        assert_ne!(other.number, judged.number);
        let refused = super::super::unmount_once(&target, judged.number, true);
        assert!(refused.unwrap_err().to_string().contains("something else"));
        assert!(judged.detach().is_err());
        assert_eq!(mounts_in(&target), std::slice::from_ref(&target));
        super::super::unmount_once(&target, other.number, true).unwrap();
        assert_eq!(mounts_in(&target), Vec::<PathBuf>::new());
    }
}
