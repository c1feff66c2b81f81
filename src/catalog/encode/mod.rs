//! The stored form of backups, for programs that create catalogs: the reverse of what
//! [`pages`](super::pages), [`content`](super::content) and `metadata` read.
//!
//! pbkfs itself writes no catalog. This is for tests, benchmarks and the example
//! `make-catalog`. It is tested against real catalogs: their lists and stored files are
//! reproduced exactly, except where a compressor has a choice.

mod pglz;

use std::io::{self, Write};

use libdeflater::{CompressionLvl, Compressor};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::content::FileEntry;
use super::metadata::quoted;
use super::pages::PageStamp;
use super::pages::index::{HEADER_MAP_SINCE, MAP_ENTRY};
use super::{Backup, CompressAlg, ProgramVersion};
use crate::pg::page::Page;
use crate::pg::{BLOCK_SIZE, BlockNumber};

/// pg_probackup's timestamp format, in UTC.
const TIME_FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]+00");

/// The level at which pg_probackup compresses page headers.
const HEADER_MAP_LEVEL: i32 = 1;

/// Encodes pages with one algorithm.
pub struct PageEncoder {
    alg: CompressAlg,
    level: i32,
    zlib: Compressor,
    payload: Vec<u8>,
}

impl PageEncoder {
    /// Creates an encoder; `level` is on the algorithm's own scale, and has no effect for
    /// pglz and lz4.
    #[must_use]
    pub fn new(alg: CompressAlg, level: i32) -> Self {
        Self {
            alg,
            level,
            zlib: compressor(level),
            payload: Vec::new(),
        }
    }

    /// Returns a page's payload: compressed, or the page itself if that is the algorithm
    /// or if compression would not make it shorter.
    pub fn encode<'a>(&'a mut self, page: &'a Page) -> &'a [u8] {
        let compressed = match self.alg {
            CompressAlg::None => None,
            CompressAlg::Zlib => {
                self.payload.resize(BLOCK_SIZE, 0);
                // The only possible failure is that it does not fit.
                let length = self.zlib.zlib_compress(page, &mut self.payload).ok();
                length.and_then(|length| self.payload.get(..length))
            }
            other => {
                let compressed = match other {
                    CompressAlg::Pglz => pglz::compress(page),
                    CompressAlg::Lz4 => Some(lz4_flex::block::compress(page)),
                    _ => zstd::bulk::compress(page, self.level).ok(),
                };
                compressed.map(|compressed| {
                    self.payload = compressed;
                    self.payload.as_slice()
                })
            }
        };
        let shorter = compressed.filter(|payload| payload.len() < BLOCK_SIZE);
        shorter.unwrap_or(page)
    }
}

fn compressor(level: i32) -> Compressor {
    Compressor::new(CompressionLvl::new(level).unwrap_or_default())
}

/// Writes the pages of one data file.
pub struct DataFileWriter<'a, W> {
    out: W,
    encoder: &'a mut PageEncoder,
    segno: u32,
    padded: bool,
    length: u64,
    crc: u32,
    headers: Vec<u8>,
}

/// What a content list and a header map record about the pages written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPages {
    /// Size of the data file in bytes.
    pub length: u64,
    /// CRC-32C of these bytes.
    pub crc: u32,
    /// Number of pages.
    pub count: u32,
    /// The file's part of the header map, uncompressed.
    pub headers: Vec<u8>,
}

impl<'a, W: Write> DataFileWriter<'a, W> {
    /// Starts a data file in the format that `version` writes; `segno` is its number
    /// within its fork.
    pub fn new(out: W, encoder: &'a mut PageEncoder, segno: u32, version: ProgramVersion) -> Self {
        Self {
            out,
            encoder,
            segno,
            padded: version < HEADER_MAP_SINCE,
            length: 0,
            crc: 0,
            headers: Vec::new(),
        }
    }

    /// Adds a page. Blocks must be added in ascending order.
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn push(&mut self, block: BlockNumber, page: &Page) -> io::Result<()> {
        let stamp = PageStamp::of(page, block.absolute(self.segno));
        self.add_header(stamp.lsn.0, block.0, stamp.checksum);
        let payload = self.encoder.encode(page);
        let mut record = [0; 8 + BLOCK_SIZE];
        let (header, rest) = record.split_at_mut(8);
        // A payload is at most as long as a page, so its length fits.
        let number = u64::from(block.0) | (payload.len() as u64) << 32;
        header.copy_from_slice(&number.to_le_bytes());
        rest[..payload.len()].copy_from_slice(payload);
        let end = match self.padded {
            true => payload.len().next_multiple_of(8),
            false => payload.len(),
        };
        let record = &record[..8 + end];
        self.out.write_all(record)?;
        self.crc = crc32c::crc32c_append(self.crc, record);
        self.length += record.len() as u64;
        Ok(())
    }

    /// Finishes the file.
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn finish(mut self) -> io::Result<StoredPages> {
        self.out.flush()?;
        let count = self.headers.len() / MAP_ENTRY;
        self.add_header(0, 0, 0);
        Ok(StoredPages {
            length: self.length,
            crc: self.crc,
            // At most the blocks of a segment.
            count: count as u32,
            headers: self.headers,
        })
    }

    /// Adds the `BackupPageHeader2` of the next record.
    fn add_header(&mut self, lsn: u64, block: u32, checksum: u16) {
        self.headers.extend(lsn.to_le_bytes());
        self.headers.extend(block.to_le_bytes());
        // A segment's stored bytes are only slightly more than its 1 GiB.
        self.headers.extend((self.length as u32).to_le_bytes());
        self.headers.extend(u64::from(checksum).to_le_bytes());
    }
}

/// Writes a `page_header_map`.
pub struct HeaderMapWriter<W> {
    out: W,
    offset: u64,
    zlib: Compressor,
}

/// The location of a file's page headers, which the content list records as `hdr_off`,
/// `hdr_size` and `hdr_crc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderMapPart {
    /// Byte offset of the part.
    pub offset: u64,
    /// Its compressed size in bytes.
    pub size: u32,
    /// CRC-32C of its uncompressed content.
    pub crc: u32,
}

impl<W: Write> HeaderMapWriter<W> {
    /// Starts a map.
    pub fn new(out: W) -> Self {
        Self {
            out,
            offset: 0,
            zlib: compressor(HEADER_MAP_LEVEL),
        }
    }

    /// Adds the headers of one file, as in [`StoredPages::headers`].
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn append(&mut self, headers: &[u8]) -> io::Result<HeaderMapPart> {
        let mut stream = vec![0; self.zlib.zlib_compress_bound(headers.len())];
        let length = self.zlib.zlib_compress(headers, &mut stream);
        stream.truncate(length.map_err(io::Error::other)?);
        self.out.write_all(&stream)?;
        let part = HeaderMapPart {
            offset: self.offset,
            size: u32::try_from(stream.len()).map_err(io::Error::other)?,
            crc: crc32c::crc32c(headers),
        };
        self.offset += stream.len() as u64;
        Ok(part)
    }

    /// Finishes the map.
    ///
    /// # Errors
    /// Returns the errors of the underlying writer.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes one line of a content list, with its line feed: the keys, in their order, of
/// pg_probackup 2.5.16 (`write_backup_filelist` in its backup.c).
///
/// # Errors
/// Returns the errors of the underlying writer.
pub fn write_content_line(out: &mut impl Write, entry: &FileEntry<'_>) -> io::Result<()> {
    out.write_all(br#"{"path":""#)?;
    out.write_all(entry.path)?;
    write!(
        out,
        r#"", "size":"{}", "mode":"{}", "is_datafile":"{}", "is_cfs":"{}", "crc":"{}", "compress_alg":"{}", "external_dir_num":"{}", "dbOid":"{}""#,
        entry.size,
        entry.mode,
        u8::from(entry.is_datafile),
        u8::from(entry.is_cfs),
        entry.crc,
        entry.compress_alg,
        entry.external_dir_num,
        entry.db_oid,
    )?;
    if entry.full_size > 0 {
        write!(out, r#","full_size":"{}""#, entry.full_size)?;
    }
    if entry.is_datafile {
        write!(out, r#","segno":"{}""#, entry.segno)?;
    }
    if entry.n_blocks > 0 {
        write!(out, r#","n_blocks":"{}""#, entry.n_blocks)?;
    }
    if entry.n_headers > 0 {
        write!(
            out,
            r#","n_headers":"{}","hdr_crc":"{}","hdr_off":"{}","hdr_size":"{}""#,
            entry.n_headers, entry.hdr_crc, entry.hdr_off, entry.hdr_size,
        )?;
    }
    out.write_all(b"}\n")
}

/// Writes a `backup.control` (`pgBackupWriteControl` in pg_probackup's catalog.c),
/// without the keys that a [`Backup`] does not contain.
///
/// # Errors
/// Returns the errors of the underlying writer; also an error if a note has several
/// lines, or if pg_probackup's format cannot represent a time.
pub fn write_control(out: &mut impl Write, backup: &Backup) -> io::Result<()> {
    writeln!(out, "#Configuration")?;
    writeln!(out, "backup-mode = {}", backup.mode)?;
    writeln!(out, "stream = {}", backup.stream)?;
    writeln!(out, "compress-alg = {}", backup.compress_alg)?;
    writeln!(out, "compress-level = {}", backup.compress_level)?;
    writeln!(out, "from-replica = {}", backup.from_replica)?;
    writeln!(out, "\n#Compatibility")?;
    writeln!(out, "block-size = {}", backup.block_size)?;
    writeln!(out, "xlog-block-size = {}", backup.xlog_block_size)?;
    writeln!(out, "checksum-version = {}", u8::from(backup.checksums))?;
    writeln!(out, "program-version = {}", backup.program_version)?;
    writeln!(out, "server-version = {}", backup.server_version)?;
    writeln!(out, "\n#Result backup info")?;
    writeln!(out, "timelineid = {}", backup.timeline)?;
    writeln!(out, "start-lsn = {}", backup.start_lsn)?;
    writeln!(out, "stop-lsn = {}", backup.stop_lsn)?;
    write_time(out, "start-time", Some(backup.start_time))?;
    write_time(out, "end-time", backup.end_time)?;
    writeln!(out, "recovery-xid = {}", backup.recovery_xid)?;
    write_time(out, "recovery-time", backup.recovery_time)?;
    for (key, bytes) in [
        ("data-bytes", backup.data_bytes),
        ("wal-bytes", backup.wal_bytes),
        ("uncompressed-bytes", backup.uncompressed_bytes),
        ("pgdata-bytes", backup.pgdata_bytes),
    ] {
        if let Some(bytes) = bytes {
            writeln!(out, "{key} = {bytes}")?;
        }
    }
    writeln!(out, "status = {}", backup.status)?;
    if let Some(parent) = &backup.parent {
        writeln!(out, "parent-backup-id = '{parent}'")?;
    }
    if let Some(note) = &backup.note {
        if note.contains('\n') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        writeln!(out, "note = {}", quoted(note))?;
    }
    if let Some(crc) = backup.content_crc {
        writeln!(out, "content-crc = {crc}")?;
    }
    Ok(())
}

fn write_time(out: &mut impl Write, key: &str, time: Option<OffsetDateTime>) -> io::Result<()> {
    let Some(time) = time else { return Ok(()) };
    let utc = time.checked_to_offset(UtcOffset::UTC);
    let text = utc
        .ok_or(io::ErrorKind::InvalidInput)?
        .format(TIME_FORMAT)
        .map_err(io::Error::other)?;
    writeln!(out, "{key} = '{text}'")
}
