//! An instance's WAL archive, `CATALOG/wal/INSTANCE`: its contents, and fetching from it
//! as a `restore_command` does. The archive is only read.
//!
//! ```text
//! SEGMENT, SEGMENT.gz                    a whole segment, plain or gzip
//! SEGMENT.partial, SEGMENT.gz.partial    the beginning of one
//! *.part                                 being archived at the moment; not available yet
//! SEGMENT.OFFSET.backup                  where a backup was taken
//! TIMELINE.history                       where a timeline branched off
//! ```

mod error;
mod fetch;
mod files;
mod listing;
mod own;
mod prefetch;
mod reach;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{WalError, WalFault};
pub use fetch::{Fetched, Form};
pub(crate) use files::ArchiveFiles;
pub use listing::{Gap, Listing, Segment, Timeline};
pub use own::{OwnWal, OwnWalFinder};
pub(crate) use prefetch::Prefetch;
pub use reach::{Reach, WalEnd};
pub use search::Search;

use super::store::{StorePath, read_whole};
use super::{Instance, InstanceConfig};
use crate::pg::wal::page::{LONG_HEADER, PageHeader};
use crate::pg::wal::segment::is_segment_name;
use crate::pg::wal::{History, SegmentId, SegmentSize};

/// Maximum number of bytes read from a timeline history or a backup history. A timeline
/// takes about fifty bytes in the history of each of its descendants.
const HISTORY_LIMIT: u64 = 256 << 10;

/// The WAL archive of one instance.
///
/// ```
/// use pbkfs::catalog::Catalog;
/// use pbkfs::catalog::wal::WalArchive;
///
/// # let unpacked = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc_catalog.rs"));
/// # let root = unpacked.path().join("catalog");
/// let instance = Catalog::open(&root)?.instance("main")?;
/// for timeline in WalArchive::open(&instance)?.list()?.timelines {
///     println!("{}: {} segments", timeline.number, timeline.segments.len());
///     assert!(timeline.gaps().is_empty());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WalArchive {
    dir: PathBuf,
    size: SegmentSize,
    system_identifier: Option<u64>,
    files: Arc<dyn ArchiveFiles>,
}

/// The facts about an archive that its files do not provide.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Description {
    /// Its directory.
    pub dir: PathBuf,
    /// WAL segment size in bytes.
    pub segment_size: u64,
    /// The system identifier of the cluster whose WAL it contains, if known.
    pub system_identifier: Option<u64>,
}

impl WalArchive {
    /// Opens the archive of `instance`. The segment size is that of the instance's
    /// configuration or, if it has none, of the archive's first whole plain segment. If
    /// there is no such segment, it is PostgreSQL's default.
    ///
    /// # Errors
    /// If the directory or a segment cannot be read, or if the configured size is not one
    /// that PostgreSQL allows.
    pub fn open(instance: &Instance) -> Result<Self, WalError> {
        Self::at(instance.wal.clone(), &instance.config)
    }

    /// Opens the WAL in a directory, which need not be an archive.
    fn at(place: StorePath, config: &InstanceConfig) -> Result<Self, WalError> {
        let dir = place.name();
        let size = match config.wal_segment_size {
            Some(bytes) => SegmentSize::new(bytes).ok_or_else(|| WalError::SegmentSize {
                dir: dir.clone(),
                bytes,
            })?,
            None => size_of_first(&place)?,
        };
        Ok(Self {
            files: Arc::new(place),
            dir,
            size,
            system_identifier: config.system_identifier,
        })
    }

    /// Creates an archive whose files are opened by another process.
    ///
    /// # Errors
    /// Returns [`WalError::SegmentSize`] if the size is invalid.
    pub(crate) fn served(
        described: Description,
        files: Arc<dyn ArchiveFiles>,
    ) -> Result<Self, WalError> {
        let Description {
            dir,
            segment_size: bytes,
            system_identifier,
        } = described;
        match SegmentSize::new(bytes) {
            Some(size) => Ok(Self {
                dir,
                size,
                system_identifier,
                files,
            }),
            None => Err(WalError::SegmentSize { dir, bytes }),
        }
    }

    /// Returns the description that [`WalArchive::served`] takes.
    #[must_use]
    pub(crate) fn describe(&self) -> Description {
        Description {
            dir: self.dir.clone(),
            segment_size: self.size.bytes(),
            system_identifier: self.system_identifier,
        }
    }

    /// Returns the names of the archive's files.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, WalError> {
        self.files.names().map_err(|source| self.list_error(source))
    }

    /// Returns all segments that the archive has, whole or in part.
    fn segment_ids(&self) -> Result<BTreeSet<SegmentId>, WalError> {
        let names = self.names()?;
        let segments = names.iter().filter_map(|name| Form::of(name, self.size));
        Ok(segments.map(|(id, _)| id).collect())
    }

    fn list_error(&self, source: io::Error) -> WalError {
        WalError::List {
            dir: self.dir.clone(),
            source,
        }
    }

    /// Returns the archive's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the segment size.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Returns the name of a segment's file.
    #[must_use]
    pub fn name(&self, id: SegmentId) -> String {
        id.name(self.size).to_string()
    }

    /// Returns the history of `timeline`; without a file it has no ancestors. The first
    /// timeline never has one.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub fn history(&self, timeline: u32) -> Result<History, WalError> {
        if timeline == 1 {
            return Ok(History::without_ancestors(timeline));
        }
        let name = format!("{timeline:08X}.history");
        let path = self.dir.join(&name);
        match self.read_whole(&name) {
            Ok(bytes) => {
                // Only the reason, which is for human readers, may contain non-ASCII
                // text.
                History::parse(timeline, &String::from_utf8_lossy(&bytes))
                    .map_err(|source| WalError::History { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(History::without_ancestors(timeline))
            }
            Err(source) => Err(WalError::Read { path, source }),
        }
    }

    /// Returns the content of a small file.
    fn read_whole(&self, name: &str) -> io::Result<Vec<u8>> {
        read_whole(self.files.open(name)?, HISTORY_LIMIT)
    }
}

/// Returns the size stated by the first whole segment in a directory.
fn size_of_first(archive: &StorePath) -> Result<SegmentSize, WalError> {
    const POSTGRESQL_DEFAULT: u64 = 16 << 20;
    let dir = archive.name();
    let mut names = match ArchiveFiles::names(archive) {
        Ok(names) => names,
        Err(source) => return Err(WalError::List { dir, source }),
    };
    names.sort();
    let bytes = match names.iter().find(|name| is_segment_name(name)) {
        Some(name) => stated_size(&archive.join(name))?,
        None => POSTGRESQL_DEFAULT,
    };
    SegmentSize::new(bytes).ok_or(WalError::SegmentSize { dir, bytes })
}

fn stated_size(segment: &StorePath) -> Result<u64, WalError> {
    let path = segment.name();
    let mut start = [0; LONG_HEADER];
    if let Err(source) = segment.open().and_then(|file| file.fill_at(&mut start, 0)) {
        return Err(WalError::Read { path, source });
    }
    let header =
        PageHeader::parse(&start).map_err(|problem| WalError::NotTheSegment { path, problem })?;
    Ok(header.long.map_or(0, |long| u64::from(long.segment_size)))
}
