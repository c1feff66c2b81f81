//! The tables of `meta.redb`. `record.rs` describes their contents.

use redb::{Database, TableDefinition};

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const NAMES: TableDefinition<(u64, &[u8]), u64> = TableDefinition::new("names");
pub(super) const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
pub(super) const CONTENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("contents");
pub(super) const BLOCKS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("blocks");
/// (inode, block) to a difference, as encoded by the overlay.
pub(super) const DELTAS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("deltas");
/// A note's name to its bytes, whose format is up to the note's writer.
pub(super) const NOTES: TableDefinition<&str, &[u8]> = TableDefinition::new("notes");

pub(super) const NEXT_INO: &str = "next_ino";
pub(super) const FORMAT: &str = "format";
/// Version 2 added small blocks, version 3 notes.
pub(super) const FORMAT_VERSION: u64 = 3;

/// The inode number that means "hidden" in `names`. No inode has it.
pub(super) const WHITEOUT: u64 = 0;

pub(super) fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(META)?
        .insert(FORMAT, FORMAT_VERSION)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(INODES)?;
    transaction.open_table(CONTENTS)?;
    transaction.open_table(BLOCKS)?;
    transaction.open_table(DELTAS)?;
    transaction.open_table(NOTES)?;
    transaction.commit()?;
    Ok(())
}
