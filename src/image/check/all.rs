//! Checks all files of an image, straight from the catalog: several at once, each
//! stored byte read once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{CheckItem, CheckSink, Checked};
use crate::image::error::ImageError;
use crate::image::view::Image;

/// Maximum number of damaged places that are kept; the rest are only counted.
const KEPT: usize = 1000;

/// Longest pause between two checks of the thread that waits.
const LOOK: Duration = Duration::from_millis(100);

/// The result of checking all files.
#[derive(Debug, Default)]
pub struct CheckedFiles {
    /// What was read.
    pub checked: Checked,
    /// Number of files checked.
    pub files: u64,
    /// The first damaged places.
    pub damage: Vec<ImageError>,
    /// Number of damaged places.
    pub damages: u64,
    /// Whether the check was completed.
    pub complete: bool,
}

/// Called now and then with the number of stored bytes read so far and their total;
/// stops the work by returning `false`.
pub type Look<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Does the work for one file, with a sink for its damage and its progress.
pub type Each<'a> = dyn Fn(&CheckItem, &mut CheckSink<'_>) -> Checked + Sync + 'a;

impl Image {
    /// Checks all files, with so many threads.
    pub fn check_all(&self, threads: usize, look: &mut Look<'_>) -> CheckedFiles {
        let each = |item: &CheckItem, sink: &mut CheckSink<'_>| self.check(item, sink);
        check_each(&self.check_items(), threads, &each, look)
    }
}

/// Has so many threads call `each` for the items, and collects what they report.
pub fn check_each(
    items: &[CheckItem],
    threads: usize,
    each: &Each<'_>,
    look: &mut Look<'_>,
) -> CheckedFiles {
    let weights = items.iter().map(|item| item.weight);
    let total = weights.fold(0, u64::saturating_add);
    let (next, read) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let found = Mutex::new(CheckedFiles::default());
    let take = |error: ImageError| {
        let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
        found.damages += 1;
        if found.damage.len() < KEPT {
            found.damage.push(error);
        }
    };
    let goes_on = |bytes: u64| {
        read.fetch_add(bytes, Ordering::Relaxed);
        !stop.load(Ordering::Relaxed)
    };
    let work = || {
        let mut sum = Checked::default();
        let mut files = 0;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut damage = take;
            sum += each(
                item,
                &mut CheckSink {
                    damage: &mut damage,
                    goes_on: &goes_on,
                    content: None,
                },
            );
            files += 1;
        }
        let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
        found.checked += sum;
        found.files += files;
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut pause = Duration::from_millis(1);
        while !workers.iter().all(|worker| worker.is_finished()) {
            if !look(read.load(Ordering::Relaxed), total) {
                stop.store(true, Ordering::Relaxed);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.complete = !stop.load(Ordering::Relaxed);
    found.damage.sort_by_key(ToString::to_string);
    found
}
