//! Where a result is written: to a file or directory that is there completely or not at
//! all. The directory around it belongs to the caller, and others may be able to write
//! to it, too; so it is opened once, and nothing in it is reached by a path again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getegid, geteuid};

use crate::server::OsUser;
use crate::untrusted::{Dir, Kind, Refused, Replacement, give, id_of};

/// pg_dump creates its directory itself, inside the part.
const INNER: &str = "dump";

/// The place of a result.
#[derive(Debug)]
pub struct OutputPath {
    dir: Dir,
    name: OsString,
}

impl OutputPath {
    /// Opens the directory that will contain the result.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(output: &Path) -> io::Result<Self> {
        let (dir, name) = Dir::of_file(output)?;
        Ok(Self {
            dir,
            name: name.to_owned(),
        })
    }

    /// Returns what is already there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn occupant(&self) -> io::Result<Option<Kind>> {
        Ok(self.dir.stat(&self.name)?.map(|stat| stat.kind))
    }

    /// Starts writing a file.
    ///
    /// # Errors
    /// I/O errors.
    pub fn file(&self) -> io::Result<Replacement<'_>> {
        Replacement::begin(&self.dir, &self.name, 0o600)
    }

    /// Starts writing a directory. Whatever a killed process has left of one is removed.
    ///
    /// # Errors
    /// If something that is not a directory, or belongs to another user, is in
    /// its place; I/O errors.
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

/// Returns the name of the part. It is always the same for a name, so that the next
/// extraction finds what a killed one has left.
fn part_name(name: &OsStr) -> OsString {
    format!(".{}.pbkfs-part", name.to_string_lossy()).into()
}

/// A directory that is not complete yet. It is removed if it is dropped
/// before it is finished.
#[derive(Debug)]
pub struct Part<'p> {
    place: &'p OutputPath,
    dir: Dir,
    /// `None` once it has its final name.
    name: Option<OsString>,
}

impl Part<'_> {
    /// Returns where pg_dump should create its directory.
    #[must_use]
    pub fn inner(&self) -> PathBuf {
        self.dir.path().join(INNER)
    }

    /// Lets the server's user, which pg_dump runs as, write there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn admit(&self, user: Option<&OsUser>) -> io::Result<()> {
        user.map_or(Ok(()), |user| {
            self.dir.give_to(user.uid.as_raw(), user.gid.as_raw())
        })
    }

    /// Returns the number of bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let sizes = |dir: &Dir| -> io::Result<u64> {
            let mut total = 0;
            for name in dir.names()? {
                total += dir.stat(&name)?.map_or(0, |stat| stat.len);
            }
            Ok(total)
        };
        // pg_dump may not have created it yet.
        self.dir.dir(INNER).and_then(|dir| sizes(&dir)).unwrap_or(0)
    }

    /// Gives what pg_dump wrote to the caller, without the directory around it, and
    /// renames it to its final name.
    ///
    /// # Errors
    /// If something other than files is there; I/O errors.
    pub fn finish(mut self) -> io::Result<()> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        // From here on, no other user can enter.
        self.dir.give_to(uid, gid)?;
        let inner = self.dir.dir(INNER)?;
        for name in inner.names()? {
            let file = inner.file(&name)?;
            check_alone(&file)?;
            give(&file, uid, gid)?;
            file.sync_all()?;
            inner.move_to(&name, &self.dir)?;
            // A process that had already entered may have put something else in its place.
            let moved = self.dir.file(&name)?;
            if id_of(&file)? != id_of(&moved)? {
                let mode = moved.metadata()?.mode() & 0o7777;
                return Err(Refused::NotOurs { uid, mode }.into());
            }
            // Nor may that process keep another link to it, created since.
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

/// Checks that a file has only one link. A file with more is not what pg_dump created,
/// or remains in the hands of whoever created the other link. If it is a link to
/// somebody else's file, giving it away would make that file the caller's.
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
            tracing::warn!("cannot remove {}: {error}", left.display());
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
        let place = OutputPath::open(&output).unwrap();
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
        let place = OutputPath::open(&temp.path().join("out")).unwrap();
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
        let place = OutputPath::open(&temp.path().join("out")).unwrap();
        let part = place.directory().unwrap();
        fs::create_dir(part.inner()).unwrap();
        symlink(&precious, part.inner().join("1.dat")).unwrap();
        assert!(part.finish().is_err());
        symlink(&precious, temp.path().join(".out.pbkfs-part")).unwrap();
        assert!(place.directory().is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "x");
    }
}
