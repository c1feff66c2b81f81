//! Small disks that can be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::sandbox::unmount_all;
use super::session::LIMIT;

/// An in-memory file system that everyone may write to. Unmounted when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of that size, such as `16m`, on a directory.
    #[track_caller]
    pub fn mount(at: &Path, size: &str) -> Tmpfs {
        let mut mount = Command::new("mount");
        let options = format!("size={size},mode=1777");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        run(&mut mount, LIMIT).expect_ok();
        Tmpfs(at.to_owned())
    }

    /// Grows or shrinks it.
    #[track_caller]
    pub fn resize(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]);
        run(mount.arg(&self.0), LIMIT).expect_ok();
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount_all(&self.0);
    }
}
