//! `global/pg_control`, as PostgreSQL 14 to 18 write it.
//!
//! `ControlFileData` in src/include/catalog/pg_control.h, little-endian with 8-byte
//! alignment. The formats of these versions differ only after byte 256 (1700 put a
//! wal_level into `CheckPoint` in place of padding):
//!
//! ```text
//!   0 u64 system_identifier            180 i32 max_connections
//!   8 u32 pg_control_version           184 i32 max_worker_processes
//!  12 u32 catalog_version_no           188 i32 max_wal_senders
//!  16 u32 state                        192 i32 max_prepared_xacts
//!  32 u64 checkPoint                   196 i32 max_locks_per_xact
//!  40 u64 checkPointCopy.redo          200 u8  track_commit_timestamp
//!  48 u32 checkPointCopy.timeline      216 u32 blcksz
//! 136 u64 minRecoveryPoint             220 u32 relseg_size
//! 144 u32 minRecoveryPointTLI          228 u32 xlog_seg_size
//! 172 i32 wal_level                    252 u32 data_checksum_version
//!
//! 1300 (14, 15, 16), 1700 (17):  256 nonce[32]                         288 crc
//! 1800 (18):                     256 u8 default_char_signedness, nonce 292 crc
//! ```

use std::fmt;

use super::{Lsn, bytes_at};

/// A server's state when it last wrote `pg_control` (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Replaying WAL after a crash.
    InCrashRecovery,
    /// Replaying WAL from an archive or a primary.
    InArchiveRecovery,
    /// Running, which is the state in a backup of a primary.
    InProduction,
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Startup,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

impl fmt::Display for ClusterState {
    /// Uses the wording of `pg_controldata`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// The setting `wal_level` (`WalLevel`, src/include/access/xlog.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Crash recovery only.
    Minimal,
    /// Archiving and standbys.
    Replica,
    /// Logical decoding too.
    Logical,
}

/// The fields of `pg_control` that a clone needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's unique identifier, which its WAL carries, too.
    pub system_identifier: u64,
    /// The format of the file itself: 1300, 1700 or 1800.
    pub pg_control_version: u32,
    /// The format of the system catalogs.
    pub catalog_version_no: u32,
    /// The server's state.
    pub state: ClusterState,
    /// Position of the last checkpoint's record.
    pub checkpoint: Lsn,
    /// Position from which replay starts after that checkpoint.
    pub redo: Lsn,
    /// The last checkpoint's timeline.
    pub timeline: u32,
    /// Position up to which a standby must replay to be consistent; otherwise 0/0.
    pub min_recovery_point: Lsn,
    /// That point's timeline.
    pub min_recovery_point_timeline: u32,
    /// The primary's `wal_level`.
    pub wal_level: WalLevel,
    /// The primary's `max_connections`.
    pub max_connections: i32,
    /// The primary's `max_worker_processes`.
    pub max_worker_processes: i32,
    /// The primary's `max_wal_senders`.
    pub max_wal_senders: i32,
    /// The primary's `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// The primary's `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// The primary's `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Page size in bytes.
    pub block_size: u32,
    /// Blocks in a full segment file.
    pub segment_blocks: u32,
    /// WAL segment size in bytes.
    pub wal_segment_size: u32,
    /// 0 without page checksums.
    pub data_checksum_version: u32,
    /// The file's own checksum, of everything before it.
    pub crc: u32,
}

/// Bytes that are not a `pg_control` file of PostgreSQL 14 to 18.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// There are fewer bytes than the format requires.
    #[error("pg_control is too short: it has {length} bytes, but its format needs {needed}")]
    TooShort {
        /// Number of bytes found.
        length: usize,
        /// Number of bytes that the format requires.
        needed: usize,
    },
    /// The format is that of another PostgreSQL version or another byte order.
    #[error("pg_control has format {0}, but PostgreSQL 14 to 18 use only 1300, 1700 and 1800")]
    UnknownVersion(u32),
    /// The checksum does not match the content.
    #[error(
        "pg_control is damaged: its checksum is {stored:08X}, but the calculated one is {computed:08X}"
    )]
    Checksum {
        /// The checksum stored in the file.
        stored: u32,
        /// The checksum computed from the content.
        computed: u32,
    },
    /// A field has an invalid value.
    #[error("pg_control has an invalid value for {field}: {value}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The value found.
        value: u32,
    },
}

/// Returns the offset of the checksum in each known format.
fn crc_offset(version: u32) -> Result<usize, ControlFileError> {
    match version {
        1300 | 1700 => Ok(288),
        1800 => Ok(292),
        _ => Err(ControlFileError::UnknownVersion(version)),
    }
}

impl ControlFile {
    /// Parses the file's bytes; anything after the checksum is ignored.
    ///
    /// # Errors
    /// If there are too few bytes, or if they are in an unknown format or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let fields = Fields(bytes);
        let version = fields.u32(8)?;
        let crc_at = crc_offset(version)?;
        let stored = fields.u32(crc_at)?;
        let computed = crc32c::crc32c(bytes.get(..crc_at).unwrap_or_default());
        if stored != computed {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        Ok(Self {
            system_identifier: fields.u64(0)?,
            pg_control_version: version,
            catalog_version_no: fields.u32(12)?,
            state: fields.meaning("state", 16, ClusterState::from_number)?,
            checkpoint: Lsn(fields.u64(32)?),
            redo: Lsn(fields.u64(40)?),
            timeline: fields.u32(48)?,
            min_recovery_point: Lsn(fields.u64(136)?),
            min_recovery_point_timeline: fields.u32(144)?,
            wal_level: fields.meaning("wal_level", 172, |level| match level {
                0 => Some(WalLevel::Minimal),
                1 => Some(WalLevel::Replica),
                2 => Some(WalLevel::Logical),
                _ => None,
            })?,
            max_connections: fields.u32(180)?.cast_signed(),
            max_worker_processes: fields.u32(184)?.cast_signed(),
            max_wal_senders: fields.u32(188)?.cast_signed(),
            max_prepared_xacts: fields.u32(192)?.cast_signed(),
            max_locks_per_xact: fields.u32(196)?.cast_signed(),
            track_commit_timestamp: fields.u32(200)? & 0xFF != 0,
            block_size: fields.u32(216)?,
            segment_blocks: fields.u32(220)?,
            wal_segment_size: fields.u32(228)?,
            data_checksum_version: fields.u32(252)?,
            crc: stored,
        })
    }
}

/// Bounds-checked little-endian reads.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], ControlFileError> {
        bytes_at(self.0, at).ok_or(ControlFileError::TooShort {
            length: self.0.len(),
            needed: at + N,
        })
    }

    fn u32(&self, at: usize) -> Result<u32, ControlFileError> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, ControlFileError> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    fn meaning<T>(
        &self,
        field: &'static str,
        at: usize,
        meaning: impl Fn(u32) -> Option<T>,
    ) -> Result<T, ControlFileError> {
        let value = self.u32(at)?;
        meaning(value).ok_or(ControlFileError::Field { field, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the given format with a few distinct fields and a correct CRC.
    fn sample(version: u32, crc_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, value: u32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(0, 7);
        put(8, version);
        put(12, 202_209_061);
        put(16, 6);
        put(32, 0x2B0_0060);
        put(172, 2);
        put(180, 100);
        put(200, 1);
        put(216, 8192);
        put(228, 16 << 20);
        put(252, 1);
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_known_format() {
        for (version, crc_at) in [(1300, 288), (1700, 288), (1800, 292)] {
            let control = ControlFile::parse(&sample(version, crc_at)).unwrap();
            assert_eq!(control.system_identifier, 7);
            assert_eq!(control.pg_control_version, version);
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.checkpoint, Lsn(0x2B0_0060));
            assert_eq!(control.wal_level, WalLevel::Logical);
            assert_eq!(control.max_connections, 100);
            assert!(control.track_commit_timestamp);
            assert_eq!(control.wal_segment_size, 16 << 20);
            assert_eq!(control.data_checksum_version, 1);
        }
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(
            ControlFile::parse(&sample(1201, 288)),
            Err(ControlFileError::UnknownVersion(1201))
        );
        let mut damaged = sample(1300, 288);
        damaged[100] ^= 1;
        assert!(matches!(
            ControlFile::parse(&damaged),
            Err(ControlFileError::Checksum { .. })
        ));
        assert!(matches!(
            ControlFile::parse(&sample(1300, 288)[..200]),
            Err(ControlFileError::TooShort {
                length: 200,
                needed: 292
            })
        ));
        let mut state = sample(1300, 288);
        state[16] = 9;
        let crc = crc32c::crc32c(&state[..288]);
        state[288..292].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            ControlFile::parse(&state),
            Err(ControlFileError::Field {
                field: "state",
                value: 9
            })
        );
    }
}
