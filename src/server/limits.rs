//! How much of the host a server may take: priority, and memory, processors
//! and the number of processes by way of a control group.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use nix::sys::utsname::uname;
use nix::unistd::geteuid;

/// Where version 2 of the control groups is mounted: alone, or beside
/// version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The period that processor time is measured by, in microseconds; the
/// kernel's default.
const PERIOD: u64 = 100_000;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Wanted {
    /// Bytes of memory, the page cache's among them.
    pub memory: Option<u64>,
    /// Processors' worth of time.
    pub cpus: Option<f64>,
    /// Processes, each thread of one counted.
    pub processes: Option<u32>,
    /// Added to the scheduling priority's number: 0 to 19.
    pub nice: i32,
    /// Whether the disks serve others first.
    pub idle_io: bool,
}

/// Limits that can be put on a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    nice: i32,
    idle_io: bool,
    /// The control group's directory.
    pub cgroup: Option<PathBuf>,
}

impl Limits {
    /// The limits without a control group.
    #[must_use]
    pub fn of_process(wanted: &Wanted) -> Self {
        Self {
            nice: wanted.nice,
            idle_io: wanted.idle_io,
            cgroup: None,
        }
    }

    /// Puts the limits on what `command` starts, from its first instruction.
    pub(super) fn apply(&self, command: &mut Command) {
        let (nice, idle_io) = (self.nice, self.idle_io);
        let procs = self.cgroup.as_ref().map(|dir| dir.join("cgroup.procs"));
        // A group that is gone is an error of the start, not a missing limit.
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
        let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if idle_io {
        // SAFETY: as above.
        let done = unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, IDLE) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes a control group with the wanted limits, below the nearest group of
/// this process or above it that this user may add to and that shares out what
/// is to be limited. No other group is changed. `None` if there is nothing to
/// limit so.
///
/// # Errors
/// There is no such place, or the kernel refused.
pub fn make_cgroup(wanted: &Wanted, name: &str) -> io::Result<Option<PathBuf>> {
    let Some((mount, own)) = own_cgroup() else {
        let text = "no control groups of version 2 are mounted";
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
        format!("no control group shares out {}", controllers(&knobs)),
    );
    for parent in own.ancestors().take_while(|dir| dir.starts_with(mount)) {
        let shared = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |controller: &str| shared.split_whitespace().any(|word| word == controller);
        if !knobs.iter().all(|(controller, ..)| has(controller)) {
            continue;
        }
        let dir = parent.join(name);
        match fs::create_dir(&dir) {
            // Left by one that was killed: it is ours by its name.
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

/// A controller with the file that holds its limit, and what to write there.
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

/// Whether the kernel counts the processes of this user's namespaces by
/// themselves (`RLIMIT_NPROC`): those of a user namespace, which an ordinary
/// user's fence has, since Linux 5.14. Otherwise all of the user's on this host
/// are counted, production's among them.
#[must_use]
pub fn counted_in_namespaces() -> bool {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    !geteuid().is_root() && release.is_ok_and(|release| is_since((5, 14), &release))
}

/// Whether a release of Linux, as in `6.1.0-40-amd64`, is that version or newer.
fn is_since(version: (u32, u32), release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= version)
}

/// Where control groups are mounted, and this process's own there.
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
        assert!(error.to_string().ends_with("shares out cpu"), "{error}");
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
