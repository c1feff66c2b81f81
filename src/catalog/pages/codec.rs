//! Decodes one stored page: from its payload in a data file to the page itself.
//!
//! A payload of exactly 8192 bytes is the page as it is; a shorter one is compressed with
//! its file's algorithm (`do_decompress` in pg_probackup's data.c). lz4 and zstd are what
//! the Enterprise edition is reported to write; they are verified only against our own
//! `encode`.

use std::cell::RefCell;
use std::io;

use libdeflater::{DecompressionError, Decompressor};

use super::pglz::{self, PglzError};
use crate::catalog::{CompressAlg, ProgramVersion};
use crate::figures::counted;
use crate::pg::BLOCK_SIZE;
use crate::pg::page::{Page, PageHeader};

/// From this version on, a payload of 8192 bytes is never compressed.
const RAW_MEANS_RAW: ProgramVersion = ProgramVersion::new(2, 0, 23);

/// A payload that does not decode to a page.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No page is stored in this number of bytes.
    #[error("{} cannot hold a page stored with {alg}", counted(*length, "byte"))]
    BadLength {
        /// The file's algorithm.
        alg: CompressAlg,
        /// The payload's length in bytes.
        length: usize,
    },
    /// The payload decodes, but not to 8192 bytes.
    #[error("it decodes with {alg} to {} instead of 8192", counted(*length, "byte"))]
    WrongSize {
        /// The file's algorithm.
        alg: CompressAlg,
        /// Number of bytes that it decodes to.
        length: usize,
    },
    /// Not a zlib stream.
    #[error("it is not a complete zlib stream")]
    Zlib(#[source] DecompressionError),
    /// Not a pglz stream.
    #[error("it is not a complete pglz stream")]
    Pglz(#[source] PglzError),
    /// Not an LZ4 block.
    #[error("it is not a complete lz4 block")]
    Lz4(#[source] lz4_flex::block::DecompressError),
    /// Not a Zstandard frame.
    #[error("it is not a complete zstd frame")]
    Zstd(#[source] io::Error),
}

thread_local! {
    // Each contains tables of tens of kilobytes, so it is created once per thread, not
    // per page.
    static ZLIB: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static ZSTD: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::default();
}

/// Decodes a zlib stream of at most `output.len()` bytes, and returns its length.
///
/// # Errors
/// If the stream is damaged or longer.
pub(super) fn inflate(stream: &[u8], output: &mut [u8]) -> Result<usize, DecompressionError> {
    ZLIB.with_borrow_mut(|zlib| zlib.zlib_decompress(stream, output))
}

/// The encoding of the pages of one stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCodec {
    alg: CompressAlg,
    raw_may_be_compressed: bool,
}

impl PageCodec {
    /// Creates the codec of a file, given its algorithm in the content list and the
    /// version of the pg_probackup that wrote its backup.
    #[must_use]
    pub fn new(alg: CompressAlg, version: ProgramVersion) -> Self {
        Self {
            alg,
            raw_may_be_compressed: version < RAW_MEANS_RAW,
        }
    }

    /// Decodes one payload into `page`, and returns the algorithm used:
    /// [`CompressAlg::None`] for a page that was stored raw.
    ///
    /// # Errors
    /// If the payload does not decode to exactly one page. The content of `page` is then
    /// unspecified.
    pub fn decode(self, payload: &[u8], page: &mut Page) -> Result<CompressAlg, CodecError> {
        if let Ok(raw) = <&Page>::try_from(payload) {
            if !self.is_disguised(raw) {
                *page = *raw;
                return Ok(CompressAlg::None);
            }
        } else if payload.is_empty() || payload.len() > BLOCK_SIZE {
            return Err(self.bad_length(payload));
        }
        let length = match self.alg {
            CompressAlg::None => return Err(self.bad_length(payload)),
            CompressAlg::Zlib => inflate(payload, page).map_err(CodecError::Zlib)?,
            CompressAlg::Pglz => {
                pglz::decompress(payload, page).map_err(CodecError::Pglz)?;
                BLOCK_SIZE
            }
            CompressAlg::Lz4 => {
                lz4_flex::block::decompress_into(payload, page).map_err(CodecError::Lz4)?
            }
            CompressAlg::Zstd => ZSTD
                .with_borrow_mut(|zstd| zstd.decompress_to_buffer(payload, page.as_mut_slice()))
                .map_err(CodecError::Zstd)?,
        };
        if length == BLOCK_SIZE {
            Ok(self.alg)
        } else {
            let alg = self.alg;
            Err(CodecError::WrongSize { alg, length })
        }
    }

    /// Whether 8192 bytes are a compressed page nevertheless: versions before 2.0.23
    /// stored a page that compressed to exactly that size (`page_may_be_compressed` in
    /// pg_probackup's data.c).
    fn is_disguised(self, raw: &Page) -> bool {
        self.raw_may_be_compressed
            && match self.alg {
                CompressAlg::None => false,
                CompressAlg::Zlib => raw[0] == 0x78,
                // A page that was never initialised looks no saner than a stream.
                _ => raw.iter().any(|&byte| byte != 0),
            }
            && !PageHeader::of(raw).is_sane()
    }

    fn bad_length(self, payload: &[u8]) -> CodecError {
        CodecError::BadLength {
            alg: self.alg,
            length: payload.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::encode::PageEncoder;

    const MODERN: ProgramVersion = ProgramVersion::new(2, 5, 16);
    const ALL: [CompressAlg; 5] = [
        CompressAlg::None,
        CompressAlg::Zlib,
        CompressAlg::Pglz,
        CompressAlg::Lz4,
        CompressAlg::Zstd,
    ];

    fn text_page() -> Page {
        let mut page = [0; BLOCK_SIZE];
        for (at, byte) in page.iter_mut().enumerate().skip(3000) {
            *byte = (at * at % 251) as u8 & 0x1F;
        }
        page
    }

    /// Returns the page compressed; `None` for the algorithm that does not compress.
    fn encode(alg: CompressAlg, page: &Page) -> Option<Vec<u8>> {
        let payload = PageEncoder::new(alg, 1).encode(page).to_vec();
        (payload.len() < BLOCK_SIZE).then_some(payload)
    }

    fn decode(alg: CompressAlg, payload: &[u8]) -> Result<Page, CodecError> {
        let mut page = [0xAA; BLOCK_SIZE];
        PageCodec::new(alg, MODERN)
            .decode(payload, &mut page)
            .map(|_| page)
    }

    #[test]
    fn every_codec_gives_the_page_back() {
        for alg in ALL {
            let page = text_page();
            match encode(alg, &page) {
                Some(payload) => assert_eq!(decode(alg, &payload).unwrap(), page, "{alg}"),
                None => assert_eq!(alg, CompressAlg::None),
            }
            assert_eq!(decode(alg, &page).unwrap(), page, "{alg}, raw");
        }
    }

    #[test]
    fn a_wrong_length_is_an_error_for_every_codec() {
        let page = text_page();
        for alg in ALL {
            assert!(decode(alg, &[]).is_err(), "{alg}, empty");
            assert!(decode(alg, &[0; BLOCK_SIZE + 1]).is_err(), "{alg}, long");
            assert!(decode(alg, &page[..100]).is_err(), "{alg}, noise");
            if let Some(payload) = encode(alg, &page) {
                let cut = &payload[..payload.len() - 1];
                assert!(decode(alg, cut).is_err(), "{alg}, cut");
            }
        }
        let short = zstd::bulk::compress(&page[..4096], 1).unwrap();
        assert!(matches!(
            decode(CompressAlg::Zstd, &short),
            Err(CodecError::WrongSize { length: 4096, .. })
        ));
        let short = lz4_flex::block::compress(&page[..4096]);
        assert!(decode(CompressAlg::Lz4, &short).is_err());
    }

    #[test]
    fn old_versions_hid_compressed_pages_behind_the_raw_length() {
        let page = text_page();
        let mut payload = encode(CompressAlg::Zlib, &page).unwrap();
        payload.resize(BLOCK_SIZE, 0);
        let mut output = [0; BLOCK_SIZE];
        let old = PageCodec::new(CompressAlg::Zlib, ProgramVersion::new(2, 0, 22));
        assert_eq!(
            old.decode(&payload, &mut output).unwrap(),
            CompressAlg::Zlib
        );
        assert_eq!(output, page);
        let new = PageCodec::new(CompressAlg::Zlib, RAW_MEANS_RAW);
        assert_eq!(
            new.decode(&payload, &mut output).unwrap(),
            CompressAlg::None
        );
        let zeros = [0; BLOCK_SIZE];
        let old = PageCodec::new(CompressAlg::Pglz, ProgramVersion::new(2, 0, 22));
        assert_eq!(old.decode(&zeros, &mut output).unwrap(), CompressAlg::None);
        assert_eq!(output, zeros);
    }
}
