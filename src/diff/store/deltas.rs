//! Blocks that differ from the image's in a few bytes: the table `deltas`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use roaring::RoaringBitmap;

use super::check::{Ascending, ROW_LIMIT};
use super::{Store, bad_record};
use crate::diff::error::DiffError;
use crate::diff::record::BLOCKS_PER_CHUNK;
use crate::pg::BLOCK_SIZE;

/// (inode, block) to what the overlay made of the difference.
const DELTAS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("deltas");

/// One block's difference to set, or to remove.
pub type DeltaChange = (u64, u32, Option<Arc<[u8]>>);

/// Which blocks of a file the diff has, and where: the two do not overlap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldBlocks {
    /// In the data file.
    pub data: RoaringBitmap,
    /// As a difference to the image's block.
    pub small: RoaringBitmap,
}

impl HeldBlocks {
    /// The value of one row of `blocks`: the bitmap of all blocks, then that of
    /// the small ones.
    #[doc(hidden)]
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let all = &self.data | &self.small;
        let mut bytes = Vec::with_capacity(all.serialized_size() + self.small.serialized_size());
        all.serialize_into(&mut bytes)?;
        self.small.serialize_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Adds what a row says of a chunk. Before format 2 there were no small
    /// blocks.
    #[doc(hidden)]
    pub fn add(&mut self, chunk: u32, mut row: &[u8]) -> io::Result<()> {
        let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if row.len() > ROW_LIMIT {
            return bad("the row is too long");
        }
        let all = RoaringBitmap::deserialize_from(&mut row)?;
        let small = match row.is_empty() {
            true => RoaringBitmap::new(),
            false => RoaringBitmap::deserialize_from(&mut row)?,
        };
        let ends = [all.min(), all.max(), small.min(), small.max()];
        let is_inside = |block: &u32| block / BLOCKS_PER_CHUNK == chunk;
        if !ends.iter().flatten().all(is_inside) {
            return bad("it has blocks outside of its chunk");
        }
        self.data |= all - &small;
        self.small |= small;
        Ok(())
    }
}

pub(super) fn create(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(DELTAS)?;
    Ok(())
}

impl Store {
    /// A small block of a file, if the store has it.
    ///
    /// # Errors
    /// I/O errors; [`DiffError::BadRecord`] for one that is larger than a block.
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
            bad_record("small block", key, &"it is larger than a block")
        };
        row.map(|delta| delta.ok_or_else(too_long)).transpose()
    }

    /// By how many bytes each file's small blocks are smaller than whole ones.
    /// Reads all of them.
    ///
    /// # Errors
    /// I/O errors.
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

/// Applies the changes in their order.
pub(super) fn apply(
    transaction: &WriteTransaction,
    changes: &[DeltaChange],
) -> Result<(), redb::Error> {
    let mut deltas = transaction.open_table(DELTAS)?;
    for (ino, block, delta) in changes {
        match delta {
            Some(delta) => deltas.insert((*ino, *block), &**delta)?,
            None => deltas.remove((*ino, *block))?,
        };
    }
    Ok(())
}

/// Removes all of a file.
pub(super) fn forget(transaction: &WriteTransaction, ino: u64) -> Result<(), redb::Error> {
    let mut deltas = transaction.open_table(DELTAS)?;
    deltas.retain_in((ino, 0)..=(ino, u32::MAX), |_, _| false)?;
    Ok(())
}
