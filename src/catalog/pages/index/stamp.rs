//! What the header map keeps of each page.

use crate::pg::page::{self, Page, PageHeader};
use crate::pg::{AbsoluteBlock, Lsn};

/// What the header map says of a stored page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageStamp {
    /// The page's LSN.
    pub lsn: Lsn,
    /// The checksum that its content and place give, whether or not the
    /// cluster has checksums; 0 for a page of zeros.
    pub checksum: u16,
}

impl PageStamp {
    /// What a page's stamp has to be, given its place in the fork.
    #[must_use]
    pub fn of(page: &Page, block: AbsoluteBlock) -> Self {
        let header = PageHeader::of(page);
        // Only a page without pd_upper can be all zeros.
        let (lsn, checksum) = match header.upper() == 0 && page.iter().all(|&byte| byte == 0) {
            true => (Lsn(0), 0),
            false => (header.lsn(), page::checksum(page, block)),
        };
        Self { lsn, checksum }
    }
}
