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

/// Content that is passed on in larger pieces: what follows each other is put together.
#[derive(Debug)]
pub struct Batch {
    /// Number of bytes of the largest piece, unless one comes that is larger.
    size: usize,
    /// The offset of what was put together.
    at: u64,
    bytes: Vec<u8>,
}

impl Batch {
    /// Creates a batch for pieces of up to `size` bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            at: 0,
            bytes: Vec::with_capacity(size),
        }
    }

    /// Adds bytes. What they do not follow, or do not fit in with, goes to `put` before.
    pub fn add(&mut self, offset: u64, bytes: &[u8], put: &mut Content<'_>) {
        let follows = self.at + self.bytes.len() as u64 == offset;
        if !follows || self.bytes.len() + bytes.len() > self.size {
            self.flush(put);
            self.at = offset;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Passes on what is left.
    pub fn flush(&mut self, put: &mut Content<'_>) {
        if !self.bytes.is_empty() {
            put(self.at, &self.bytes);
        }
        self.bytes.clear();
    }
}
