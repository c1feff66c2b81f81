//! Blocks that differ from the image's in a few bytes: the table `deltas`.

use std::collections::HashMap;

use redb::{ReadableDatabase, ReadableTable};

use super::check::Ascending;
use super::metadata::Store;
use super::tables::DELTAS;
use crate::diff::error::DiffError;
use crate::pg::BLOCK_SIZE;

impl Store {
    /// Returns a small block of a file, if the store has it.
    ///
    /// # Errors
    /// If an I/O operation fails; returns [`DiffError::BadRecord`] if the record is larger than
    /// a block.
    pub fn delta(&self, ino: u64, block: u32) -> Result<Option<Vec<u8>>, DiffError> {
        let row = self.with("read", |database| {
            let deltas = database.begin_read()?.open_table(DELTAS)?;
            let Some(row) = deltas.get((ino, block))? else {
                return Ok(None);
            };
            let delta = row.value();
            Ok(Some((delta.len() <= BLOCK_SIZE).then(|| delta.to_owned())))
        })?;
        let too_long = || {
            let key = format!("{block} of inode {ino}");
            DiffError::record("small block", key, &"it is larger than a block")
        };
        row.map(|delta| delta.ok_or_else(too_long)).transpose()
    }

    /// Returns how many bytes each file's small blocks save over whole ones. Reads all
    /// small blocks.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn saved(&self) -> Result<HashMap<u64, u64>, DiffError> {
        self.with("read", |database| {
            let mut saved = HashMap::new();
            let mut order = Ascending::default();
            for row in database.begin_read()?.open_table(DELTAS)?.iter()? {
                let (key, delta) = row?;
                order.check(key.value())?;
                let less = BLOCK_SIZE.saturating_sub(delta.value().len());
                *saved.entry(key.value().0).or_default() += less as u64;
            }
            Ok(saved)
        })
    }
}
