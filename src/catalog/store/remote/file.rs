//! An open file of a remote catalog.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::object::Object;
use super::parts::{Parts, Readers};
use crate::catalog::store::StoreFile;

/// One version of a file. Its bytes are fetched when they are read.
#[derive(Debug)]
pub(super) struct RemoteFile {
    parts: Arc<Parts>,
    object: Arc<Object>,
    readers: Readers,
    is_sequential: AtomicBool,
}

impl RemoteFile {
    pub(super) fn new(parts: Arc<Parts>, object: Arc<Object>) -> Self {
        Self {
            parts,
            object,
            readers: Readers::default(),
            is_sequential: AtomicBool::new(false),
        }
    }
}

impl StoreFile for RemoteFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.object.length)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (object, readers) = (&self.object, &self.readers);
        let read = (self.parts).read(object, readers, &self.is_sequential, buf, offset);
        Ok(read?)
    }

    fn forget(&self, range: Range<u64>) -> bool {
        self.parts.forget(&self.object, range);
        true
    }

    fn expect_sequential(&self) {
        self.is_sequential.store(true, Ordering::Relaxed);
    }
}
