//! The page header and the page checksum.
//!
//! ```text
//!  0  u32  pd_lsn, high half      10  u16  pd_flags
//!  4  u32  pd_lsn, low half       12  u16  pd_lower
//!  8  u16  pd_checksum            14  u16  pd_upper
//!                                 16  u16  pd_special
//!                                 18  u16  pd_pagesize_version
//! ```
//! `PageHeaderData` in src/include/storage/bufpage.h; the checksum is
//! `pg_checksum_page` in src/include/storage/checksum_impl.h.

use multiversion::multiversion;

use super::{AbsoluteBlock, BLOCK_SIZE, Lsn};

/// The bytes of one page.
pub type Page = [u8; BLOCK_SIZE];

/// Bytes of the header before the line pointers (`SizeOfPageHeaderData`).
const HEADER_SIZE: u16 = 24;

/// The bits of `pd_flags` that have a meaning (`PD_VALID_FLAG_BITS`).
const VALID_FLAGS: u16 = 0x0007;

/// A page's header, read field by field from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct PageHeader<'a>(&'a Page);

impl<'a> PageHeader<'a> {
    /// Returns the header of `page`, unchecked.
    #[must_use]
    pub fn of(page: &'a Page) -> Self {
        Self(page)
    }

    /// Returns the end of the WAL record of the page's last change.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        let high = u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]);
        let low = u32::from_le_bytes([self.0[4], self.0[5], self.0[6], self.0[7]]);
        Lsn(u64::from(high) << 32 | u64::from(low))
    }

    /// Returns the stored checksum, which is meaningless unless the cluster has
    /// checksums.
    #[must_use]
    pub fn checksum(self) -> u16 {
        u16::from_le_bytes([self.0[8], self.0[9]])
    }

    /// Returns `pd_flags`.
    #[must_use]
    pub fn flags(self) -> u16 {
        u16::from_le_bytes([self.0[10], self.0[11]])
    }

    /// Returns the byte offset of the start of free space.
    #[must_use]
    pub fn lower(self) -> u16 {
        u16::from_le_bytes([self.0[12], self.0[13]])
    }

    /// Returns the byte offset of the end of free space; 0 on a page never initialised.
    #[must_use]
    pub fn upper(self) -> u16 {
        u16::from_le_bytes([self.0[14], self.0[15]])
    }

    /// Returns the byte offset of the access method's own area.
    #[must_use]
    pub fn special(self) -> u16 {
        u16::from_le_bytes([self.0[16], self.0[17]])
    }

    /// Returns the page size in bytes that the header states.
    #[must_use]
    pub fn page_size(self) -> u16 {
        u16::from_le_bytes([self.0[18], self.0[19]]) & 0xFF00
    }

    /// Whether the fields are consistent, as they are on every initialised page: the
    /// size, the flags, the order of the offsets and their alignment. This is the same
    /// test as pg_probackup's `page_may_be_compressed` (data.c).
    #[must_use]
    pub fn is_sane(self) -> bool {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        usize::from(self.page_size()) == BLOCK_SIZE
            && self.flags() & !VALID_FLAGS == 0
            && lower >= HEADER_SIZE
            && lower <= upper
            && upper <= special
            && usize::from(special) <= BLOCK_SIZE
            && special.is_multiple_of(8)
    }
}

/// The result of [`verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// All zeros: allocated, never initialised. Such a page has no checksum.
    Zero,
    /// The stored checksum is right.
    Valid,
    /// The stored checksum is wrong.
    Mismatch {
        /// The checksum stored in the page.
        stored: u16,
        /// The checksum computed from its bytes and its block number.
        computed: u16,
    },
}

/// Verifies a page's stored checksum against its content and its block number in the
/// fork. The result is meaningful only for clusters with checksums.
#[must_use]
pub fn verify(page: &Page, block: AbsoluteBlock) -> PageVerdict {
    let header = PageHeader::of(page);
    // As in `PageIsNew`, only a page whose pd_upper is 0 can be all zeros, so other pages
    // are spared the comparison.
    if header.upper() == 0 && page.iter().all(|&byte| byte == 0) {
        return PageVerdict::Zero;
    }
    let (stored, computed) = (header.checksum(), checksum(page, block));
    if stored == computed {
        PageVerdict::Valid
    } else {
        PageVerdict::Mismatch { stored, computed }
    }
}

/// Number of independent hashes computed in parallel over a page (`N_SUMS`).
const LANES: usize = 32;

/// Bytes consumed by all lanes in one round.
const ROW: usize = LANES * 4;

/// Initial value of each lane (`checksumBaseOffsets`); part of the on-disk format.
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The FNV-1a prime (`FNV_PRIME`).
const PRIME: u32 = 16_777_619;

/// Computes the checksum of a page with the given block number as PostgreSQL does:
/// `pd_checksum` is taken as zero, and the result is never 0.
#[must_use]
pub fn checksum(page: &Page, block: AbsoluteBlock) -> u16 {
    let hash = digest(page) ^ block.0;
    // The remainder is below 65535, so the sum fits.
    (hash % 65_535 + 1) as u16
}

/// Hashes a page and combines all lanes. The instructions that every x86-64 has include
/// no vector multiplication and take five times as long as AVX2; the hash is then a sixth
/// of the cost of reading a zlib page.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn digest(page: &Page) -> u32 {
    let mut lanes = SEEDS;
    let (rows, _) = page.as_chunks::<ROW>();
    for (at, row) in rows.iter().enumerate() {
        let mut words = words_of(row);
        if at == 0 {
            // Word 2 holds pd_checksum in its low half.
            words[2] &= 0xFFFF_0000;
        }
        mix(&mut lanes, &words);
    }
    mix(&mut lanes, &[0; LANES]);
    mix(&mut lanes, &[0; LANES]);
    lanes.iter().fold(0, |hash, lane| hash ^ lane)
}

#[inline(always)]
fn words_of(row: &[u8; ROW]) -> [u32; LANES] {
    let mut words = [0; LANES];
    let (bytes, _) = row.as_chunks::<4>();
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// Mixes one round into every lane. It is one loop over arrays so that the compiler turns
/// it into vector instructions.
#[inline(always)]
fn mix(lanes: &mut [u32; LANES], words: &[u32; LANES]) {
    for (lane, word) in lanes.iter_mut().zip(words) {
        let mixed = *lane ^ word;
        *lane = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(lower: u16, upper: u16, special: u16) -> Page {
        let mut page = [0; BLOCK_SIZE];
        page[12..14].copy_from_slice(&lower.to_le_bytes());
        page[14..16].copy_from_slice(&upper.to_le_bytes());
        page[16..18].copy_from_slice(&special.to_le_bytes());
        page[18..20].copy_from_slice(&(8192_u16 | 4).to_le_bytes());
        page
    }

    #[test]
    fn header_fields() {
        let mut page = page_with(28, 8000, 8192);
        page[..8].copy_from_slice(&[1, 0, 0, 0, 0x60, 0, 0xB0, 2]);
        page[8..10].copy_from_slice(&0xABCD_u16.to_le_bytes());
        let header = PageHeader::of(&page);
        assert_eq!(header.lsn().to_string(), "1/2B00060");
        assert_eq!(header.checksum(), 0xABCD);
        assert_eq!(
            (header.lower(), header.upper(), header.special()),
            (28, 8000, 8192)
        );
        assert_eq!(header.page_size(), 8192);
    }

    #[test]
    fn sanity() {
        let sane = |page: Page| PageHeader::of(&page).is_sane();
        assert!(sane(page_with(24, 8192, 8192)));
        assert!(!sane(page_with(20, 8192, 8192)));
        assert!(!sane(page_with(200, 100, 8192)));
        assert!(!sane(page_with(24, 8192, 8176)));
        assert!(!sane(page_with(24, 100, 8190)));
        assert!(!sane([0; BLOCK_SIZE]));
        let mut flags = page_with(24, 8192, 8192);
        flags[10] = 8;
        assert!(!sane(flags));
    }

    #[test]
    fn the_checksum_ignores_its_own_field_and_knows_its_place() {
        let mut page = page_with(24, 8192, 8192);
        page[4000] = 9;
        let place = AbsoluteBlock(5);
        let sum = checksum(&page, place);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(verify(&page, place), PageVerdict::Valid);
        assert!(matches!(
            verify(&page, AbsoluteBlock(6)),
            PageVerdict::Mismatch { stored, .. } if stored == sum
        ));
        page[4001] ^= 1;
        assert!(matches!(verify(&page, place), PageVerdict::Mismatch { .. }));
    }

    #[test]
    fn a_zero_page_needs_no_checksum() {
        let mut page = [0; BLOCK_SIZE];
        assert_eq!(verify(&page, AbsoluteBlock(0)), PageVerdict::Zero);
        page[8191] = 1;
        assert!(matches!(
            verify(&page, AbsoluteBlock(0)),
            PageVerdict::Mismatch { stored: 0, .. }
        ));
    }
}
