//! Finding good copies of what is damaged in one backup in the others.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::catalog::{Backup, BackupRef};
use crate::chain::Chain;
use crate::image::{CheckSink, Image, ImageError, ImageOptions};
use crate::pg::BLOCK_SIZE;

/// Returns, for each error, the other backups in which the damaged page is still
/// good, or the file if its damage cannot be narrowed down to a page. Each backup is
/// opened once. `goes_on` stops the search between two backups by returning `false`.
#[must_use]
pub fn find(
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
        content: None,
    };
    image.check(item, &mut sink);
    !damaged.load(Ordering::Relaxed)
}
