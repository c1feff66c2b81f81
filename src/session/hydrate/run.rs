//! One hydration, from the first file to the last.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::pace::Pace;
use crate::causes::sentence;
use crate::figures::counted;
use crate::image::{Batch, CheckItem, CheckSink, Image, NodeId};
use crate::overlay::{Ino, Overlay, OverlayError, Unhydrated};

/// How many bytes are brought in before they are synced: what a crash may undo. A commit
/// of the server waits on the disk for what is being synced, so it is not much.
const UNSYNCED: u64 = 8 << 20;

/// How much room is left to the clone's own writes on the diff's file system.
pub(super) const RESERVE: u64 = 64 << 20;

/// How many bytes are put in place at once. The file is locked meanwhile, so that the
/// clone waits.
const PIECE: usize = 128 << 10;

/// How many files are recorded at once.
const FILES: usize = 512;

/// How often files are looked for that were incomplete when they were recorded, because
/// the clone had truncated and extended them meanwhile.
const ROUNDS: usize = 8;

/// How far a hydration is. All numbers may be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of files to complete.
    pub files: AtomicU64,
    /// How many of them are complete.
    pub files_done: AtomicU64,
    /// Number of bytes to bring in.
    pub bytes: AtomicU64,
    /// How many of them are there.
    pub bytes_done: AtomicU64,
}

/// A hydration of one tree.
pub struct Run<'a> {
    /// The tree.
    pub overlay: &'a Overlay<Image>,
    /// Its progress.
    pub progress: &'a Progress,
    /// Whether it is to go on.
    pub goes_on: &'a (dyn Fn() -> bool + Sync),
    /// Number of files that could not be read from the backup.
    damaged: AtomicU64,
    first: Mutex<Option<OverlayError>>,
}

/// What one thread of a hydration has brought in and not recorded yet.
#[derive(Default)]
struct Unrecorded {
    files: Vec<Ino>,
    bytes: u64,
}

impl<'a> Run<'a> {
    /// Creates a hydration that has not begun, and that runs as long as `goes_on` allows.
    pub fn new(
        overlay: &'a Overlay<Image>,
        progress: &'a Progress,
        goes_on: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            overlay,
            progress,
            goes_on,
            damaged: AtomicU64::new(0),
            first: Mutex::default(),
        }
    }

    /// Brings everything into the diff with `threads` at a time, each at the pace that
    /// `pace` returns. Returns `Ok(false)` if it was stopped. A file that is damaged in
    /// the backup does not keep the others from being completed.
    ///
    /// # Errors
    /// If the diff fails; if a file is damaged or cannot be read.
    pub fn all<'p>(
        &self,
        threads: usize,
        pace: &(dyn Fn() -> Pace<'p> + Sync),
    ) -> Result<bool, OverlayError> {
        let mut left = self.overlay.unhydrated()?;
        self.add(&left);
        if left.is_empty() {
            return Ok(true);
        }
        let items = self.overlay.lower().check_items().into_iter();
        let items = items.filter_map(|item| Some((item.node?, item))).collect();
        for _ in 0..ROUNDS {
            if left.is_empty() || !(self.goes_on)() {
                break;
            }
            self.round(&left, &items, threads, pace);
            if let Some(error) = self.take_error() {
                return Err(error);
            }
            left = self.overlay.unhydrated()?;
        }
        Ok(left.is_empty())
    }

    /// Returns a sentence about the error that ended it.
    pub fn reason(&self, error: &OverlayError) -> String {
        let told = sentence(error);
        match self.damaged.load(Ordering::Relaxed) {
            0 | 1 => told,
            damaged => format!("{told} (and {} more)", counted(damaged - 1, "file")),
        }
    }

    fn add(&self, left: &[Unhydrated]) {
        let bytes = left.iter().map(|file| file.bytes).sum();
        let files = left.len() as u64;
        self.progress.files.store(files, Ordering::Relaxed);
        self.progress.bytes.store(bytes, Ordering::Relaxed);
    }

    fn take_error(&self) -> Option<OverlayError> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take()
    }

    fn has_failed(&self) -> bool {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.as_ref().is_some_and(|error| !is_of_backup(error))
    }

    fn round<'p>(
        &self,
        left: &[Unhydrated],
        items: &HashMap<NodeId, CheckItem>,
        threads: usize,
        pace: &(dyn Fn() -> Pace<'p> + Sync),
    ) {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut pace = pace();
            let mut unrecorded = Unrecorded::default();
            while let Some(file) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !(self.goes_on)() || self.has_failed() {
                    break;
                }
                let item = file.ino.node().and_then(|node| items.get(&node));
                match self.file(file, item, &mut pace, &mut unrecorded) {
                    Ok(true) => unrecorded.files.push(file.ino),
                    Ok(false) => self.sync(file.ino),
                    Err(error) => {
                        self.failed(file, error);
                        self.sync(file.ino);
                    }
                }
                if unrecorded.files.len() >= FILES || unrecorded.bytes >= UNSYNCED {
                    self.record(&mut unrecorded);
                }
            }
            self.record(&mut unrecorded);
        };
        thread::scope(|scope| {
            (1..threads.max(1)).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }

    /// Brings one file in. Returns `Ok(false)` if it was stopped.
    ///
    /// All that the backup stores for the file is read and checked, as by `verify`: not
    /// every cluster has page checksums, and a block that was read alone would show no
    /// damage. Holes, small blocks, and what a truncation has changed are left for a
    /// second pass through the tree.
    fn file(
        &self,
        file: &Unhydrated,
        item: Option<&CheckItem>,
        pace: &mut Pace<'_>,
        unrecorded: &mut Unrecorded,
    ) -> Result<bool, OverlayError> {
        if let Some(item) = item {
            self.checked(file, item, pace, unrecorded)?;
        }
        let mut from = 0;
        while (self.goes_on)() {
            let Some(step) = self.overlay.hydrate(file.ino, from)? else {
                return Ok(true);
            };
            from = step.next;
            self.brought_in(file.ino, step.bytes, unrecorded)?;
            pace.after(step.bytes);
        }
        Ok(false)
    }

    /// Checks all that is stored for a file, and brings in what it shows.
    fn checked(
        &self,
        file: &Unhydrated,
        item: &CheckItem,
        pace: &mut Pace<'_>,
        unrecorded: &mut Unrecorded,
    ) -> Result<(), OverlayError> {
        let mut pieces = Batch::new(PIECE);
        let has_failed = Cell::new(false);
        let (mut damage, mut failure) = (None, None);
        let mut put = |offset: u64, bytes: &[u8]| {
            let outcome = self.overlay.hydrate_with(file.ino, offset, bytes);
            let outcome = outcome.and_then(|count| {
                self.brought_in(file.ino, count, unrecorded)?;
                pace.after(bytes.len() as u64);
                Ok(())
            });
            if let Err(error) = outcome {
                has_failed.set(true);
                failure.get_or_insert(error);
            }
        };
        let mut sink = CheckSink {
            damage: &mut |error| {
                damage.get_or_insert(error);
            },
            goes_on: &|_| (self.goes_on)() && !has_failed.get(),
            content: Some(&mut |offset, bytes| pieces.add(offset, bytes, &mut put)),
        };
        self.overlay.lower().check(item, &mut sink);
        pieces.flush(&mut put);
        match (failure, damage) {
            (Some(error), _) => Err(error),
            (None, Some(damage)) => Err(damage.into()),
            (None, None) => Ok(()),
        }
    }

    /// Counts bytes of a file. Those of a long one are synced in between.
    fn brought_in(
        &self,
        ino: Ino,
        bytes: u64,
        unrecorded: &mut Unrecorded,
    ) -> Result<(), OverlayError> {
        let done = &self.progress.bytes_done;
        done.fetch_add(bytes, Ordering::Relaxed);
        unrecorded.bytes += bytes;
        if unrecorded.bytes >= UNSYNCED {
            unrecorded.bytes = 0;
            self.overlay.sync_file(ino)?;
            self.check_room()?;
        }
        Ok(())
    }

    /// Ends before the disk is full: a clone whose writes fail ends, too.
    fn check_room(&self) -> Result<(), OverlayError> {
        let free = self.overlay.free_bytes()?;
        match free.is_none_or(|free| free >= RESERVE) {
            true => Ok(()),
            false => Err(OverlayError::Io(io::ErrorKind::StorageFull.into())),
        }
    }

    /// Makes durable what was brought in of a file that is not complete.
    fn sync(&self, ino: Ino) {
        match self.overlay.sync_file(ino) {
            Ok(()) | Err(OverlayError::NotFound) => {}
            Err(error) => self.keep(error),
        }
    }

    fn record(&self, unrecorded: &mut Unrecorded) {
        match self.overlay.record_hydrated(&unrecorded.files) {
            Ok(whole) => {
                let done = &self.progress.files_done;
                done.fetch_add(whole as u64, Ordering::Relaxed);
            }
            Err(error) => self.keep(error),
        }
        *unrecorded = Unrecorded::default();
    }

    fn failed(&self, file: &Unhydrated, error: OverlayError) {
        // Its removal is no failure.
        if matches!(error, OverlayError::NotFound) {
            return;
        }
        if is_of_backup(&error) {
            let path = file.path.display();
            tracing::error!("cannot bring {path} into the diff: {}", sentence(&error));
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
        self.keep(error);
    }

    /// Keeps an error: the first one, but one of the diff before those of the backup.
    fn keep(&self, error: OverlayError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            Some(kept) if !is_of_backup(kept) || is_of_backup(&error) => {}
            _ => *first = Some(error),
        }
    }
}

/// Whether an error only concerns what the backup has for one file.
fn is_of_backup(error: &OverlayError) -> bool {
    matches!(error, OverlayError::Lower(_))
}
