//! The backups of a chain with their content lists.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::error::ImageError;
use crate::catalog::Backup;
use crate::catalog::content::ContentList;

/// A backup of the chain.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) backup: Backup,
    pub(super) list: ContentList,
}

/// Reads all content lists, several at a time.
pub(super) fn read_layers(backups: &[Backup]) -> Result<Vec<Layer>, ImageError> {
    let lists: Vec<_> = backups.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let read = || {
        let take = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            backups.get(at).zip(lists.get(at))
        };
        while let Some((backup, list)) = take() {
            list.get_or_init(|| ContentList::read(backup));
        }
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..at_once.min(backups.len()) {
            scope.spawn(read);
        }
        read();
    });
    let layers = backups.iter().zip(lists).map(|(backup, list)| {
        // Every list was read, or else the scope has propagated a panic.
        let list = list
            .into_inner()
            .unwrap_or_else(|| ContentList::read(backup));
        Ok(Layer {
            backup: backup.clone(),
            list: list.map_err(|source| ImageError::Content {
                backup: backup.id.clone(),
                source,
            })?,
        })
    });
    layers.collect()
}
