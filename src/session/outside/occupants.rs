//! The processes in a mount, which keep it from being unmounted.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that holds something below a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Its process id.
    pub pid: u32,
    /// Its program's name, as the kernel keeps it (15 bytes).
    pub command: String,
    /// What it holds, in words.
    pub holds: &'static str,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}: {})", self.pid, self.command, self.holds)
    }
}

/// Returns the processes that hold something below `target`, as far as this user can
/// see, by pid. The mount itself is not accessed, so a dead one is no obstacle. This
/// process is left out.
#[must_use]
pub fn of(target: &Path) -> Vec<Occupant> {
    let mut found: Vec<Occupant> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let holds = holds(&entry.path(), target)?;
            let command = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some(Occupant {
                pid,
                command: command.trim_end().to_owned(),
                holds,
            })
        })
        .filter(|occupant| occupant.pid != std::process::id())
        .collect();
    found.sort_by_key(|occupant| occupant.pid);
    found
}

/// Returns what a process holds below `target`; `process` is its directory under /proc.
fn holds(process: &Path, target: &Path) -> Option<&'static str> {
    let leads_there = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(target));
    if leads_there(process.join("cwd")) {
        return Some("working directory");
    }
    if leads_there(process.join("root")) {
        return Some("root directory");
    }
    let mut open = fs::read_dir(process.join("fd")).into_iter().flatten();
    if open.any(|fd| fd.is_ok_and(|fd| leads_there(fd.path()))) {
        return Some("open file");
    }
    if leads_there(process.join("exe")) {
        return Some("program");
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    let mut mapped = maps.split(|byte| *byte == b'\n').filter_map(mapped_file);
    mapped
        .any(|file| file.starts_with(target))
        .then_some("mapped file")
}

/// Returns the file in one line of `/proc/PID/maps`: the rest of the line from its
/// first slash, because no field before it has one (`proc_pid_maps(5)`).
fn mapped_file(line: &[u8]) -> Option<&Path> {
    let slash = line.iter().position(|byte| *byte == b'/')?;
    Some(Path::new(OsStr::from_bytes(line.get(slash..)?)))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_shell_in_a_directory_is_found_and_a_neighbour_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["here", "here too"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let mut child = Command::new("cat")
            .current_dir(dir.join("here"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let found = of(&dir.join("here"));
        let neighbours = of(&dir.join("here too"));
        drop(child.stdin.take());
        child.wait().unwrap();
        let expected = Occupant {
            pid: child.id(),
            command: "cat".to_owned(),
            holds: "working directory",
        };
        assert_eq!(found, [expected]);
        assert_eq!(neighbours, []);
    }

    #[test]
    fn mapped_files_are_taken_from_their_line() {
        let line = b"7f0-7f1 r-xp 00000000 08:01 42    /srv/a b/lib.so (deleted)";
        let expected = Path::new("/srv/a b/lib.so (deleted)");
        assert_eq!(mapped_file(line), Some(expected));
        assert_eq!(mapped_file(b"7f0-7f1 rw-p 00000000 00:00 0 [heap]"), None);
    }
}
