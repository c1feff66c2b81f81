//! Errors when locating pages.

use std::io;

use libdeflater::DecompressionError;

/// Why the pages of a stored file cannot be located.
#[derive(Debug, thiserror::Error)]
pub enum PageIndexError {
    /// The header map or the data file cannot be read.
    #[error("it cannot be read at offset {offset}")]
    Read {
        /// The offset.
        offset: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file's part of the header map is not a zlib stream.
    #[error("its page headers, at offset {offset} in page_header_map, cannot be decompressed")]
    Deflate {
        /// Offset of the file's part.
        offset: u64,
        /// The reason.
        #[source]
        source: DecompressionError,
    },
    /// The file's part of the header map has the wrong length.
    #[error(
        "its page headers, at offset {offset} in page_header_map, have {found} bytes instead of \
         {expected}"
    )]
    MapLength {
        /// Offset of the file's part.
        offset: u64,
        /// Number of bytes found.
        found: usize,
        /// Number of bytes expected.
        expected: usize,
    },
    /// The file's part of the header map is not the one that was written.
    #[error(
        "its page headers, at offset {offset} in page_header_map, are damaged: their checksum is \
         {computed:08X}, but the content list records {recorded:08X}"
    )]
    MapChecksum {
        /// Offset of the file's part.
        offset: u64,
        /// The checksum in the content list.
        recorded: u32,
        /// The checksum computed from the bytes.
        computed: u32,
    },
    /// The number of page headers in the content list is too large.
    #[error("the content list records {0} pages for it, more than a segment can have")]
    TooManyPages(u32),
    /// A record or its header is invalid in its position.
    #[error("stored page number {index} is described as block {block} at offset {offset}, {why}")]
    Record {
        /// The record's number, counted from 0.
        index: usize,
        /// Its block.
        block: i32,
        /// Its offset in the data file.
        offset: i64,
        /// The reason why it is invalid.
        why: &'static str,
    },
}

/// A record that is not the one recorded in its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is of another block.
    #[error("the record there holds block {0}")]
    Block(i32),
    /// The record's payload has another length.
    #[error("the record there claims {claimed} bytes, but there is room for {room}")]
    Length {
        /// The length that the record states.
        claimed: i32,
        /// Number of bytes up to the next record.
        room: usize,
    },
}
