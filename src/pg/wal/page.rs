//! Headers of WAL pages (`XLogPageHeaderData` and `XLogLongPageHeaderData`,
//! src/include/access/xlog_internal.h), little-endian:
//!
//! ```text
//!  0 u16 xlp_magic      2 u16 xlp_info     4 u32 xlp_tli
//!  8 u64 xlp_pageaddr  16 u32 xlp_rem_len  20 pad to 24
//! long header, on the first page of a segment only:
//! 24 u64 xlp_sysid     32 u32 xlp_seg_size  36 u32 xlp_xlog_blcksz
//! ```

use super::{SegmentId, SegmentSize};
use crate::pg::{Lsn, bytes_at};

/// Size of a WAL page in bytes, PostgreSQL's `XLOG_BLCKSZ`.
pub const PAGE_SIZE: usize = 8192;

/// Header size of every page except a segment's first.
pub const SHORT_HEADER: usize = 24;

/// Header size of a segment's first page.
pub const LONG_HEADER: usize = 40;

/// The page starts with the rest of a record from the page before.
pub(super) const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The page has a long header.
const HAS_LONG_HEADER: u16 = 0x0002;
/// The record that the page before had started was never finished.
pub(super) const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// All flags that exist.
const ALL_FLAGS: u16 = 0x000F;

/// `XLOG_PAGE_MAGIC` of each major version.
const MAGICS: [(u16, u32); 5] = [
    (0xD10D, 14),
    (0xD110, 15),
    (0xD113, 16),
    (0xD116, 17),
    (0xD118, 18),
];

/// Why a page is not the expected WAL page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageProblem {
    /// There are fewer bytes than a header needs.
    #[error("it is too short for a page header")]
    TooShort,
    /// The page is not WAL, or of an unsupported version.
    #[error("its magic number ({0:04X}) is not that of a WAL page of PostgreSQL 14 to 18")]
    Magic(u16),
    /// The page has unknown flags, or is a first page without its long header.
    #[error("its header has invalid flags ({0:04X})")]
    Flags(u16),
    /// The WAL is from another position.
    #[error("it holds WAL from {found} instead of {expected}")]
    Address {
        /// The position that the page states.
        found: Lsn,
        /// The position at which it was read.
        expected: Lsn,
    },
    /// The WAL is of a timeline that cannot be in this file.
    #[error("it holds WAL of timeline {found}, which cannot be part of timeline {expected}")]
    Timeline {
        /// The page's timeline.
        found: u32,
        /// The file's timeline.
        expected: u32,
    },
    /// The WAL is from another cluster.
    #[error("it comes from the cluster with system identifier {found}, not {expected}")]
    System {
        /// The page's system identifier.
        found: u64,
        /// The expected system identifier.
        expected: u64,
    },
    /// The WAL has another segment size.
    #[error("its WAL segment size is {found} bytes, not {expected}")]
    SegmentSize {
        /// The page's segment size.
        found: u32,
        /// The expected segment size.
        expected: u64,
    },
    /// The WAL has another page size.
    #[error("its WAL page size is {0} bytes, not 8192")]
    PageSize(u32),
}

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The major version that wrote it.
    pub major: u32,
    /// Flags.
    pub info: u16,
    /// The timeline that was current when the page was started.
    pub timeline: u32,
    /// Position of the page's start.
    pub address: Lsn,
    /// Remaining bytes of the continued record, including those on this page.
    pub remaining: u32,
    /// The fields that only a segment's first page has.
    pub long: Option<LongHeader>,
}

/// The additional fields of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// Segment size in bytes.
    pub segment_size: u32,
}

impl PageHeader {
    /// Parses the header at the start of `page`.
    ///
    /// # Errors
    /// If there are too few bytes, or if the page is not WAL of a supported version, has
    /// unknown flags, or has another page size.
    pub fn parse(page: &[u8]) -> Result<Self, PageProblem> {
        let magic = u16::from_le_bytes(bytes(page, 0)?);
        let info = u16::from_le_bytes(bytes(page, 2)?);
        let (_, major) = MAGICS
            .into_iter()
            .find(|(known, _)| *known == magic)
            .ok_or(PageProblem::Magic(magic))?;
        if info & !ALL_FLAGS != 0 {
            return Err(PageProblem::Flags(info));
        }
        let long = if info & HAS_LONG_HEADER != 0 {
            let page_size = u32::from_le_bytes(bytes(page, 36)?);
            if page_size as usize != PAGE_SIZE {
                return Err(PageProblem::PageSize(page_size));
            }
            Some(LongHeader {
                system_identifier: u64::from_le_bytes(bytes(page, 24)?),
                segment_size: u32::from_le_bytes(bytes(page, 32)?),
            })
        } else {
            None
        };
        Ok(Self {
            major,
            info,
            timeline: u32::from_le_bytes(bytes(page, 4)?),
            address: Lsn(u64::from_le_bytes(bytes(page, 8)?)),
            remaining: u32::from_le_bytes(bytes(page, 16)?),
            long,
        })
    }

    /// Returns the header's size, which is the offset of the page's content.
    #[must_use]
    pub fn length(&self) -> usize {
        match self.long {
            Some(_) => LONG_HEADER,
            None => SHORT_HEADER,
        }
    }

    /// Checks that this is the first page of segment `id`, and belongs to the cluster
    /// `system_identifier` if that is known.
    ///
    /// A page's timeline may be older than its file's: the first segment of a new
    /// timeline starts with a copy of the old timeline's WAL.
    ///
    /// # Errors
    /// Returns the mismatch.
    pub fn check_first(
        &self,
        id: SegmentId,
        size: SegmentSize,
        system_identifier: Option<u64>,
    ) -> Result<(), PageProblem> {
        let long = self.long.ok_or(PageProblem::Flags(self.info))?;
        if let Some(expected) = system_identifier.filter(|s| *s != long.system_identifier) {
            return Err(PageProblem::System {
                found: long.system_identifier,
                expected,
            });
        }
        if u64::from(long.segment_size) != size.bytes() {
            return Err(PageProblem::SegmentSize {
                found: long.segment_size,
                expected: size.bytes(),
            });
        }
        if self.address != id.start(size) {
            return Err(PageProblem::Address {
                found: self.address,
                expected: id.start(size),
            });
        }
        if self.timeline == 0 || self.timeline > id.timeline {
            return Err(PageProblem::Timeline {
                found: self.timeline,
                expected: id.timeline,
            });
        }
        Ok(())
    }
}

fn bytes<const N: usize>(page: &[u8], at: usize) -> Result<[u8; N], PageProblem> {
    bytes_at(page, at).ok_or(PageProblem::TooShort)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A first page's header as PostgreSQL 15 writes it.
    pub fn first_page(id: SegmentId, size: SegmentSize) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        page[0..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        page[2..4].copy_from_slice(&HAS_LONG_HEADER.to_le_bytes());
        page[4..8].copy_from_slice(&id.timeline.to_le_bytes());
        page[8..16].copy_from_slice(&id.start(size).0.to_le_bytes());
        page[24..32].copy_from_slice(&77_u64.to_le_bytes());
        page[32..36].copy_from_slice(&u32::try_from(size.bytes()).unwrap().to_le_bytes());
        page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        page
    }

    fn check(change: impl Fn(&mut Vec<u8>)) -> Result<(), PageProblem> {
        let size = SegmentSize::new(1 << 20).unwrap();
        let id = SegmentId {
            timeline: 2,
            number: 5,
        };
        let mut page = first_page(id, size);
        change(&mut page);
        PageHeader::parse(&page)?.check_first(id, size, Some(77))
    }

    #[test]
    fn each_field_is_checked() {
        assert_eq!(check(|_| {}), Ok(()));
        // A copy from an older timeline is fine, one from a newer timeline is not.
        assert_eq!(check(|page| page[4] = 1), Ok(()));
        assert!(matches!(
            check(|page| page[4] = 3),
            Err(PageProblem::Timeline { .. })
        ));
        assert!(matches!(
            check(|page| page[0] ^= 1),
            Err(PageProblem::Magic(_))
        ));
        assert!(matches!(
            check(|page| page[2] = 0),
            Err(PageProblem::Flags(0))
        ));
        assert!(matches!(
            check(|page| page[3] = 1),
            Err(PageProblem::Flags(_))
        ));
        assert!(matches!(
            check(|page| page[10] ^= 1),
            Err(PageProblem::Address { .. })
        ));
        assert!(matches!(
            check(|page| page[24] ^= 1),
            Err(PageProblem::System { .. })
        ));
        assert!(matches!(
            check(|page| page[34] ^= 1),
            Err(PageProblem::SegmentSize { .. })
        ));
        assert!(matches!(
            check(|page| page[37] ^= 1),
            Err(PageProblem::PageSize(_))
        ));
        assert_eq!(check(|page| page.truncate(30)), Err(PageProblem::TooShort));
        assert_eq!(check(Vec::clear), Err(PageProblem::TooShort));
    }

    #[test]
    fn every_supported_major_is_known() {
        let majors: Vec<u32> = MAGICS.into_iter().map(|(_, major)| major).collect();
        let supported: Vec<u32> = (crate::pg::OLDEST_MAJOR..=crate::pg::NEWEST_MAJOR).collect();
        assert_eq!(majors, supported);
    }
}
