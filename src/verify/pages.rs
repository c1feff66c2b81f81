//! Every page and file of an image, straight from the catalog: several files
//! at once, each stored byte read once, no mount.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::catalog::Backup;
use crate::chain::{BackupSelector, Chain};
use crate::image::{CheckSink, Checked, Image, ImageError, ImageOptions};
use crate::pg::BLOCK_SIZE;

/// Damages that are kept; those beyond are only counted.
const KEPT: usize = 1000;

/// How often the one who waits looks up.
const LOOK: Duration = Duration::from_millis(100);

/// What a look at all pages found.
#[derive(Debug, Default)]
pub struct Pages {
    /// What was read.
    pub checked: Checked,
    /// Files that were looked at.
    pub files: u64,
    /// What is wrong, the first of it.
    pub damage: Vec<ImageError>,
    /// How much is wrong.
    pub damages: u64,
    /// Whether it got to the end.
    pub complete: bool,
}

/// Looks at everything, with so many threads. `look` is told now and then how
/// many stored bytes of how many were read, and breaks it off by `false`.
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

/// The other backups in which the block of a bad page, or a file of which
/// nothing can be told by pages, is still good.
#[must_use]
pub fn good_in(error: &ImageError, backups: &[Backup], target: &Backup) -> Vec<String> {
    let Some(path) = error.path() else {
        return Vec::new();
    };
    let others = backups.iter().filter(|backup| backup.id != target.id);
    let is_good = |backup: &&Backup| {
        let wanted = BackupSelector::Id(backup.id.clone());
        let Ok(chain) = Chain::resolve("", backups, &wanted) else {
            return false;
        };
        let Ok(image) = Image::open(&chain, &ImageOptions::default()) else {
            return false;
        };
        let Some(node) = image.find(path) else {
            return false;
        };
        match error {
            ImageError::Page(page) => {
                let mut bytes = [0; BLOCK_SIZE];
                let read = image.read_at(node, page.block.offset(), &mut bytes);
                matches!(read, Ok(BLOCK_SIZE))
            }
            _ => {
                let damaged = AtomicBool::new(false);
                let items = image.check_items();
                let item = items.iter().find(|item| image.is_item_of(item, node));
                let mut damage = |_| damaged.store(true, Ordering::Relaxed);
                item.map(|item| {
                    image.check(
                        item,
                        &mut CheckSink {
                            damage: &mut damage,
                            goes_on: &|_| true,
                        },
                    )
                })
                .is_some()
                    && !damaged.load(Ordering::Relaxed)
            }
        }
    };
    others
        .filter(is_good)
        .map(|backup| backup.id.to_string())
        .collect()
}
