//! An instance's WAL archive, `CATALOG/wal/INSTANCE`: what is in it, and
//! fetching from it as a `restore_command` does. Reads only.
//!
//! ```text
//! SEGMENT, SEGMENT.gz                    a whole segment, plain or gzip
//! SEGMENT.partial, SEGMENT.gz.partial    the beginning of one
//! *.part                                 being pushed just now; not there yet
//! SEGMENT.OFFSET.backup                  where a backup was taken
//! TIMELINE.history                       where a timeline branched off
//! ```

mod error;
mod fetch;
mod files;
mod listing;
mod prefetch;
mod reach;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::WalError;
pub use fetch::{Fetched, Form};
pub use files::ArchiveFiles;
pub use listing::{Gap, Listing, Segment, Timeline};
pub use prefetch::Prefetch;
pub use reach::{Reach, WalEnd};

use serde::{Deserialize, Serialize};

use self::files::Directory;
use super::Instance;
use crate::pg::wal::page::{LONG_HEADER, PageHeader};
use crate::pg::wal::segment::is_segment_name;
use crate::pg::wal::{History, SegmentId, SegmentSize};

/// The WAL archive of one instance.
#[derive(Debug, Clone)]
pub struct WalArchive {
    dir: PathBuf,
    size: SegmentSize,
    system_identifier: Option<u64>,
    files: Arc<dyn ArchiveFiles>,
}

/// What has to be known of an archive besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes in each segment.
    pub segment_size: u64,
    /// The cluster whose WAL it has, if that is known.
    pub system_identifier: Option<u64>,
}

impl WalArchive {
    /// Opens the archive of `instance`. The segments' size is taken from the
    /// instance's configuration or, if it does not say, from the archive's
    /// first whole plain segment; an archive without one has PostgreSQL's default.
    ///
    /// # Errors
    /// The directory or a segment cannot be read, the configured size is none
    /// that PostgreSQL has.
    pub fn open(instance: &Instance) -> Result<Self, WalError> {
        let dir = instance.wal_dir.clone();
        let size = match instance.config.wal_segment_size {
            Some(bytes) => SegmentSize::new(bytes).ok_or_else(|| WalError::SegmentSize {
                dir: dir.clone(),
                bytes,
            })?,
            None => size_of_first(&dir)?,
        };
        Ok(Self {
            files: Arc::new(Directory(dir.clone())),
            dir,
            size,
            system_identifier: instance.config.system_identifier,
        })
    }

    /// An archive whose files somebody else opens.
    ///
    /// # Errors
    /// [`WalError::SegmentSize`].
    pub fn served(described: Description, files: Arc<dyn ArchiveFiles>) -> Result<Self, WalError> {
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

    /// What [`WalArchive::served`] takes.
    #[must_use]
    pub fn describe(&self) -> Description {
        Description {
            dir: self.dir.clone(),
            segment_size: self.size.bytes(),
            system_identifier: self.system_identifier,
        }
    }

    /// The names of the archive's files.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, WalError> {
        self.files.names().map_err(|source| WalError::List {
            dir: self.dir.clone(),
            source,
        })
    }

    /// The archive's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes in each segment.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The name of a segment's file.
    #[must_use]
    pub fn name(&self, id: SegmentId) -> String {
        id.name(self.size).to_string()
    }

    /// The history of `timeline`; without a file it has no ancestors. The first
    /// never has one.
    ///
    /// # Errors
    /// The file cannot be read, or makes no sense.
    pub fn history(&self, timeline: u32) -> Result<History, WalError> {
        if timeline == 1 {
            return Ok(History::without_ancestors(timeline));
        }
        let name = format!("{timeline:08X}.history");
        let path = self.dir.join(&name);
        match self.read_whole(&name) {
            Ok(bytes) => {
                // Only the reason, which is for people, may be anything but ASCII.
                History::parse(timeline, &String::from_utf8_lossy(&bytes))
                    .map_err(|source| WalError::History { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(History::without_ancestors(timeline))
            }
            Err(source) => Err(WalError::Read { path, source }),
        }
    }

    /// The content of a small file.
    fn read_whole(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.files.open(name)?.read_to_end(&mut content)?;
        Ok(content)
    }
}

/// The size that the first whole segment of a directory states.
fn size_of_first(dir: &Path) -> Result<SegmentSize, WalError> {
    const POSTGRESQL_DEFAULT: u64 = 16 << 20;
    let directory = Directory(dir.to_owned());
    let mut names = directory.names().map_err(|source| WalError::List {
        dir: dir.to_owned(),
        source,
    })?;
    names.sort();
    let bytes = match names.iter().find(|name| is_segment_name(name)) {
        Some(name) => stated_size(&dir.join(name))?,
        None => POSTGRESQL_DEFAULT,
    };
    SegmentSize::new(bytes).ok_or_else(|| WalError::SegmentSize {
        dir: dir.to_owned(),
        bytes,
    })
}

fn stated_size(path: &Path) -> Result<u64, WalError> {
    let mut start = [0; LONG_HEADER];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .map_err(|source| WalError::Read {
            path: path.to_owned(),
            source,
        })?;
    let header = PageHeader::parse(&start).map_err(|problem| WalError::NotTheSegment {
        path: path.to_owned(),
        problem,
    })?;
    Ok(header.long.map_or(0, |long| u64::from(long.segment_size)))
}
