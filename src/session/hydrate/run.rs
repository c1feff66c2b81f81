//! One hydration, from the first file to the last.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use super::pace::Pace;
use crate::causes::sentence;
use crate::figures::counted;
use crate::overlay::{Ino, Lower, Overlay, OverlayError, Unhydrated};

/// How many bytes are brought in before they are synced: what a crash may undo.
const UNSYNCED: u64 = 64 << 20;

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
pub struct Run<'a, L> {
    /// The tree.
    pub overlay: &'a Overlay<L>,
    /// Its progress.
    pub progress: &'a Progress,
    /// Number of files that could not be read from the backup.
    damaged: AtomicU64,
    first: Mutex<Option<OverlayError>>,
}

impl<'a, L: Lower> Run<'a, L> {
    /// Creates a hydration that has not begun.
    pub fn new(overlay: &'a Overlay<L>, progress: &'a Progress) -> Self {
        Self {
            overlay,
            progress,
            damaged: AtomicU64::new(0),
            first: Mutex::default(),
        }
    }

    /// Brings everything into the diff with `threads` at a time, each at the pace that
    /// `pace` returns, as long as `goes_on` allows. Returns `Ok(false)` if that ended it. A file that cannot be read
    /// does not keep the others from being completed.
    ///
    /// # Errors
    /// If the diff fails; if a file could not be read.
    pub fn all<'p>(
        &self,
        threads: usize,
        pace: &(dyn Fn() -> Pace<'p> + Sync),
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<bool, OverlayError> {
        let mut left = self.overlay.unhydrated()?;
        self.add(&left);
        for _ in 0..ROUNDS {
            if left.is_empty() || !goes_on() {
                break;
            }
            self.round(&left, threads, pace, goes_on);
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
        self.progress
            .files
            .store(left.len() as u64, Ordering::Relaxed);
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
        threads: usize,
        pace: &(dyn Fn() -> Pace<'p> + Sync),
        goes_on: &(dyn Fn() -> bool + Sync),
    ) {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut pace = pace();
            let mut batch = Vec::new();
            let mut unsynced = 0;
            while let Some(file) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !goes_on() || self.has_failed() {
                    break;
                }
                match self.file(file, &mut pace, &mut unsynced, goes_on) {
                    Ok(()) => batch.push(file.ino),
                    Err(error) => self.failed(file, error),
                }
                if batch.len() >= FILES || unsynced >= UNSYNCED {
                    self.record(&mut batch);
                    unsynced = 0;
                }
            }
            self.record(&mut batch);
        };
        thread::scope(|scope| {
            (1..threads.max(1)).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }

    /// Brings one file in. A long one is synced in between.
    fn file(
        &self,
        file: &Unhydrated,
        pace: &mut Pace<'_>,
        unsynced: &mut u64,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), OverlayError> {
        let mut from = 0;
        while let Some(step) = self.overlay.hydrate(file.ino, from)? {
            self.progress
                .bytes_done
                .fetch_add(step.bytes, Ordering::Relaxed);
            from = step.next;
            *unsynced += step.bytes;
            if *unsynced >= UNSYNCED {
                self.overlay.record_hydrated(&[file.ino])?;
                *unsynced = 0;
            }
            if !goes_on() {
                break;
            }
            pace.after(step.bytes);
        }
        Ok(())
    }

    fn record(&self, batch: &mut Vec<Ino>) {
        match self.overlay.record_hydrated(batch) {
            Ok(whole) => {
                let done = &self.progress.files_done;
                done.fetch_add(whole as u64, Ordering::Relaxed);
            }
            Err(error) => self.keep(error),
        }
        batch.clear();
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
