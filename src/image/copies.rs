//! Copies that a catalog's store keeps of what it has read over a network.

use std::sync::Arc;

use super::check::CheckItem;
use super::layers::Layer;
use super::stored::CHUNK;
use super::view::Image;
use crate::catalog::pages::PageIndex;
use crate::catalog::store::StoreFile;

impl Image {
    /// Forgets the copies of everything that is stored for a file.
    pub(super) fn forget_copies(&self, item: &CheckItem) {
        for file in self.stored_files(item) {
            file.forget(0..u64::MAX);
        }
        let wanted = self.target().list.entry(item.entry);
        for (number, layer) in self.layers.iter().enumerate() {
            let Some(found) = layer.list.find(wanted.path, wanted.external_dir_num) else {
                continue;
            };
            let entry = layer.list.entry(found);
            if PageIndex::is_mapped(&layer.backup, &entry)
                && let Ok(map) = self.open_header_map(number, &entry)
            {
                map.forget(entry.in_header_map());
            }
        }
    }

    /// Opens what is stored for a file, as far as it can be opened.
    fn stored_files(&self, item: &CheckItem) -> Vec<Arc<dyn StoreFile>> {
        let wanted = self.target().list.entry(item.entry);
        let layers = self.layers.iter().enumerate();
        let open = |(number, layer): (usize, &Layer)| {
            let found = layer.list.find(wanted.path, wanted.external_dir_num)?;
            let is_stored = layer.list.entry(found).size > 0;
            is_stored.then(|| self.open_entry(number, found, 0..CHUNK).ok())?
        };
        layers.filter_map(open).collect()
    }
}
