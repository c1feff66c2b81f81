//! The system calls that are refused to the server and whatever it starts: a
//! filter in the kernel, which nothing in there can take off again.
//!
//! *Rights that stay.* A program that is left in a directory of the host, as that of the socket is,
//! and given its owner's rights (`chmod 4755`), would run with them for any user
//! of the host: the mount that forbids it is seen from inside only. So no file
//! gets `S_ISUID` or `S_ISGID` in here, as with systemd's `RestrictSUIDSGID=`.
//!
//! *Rights over a namespace.* In a user namespace of its own, a process could
//! mount what it likes, a file system in memory of any size among it, and could
//! reach much of the kernel that it otherwise cannot.
//!
//! What a call is told in memory, a filter cannot see. So calls that are told
//! such things there (`openat2`, `clone3`, `io_uring`) are answered as by a kernel
//! that does not know them, and programs then go on without.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use nix::errno::Errno;
use nix::libc::{self, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The bits of a mode that no file gets.
const BITS: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];

/// Flags with which an open makes a file. `O_TMPFILE` without `O_DIRECTORY`,
/// which is one bit of it.
const MAKING: [u32; 2] = [
    libc::O_CREAT.cast_unsigned(),
    (libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned(),
];

/// `fchmodat2` of asm-generic/unistd.h, the same everywhere. libc has it for
/// some architectures only.
const FCHMODAT2: c_long = 452;

/// The calls that set a mode, and which of their arguments it is. `mkdir` is
/// none of them: the kernel takes these bits out of its mode.
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

/// The calls that set a mode if their flags make a file, and which of their
/// arguments these two are.
const OPEN: &[(c_long, u8, u8)] = &[
    (libc::SYS_openat, 2, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, 2),
];

/// The calls that make a user namespace, by a flag in the first argument.
const NAMESPACES: [c_long; 2] = [libc::SYS_clone, libc::SYS_unshare];

/// The calls that are unknown in here.
const UNKNOWN: [c_long; 3] = [
    libc::SYS_openat2,
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
];

/// What is added to a number for the x32 variant of the call: the same
/// architecture to a filter.
#[cfg(target_arch = "x86_64")]
const VARIANTS: &[c_long] = &[0, 0x4000_0000];
#[cfg(not(target_arch = "x86_64"))]
const VARIANTS: &[c_long] = &[0];

/// The filters, ready to be installed. Programs of another architecture (of 32
/// bits) are killed by them, as their calls have other numbers.
#[derive(Debug, Clone)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Makes them.
    ///
    /// # Errors
    /// The kernel filters no system calls, or the filter is not made for this
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

    /// Puts them on this thread and on what it starts; it must have no new
    /// privileges. To be called between fork and exec: it makes only system
    /// calls.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn install(&self) -> io::Result<()> {
        // Before Linux 5.16, a filter turned a defence of the processor on, too
        // (against speculative store bypass), and made everything slower. The
        // filter is no reason for that.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        for filter in &self.0 {
            let program = libc::sock_fprog {
                len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
                // The same structure by its other name.
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

/// The calls with what of them is refused; all of a call if it has no rules.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Every call that would give a file one of [`BITS`], or a process a user
/// namespace.
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

/// That each of these arguments has that bit.
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

/// Lets what `rules` say fail with `errno`, and the rest pass.
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
/// `argument` has to be what the operation takes, and to outlive the call.
unsafe fn seccomp(
    operation: libc::c_uint,
    flags: libc::c_ulong,
    argument: *const libc::c_void,
) -> io::Result<()> {
    // SAFETY: as the caller promises.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::{fs, thread};

    use nix::sys::prctl;

    use super::*;

    /// What a call answers, by its number and arguments.
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

    /// In a thread of its own, which the filters end with.
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
                    // Some kernels and disks do not know it without a filter.
                    let unknown = [Err(Errno::ENOSYS), Err(Errno::EOPNOTSUPP)];
                    let may_be_unknown = call == FCHMODAT2 || arguments[2] == nameless;
                    if expected.is_err() || !(may_be_unknown && unknown.contains(&answered)) {
                        assert_eq!(answered, expected, "call {call}, {bits:o}");
                    }
                    let _ = fs::remove_file(&made);
                }
            }
            // Without O_CREAT the argument means nothing.
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
            // Threads and processes are made as ever.
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
            // A kernel without x32 says ENOSYS, if the filter lets it.
            assert_eq!(answer(chmod, [0, 0o4755, 0, 0]), Err(Errno::EPERM));
        });
    }
}
