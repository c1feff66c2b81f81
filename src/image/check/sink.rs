//! What a check reports, and to whom.

use crate::image::error::ImageError;

/// What was read for a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Number of pages decoded and checked.
    pub pages: u64,
    /// Size of the file in the image, in bytes.
    pub image_bytes: u64,
    /// Number of bytes read from the catalog.
    pub stored_bytes: u64,
}

impl std::ops::AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.pages = self.pages.saturating_add(other.pages);
        self.image_bytes = self.image_bytes.saturating_add(other.image_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(other.stored_bytes);
    }
}

/// Receives the reports of a check.
pub struct CheckSink<'a> {
    /// Receives all damage, in no particular order.
    pub damage: &'a mut dyn FnMut(ImageError),
    /// Called with the size of each piece of stored bytes that was read; `false` cancels
    /// the check.
    pub goes_on: &'a dyn Fn(u64) -> bool,
    /// Receives the file's content, if that is wanted.
    pub content: Option<&'a mut Content<'a>>,
}

/// Receives a file's content piece by piece: an offset, and the bytes there. Each stored
/// byte comes once, in the order of the catalog; holes do not come.
pub type Content<'a> = dyn FnMut(u64, &[u8]) + 'a;

impl CheckSink<'_> {
    pub(super) fn give(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(content) = &mut self.content {
            content(offset, bytes);
        }
    }
}
