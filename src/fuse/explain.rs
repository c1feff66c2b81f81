//! The likely cause of a failed mount, and its remedy.

use std::io;
use std::path::Path;

use nix::unistd::geteuid;

use crate::untrusted;

/// The bit of CAP_SYS_ADMIN, from `linux/capability.h`.
const SYS_ADMIN: u32 = 21;

/// Advice for a container without the capability.
const CONTAINER: &str = "mounting requires the capability SYS_ADMIN, which this container does not \
    have; start it with --cap-add SYS_ADMIN --device /dev/fuse, and if the host uses AppArmor, \
    with --security-opt apparmor=unconfined";

/// Returns the advice, with the system's own message.
pub(super) fn explain(error: &io::Error) -> String {
    let told = error.to_string();
    let advice = match error.raw_os_error() {
        _ if !Path::new("/dev/fuse").exists() => {
            "there is no /dev/fuse; load the fuse module (modprobe fuse), or pass the device into \
             the container (--device /dev/fuse)"
        }
        // fusermount3 reports it in words, and the kernel by error number.
        _ if is_refused(error, &told) && !may_be_admin() => CONTAINER,
        _ if is_refused(error, &told) && geteuid().is_root() => {
            "the host does not permit it; in a container, give it the device (--device /dev/fuse), \
             and if the host uses AppArmor, --security-opt apparmor=unconfined"
        }
        Some(nix::libc::EACCES | nix::libc::EPERM) => {
            "not permitted; run as root, or install fuse3 and allow this user to use /dev/fuse"
        }
        _ if error.kind() == io::ErrorKind::NotFound => {
            "fusermount3 was not found; install the package fuse3, or run as root"
        }
        _ => return told,
    };
    format!("{advice} ({told})")
}

fn is_refused(error: &io::Error, told: &str) -> bool {
    let by_code = matches!(
        error.raw_os_error(),
        Some(nix::libc::EACCES | nix::libc::EPERM)
    );
    by_code && geteuid().is_root() || told.contains("mount failed: Operation not permitted")
}

/// Whether root can have the capability here; for other users, fusermount3 becomes
/// root. If unknown, the answer is yes.
fn may_be_admin() -> bool {
    const LIMIT: u64 = 64 << 10;
    let status = untrusted::read(Path::new("/proc/self/status"), LIMIT).unwrap_or_default();
    let set = if geteuid().is_root() {
        "CapEff:"
    } else {
        "CapBnd:"
    };
    has_admin(&String::from_utf8_lossy(&status), set)
}

/// `proc_pid_status(5)`: each set of capabilities is a mask, in hexadecimal.
fn has_admin(status: &str, set: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(set));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_seen() {
        // Docker's default set, and the full set.
        for (mask, has_it) in [("00000000a80425fb", false), ("000001ffffffffff", true)] {
            let status = format!("Name:\tpbkfs\nCapEff:\t{mask}\nCapBnd:\t000001ffffffffff\n");
            assert_eq!(has_admin(&status, "CapEff:"), has_it, "{mask}");
            assert!(has_admin(&status, "CapBnd:"));
        }
    }
}
