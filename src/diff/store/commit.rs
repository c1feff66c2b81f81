//! Writing a batch to the tables.

use redb::WriteTransaction;

use super::record::{BLOCKS_PER_CHUNK, Batch, BlockChunk, HeldBlocks, NameEntry};
use super::tables::{BLOCKS, CONTENTS, DELTAS, INODES, META, NAMES, NEXT_INO, WHITEOUT};
use crate::diff::error::DiffError;

/// The parts of a batch that need encoding. They are encoded before the transaction
/// begins, so that a failure leaves nothing half done.
pub(super) struct Encoded {
    inodes: Vec<Option<Vec<u8>>>,
    contents: Vec<Option<Vec<u8>>>,
    blocks: Vec<Option<Vec<u8>>>,
}

impl Encoded {
    pub(super) fn new(batch: &Batch) -> Result<Self, DiffError> {
        Ok(Self {
            inodes: encode_all("inode", &batch.inodes)?,
            contents: encode_all("content", &batch.contents)?,
            blocks: batch
                .blocks
                .iter()
                .map(encode_chunk)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn encode_all<R: serde::Serialize>(
    what: &str,
    records: &[(u64, Option<R>)],
) -> Result<Vec<Option<Vec<u8>>>, DiffError> {
    let encode = |(ino, record): &(u64, Option<R>)| {
        let encoded = record.as_ref().map(serde_json::to_vec).transpose();
        encoded.map_err(|e| DiffError::record(what, *ino, &e))
    };
    records.iter().map(encode).collect()
}

fn encode_chunk(chunk: &BlockChunk) -> Result<Option<Vec<u8>>, DiffError> {
    let HeldBlocks { data, small } = &chunk.blocks;
    let is_inside = |b: u32| b / BLOCKS_PER_CHUNK == chunk.chunk;
    debug_assert!(data.iter().chain(small).all(is_inside));
    if data.is_empty() && small.is_empty() {
        return Ok(None);
    }
    let encoded = chunk.blocks.encode();
    encoded
        .map(Some)
        .map_err(|e| DiffError::record("blocks", chunk.ino, &e))
}

pub(super) fn apply(
    transaction: &WriteTransaction,
    batch: &Batch,
    encoded: &Encoded,
) -> Result<(), redb::Error> {
    let mut names = transaction.open_table(NAMES)?;
    for (dir, name, entry) in &batch.names {
        let key = (*dir, name.as_slice());
        match entry {
            Some(NameEntry::Inode(ino)) => names.insert(key, *ino)?,
            Some(NameEntry::Whiteout) => names.insert(key, WHITEOUT)?,
            None => names.remove(key)?,
        };
    }
    let mut inodes = transaction.open_table(INODES)?;
    for ((ino, _), json) in batch.inodes.iter().zip(&encoded.inodes) {
        match json {
            Some(json) => inodes.insert(ino, json.as_slice())?,
            None => inodes.remove(ino)?,
        };
    }
    let mut contents = transaction.open_table(CONTENTS)?;
    let mut blocks = transaction.open_table(BLOCKS)?;
    let mut deltas = transaction.open_table(DELTAS)?;
    for ((ino, _), json) in batch.contents.iter().zip(&encoded.contents) {
        match json {
            Some(json) => {
                contents.insert(ino, json.as_slice())?;
            }
            None => {
                contents.remove(ino)?;
                let all = (*ino, 0)..=(*ino, u32::MAX);
                blocks.retain_in(all.clone(), |_, _| false)?;
                deltas.retain_in(all, |_, _| false)?;
            }
        }
    }
    for (chunk, bytes) in batch.blocks.iter().zip(&encoded.blocks) {
        let key = (chunk.ino, chunk.chunk);
        match bytes {
            Some(bytes) => blocks.insert(key, bytes.as_slice())?,
            None => blocks.remove(key)?,
        };
    }
    for (ino, block, delta) in &batch.deltas {
        match delta {
            Some(delta) => deltas.insert((*ino, *block), &**delta)?,
            None => deltas.remove((*ino, *block))?,
        };
    }
    if let Some(next) = batch.next_ino {
        transaction.open_table(META)?.insert(NEXT_INO, next)?;
    }
    Ok(())
}
