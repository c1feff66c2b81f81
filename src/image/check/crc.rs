//! The checksum of a stored file, over all its bytes: CRC-32C, or zlib's CRC-32 before
//! 2.0.25 (`pgFileGetCRC` in pg_probackup's dir.c).

use crate::catalog::{Backup, ProgramVersion};

/// From this version on, files have a CRC-32C, and pg_control uses its own checksum.
pub(super) const CRC32C_SINCE: ProgramVersion = ProgramVersion::new(2, 0, 25);

/// A checksum under construction.
pub(super) enum Crc {
    Castagnoli(u32),
    Old(libdeflater::Crc),
}

impl Crc {
    pub(super) fn of(backup: &Backup) -> Self {
        match backup.program_version >= CRC32C_SINCE {
            true => Self::Castagnoli(0),
            false => Self::Old(libdeflater::Crc::new()),
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Castagnoli(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::Old(crc) => crc.update(bytes),
        }
    }

    pub(super) fn finish(&self) -> u32 {
        match self {
            Self::Castagnoli(crc) => *crc,
            Self::Old(crc) => crc.sum(),
        }
    }
}
