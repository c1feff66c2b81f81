//! Limits on a server's use of the host: its priority and, by a control group, its
//! memory, processors and number of processes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::utsname::uname;
use nix::unistd::geteuid;

/// Mount points of cgroup v2: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The period over which processor time is limited, in microseconds; the kernel's
/// default.
const PERIOD: u64 = 100_000;

/// The limits asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Wanted {
    /// Bytes of memory, including the page cache.
    pub memory: Option<u64>,
    /// Processor time, as a number of processors.
    pub cpus: Option<f64>,
    /// Number of processes, counting each thread.
    pub processes: Option<u32>,
    /// The nice value, 0 to 19; 0 leaves it unchanged.
    pub nice: i32,
    /// Whether the disks serve other processes first (the idle I/O class).
    pub idle_io: bool,
}

/// Limits to apply to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    nice: i32,
    idle_io: bool,
    /// The control group's directory.
    pub cgroup: Option<PathBuf>,
}

impl Limits {
    /// Returns the limits without a control group.
    #[must_use]
    pub fn of_process(wanted: &Wanted) -> Self {
        Self {
            nice: wanted.nice,
            idle_io: wanted.idle_io,
            cgroup: None,
        }
    }

    /// Applies the limits to the process that `command` starts, from its first
    /// instruction.
    pub(super) fn apply(&self, command: &mut Command) {
        let (nice, idle_io) = (self.nice, self.idle_io);
        let procs = self.cgroup.as_ref().map(|dir| dir.join("cgroup.procs"));
        // If the group is gone, the start fails; it never proceeds without the limit.
        let procs: Option<io::Result<File>> =
            procs.map(|path| OpenOptions::new().write(true).open(path));
        let limit = move || -> io::Result<()> {
            match &procs {
                Some(Ok(file)) => {
                    let mut file: &File = file;
                    file.write_all(b"0")?;
                }
                Some(Err(error)) => {
                    return Err(io::Error::from_raw_os_error(
                        error.raw_os_error().unwrap_or(libc::EIO),
                    ));
                }
                None => {}
            }
            set_priority(nice, idle_io)
        };
        // SAFETY: the closure makes only system calls, and neither allocates
        // nor locks; the file was opened before.
        unsafe {
            command.pre_exec(limit);
        }
    }
}

fn set_priority(nice: i32, idle_io: bool) -> io::Result<()> {
    /// `IOPRIO_WHO_PROCESS` and `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT` of
    /// linux/ioprio.h.
    const PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    if nice != 0 {
        // SAFETY: a system call on plain numbers.
        Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    }
    if idle_io {
        // SAFETY: as above.
        Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, IDLE) })?;
    }
    Ok(())
}

/// Creates a control group with the wanted limits. Its parent is the nearest group,
/// from this process's own upwards, in which this user may create groups and which
/// enables the needed controllers for its children. No other group is changed.
/// Returns `None` if no limit needs a control group.
///
/// # Errors
/// If there is no such parent, or the kernel refuses a limit.
pub fn make_cgroup(wanted: &Wanted, name: &str) -> io::Result<Option<PathBuf>> {
    let Some((mount, own)) = own_cgroup() else {
        let text = "control groups of version 2 are not mounted";
        return match knobs(wanted).is_empty() {
            true => Ok(None),
            false => Err(io::Error::new(io::ErrorKind::Unsupported, text)),
        };
    };
    make_below(&mount, &own, wanted, name)
}

fn make_below(
    mount: &Path,
    own: &Path,
    wanted: &Wanted,
    name: &str,
) -> io::Result<Option<PathBuf>> {
    let knobs = knobs(wanted);
    if knobs.is_empty() {
        return Ok(None);
    }
    let mut reason = io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "no control group enables for its children: {}",
            controllers(&knobs)
        ),
    );
    for parent in own.ancestors().take_while(|dir| dir.starts_with(mount)) {
        let shared = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |controller: &str| shared.split_whitespace().any(|word| word == controller);
        if !knobs.iter().all(|(controller, ..)| has(controller)) {
            continue;
        }
        let dir = parent.join(name);
        match fs::create_dir(&dir) {
            // Left behind by a process that was killed; its name says that it is
            // ours.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                reason = error;
                continue;
            }
            Ok(()) => {}
        }
        for (_, knob, value) in &knobs {
            if let Err(error) = fs::write(dir.join(knob), value) {
                let _ = fs::remove_dir(&dir);
                return Err(error);
            }
        }
        return Ok(Some(dir));
    }
    Err(reason)
}

/// A controller, the file that holds its limit, and the value to write.
type Knob = (&'static str, &'static str, String);

fn controllers(knobs: &[Knob]) -> String {
    let names: Vec<_> = knobs.iter().map(|(controller, ..)| *controller).collect();
    names.join(" and ")
}

fn knobs(wanted: &Wanted) -> Vec<Knob> {
    let memory = wanted
        .memory
        .map(|bytes| ("memory", "memory.max", bytes.to_string()));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the profile takes 0.01 to 4096 processors"
    )]
    let cpus = wanted.cpus.map(|cpus| {
        let quota = (cpus * PERIOD as f64) as u64;
        ("cpu", "cpu.max", format!("{quota} {PERIOD}"))
    });
    let processes = wanted
        .processes
        .map(|number| ("pids", "pids.max", number.to_string()));
    memory.into_iter().chain(cpus).chain(processes).collect()
}

/// Returns whether the kernel counts the processes of this user's namespaces
/// separately (`RLIMIT_NPROC`). Since Linux 5.14 it does so in a user namespace,
/// which an unprivileged user's fence has. Otherwise all of the user's processes on
/// this host count, including production's.
#[must_use]
pub fn counted_in_namespaces() -> bool {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    !geteuid().is_root() && release.is_ok_and(|release| is_since((5, 14), &release))
}

/// Returns whether a release of Linux, such as `6.1.0-40-amd64`, is that version or
/// newer.
fn is_since(version: (u32, u32), release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= version)
}

/// Returns the mount point of cgroup v2, and this process's own group there.
fn own_cgroup() -> Option<(PathBuf, PathBuf)> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = MOUNTS
        .iter()
        .map(Path::new)
        .find(|dir| dir.join("cgroup.subtree_control").exists())?;
    Some((mount.to_owned(), mount.join(own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &Path, shares: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), shares).unwrap();
    }

    #[test]
    fn the_group_is_made_where_the_controllers_are_shared_out() {
        let mount = tempfile::tempdir().unwrap();
        let user = mount.path().join("user.slice");
        let own = user.join("session.scope");
        group(mount.path(), "cpuset cpu io memory pids\n");
        group(&user, "memory pids\n");
        group(&own, "");
        let wanted = |memory, cpus| Wanted {
            memory,
            cpus,
            ..Wanted::default()
        };
        let make = |wanted: &Wanted| make_below(mount.path(), &own, wanted, "pbkfs-a");
        let both = make(&wanted(Some(1 << 30), Some(1.5))).unwrap().unwrap();
        assert_eq!(both, mount.path().join("pbkfs-a"));
        let read = |name: &str| fs::read_to_string(both.join(name)).unwrap();
        assert_eq!(read("memory.max"), "1073741824");
        assert_eq!(read("cpu.max"), "150000 100000");
        let memory = make(&wanted(Some(1), None)).unwrap().unwrap();
        assert_eq!(memory, user.join("pbkfs-a"));
        assert_eq!(make(&wanted(None, None)).unwrap(), None);

        let processes = Wanted {
            processes: Some(2048),
            ..wanted(Some(1 << 30), None)
        };
        let processes = make(&processes).unwrap().unwrap();
        assert_eq!(processes, user.join("pbkfs-a"));
        let read = |name: &str| fs::read_to_string(processes.join(name)).unwrap();
        assert_eq!(
            (read("pids.max"), read("memory.max")),
            ("2048".into(), "1073741824".into())
        );

        group(mount.path(), "pids");
        let error = make(&wanted(None, Some(1.0))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(
            error.to_string().ends_with("for its children: cpu"),
            "{error}"
        );
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (release, since) in [
            ("4.18.0-553.el8_10.x86_64", false),
            ("5.9.16", false),
            ("5.14.0-503.el9", true),
            ("5.15", true),
            ("6.1.0-40-amd64", true),
            ("6", false),
            ("", false),
        ] {
            assert_eq!(is_since((5, 14), release), since, "{release}");
        }
    }
}
