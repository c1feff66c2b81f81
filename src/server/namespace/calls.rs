//! The system calls that are denied to the server and everything it starts: a filter
//! in the kernel, which no process inside can remove.
//!
//! *Lasting rights.* A program left in a directory of the host, such as that of the
//! socket, and given its owner's rights (`chmod 4755`), would run with these rights
//! for any user of the host: the mount option that forbids this is in force inside
//! only. So no file gets `S_ISUID` or `S_ISGID` in here, as with systemd's
//! `RestrictSUIDSGID=`.
//!
//! *Rights over a namespace.* In a user namespace of its own, a process could mount
//! anything, including an in-memory file system of any size, and could reach much of
//! the kernel that is otherwise closed to it.
//!
//! A filter cannot see arguments that are passed in memory. Calls that pass such
//! arguments there (`openat2`, `clone3`, `io_uring`) therefore fail as on a kernel
//! that does not have them, and programs then do without.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The mode bits that no file gets.
const BITS: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];

/// Flags with which an open creates a file: `O_TMPFILE` without `O_DIRECTORY`, which
/// is one of its bits.
const MAKING: [u32; 2] = [
    libc::O_CREAT.cast_unsigned(),
    (libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned(),
];

/// `fchmodat2` from asm-generic/unistd.h, the same on every architecture. libc has it
/// for some architectures only.
const FCHMODAT2: c_long = 452;

/// The calls that set a mode, with the index of that argument. `mkdir` is not one of
/// them: the kernel clears these bits in its mode.
const SET: &[(c_long, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (FCHMODAT2, 2),
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];

/// The calls that set a mode if their flags create a file, with the indexes of flags
/// and mode.
const OPEN: &[(c_long, u8, u8)] = &[
    (libc::SYS_openat, 2, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, 2),
];

/// The calls that create a user namespace if a flag in their first argument is set.
const NAMESPACES: [c_long; 2] = [libc::SYS_clone, libc::SYS_unshare];

/// The calls that do not exist in here.
const UNKNOWN: [c_long; 3] = [
    libc::SYS_openat2,
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
];

/// The offsets of a call's variants. To a filter, x32 is the same architecture.
#[cfg(target_arch = "x86_64")]
const VARIANTS: &[c_long] = &[0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const VARIANTS: &[c_long] = &[0];

/// The filters, ready to be installed. They kill programs of another architecture
/// (32-bit ones), because their calls have other numbers.
#[derive(Debug, Clone)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Builds the filters.
    ///
    /// # Errors
    /// If the kernel cannot filter system calls, or there is no filter for this
    /// architecture.
    pub fn new() -> io::Result<Self> {
        let action: u32 = libc::SECCOMP_RET_ERRNO;
        // SAFETY: the kernel reads one number, which outlives the call.
        unsafe {
            seccomp(
                libc::SECCOMP_GET_ACTION_AVAIL,
                0,
                (&raw const action).cast(),
            )
        }?;
        let filters = [
            filter(rights()?, Errno::EPERM)?,
            filter(UNKNOWN.map(|call| (call, Vec::new())).into(), Errno::ENOSYS)?,
        ];
        Ok(Self(filters.into()))
    }

    /// Installs the filters on this thread and everything it starts; the thread must
    /// have `no_new_privs` set. May be called between fork and exec: it makes only
    /// system calls.
    ///
    /// # Errors
    /// If the kernel refuses a filter.
    pub fn install(&self) -> io::Result<()> {
        // Before Linux 5.16, a filter also enabled a mitigation in the processor
        // (against speculative store bypass), which slowed everything down. The
        // filter does not need it.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        for filter in &self.0 {
            let program = libc::sock_fprog {
                len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
                // The same structure under another name.
                filter: filter.as_ptr().cast_mut().cast(),
            };
            // SAFETY: the program and what it points at outlive the call, which
            // copies both and changes neither.
            unsafe {
                seccomp(
                    libc::SECCOMP_SET_MODE_FILTER,
                    flags,
                    (&raw const program).cast(),
                )
            }?;
        }
        Ok(())
    }
}

/// The calls, each with the rules by which it is refused; a call without rules always
/// is.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Returns the rules for every call that would give a file one of [`BITS`], or a
/// process a user namespace.
fn rights() -> io::Result<Rules> {
    let mut rules = Rules::new();
    for (call, mode) in SET {
        let refused = BITS.iter().map(|bit| rule(&[(*mode, *bit)]));
        rules.insert(*call, refused.collect::<io::Result<_>>()?);
    }
    for (call, flags, mode) in OPEN {
        let pairs = MAKING
            .iter()
            .flat_map(|making| BITS.iter().map(move |bit| (*making, *bit)));
        let refused = pairs.map(|(making, bit)| rule(&[(*flags, making), (*mode, bit)]));
        rules.insert(*call, refused.collect::<io::Result<_>>()?);
    }
    for call in NAMESPACES {
        let flag = libc::CLONE_NEWUSER.cast_unsigned();
        rules.insert(call, vec![rule(&[(0, flag)])?]);
    }
    Ok(rules)
}

/// Returns the rule that each of these arguments has its bit set.
fn rule(bits: &[(u8, u32)]) -> io::Result<SeccompRule> {
    let conditions = bits.iter().map(|(argument, bit)| {
        let bit = u64::from(*bit);
        let is_set = SeccompCmpOp::MaskedEq(bit);
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, is_set, bit)
    });
    let conditions = conditions.collect::<Result<_, _>>();
    conditions
        .and_then(SeccompRule::new)
        .map_err(io::Error::other)
}

/// Builds a filter that fails what `rules` name with `errno`, and lets the rest pass.
fn filter(rules: Rules, errno: Errno) -> io::Result<BpfProgram> {
    let variants = VARIANTS.iter().flat_map(|variant| {
        let variant_of = move |(call, rules): (&c_long, &Vec<_>)| (call + variant, rules.clone());
        rules.iter().map(variant_of)
    });
    let refusal = SeccompAction::Errno((errno as i32).cast_unsigned());
    let filter = SeccompFilter::new(
        variants.collect(),
        SeccompAction::Allow,
        refusal,
        ARCH.try_into().map_err(io::Error::other)?,
    );
    filter.and_then(TryInto::try_into).map_err(io::Error::other)
}

/// `seccomp(2)`.
///
/// # Safety
/// `argument` must be what the operation expects, and must outlive the call.
unsafe fn seccomp(
    operation: libc::c_uint,
    flags: libc::c_ulong,
    argument: *const libc::c_void,
) -> io::Result<()> {
    // SAFETY: the caller guarantees it.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::{fs, thread};

    use nix::sys::prctl;

    use super::*;

    /// Makes a call, given by its number and arguments, and returns its result.
    fn answer(call: c_long, arguments: [usize; 4]) -> Result<(), Errno> {
        let [a, b, c, d] = arguments;
        // SAFETY: the caller passes live pointers and numbers; what is opened
        // stays open until the test ends.
        let result = unsafe { libc::syscall(call, a, b, c, d) };
        Errno::result(result).map(drop)
    }

    fn path(path: &Path) -> CString {
        CString::new(path.to_str().unwrap()).unwrap()
    }

    /// Runs `work` in a thread of its own, so that the filters end with it.
    fn filtered(work: impl FnOnce() + Send + 'static) {
        thread::spawn(|| {
            prctl::set_no_new_privs().unwrap();
            Filters::new().unwrap().install().unwrap();
            work();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn no_call_gives_a_file_its_owners_rights() {
        let dir = tempfile::tempdir().unwrap();
        let (file, name, new) = (dir.path().join("file"), dir.path(), dir.path().join("new"));
        fs::write(&file, "").unwrap();
        let opened = fs::File::open(&file).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&opened) as usize;
        let (file, name, new) = (path(&file), path(name), path(&new));
        let (kept, made) = (dir.path().join("file"), dir.path().join("new"));
        filtered(move || {
            let [file, name, new] = [&file, &name, &new].map(|path| path.as_ptr() as usize);
            let at = libc::AT_FDCWD as usize;
            let (create, nameless) = (libc::O_CREAT as usize, libc::O_TMPFILE as usize | 2);
            for (bits, expected) in [
                (0o4000, Err(Errno::EPERM)),
                (0o2000, Err(Errno::EPERM)),
                (0o6000, Err(Errno::EPERM)),
                (0, Ok(())),
            ] {
                let mode = bits | 0o755;
                let node = mode | libc::S_IFREG as usize;
                let calls = [
                    (libc::SYS_fchmod, [fd, mode, 0, 0]),
                    (libc::SYS_fchmodat, [at, file, mode, 0]),
                    (FCHMODAT2, [at, file, mode, 0]),
                    (libc::SYS_openat, [at, new, create, mode]),
                    (libc::SYS_openat, [at, name, nameless, mode]),
                    (libc::SYS_mknodat, [at, new, node, 0]),
                    #[cfg(target_arch = "x86_64")]
                    (libc::SYS_chmod, [file, mode, 0, 0]),
                    #[cfg(target_arch = "x86_64")]
                    (libc::SYS_open, [new, create, mode, 0]),
                    #[cfg(target_arch = "x86_64")]
                    (libc::SYS_open, [name, nameless, mode, 0]),
                    #[cfg(target_arch = "x86_64")]
                    (libc::SYS_creat, [new, mode, 0, 0]),
                    #[cfg(target_arch = "x86_64")]
                    (libc::SYS_mknod, [new, node, 0, 0]),
                ];
                for (call, arguments) in calls {
                    let answered = answer(call, arguments);
                    // Some kernels and file systems do not have it even without a
                    // filter.
                    let unknown = [Err(Errno::ENOSYS), Err(Errno::EOPNOTSUPP)];
                    let may_be_unknown = call == FCHMODAT2 || arguments[2] == nameless;
                    if expected.is_err() || !(may_be_unknown && unknown.contains(&answered)) {
                        assert_eq!(answered, expected, "call {call}, {bits:o}");
                    }
                    let _ = fs::remove_file(&made);
                }
            }
            // Without O_CREAT the mode is ignored.
            assert_eq!(answer(libc::SYS_openat, [at, file, 0, 0o4755]), Ok(()));
        });
        assert_eq!(
            fs::metadata(kept).unwrap().permissions().mode() & 0o7777,
            0o755
        );
    }

    #[test]
    fn no_call_makes_a_user_namespace() {
        filtered(|| {
            let flag = libc::CLONE_NEWUSER as usize;
            let together = flag | (libc::CLONE_NEWNS | libc::SIGCHLD) as usize;
            for (call, flags) in [
                (libc::SYS_unshare, flag),
                (libc::SYS_unshare, together),
                (libc::SYS_clone, together),
            ] {
                let answered = answer(call, [flags, 0, 0, 0]);
                assert_eq!(answered, Err(Errno::EPERM), "{call}");
            }
            assert_eq!(
                answer(libc::SYS_unshare, [libc::CLONE_FS as usize, 0, 0, 0]),
                Ok(())
            );
            // Threads and processes can still be created.
            assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
            let output = std::process::Command::new("true").status().unwrap();
            assert!(output.success());
        });
    }

    #[test]
    fn what_a_filter_cannot_judge_is_unknown() {
        filtered(|| {
            for call in UNKNOWN {
                // Without a filter these are EFAULT or EINVAL.
                assert_eq!(answer(call, [0; 4]), Err(Errno::ENOSYS), "{call}");
            }
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_other_numbers_of_a_call_are_no_way_round() {
        filtered(|| {
            let chmod = VARIANTS[1] + libc::SYS_chmod;
            // A kernel without x32 returns ENOSYS if the filter lets the call pass.
            assert_eq!(answer(chmod, [0, 0o4755, 0, 0]), Err(Errno::EPERM));
        });
    }
}
