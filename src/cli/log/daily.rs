//! One log file per day, `NAME.YYYY-MM-DD` (UTC), and `NAME` as a link to the newest.
//!
//! Many log directories, such as Debian's for PostgreSQL, let a group create files
//! there. A file or link that others have put at one of these names is never written
//! to, least of all a link to a file of root's. The files are therefore opened within
//! the directory that was checked, and not by their paths as tracing-appender does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{getegid, geteuid};
use time::{Date, OffsetDateTime};

use crate::untrusted::{Dir, Kind, Refused, lead};

/// The directory of the host's logs.
const LOGS: &str = "/var/log";

/// A log with one file per day.
#[derive(Debug)]
pub struct Daily {
    dir: Dir,
    name: OsString,
    /// The number of daily files to keep.
    keep: usize,
    today: Mutex<(Date, File)>,
}

impl Daily {
    /// Opens the file of this day. The users and groups in `trusted`, root and this
    /// user may be able to redirect its path.
    ///
    /// # Errors
    /// If something else has that name, if other users can redirect the path or have
    /// put something in place of the file, or if a system call fails.
    pub fn open(file: &Path, keep: usize, trusted: &[(u32, u32)]) -> io::Result<Self> {
        let (dir, name) = Dir::of_file(file)?;
        // A log of another program, or a directory, must neither count as an old file
        // nor be replaced by a link.
        match dir.stat(name)?.map(|stat| stat.kind) {
            None | Some(Kind::Symlink) => {}
            Some(_) => {
                let taken = "something else has that name already; choose another";
                return Err(io::Error::other(taken));
            }
        }
        let mut trusted = trusted.to_vec();
        trusted.push((geteuid().as_raw(), getegid().as_raw()));
        trusted.extend(logs_group());
        // Check the path as it was given, links included, and that it resolves to
        // what was opened.
        let (led, _) = lead(&std::path::absolute(dir.path())?.join(name), &trusted)?;
        if led.stat_self()?.id != dir.stat_self()?.id {
            return Err(Refused::LeadsOut.into());
        }
        let (name, date) = (name.to_owned(), today());
        let today = Mutex::new((date, begin(&dir, &name, date, keep)?));
        Ok(Self {
            dir,
            name,
            keep,
            today,
        })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut current = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        let date = today();
        if current.0 != date
            // If a new file cannot be created, the line goes to the old one.
            && let Ok(file) = begin(&self.dir, &self.name, date, self.keep)
        {
            *current = (date, file);
        }
        current.1.write_all(line)
    }
}

fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

/// Returns the group that writes the host's logs. Ubuntu's group syslog may write to
/// their directory, and could replace every log there.
fn logs_group() -> Option<(u32, u32)> {
    let stat = Dir::open(Path::new(LOGS)).and_then(|dir| dir.stat_self());
    let stat = stat.ok().filter(|stat| stat.uid == 0)?;
    Some((0, stat.gid))
}

/// Opens the file of a day, points the link at it, and removes the oldest files
/// beyond `keep`.
fn begin(dir: &Dir, name: &OsStr, date: Date, keep: usize) -> io::Result<File> {
    let dated = dated(name, date);
    let file = dir.append(&dated, 0o644)?;
    let meta = file.metadata()?;
    let is_ours = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
    if !is_ours || meta.nlink() > 1 {
        return Err(Refused::NotOurs {
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        }
        .into());
    }
    // Ignore failures of both: the log works without them.
    let _ = dir.put_link(name, &dated);
    let _ = remove_old(dir, name, keep);
    Ok(file)
}

fn dated(name: &OsStr, date: Date) -> OsString {
    let mut dated = name.to_owned();
    // In the format of ISO 8601.
    dated.push(format!(".{date}"));
    dated
}

fn remove_old(dir: &Dir, name: &OsStr, keep: usize) -> io::Result<()> {
    let mut days: Vec<OsString> = dir.names()?;
    days.retain(|day| is_dated(name, day));
    days.sort();
    let old = days.len().saturating_sub(keep);
    for day in days.into_iter().take(old) {
        if dir.stat(&day)?.is_some_and(|stat| stat.kind == Kind::File) {
            dir.remove_file(&day)?;
        }
    }
    Ok(())
}

/// Returns whether `other` is the log's name followed by a date.
fn is_dated(name: &OsStr, other: &OsStr) -> bool {
    let (name, other) = (name.as_encoded_bytes(), other.as_encoded_bytes());
    let date = other
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix(b"."));
    date.is_some_and(|date| {
        let is_digit = |(at, byte): (usize, &u8)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        date.len() == 10 && date.iter().enumerate().all(is_digit)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    use super::*;

    const POSTGRES: u32 = 65533;

    /// Creates a directory like Debian's for PostgreSQL's logs.
    fn shared() -> (tempfile::TempDir, PathBuf) {
        assert!(geteuid().is_root(), "needs root");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("postgresql");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(0), Some(POSTGRES)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1775)).unwrap();
        (temp, dir)
    }

    fn why(result: io::Result<Daily>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_directory_that_a_group_adds_to_is_a_place_for_a_log() {
        let (_temp, dir) = shared();
        let file = dir.join("main.log");
        Daily::open(&file, 3, &[]).unwrap().write(b"a\n").unwrap();
        Daily::open(&file, 3, &[]).unwrap().write(b"b\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a\nb\n");
    }

    #[test]
    fn what_others_have_put_there_is_not_written_to() {
        let (temp, dir) = shared();
        let (file, precious) = (dir.join("main.log"), temp.path().join("precious"));
        fs::write(&precious, "x").unwrap();
        let planted = dir.join(dated(OsStr::new("main.log"), today()));
        symlink(&precious, &planted).unwrap();
        assert!(why(Daily::open(&file, 3, &[])).contains("a symbolic link"));
        fs::remove_file(&planted).unwrap();
        fs::hard_link(&precious, &planted).unwrap();
        assert!(why(Daily::open(&file, 3, &[])).contains("not this user's alone"));
        fs::remove_file(&planted).unwrap();
        fs::write(&planted, "").unwrap();
        chown(&planted, Some(POSTGRES), None).unwrap();
        assert!(why(Daily::open(&file, 3, &[])).contains("not this user's alone"));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    }

    #[test]
    fn the_whole_way_is_looked_at() {
        let (temp, dir) = shared();
        let inside = dir.join("own");
        fs::create_dir(&inside).unwrap();
        let file = inside.join("main.log");
        Daily::open(&file, 3, &[]).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o775)).unwrap();
        assert!(why(Daily::open(&file, 3, &[])).contains("redirect the path"));
        Daily::open(&file, 3, &[(POSTGRES, POSTGRES)]).unwrap();
        chown(&dir, Some(POSTGRES), None).unwrap();
        assert!(Daily::open(&file, 3, &[]).is_err());
        Daily::open(&file, 3, &[(POSTGRES, POSTGRES)]).unwrap();
        drop(temp);
    }

    #[test]
    fn only_the_logs_own_days_are_old() {
        let is_ours = |other: &str| is_dated(OsStr::new("a.log"), OsStr::new(other));
        assert!(is_ours("a.log.2026-01-31"));
        for other in [
            "a.log",
            "a.log.2026-01-31.gz",
            "b.log.2026-01-31",
            "a.log.20260131xx",
        ] {
            assert!(!is_ours(other), "{other}");
        }
        assert!(is_ours(
            &dated(OsStr::new("a.log"), today()).to_string_lossy()
        ));
    }
}
