//! The pages of a file that a backup stores, and their locations.
//!
//! ```text
//! data file := record*        strictly ascending blocks
//! record    := i32 block, i32 size, payload[size]
//!              before 2.4.0 padded to a multiple of 8
//!              size -2: truncate the file to `block` blocks, nothing follows (<= 2.2.7)
//!
//! page_header_map := zlib stream per data file, at hdr_off, hdr_size bytes (>= 2.4.0)
//! stream          := (n_headers + 1) x { u64 lsn, i32 block, i32 pos, u16 checksum, 6 bytes }
//!                    pos = offset of the record; the last one's = the data file's length
//! ```
//! `BackupPageHeader`, `BackupPageHeader2` and `get_data_file_headers` in
//! pg_probackup's pg_probackup.h and data.c.

mod build;
mod error;
mod lookup;
mod read;
mod records;
mod stamp;

use crate::catalog::ProgramVersion;

pub use error::{PageIndexError, RecordError};
pub use lookup::PageIndex;
pub use records::Records;
pub use stamp::PageStamp;

/// From this version on, there is a header map, and records are not padded.
pub(in crate::catalog) const HEADER_MAP_SINCE: ProgramVersion = ProgramVersion::new(2, 4, 0);

/// Size in bytes of a record's header, which precedes its payload.
pub const RECORD_HEADER: usize = 8;

/// The `size` of a record that truncates the file.
const TRUNCATION_MARKER: i32 = -2;

/// Size in bytes of an entry in the header map.
pub(in crate::catalog) const MAP_ENTRY: usize = 24;

fn split_header(header: [u8; RECORD_HEADER]) -> (i32, i32) {
    let [a, b, c, d, e, f, g, h] = header;
    (
        i32::from_le_bytes([a, b, c, d]),
        i32::from_le_bytes([e, f, g, h]),
    )
}
