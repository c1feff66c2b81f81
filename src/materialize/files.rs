//! Writing the files of a layout: several at once, each in one pass from the catalog.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::clone::Source;
use super::layout::{Item, Layout, Own, Spot};
use super::staging::{Staging, io_error};
use crate::image::{Batch, CheckItem, CheckSink, Checked, CheckedFiles, Image, NodeId, check_each};
use crate::session::SessionError;
use crate::untrusted::{Dir, give};

/// Number of bytes that are collected for one write.
const BATCH: usize = 1 << 20;

/// What the writing of files needs.
pub struct Writer<'a> {
    /// The image.
    pub image: &'a Image,
    /// Where each file belongs.
    pub layout: &'a Layout,
    /// The directories to write them to.
    pub staging: &'a Staging,
    /// The user and group that get the files; `None` leaves them with this process's.
    pub owner: Option<(u32, u32)>,
    /// The clone whose files are written, if it is not the backup itself.
    pub clone: Option<&'a Source<'a>>,
    /// A file that is changed afterwards, and therefore written again by a resumed run.
    pub edited: Option<NodeId>,
    /// Whether a file that the clone's diff has as a whole becomes a second name of it
    /// where the file system permits that.
    pub links: bool,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// What was read and checked.
    pub found: CheckedFiles,
    /// Number of files written.
    pub files: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// How many of them are second names of files in a diff.
    pub linked: u64,
}

impl Writer<'_> {
    /// Creates the directories. Those that exist are left by an interrupted run.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn directories(&self) -> Result<(), SessionError> {
        for item in &self.layout.dirs {
            self.directory(item)
                .map_err(|e| self.failed("create", &item.spot, e))?;
        }
        for (spot, to) in &self.layout.links {
            self.link(spot, to)
                .map_err(|e| self.failed("create", spot, e))?;
        }
        Ok(())
    }

    fn directory(&self, item: &Item) -> io::Result<()> {
        let Some((parent, name)) = self.parent(&item.spot)? else {
            // The root itself keeps everybody else out until it is complete.
            return Ok(());
        };
        let dir = parent.dir_or_new(name, item.mode)?;
        self.owner
            .map_or(Ok(()), |(uid, gid)| dir.give_to(uid, gid))
    }

    fn link(&self, spot: &Spot, to: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(spot)?.ok_or(io::ErrorKind::InvalidInput)?;
        parent.put_link(name, to.as_os_str())?;
        self.owner
            .map_or(Ok(()), |(uid, gid)| parent.give_name(name, uid, gid))
    }

    /// Gives the roots their permissions and their owner.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn open_roots(&self) -> Result<(), SessionError> {
        let roots = self
            .layout
            .dirs
            .iter()
            .filter(|item| item.spot.path.as_os_str().is_empty());
        for item in roots {
            let open = || -> io::Result<()> {
                let root = self.staging.root(item.spot.root)?;
                root.set_mode(item.mode)?;
                self.owner
                    .map_or(Ok(()), |(uid, gid)| root.give_to(uid, gid))
            };
            open().map_err(|e| self.failed("change the owner of", &item.spot, e))?;
        }
        Ok(())
    }

    /// Writes all files that an interrupted run did not complete, `threads` at a time.
    /// Stops at the first error of writing; damage of the backup is collected.
    ///
    /// # Errors
    /// If a file cannot be written, or `look` returned `false`.
    pub fn files(
        &self,
        threads: usize,
        look: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Written, SessionError> {
        let is_left = |item: &CheckItem| {
            item.node
                .is_none_or(|node| !self.staging.complete.contains(&node.0))
        };
        let items: Vec<_> = self
            .image
            .check_items()
            .into_iter()
            .filter(is_left)
            .collect();
        let failed = Mutex::new(None);
        let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let each = |item: &CheckItem, sink: &mut CheckSink<'_>| {
            let Some((node, place)) = item
                .node
                .and_then(|node| Some((node, self.layout.files.get(&node)?)))
            else {
                // Restore reads it and does not write it.
                return self.image.check(item, sink);
            };
            let (checked, written) = self.file(item, node, place, sink);
            match written {
                Ok(()) => {
                    files.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(checked.image_bytes, Ordering::Relaxed);
                }
                Err(error) => {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert_with(|| self.failed("write", &place.spot, error));
                }
            }
            checked
        };
        let found = check_each(&items, threads, &each, &mut |read, total| {
            let has_failed = failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some();
            look(read, total) && !has_failed
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Written {
                found,
                files: files.into_inner(),
                bytes: bytes.into_inner(),
                linked: 0,
            }),
        }
    }

    /// Writes the files with content of a clone's own, `threads` at a time, and counts
    /// them. Stops at the first error.
    ///
    /// # Errors
    /// If a file cannot be read or written, or if `goes_on` returned `false`.
    pub fn own_files(
        &self,
        threads: usize,
        goes_on: &(dyn Fn() -> bool + Sync),
        written: &mut Written,
    ) -> Result<(), SessionError> {
        let Some(source) = self.clone else {
            return Ok(());
        };
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok((0, 0)));
        let work = || {
            while let Some((own, place)) = self.layout.own.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let one = match goes_on() {
                    true => self.own_file(source, own, place),
                    false => Err(SessionError::Interrupted),
                };
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *outcome, one) {
                    (Ok((bytes, linked)), Ok((more, is_linked))) => {
                        *bytes += more;
                        *linked += u64::from(is_linked);
                    }
                    (Ok(_), Err(error)) => *outcome = Err(error),
                    (Err(_), _) => {}
                }
                if outcome.is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            (0..threads.max(1)).for_each(|_| drop(scope.spawn(work)));
        });
        let outcome = outcome.into_inner();
        let (bytes, linked) = outcome.unwrap_or_else(PoisonError::into_inner)?;
        written.bytes += bytes;
        written.linked += linked;
        written.files += self.layout.own.len() as u64;
        Ok(())
    }

    /// Writes or links one file. Returns its length, and whether it is linked.
    fn own_file(
        &self,
        source: &Source<'_>,
        own: &Own,
        place: &Item,
    ) -> Result<(u64, bool), SessionError> {
        let failed = |e| self.failed("write", &place.spot, e);
        if self.links
            && let Some(file) = source.whole_file(own, &place.spot.path)?
            && let Some(length) = self.link_file(&file, place).map_err(failed)?
        {
            return Ok((length, true));
        }
        let mut output = Output::new(self.create(place).map_err(failed)?);
        let path = &place.spot.path;
        let length = source.read(own, path, &mut |offset, bytes| output.add(offset, bytes))?;
        output.finish(length).map_err(failed)?;
        Ok((length, false))
    }

    /// Gives a file of the diff its place as a second name, and returns its length;
    /// `None` if it cannot have one there. A file that has a second name already may be
    /// anybody's, and its owner and mode are not to be changed.
    fn link_file(&self, file: &File, place: &Item) -> io::Result<Option<u64>> {
        let meta = file.metadata()?;
        let found = self.parent(&place.spot)?;
        let (parent, name) = found.ok_or(io::ErrorKind::InvalidInput)?;
        if meta.nlink() != 1 {
            return Ok(None);
        }
        match parent.link(name, file) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return Ok(None),
            other => other?,
        }
        if let Some((uid, gid)) = self.owner {
            give(file, uid, gid)?;
        }
        file.set_permissions(Permissions::from_mode(place.mode))?;
        Ok(Some(meta.len()))
    }

    /// Writes one file, and records it as complete unless it is damaged.
    fn file(
        &self,
        item: &CheckItem,
        node: NodeId,
        place: &Item,
        sink: &mut CheckSink<'_>,
    ) -> (Checked, io::Result<()>) {
        let mut output = match self.create(place) {
            Ok(file) => Output::new(file),
            Err(error) => return (Checked::default(), Err(error)),
        };
        let mut is_whole = true;
        let reads_on = std::cell::Cell::new(true);
        let checked = self.image.check(
            item,
            &mut CheckSink {
                damage: &mut |error| {
                    is_whole = false;
                    (sink.damage)(error);
                },
                goes_on: &|bytes| {
                    let goes_on = (sink.goes_on)(bytes);
                    reads_on.set(goes_on);
                    goes_on
                },
                content: Some(&mut |offset, bytes| output.add(offset, bytes)),
            },
        );
        let finish = || -> io::Result<()> {
            output.finish(checked.image_bytes)?;
            if is_whole && reads_on.get() && self.edited != Some(node) {
                self.staging.completed(node.0)?;
            }
            Ok(())
        };
        (checked, finish())
    }

    fn create(&self, place: &Item) -> io::Result<File> {
        let found = self.parent(&place.spot)?;
        let (parent, name) = found.ok_or(io::ErrorKind::InvalidInput)?;
        // What an interrupted run wrote of it.
        parent.remove_file(name)?;
        let file = parent.create(name, place.mode)?;
        if let Some((uid, gid)) = self.owner {
            give(&file, uid, gid)?;
        }
        Ok(file)
    }

    /// Opens the directory that contains a place; `None` for a root.
    fn parent<'i>(&self, spot: &'i Spot) -> io::Result<Option<(Dir, &'i OsStr)>> {
        let root = self.staging.root(spot.root)?;
        let (Some(parent), Some(name)) = (spot.path.parent(), spot.path.file_name()) else {
            return Ok(None);
        };
        // The parent of a single name is an empty path, which would name nothing.
        Ok(Some((root.dir(Path::new(".").join(parent))?, name)))
    }

    fn failed(&self, action: &'static str, spot: &Spot, error: io::Error) -> SessionError {
        io_error(action, &self.layout.to(spot.root).join(&spot.path))(error)
    }
}

/// A file while it is written.
struct Output {
    batch: Batch,
    target: Target,
}

/// Where its content goes, as long as that succeeds.
struct Target {
    file: File,
    failed: Option<io::Error>,
}

impl Output {
    fn new(file: File) -> Self {
        let batch = Batch::new(BATCH);
        let target = Target { file, failed: None };
        Self { batch, target }
    }

    fn add(&mut self, offset: u64, bytes: &[u8]) {
        let target = &mut self.target;
        self.batch
            .add(offset, bytes, &mut |at, bytes| target.write(at, bytes));
    }

    /// Writes the rest, and gives the file its length: it may end in a hole.
    fn finish(mut self, length: u64) -> io::Result<()> {
        let target = &mut self.target;
        self.batch.flush(&mut |at, bytes| target.write(at, bytes));
        match self.target.failed {
            Some(error) => Err(error),
            None => self.target.file.set_len(length),
        }
    }
}

impl Target {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.file.write_all_at(bytes, at).err();
        }
    }
}
