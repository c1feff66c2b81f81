//! Checks every page and file of an image, straight from the catalog: several files
//! at once, each stored byte read once, without a mount.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::catalog::Backup;
use crate::catalog::BackupRef;
use crate::chain::Chain;
use crate::image::{CheckSink, Checked, Image, ImageError, ImageOptions};
use crate::pg::BLOCK_SIZE;

/// Maximum number of damaged places that are kept; the rest are only counted.
const KEPT: usize = 1000;

/// Longest pause between two checks of the thread that waits.
const LOOK: Duration = Duration::from_millis(100);

/// The result of checking all pages.
#[derive(Debug, Default)]
pub struct Pages {
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

/// Checks everything, with `threads` threads. `look` is called now and then with the
/// number of stored bytes read so far and their total; it stops the check by
/// returning `false`.
pub fn check(image: &Image, threads: usize, look: &mut dyn FnMut(u64, u64) -> bool) -> Pages {
    let items = image.check_items();
    let weights = items.iter().map(|item| item.weight);
    let total = weights.fold(0, u64::saturating_add);
    let (next, read) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Pages::default());
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
            let checked = image.check(
                item,
                &mut CheckSink {
                    damage: &mut damage,
                    goes_on: &goes_on,
                },
            );
            sum += checked;
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

/// Returns, for each error, the other backups in which the damaged page is still
/// good, or the file if its damage cannot be narrowed down to a page. Each backup is
/// opened once. `goes_on` stops the search between two backups by returning `false`.
#[must_use]
pub fn good_in(
    damage: &[&ImageError],
    backups: &[Backup],
    target: &Backup,
    goes_on: &dyn Fn() -> bool,
) -> Vec<Vec<String>> {
    let mut good = vec![Vec::new(); damage.len()];
    for backup in backups.iter().filter(|backup| backup.id != target.id) {
        if !goes_on() {
            break;
        }
        let wanted = BackupRef::Id(backup.id.clone());
        let Ok(chain) = Chain::resolve("", backups, &wanted) else {
            continue;
        };
        let Ok(image) = Image::open(&chain, &ImageOptions::default()) else {
            continue;
        };
        for (error, good) in damage.iter().zip(&mut good) {
            if has_well(&image, error) {
                good.push(backup.id.to_string());
            }
        }
    }
    good
}

/// Returns whether the page or file that an error of another image names is intact in
/// this one.
fn has_well(image: &Image, error: &ImageError) -> bool {
    let Some(node) = error.path().and_then(|path| image.find(path)) else {
        return false;
    };
    if let ImageError::Page(page) = error {
        let mut bytes = [0; BLOCK_SIZE];
        let read = image.read_at(node, page.block.offset(), &mut bytes);
        return matches!(read, Ok(BLOCK_SIZE));
    }
    let items = image.check_items();
    let Some(item) = items.iter().find(|item| image.is_item_of(item, node)) else {
        return false;
    };
    let damaged = AtomicBool::new(false);
    let mut damage = |_| damaged.store(true, Ordering::Relaxed);
    let mut sink = CheckSink {
        damage: &mut damage,
        goes_on: &|_| true,
    };
    image.check(item, &mut sink);
    !damaged.load(Ordering::Relaxed)
}
