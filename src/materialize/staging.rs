//! The directories while they are written. Each is staged beside its final name and
//! renamed at the end, so that a directory of that name is complete. What an
//! interrupted run left is continued if it is of the same backup.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use nix::sys::statvfs::fstatvfs;
use nix::unistd::geteuid;

use super::journal::{BOOT_ID, Header, Journal, boot_id};
use super::layout::{Layout, Root};
use crate::escape::value;
use crate::session::SessionError;
use crate::untrusted::{Dir, Kind, Stat, found, identity};

/// The staged directories, and the journal of the run, which is locked.
#[derive(Debug)]
pub struct Staging {
    roots: Vec<Staged>,
    journal: Journal,
    /// The nodes of the files that an interrupted run completed.
    pub complete: HashSet<u32>,
}

/// One directory while it is written.
#[derive(Debug)]
struct Staged {
    /// The directory that contains it.
    parent: Dir,
    name: OsString,
    dir: Dir,
    /// Whether it already has its final name.
    is_placed: bool,
}

impl Staging {
    /// Creates the staged directories of a layout, or opens those that an interrupted
    /// run of the same `image` left; `None` is the same as no other.
    ///
    /// # Errors
    /// If a final directory exists and is not empty, if another run is writing, if
    /// something of another origin is in the way, or if a system call fails.
    pub fn open(layout: &Layout, backup: &str, image: Option<u64>) -> Result<Self, SessionError> {
        let pgdata = layout.pgdata();
        let parents = layout.roots.iter().map(|root| {
            let opened = Dir::of_file(&root.to);
            opened.map_err(io_error("open", &root.to))
        });
        let parents: Vec<(Dir, &OsStr)> = parents.collect::<Result<_, _>>()?;
        let Some((parent, name)) = parents.first() else {
            let nothing = io::ErrorKind::InvalidInput.into();
            return Err(io_error("create", pgdata)(nothing));
        };
        let journal = match Journal::open(parent, journal_name(name)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(SessionError::Usage {
                    message: format!("another pbkfs is already writing {}", value(pgdata)),
                });
            }
            opened => opened.map_err(io_error("open the journal of", pgdata))?,
        };
        let paths = layout.roots.iter().map(|root| &root.to);
        let wanted = Header {
            backup: backup.to_owned(),
            image,
            boot: boot_id().map_err(io_error("read", Path::new(BOOT_ID)))?,
            roots: paths
                .map(|path| (path.to_string_lossy().into_owned(), (0, 0, 0)))
                .collect(),
        };
        let found = journal.read();
        let found = found.map_err(io_error("read the journal of", pgdata))?;
        let is_new = found.is_none();
        let (place, name) = (parent.dir("."), journal_name(name));
        let begun = Begin { wanted, found }.roots(layout, parents, journal);
        if begun.is_err() && is_new {
            // Nothing was begun that it could be of. The cause of the failure counts.
            let _ = place.and_then(|place| place.remove_file(name));
        }
        begun
    }

    /// Returns a root's directory.
    ///
    /// # Errors
    /// If there is no such root.
    pub fn root(&self, index: usize) -> io::Result<&Dir> {
        let staged = self.roots.get(index).map(|staged| &staged.dir);
        staged.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Records that a file is complete.
    ///
    /// # Errors
    /// If writing the journal fails.
    pub fn completed(&self, node: u32) -> io::Result<()> {
        self.journal.complete(node)
    }

    /// Returns the free space of the file system that a root is on, in bytes, with its
    /// device.
    ///
    /// # Errors
    /// If the system call fails.
    pub fn room(&self, index: usize) -> io::Result<(u64, u64)> {
        let dir = self.root(index)?;
        let stat = fstatvfs(dir)?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        Ok((dir.stat_self()?.id.0, free))
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// If the file system reports that a write failed.
    pub fn sync(&self) -> io::Result<()> {
        self.roots
            .iter()
            .try_for_each(|staged| Ok(rustix::fs::syncfs(&staged.dir)?))
    }

    /// Removes everything that was created.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn discard(self) -> io::Result<()> {
        for staged in self.roots.iter().filter(|staged| !staged.is_placed) {
            staged.parent.remove_tree(staged_name(&staged.name))?;
        }
        self.remove_journal()
    }

    /// Removes what an interrupted cut-over to `to` has left: the directories that its
    /// journal names, under whichever name, and the journal.
    ///
    /// # Errors
    /// If another run is writing, or if a system call fails.
    pub fn abandon(to: &Path) -> io::Result<()> {
        let (parent, name) = Dir::of_file(to)?;
        let journal = Journal::open(&parent, journal_name(name))?;
        let roots = journal.read()?.map(|(header, _)| header.roots);
        for (path, id) in roots.unwrap_or_default() {
            let Some((parent, name)) = found(Dir::of_file(Path::new(&path)))? else {
                // It is gone with what contained it.
                continue;
            };
            for name in [staged_name(name), name.to_owned()] {
                // The device may have another number since the host was rebooted.
                let is_it = |found: Stat| found.kind == Kind::Directory && found.id.1 == id.2;
                if parent.stat(&name)?.is_some_and(is_it) {
                    parent.remove_tree(&name)?;
                }
            }
        }
        parent.remove_file(journal_name(name))
    }

    /// Removes the journal of a run that was interrupted when everything had its final
    /// name already.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn forget(to: &Path) -> io::Result<()> {
        let (parent, name) = Dir::of_file(to)?;
        parent.remove_file(journal_name(name))
    }

    /// Refuses a final directory that exists and is not empty, or has no directory to be
    /// created in.
    ///
    /// # Errors
    /// Returns [`SessionError::Usage`], or an I/O error.
    pub fn check_free(to: &Path) -> Result<(), SessionError> {
        let (parent, name) = Dir::of_file(to).map_err(io_error("open", to))?;
        refuse_occupied(&parent, name, to).map(drop)
    }

    fn remove_journal(&self) -> io::Result<()> {
        let pgdata = self.roots.first();
        pgdata.map_or(Ok(()), |pgdata| {
            pgdata.parent.remove_file(journal_name(&pgdata.name))
        })
    }

    /// Gives the directories their final names, PGDATA last, and removes the journal.
    ///
    /// # Errors
    /// If a system call fails; another run continues from there.
    pub fn finish(mut self, sync: bool) -> io::Result<()> {
        let is_left = |staged: &&mut Staged| !staged.is_placed;
        for staged in self.roots.iter_mut().rev().filter(is_left) {
            staged
                .parent
                .rename(staged_name(&staged.name), &staged.name)?;
            if sync {
                staged.parent.sync()?;
            }
            staged.is_placed = true;
        }
        self.remove_journal()
    }
}

/// What the beginning of a run has found.
struct Begin {
    wanted: Header,
    found: Option<(Header, HashSet<u32>)>,
}

impl Begin {
    fn roots(
        mut self,
        layout: &Layout,
        parents: Vec<(Dir, &OsStr)>,
        journal: Journal,
    ) -> Result<Staging, SessionError> {
        let found = self.found.as_ref();
        let goes_on = found.is_some_and(|(found, _)| self.wanted.goes_on(found));
        let (mut roots, mut all_there) = (Vec::new(), goes_on);
        for (index, (root, place)) in layout.roots.iter().zip(parents).enumerate() {
            let (staged, is_new) = self.root(index, root, place, goes_on)?;
            all_there &= !is_new;
            roots.push(staged);
        }
        let mut complete = HashSet::new();
        if all_there {
            complete = self.found.map(|(_, complete)| complete).unwrap_or_default();
        } else {
            for (staged, recorded) in roots.iter().zip(&mut self.wanted.roots) {
                let found = identity(&staged.dir).map_err(io_error("stat", staged.dir.path()))?;
                recorded.1 = found.id;
            }
            let begun = journal.begin(&self.wanted);
            begun.map_err(io_error("write the journal of", layout.pgdata()))?;
        }
        Ok(Staging {
            roots,
            journal,
            complete,
        })
    }

    /// Opens a root's staged directory, and says whether it is new. If an interrupted
    /// run is not continued, what it left is removed.
    fn root(
        &self,
        index: usize,
        root: &Root,
        (parent, name): (Dir, &OsStr),
        goes_on: bool,
    ) -> Result<(Staged, bool), SessionError> {
        let io = |error| io_error("create", &root.to)(error);
        let placed = self.occupant(&parent, name, index, goes_on, root)?;
        let staged_as = staged_name(name);
        let staged = |parent, dir, is_placed| Staged {
            parent,
            name: name.to_os_string(),
            dir,
            is_placed,
        };
        if let Some(dir) = placed {
            return Ok((staged(parent, dir, true), false));
        }
        if let Some(stat) = parent.stat(&staged_as).map_err(io)? {
            let is_dir = stat.kind == Kind::Directory;
            let left = is_dir.then(|| parent.dir(&staged_as)).transpose();
            match left.map_err(io)? {
                Some(dir) if goes_on && self.is_recorded(index, &dir) => {
                    return Ok((staged(parent, dir, false), false));
                }
                Some(dir) if self.is_ours(&dir).map_err(io)? => {
                    parent.remove_tree(&staged_as).map_err(io)?;
                }
                _ => {
                    return Err(SessionError::usage(format!(
                        "{} is in the way and was not left by an interrupted pbkfs materialize; \
                         remove it",
                        value(&root.to.with_file_name(&staged_as))
                    )));
                }
            }
        }
        let dir = parent.make_dir(&staged_as, 0o700).map_err(io)?;
        Ok((staged(parent, dir, false), true))
    }

    /// Refuses a final directory that is not empty. Returns it if an interrupted run
    /// has already put it in its place.
    fn occupant(
        &self,
        parent: &Dir,
        name: &OsStr,
        index: usize,
        goes_on: bool,
        root: &Root,
    ) -> Result<Option<Dir>, SessionError> {
        if goes_on
            && let Ok(dir) = parent.dir(name)
            && self.is_recorded(index, &dir)
        {
            return Ok(Some(dir));
        }
        refuse_occupied(parent, name, &root.to)?;
        Ok(None)
    }

    /// Returns whether the journal says that an interrupted run created a directory.
    fn is_recorded(&self, index: usize, dir: &Dir) -> bool {
        let recorded = self
            .found
            .as_ref()
            .and_then(|(found, _)| found.roots.get(index));
        let id = identity(dir).ok().map(|found| found.id);
        recorded.is_some_and(|(_, recorded)| Some(*recorded) == id)
    }

    /// Returns whether a directory is left from an interrupted run of whatever backup.
    /// One that was interrupted before it could write its journal left it empty.
    fn is_ours(&self, dir: &Dir) -> io::Result<bool> {
        let id = identity(dir)?.id;
        let found = self.found.as_ref();
        let is_recorded =
            found.is_some_and(|(found, _)| found.roots.iter().any(|(_, root)| *root == id));
        let is_own = dir.stat_self()?.uid == geteuid().as_raw();
        Ok(is_recorded || is_own && dir.names()?.is_empty())
    }
}

/// Refuses a final directory that cannot be put in place.
fn refuse_occupied(parent: &Dir, name: &OsStr, to: &Path) -> Result<(), SessionError> {
    let io = |error| io_error("stat", to)(error);
    let refused = |why: &str| SessionError::Usage {
        message: format!("{} {why}; choose another directory", value(to)),
    };
    match parent.stat(name).map_err(io)? {
        None => return Ok(()),
        Some(stat) if stat.kind != Kind::Directory => {
            return Err(refused("exists and is not a directory"));
        }
        Some(_) => {}
    }
    let dir = parent.dir(name).map_err(io)?;
    if identity(&dir).map_err(io)?.is_mount_root {
        return Err(refused(
            "is a mount point, which cannot be put in place as a whole",
        ));
    }
    match dir.names().map_err(io)?.is_empty() {
        true => Ok(()),
        false => Err(refused("exists and is not empty")),
    }
}

fn staged_name(name: &OsStr) -> OsString {
    let mut staged = OsString::from(".");
    staged.push(name);
    staged.push(".pbkfs-part");
    staged
}

fn journal_name(name: &OsStr) -> OsString {
    let mut journal = staged_name(name);
    journal.push(".journal");
    journal
}

/// Returns the conversion of a system's error at a path.
pub fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> SessionError + 'a {
    move |error| SessionError::io(action, path, error)
}
