//! Open directories. Each keeps the listing that its reader is going through, so that
//! entries created or removed meanwhile do not shift it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::overlay::DirEntry;

type Listing = Arc<Vec<DirEntry>>;

/// The open directories, by handle.
#[derive(Default)]
pub struct DirHandles {
    next: AtomicU64,
    listings: Mutex<HashMap<u64, Listing>>,
}

impl DirHandles {
    /// Returns a new handle, without a listing yet.
    pub fn open(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the handle's listing, which is read again at the start and after a
    /// rewind.
    pub fn listing<E>(
        &self,
        handle: u64,
        offset: u64,
        list: impl FnOnce() -> Result<Vec<DirEntry>, E>,
    ) -> Result<Listing, E> {
        if offset > 0
            && let Some(listing) = self.table().get(&handle)
        {
            return Ok(listing.clone());
        }
        let listing = Arc::new(list()?);
        self.table().insert(handle, listing.clone());
        Ok(listing)
    }

    /// Forgets the handle.
    pub fn close(&self, handle: u64) {
        self.table().remove(&handle);
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
