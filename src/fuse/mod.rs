//! The overlay as a mounted file system: a thin adapter over fuser.
//!
//! Each request is decoded, passed to one call of [`Overlay`], and answered. Only two
//! things are decided here: what the kernel may cache, and which files it may serve
//! itself (passthrough). See [`adapter`].

mod adapter;
mod backing;
mod convert;
mod errno;
mod explain;
mod faults;
mod handles;
mod point;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use crate::overlay::{Lower, Overlay};
use crate::program;
use crate::untrusted::Dir;
use adapter::Adapter;
pub use point::MountPoint;

/// Time limit for `fusermount3` to unmount.
const FUSERMOUNT: Duration = Duration::from_secs(30);

/// Options of a mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Number of request threads.
    pub threads: usize,
    /// Whether other users may access the mount, which only root may permit. It is
    /// needed if the server runs as another user than the one who mounts.
    pub allow_other: bool,
    /// Whether the kernel may serve files of the diff itself. This requires root and
    /// Linux 6.9; without it the kernel caches writes instead.
    pub passthrough: bool,
    /// Whether reads, writes and syncs fail once a write that the kernel had cached has
    /// failed. This is for servers, which might not be notified of the failure.
    pub ends_with_loss: bool,
    /// The source that the mount table shows.
    pub source: String,
}

/// A failure to mount or unmount.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel or fusermount3 refused.
    #[error("cannot mount on {}: {reason}", target.display())]
    Mount {
        /// The mount point.
        target: PathBuf,
        /// The cause and the remedy.
        reason: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process has a file open in the mount, or its working directory there.
    #[error("{} is in use by other processes and cannot be unmounted", target.display())]
    Busy {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount is unmounted here, but not in mount namespaces that have a copy.
    #[error(
        "{} is unmounted, but a container or service that was started while it was mounted still \
         has a copy of the mount (findmnt --task PID shows it)",
        target.display()
    )]
    Copied {
        /// The mount point.
        target: PathBuf,
    },
    /// Unmounting failed.
    #[error("cannot unmount {}: {source}", target.display())]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Whether this process may ask the kernel for passthrough, and the kernel is new
/// enough to support it. Whether the kernel agrees is known only once mounted.
#[must_use]
pub fn may_pass_through() -> bool {
    let release = nix::sys::utsname::uname();
    let release = release.ok().map(|name| name.release().to_owned());
    let release = release.unwrap_or_default().into_string();
    nix::unistd::geteuid().is_root() && release.is_ok_and(|release| knows_passthrough(&release))
}

/// Passthrough was added in Linux 6.9.
fn knows_passthrough(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

/// The minimum time allowed for the last requests of a mount after it has left the
/// tree.
const ENDING: Duration = Duration::from_secs(2);

/// A mounted overlay.
pub struct Mount {
    point: MountPoint,
    session: Option<BackgroundSession>,
    passthrough: bool,
    detached: bool,
}

impl Mount {
    /// Mounts the overlay on `dir`, the existing directory at `point`, and serves it
    /// from threads of its own.
    ///
    /// # Errors
    /// Returns [`FuseError::Mount`], with the remedy.
    pub fn new<L: Lower>(
        overlay: Arc<Overlay<L>>,
        point: MountPoint,
        dir: &Dir,
        options: &MountOptions,
    ) -> Result<Self, FuseError> {
        let fail = |source: io::Error| FuseError::Mount {
            target: point.path().to_owned(),
            reason: explain::explain(&source),
            source,
        };
        let read_only = overlay.is_read_only();
        let passthrough = Arc::new(AtomicBool::new(options.passthrough));
        let adapter = Adapter::new(overlay, passthrough.clone(), options.ends_with_loss);
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        config.clone_fd = true;
        let session = match options.allow_other {
            true => {
                let mounted = point.mount(dir, &options.source, read_only).map_err(fail)?;
                let session = Session::from_fd(adapter, mounted, SessionACL::All, config);
                session.inspect_err(|_| {
                    // The first failure is the one reported.
                    let _ = point.unmount(true);
                })
            }
            false => {
                config.acl = SessionACL::Owner;
                config.mount_options = mount_options(options, read_only);
                Session::new(adapter, point.path(), &config)
            }
        };
        let session = session.and_then(Session::spawn).map_err(fail)?;
        raise_read_ahead(&point);
        Ok(Self {
            point,
            session: Some(session),
            passthrough: passthrough.load(Ordering::Acquire),
            detached: false,
        })
    }

    /// Whether the kernel agreed to serve files of the diff itself. If so, any other
    /// write arrives here before the writer continues.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.passthrough
    }

    /// Whether the file system is still mounted and served. It is not if somebody else
    /// unmounted it.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| !session.guard.is_finished())
    }

    /// Unmounts, retrying for `patience` while files are open, and waits until every
    /// request has been answered.
    ///
    /// A mount namespace created meanwhile, such as a container's, has a copy of the
    /// mount. The copy is not unmounted with this one unless mount propagation is set
    /// up for it, and then processes in that namespace keep it until this process ends.
    ///
    /// # Errors
    /// Returns [`FuseError::Busy`] if the mount stays in use; it is then still mounted,
    /// and this can be called again. Returns [`FuseError::Copied`], and other failures
    /// as they are.
    pub fn unmount(&mut self, patience: Duration) -> Result<(), FuseError> {
        let target = self.point.path().to_owned();
        let deadline = Instant::now() + patience;
        while self.is_serving() {
            match unmount_point(&self.point, false) {
                Ok(()) => break,
                // Somebody else has unmounted it, and only a copy is still served.
                Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => break,
                Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) => {
                    if Instant::now() >= deadline {
                        return Err(FuseError::Busy { target });
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(source) => return Err(FuseError::Unmount { target, source }),
            }
        }
        let deadline = deadline.max(Instant::now() + ENDING);
        while self.is_serving() {
            if Instant::now() >= deadline {
                self.detached = true;
                return Err(FuseError::Copied { target });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let Some(session) = self.session.take() else {
            return Ok(());
        };
        let ended = session.join();
        ended.map_err(|source| FuseError::Unmount { target, source })
    }

    /// Detaches the mount from the tree at once. Processes with open files keep them
    /// until this process ends.
    ///
    /// # Errors
    /// Returns [`FuseError::Unmount`].
    pub fn detach(&mut self) -> Result<(), FuseError> {
        unmount_point(&self.point, true).map_err(|source| FuseError::Unmount {
            target: self.point.path().to_owned(),
            source,
        })?;
        self.detached = true;
        Ok(())
    }
}

impl Drop for Mount {
    /// Unmounts, because accessing a mount that nobody serves would block.
    fn drop(&mut self) {
        if self.is_serving() && !self.detached {
            // Nobody is left to report a failure to.
            let _ = unmount_point(&self.point, true);
        }
    }
}

fn mount_options(options: &MountOptions, read_only: bool) -> Vec<MountOption> {
    let mut mount_options = vec![
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("pbkfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    if read_only {
        mount_options.push(MountOption::RO);
    }
    mount_options
}

/// Unmounts `target`, a path without links, by the system call, or by fusermount3 if
/// this process lacks the privilege. `judged` is the kernel's number for the mount to
/// be unmounted.
///
/// # Errors
/// If another mount is there now, or if a system call fails; with `EBUSY` while files
/// are open, unless `lazily`.
pub fn unmount_once(target: &Path, judged: u64, lazily: bool) -> io::Result<()> {
    let point = MountPoint::find(target)?;
    let mount = point.mounted()?;
    if mount.number != judged {
        return Err(io::Error::other("something else is mounted there now"));
    }
    if lazily {
        return match mount.detach() {
            Err(nix::errno::Errno::EPERM) => fusermount(target, true),
            detached => Ok(detached?),
        };
    }
    // Holding the mount keeps it busy.
    drop(mount);
    unmount_point(&point, false)
}

fn unmount_point(point: &MountPoint, lazily: bool) -> io::Result<()> {
    match point.unmount(lazily) {
        Err(nix::errno::Errno::EPERM) => fusermount(point.path(), lazily),
        unmounted => Ok(unmounted?),
    }
}

fn fusermount(target: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    command
        .arg("--")
        .arg(target)
        .stdin(Stdio::null())
        .process_group(0);
    let ended = program::run(&mut command, Instant::now() + FUSERMOUNT, 4 << 10)?;
    if ended.status.success() {
        return Ok(());
    }
    let message = ended.stderr;
    if message.contains("busy") {
        return Err(io::Error::from_raw_os_error(nix::libc::EBUSY));
    }
    // The kernel's error for this case.
    if message.contains("not found in") {
        return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
    }
    Err(io::Error::other(message.trim().to_owned()))
}

/// Raises the mount's read-ahead: the default is at most 128 KiB, and sequential scans
/// benefit from more. Only root may change it, and everything works without it, so a
/// failure is only of interest to developers.
fn raise_read_ahead(point: &MountPoint) {
    const READ_AHEAD_KB: &str = "1024";
    use rustix::fs::{AtFlags, StatxFlags, statx};
    // Do not ask the server, which is this process: it could never be killed while
    // waiting for itself.
    let of_kernel = AtFlags::from_bits_retain(nix::libc::AT_STATX_DONT_SYNC.cast_unsigned());
    let Ok(stat) = statx(point.parent(), point.name(), of_kernel, StatxFlags::empty()) else {
        return;
    };
    let (major, minor) = (stat.stx_dev_major, stat.stx_dev_minor);
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KB) {
        tracing::debug!(path, %error, "cannot raise read-ahead");
    }
}

#[cfg(test)]
mod tests {
    use super::knows_passthrough;

    #[test]
    fn kernels_are_told_apart_by_their_release() {
        for (release, knows) in [
            ("6.1.0-18-amd64", false),
            ("6.8.12", false),
            ("6.9", true),
            ("6.18.44-fc", true),
            ("6.9-rc1", true),
            ("7.0.0", true),
            ("5.14.0-427.el9", false),
            ("", false),
        ] {
            assert_eq!(knows_passthrough(release), knows, "{release}");
        }
    }
}
