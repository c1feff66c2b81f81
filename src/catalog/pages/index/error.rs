//! Why pages cannot be located.

use std::io;

use libdeflater::DecompressionError;

/// Why the pages of a stored file cannot be located.
#[derive(Debug, thiserror::Error)]
pub enum PageIndexError {
    /// The header map or the data file cannot be read.
    #[error("it cannot be read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file's part of the header map is not a zlib stream.
    #[error("its page headers, at byte {offset} of page_header_map, cannot be decompressed")]
    Deflate {
        /// Where the part begins.
        offset: u64,
        /// Why.
        #[source]
        source: DecompressionError,
    },
    /// The file's part of the header map has another length.
    #[error(
        "its page headers, at byte {offset} of page_header_map, are {found} bytes long, \
         {expected} belong there"
    )]
    MapLength {
        /// Where the part begins.
        offset: u64,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The file's part of the header map is not the one that was written.
    #[error(
        "its page headers, at byte {offset} of page_header_map, are damaged: the content list \
         records checksum {recorded:08X}, they have {computed:08X}"
    )]
    MapChecksum {
        /// Where the part begins.
        offset: u64,
        /// As the content list has it.
        recorded: u32,
        /// As the bytes give it.
        computed: u32,
    },
    /// The number of page headers in the content list is impossible.
    #[error("the content list gives it {0} pages, more than a segment can have")]
    TooManyPages(u32),
    /// A record or its header is impossible where it stands.
    #[error(
        "page number {index} of those stored is described as block {block} at byte {offset}, {why}"
    )]
    Record {
        /// Which record, counted from 0.
        index: usize,
        /// The block in it.
        block: i32,
        /// Its offset in the data file.
        offset: i64,
        /// What is impossible about it.
        why: &'static str,
    },
}

/// A record that is not the one its index promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another block stands there.
    #[error("the record there holds block {0}")]
    Block(i32),
    /// A payload of another length stands there.
    #[error("the record there claims {claimed} bytes, {room} belong to it")]
    Length {
        /// As the record has it.
        claimed: i32,
        /// Bytes up to the next record.
        room: usize,
    },
}
