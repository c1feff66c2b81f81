//! Where a result goes: a file or a directory that is there whole or not at
//! all. The directory around it is the caller's, and may be others', too; so it
//! is opened once, and nothing in it is reached by a path again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

use crate::server::OsUser;
use crate::untrusted::{Dir, Kind, Refused, Replacement, give, id_of};

/// pg_dump makes its directory itself, inside the part.
const INNER: &str = "dump";

/// A result's place.
#[derive(Debug)]
pub struct Place {
    dir: Dir,
    name: OsString,
}

impl Place {
    /// Opens the directory that the result is to be in.
    ///
    /// # Errors
    /// The system's own.
    pub fn open(output: &Path) -> io::Result<Self> {
        let (dir, name) = Dir::of_file(output)?;
        Ok(Self {
            dir,
            name: name.to_owned(),
        })
    }

    /// What is there already.
    ///
    /// # Errors
    /// The system's own.
    pub fn occupant(&self) -> io::Result<Option<Kind>> {
        Ok(self.dir.stat(&self.name)?.map(|stat| stat.kind))
    }

    /// Begins a file.
    ///
    /// # Errors
    /// The system's own.
    pub fn file(&self) -> io::Result<Replacement<'_>> {
        Replacement::begin(&self.dir, &self.name, 0o600)
    }

    /// Begins a directory. What a killed process has left of one is removed.
    ///
    /// # Errors
    /// Something of another user's is in its place; the system's own.
    pub fn directory(&self) -> io::Result<Part<'_>> {
        let name = part_name(&self.name);
        match self.dir.stat(&name)? {
            Some(stat) if stat.kind == Kind::Directory && stat.uid == geteuid().as_raw() => {
                self.dir.remove_tree(&name)?;
            }
            Some(stat) if stat.kind == Kind::Directory => {
                return Err(Refused::NotOurs {
                    uid: stat.uid,
                    mode: stat.mode,
                }
                .into());
            }
            Some(stat) => return Err(Refused::Is(stat.kind).into()),
            None => {}
        }
        Ok(Part {
            place: self,
            dir: self.dir.make_dir(&name, 0o700)?,
            name: Some(name),
        })
    }
}

/// Always the same for a name, so that the next extraction finds what a killed
/// one has left.
fn part_name(name: &OsStr) -> OsString {
    format!(".{}.pbkfs-part", name.to_string_lossy()).into()
}

/// A directory that is not whole yet. Dropped before it was finished, it is
/// removed.
#[derive(Debug)]
pub struct Part<'p> {
    place: &'p Place,
    dir: Dir,
    /// `None` once it has its own name.
    name: Option<OsString>,
}

impl Part<'_> {
    /// Where pg_dump is to make its directory.
    #[must_use]
    pub fn inner(&self) -> PathBuf {
        self.dir.path().join(INNER)
    }

    /// Lets the server's user, as whom pg_dump runs, write there.
    ///
    /// # Errors
    /// The system's own.
    pub fn admit(&self, user: Option<&OsUser>) -> io::Result<()> {
        user.map_or(Ok(()), |user| {
            self.dir.give_to(user.uid.as_raw(), user.gid.as_raw())
        })
    }

    /// Bytes that are there so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let sizes = |dir: &Dir| -> io::Result<u64> {
            let mut total = 0;
            for name in dir.names()? {
                total += dir.stat(&name)?.map_or(0, |stat| stat.len);
            }
            Ok(total)
        };
        // pg_dump makes it in a moment.
        self.dir.dir(INNER).and_then(|dir| sizes(&dir)).unwrap_or(0)
    }

    /// Makes what pg_dump wrote the caller's, without the directory around it,
    /// and gives it its name.
    ///
    /// # Errors
    /// Something else than files is there; the system's own.
    pub fn finish(mut self) -> io::Result<()> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        // From here on no other user gets in.
        self.dir.give_to(uid, gid)?;
        let inner = self.dir.dir(INNER)?;
        for name in inner.names()? {
            let file = inner.file(&name)?;
            check_alone(&file)?;
            give(&file, uid, gid)?;
            file.sync_all()?;
            inner.move_to(&name, &self.dir)?;
            // Who was in there before may have put something else in its place.
            let moved = self.dir.file(&name)?;
            if id_of(&file)? != id_of(&moved)? {
                let mode = moved.metadata()?.mode() & 0o7777;
                return Err(Refused::NotOurs { uid, mode }.into());
            }
            // Nor may he keep a name for it, made since.
            check_alone(&moved)?;
        }
        self.dir.remove_dir(INNER)?;
        self.dir.sync()?;
        if let Some(name) = &self.name {
            self.place.dir.rename(name, &self.place.name)?;
        }
        self.name = None;
        self.place.dir.sync()
    }
}

/// Checks that a file has one name. One with more is not what pg_dump made, or
/// stays in the hands of who gave it the other: a link to a file of somebody
/// else's would make that the caller's.
fn check_alone(file: &File) -> io::Result<()> {
    match file.metadata()?.nlink() {
        1 => Ok(()),
        _ => Err(Refused::Linked.into()),
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = self.place.dir.remove_tree(name)
        {
            let left = self.place.dir.path().join(name);
            tracing::warn!("{} is left over: {error}", left.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let output = temp.path().join("out");
        let place = Place::open(&output).unwrap();
        let left = temp.path().join(".out.pbkfs-part");
        fs::create_dir_all(left.join("dump")).unwrap();
        let part = place.directory().unwrap();
        fs::create_dir(part.inner()).unwrap();
        fs::write(part.inner().join("toc.dat"), "toc").unwrap();
        assert_eq!(part.bytes(), 3);
        drop(part);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);

        let part = place.directory().unwrap();
        fs::create_dir(part.inner()).unwrap();
        fs::write(part.inner().join("toc.dat"), "toc").unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read_to_string(output.join("toc.dat")).unwrap(), "toc");
        assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
    }

    #[test]
    fn a_result_that_has_another_name_is_refused_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let precious = temp.path().join("precious");
        fs::write(&precious, "x").unwrap();
        chown(&precious, Some(65534), Some(65534)).unwrap();
        let place = Place::open(&temp.path().join("out")).unwrap();
        let part = place.directory().unwrap();
        fs::create_dir(part.inner()).unwrap();
        fs::hard_link(&precious, part.inner().join("1.dat")).unwrap();
        let error = part.finish().unwrap_err();
        assert!(error.to_string().contains("another hard link"), "{error}");
        assert_eq!(fs::metadata(&precious).unwrap().uid(), 65534);
        assert!(!temp.path().join("out").exists());
    }

    #[test]
    fn links_among_the_results_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let precious = temp.path().join("precious");
        fs::write(&precious, "x").unwrap();
        let place = Place::open(&temp.path().join("out")).unwrap();
        let part = place.directory().unwrap();
        fs::create_dir(part.inner()).unwrap();
        symlink(&precious, part.inner().join("1.dat")).unwrap();
        assert!(part.finish().is_err());
        symlink(&precious, temp.path().join(".out.pbkfs-part")).unwrap();
        assert!(place.directory().is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    }
}
