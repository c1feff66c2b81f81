//! The backups of a chain with their content lists.

use super::error::ImageError;
use crate::catalog::Backup;
use crate::catalog::content::ContentList;
use crate::parallel;

/// A backup of the chain.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) backup: Backup,
    pub(super) list: ContentList,
}

/// Reads all content lists, several at a time.
pub(super) fn read_layers(backups: &[Backup]) -> Result<Vec<Layer>, ImageError> {
    let at_once = backups.first().map_or(1, |backup| backup.place.parallel());
    let lists = parallel::map(backups, at_once, ContentList::read);
    let layers = backups.iter().zip(lists).map(|(backup, list)| {
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
