//! The directories and links on the way to a path.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::stat::is_ours;
use super::{Dir, Refused, Stat};

const STICKY: u32 = 0o1000;

/// The number of links that the kernel follows on a path.
const LINKS: usize = 40;

/// Opens the directory that contains `path`, and returns it with the last component,
/// which need not exist yet. Only this process's user, root and the users and groups
/// `trusted` can redirect the path. Whatever changes on it later, the directory stays
/// the one that was checked. It is opened for traversal, as by [`Dir::through`].
///
/// Each directory on the way must belong to one of these users. Others must not be able
/// to write to it, or only to add to it (the sticky bit). Each link must belong to this
/// process's user or to root, because a link can point anywhere, even where the trusted
/// users have no business.
///
/// # Errors
/// Returns [`Refused::OthersWay`] or [`Refused::OthersLink`] with the first violation.
/// Fails for a relative path, for one without a last component, and if a system call
/// fails.
pub fn lead(path: &Path, trusted: &[(u32, u32)]) -> io::Result<(Dir, OsString)> {
    let mut dir = Dir::open(Path::new("/"))?;
    check(&dir, trusted)?;
    let mut steps = steps_of(path);
    if steps.pop_front() != Some(Step::Root) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        let name = match step {
            Step::Root => OsString::from("/"),
            Step::Up => OsString::from(".."),
            Step::Down(name) => name,
        };
        let is_last = steps.is_empty();
        match link_in(&dir, &name, is_last)? {
            Some(_) if links == LINKS => return Err(Errno::LOOP.into()),
            Some(to) => {
                links += 1;
                steps_of(&to)
                    .into_iter()
                    .rev()
                    .for_each(|step| steps.push_front(step));
            }
            None if is_last => return Ok((dir, name)),
            None => {
                dir = enter(&dir, &name)?;
                check(&dir, trusted)?;
            }
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// One step of the walk.
#[derive(PartialEq, Eq)]
enum Step {
    Root,
    Up,
    Down(OsString),
}

fn steps_of(path: &Path) -> VecDeque<Step> {
    let steps = path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

/// Returns a link's target. At the end of the path there may be nothing, or a mount
/// that does not respond; the kernel knows by itself whether that is a link.
fn link_in(dir: &Dir, name: &OsStr, is_last: bool) -> io::Result<Option<PathBuf>> {
    // Look the name up only once: another link could replace it between two look-ups.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) if is_last => return Ok(None),
        held => held?,
    };
    let to = match readlinkat(&held, "", Vec::new()) {
        Ok(to) => to,
        // The answers of older and newer kernels if it is not a link.
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let link = Stat::from(&fstat(&held)?);
    // The mode means nothing: nobody can write to a link.
    match is_ours(link.uid) {
        true => Ok(Some(PathBuf::from(OsString::from_vec(to.into_bytes())))),
        false => Err(Refused::OthersLink {
            link: dir.path().join(name),
            uid: link.uid,
        }
        .into()),
    }
}

fn enter(dir: &Dir, name: &OsStr) -> io::Result<Dir> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = match (name.to_str(), dir.path().parent()) {
        (Some(".."), Some(above)) => above.to_owned(),
        (Some(".."), None) => dir.path().to_owned(),
        _ => dir.path().join(name),
    };
    let fd = match name == "/" {
        true => openat(CWD, name, flags, Mode::empty()),
        false => openat(dir, name, flags, Mode::empty()),
    };
    Ok(Dir { fd: fd?, path })
}

/// Checks that others cannot change a directory's content.
fn check(dir: &Dir, trusted: &[(u32, u32)]) -> io::Result<()> {
    let stat = dir.stat_self()?;
    let group_is_ours = stat.gid == 0 || trusted.iter().any(|(_, gid)| *gid == stat.gid);
    let others = if group_is_ours { 0o002 } else { 0o022 };
    match stat.mode & others != 0 && stat.mode & STICKY == 0 {
        true => Err(others_way(dir, stat)),
        false => check_owner(dir, trusted),
    }
}

/// Checks that a directory belongs to this process's user, to root, or to one of the
/// users `trusted`.
///
/// # Errors
/// Returns [`Refused::OthersWay`], and the system's errors.
pub fn check_owner(dir: &Dir, trusted: &[(u32, u32)]) -> io::Result<()> {
    let stat = dir.stat_self()?;
    match is_ours(stat.uid) || trusted.iter().any(|(uid, _)| *uid == stat.uid) {
        true => Ok(()),
        false => Err(others_way(dir, stat)),
    }
}

fn others_way(dir: &Dir, stat: Stat) -> io::Error {
    Refused::OthersWay {
        dir: dir.path().to_owned(),
        uid: stat.uid,
        mode: stat.mode,
    }
    .into()
}
