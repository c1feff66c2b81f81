//! System calls that neither std nor our selection of nix's features provides.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use nix::errno::Errno;
use nix::libc;

use super::process::OsUser;

/// Makes the calling thread, and only it, run as this user from now on. A mount made
/// by an unprivileged user is closed to everyone else.
pub fn become_user(user: &OsUser) {
    if user.uid == nix::unistd::geteuid().as_raw() {
        return;
    }
    // libc's own functions would change every thread of the process.
    // SAFETY: the calls take numbers only, and an empty list.
    let done = unsafe {
        [
            libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()),
            libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid),
            libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid),
        ]
    };
    assert_eq!(done, [0, 0, 0], "cannot become {}", user.name);
}

/// Keeps `command`, and what it starts, from creating namespaces: `unshare` fails
/// with EPERM, as if an administrator had forbidden it.
pub fn forbid_namespaces(command: &mut Command) {
    answer_by(command, libc::SYS_unshare, Errno::EPERM);
}

/// Keeps `command`, and what it starts, from filtering system calls: `seccomp` fails
/// as on a kernel without it.
pub fn forbid_filters(command: &mut Command) {
    answer_by(command, libc::SYS_seccomp, Errno::ENOSYS);
}

/// Makes that system call fail with this error. Only root can do this without
/// disabling setuid programs.
fn answer_by(command: &mut Command, call: libc::c_long, errno: Errno) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = u32::try_from(call).unwrap();
    let forbidden = libc::SECCOMP_RET_ERRNO | u32::try_from(errno as i32).unwrap();
    // The system call number is the first word of a filter's input.
    let filter = [
        step(LOAD, 0, 0, 0),
        step(IS, 0, 1, call),
        step(RETURN, 0, 0, forbidden),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the program and its filter outlive the call, which copies them.
        let done = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call, and neither allocates nor locks.
    unsafe {
        command.pre_exec(install);
    }
}

/// Maps a range of the file shared, writes `bytes` there, and unmaps it again.
pub fn map_and_write(file: &File, offset: u64, bytes: &[u8], sync: bool) -> Result<(), Errno> {
    let map = Mapping::new(file, offset, bytes.len())?;
    map.write(bytes);
    if sync { map.sync() } else { Ok(()) }
}

/// A shared, writable mapping of a file.
pub struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    pub fn new(file: &File, offset: u64, len: usize) -> Result<Mapping, Errno> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset.try_into().unwrap(),
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Mapping { start, len })
    }

    /// Copies `bytes` to the start of the mapping.
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len);
        // SAFETY: the range is mapped until drop, and no reference to it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast(), bytes.len()) };
    }

    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: exactly what was mapped.
        Errno::result(unsafe { libc::msync(self.start, self.len, libc::MS_SYNC) }).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, once.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Calls `sync_file_range(2)` for the whole file, and waits.
pub fn sync_range(file: &File) -> Result<(), Errno> {
    let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the caller keeps the descriptor open; the other arguments are numbers.
    Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }).map(drop)
}

/// Calls `copy_file_range(2)` until everything is copied or the source ends: a short
/// count is not a failure. Returns the number of bytes copied.
pub fn copy_range(from: (&File, u64), to: (&File, u64), len: usize) -> Result<usize, Errno> {
    let (mut start, mut at) = (from.1 as i64, to.1 as i64);
    let mut done = 0;
    while done < len {
        // SAFETY: the caller keeps the descriptors open, and the two offsets outlive
        // the call.
        let copied = Errno::result(unsafe {
            libc::copy_file_range(
                from.0.as_raw_fd(),
                &mut start,
                to.0.as_raw_fd(),
                &mut at,
                len - done,
                0,
            )
        })?;
        if copied == 0 {
            break;
        }
        done += copied as usize;
    }
    Ok(done)
}

/// Raises this process's limit of open files to at least `files`.
pub fn raise_file_limit(files: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid structure that outlives them.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_cur.max(files);
        limit.rlim_max = limit.rlim_max.max(files);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(
        done, 0,
        "this test needs {files} open files: raise ulimit -n"
    );
}
