//! What the header map records about each page.

use crate::pg::page::{self, Page, PageHeader};
use crate::pg::{AbsoluteBlock, Lsn};

/// What the header map records about a stored page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageStamp {
    /// The page's LSN.
    pub lsn: Lsn,
    /// The checksum computed from its content and block number, whether or not the
    /// cluster has checksums; 0 for a page of zeros.
    pub checksum: u16,
}

impl PageStamp {
    /// Computes the stamp that a page must have, given its block number in the fork.
    #[must_use]
    pub fn of(page: &Page, block: AbsoluteBlock) -> Self {
        let header = PageHeader::of(page);
        // Only a page whose pd_upper is 0 can be all zeros.
        let (lsn, checksum) = match header.upper() == 0 && page.iter().all(|&byte| byte == 0) {
            true => (Lsn(0), 0),
            false => (header.lsn(), page::checksum(page, block)),
        };
        Self { lsn, checksum }
    }
}
