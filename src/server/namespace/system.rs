//! System calls, most of which neither nix nor rustix has.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Closes every inherited descriptor except standard input, output and error: through
/// the descriptor of a directory, any path of the host could be reached from inside
/// another root. The descriptors in `kept` stay open here and in forked children, and
/// are closed by exec.
pub fn close_inherited(kept: impl IntoIterator<Item = RawFd>) -> io::Result<()> {
    let close = |first: libc::c_uint, last: libc::c_uint| -> nix::Result<()> {
        if first <= last {
            // By its number: glibc has a function for it only from 2.34 on.
            // SAFETY: nothing in this process still needs a descriptor that it has
            // opened, except those kept.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        Ok(())
    };
    let mut kept: Vec<RawFd> = kept.into_iter().collect();
    kept.sort_unstable();
    kept.dedup();
    let mut next: libc::c_uint = 3;
    for number in kept {
        // SAFETY: a system call on plain numbers.
        Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        let number = libc::c_uint::try_from(number).map_err(io::Error::other)?;
        close(next, number.saturating_sub(1))?;
        next = next.max(number.saturating_add(1));
    }
    Ok(close(next, libc::c_uint::MAX)?)
}

/// What a mount and those below it forbid: the `MOUNT_ATTR_` bits to set in addition
/// to those they have. None is cleared, which an unprivileged user's namespaces would
/// not permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forbid(u64);

impl Forbid {
    /// Set-user-ID programs and devices.
    pub const RIGHTS: Self = Self(libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
    /// The same, and any program.
    pub const PROGRAMS: Self = Self(Self::RIGHTS.0 | libc::MOUNT_ATTR_NOEXEC);
    /// The same as [`RIGHTS`](Self::RIGHTS), and writing.
    pub const WRITING: Self = Self(Self::RIGHTS.0 | libc::MOUNT_ATTR_RDONLY);
}

/// Forbids `what` in a mount, given by a descriptor, and in all mounts below it.
pub fn forbid(mount: impl AsFd, what: Forbid) -> io::Result<()> {
    // SAFETY: all-zero is a valid mount_attr, which is plain numbers.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = what.0;
    // SAFETY: the path and the structure outlive the call, and the size given
    // is the structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_RECURSIVE | libc::AT_EMPTY_PATH,
            &raw mut attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Returns a mount of the file or directory held, with everything mounted below it.
/// It has no path, and lasts as long as its descriptor unless it is attached.
pub fn detached(held: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(held, "", flags)?)
}

/// Attaches a detached mount at a path, without following a link there.
pub fn attach(mount: impl AsFd, path: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount, "", CWD, path, flags)?)
}

/// Returns a descriptor of a directory through which nothing can be changed, whatever
/// the permissions of its files, not even through descriptors opened from it. It
/// requires root, and lasts as long as the descriptor.
///
/// # Errors
/// If a system call fails.
pub fn read_only_view(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = open_tree(CWD, dir, flags)?;
    forbid(&view, Forbid::WRITING)?;
    Ok(view)
}

/// Brings this network namespace's loopback device up.
pub fn raise_loopback() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq, which is plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(libc::c_short::MAX);
    // SAFETY: the descriptor is open, and the request outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    Errno::result(result)?;
    Ok(())
}

/// Returns a function that prefixes an error with the step that failed.
pub fn in_step<E: Into<io::Error>>(step: impl Display) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{step}: {error}"))
    }
}
