//! Fetches a single file, as PostgreSQL's `restore_command` does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{WalArchive, WalError};
use crate::catalog::store::{self, Sequential};
use crate::pg::wal::page::{PAGE_SIZE, PageHeader};
use crate::pg::wal::scan::{End, Scanner};
use crate::pg::wal::segment::{backup_history_segment, history_timeline};
use crate::pg::wal::{SegmentId, SegmentSize};
use crate::untrusted::Dir;

/// Number of bytes moved at a time; a multiple of the page size.
const CHUNK: usize = 256 << 10;

/// The format in which a segment is stored, in the order in which pg_probackup's
/// archive-get tries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// `SEGMENT.gz`.
    Gzip,
    /// `SEGMENT`.
    Plain,
    /// `SEGMENT.gz.partial`.
    PartialGzip,
    /// `SEGMENT.partial`.
    Partial,
}

impl Form {
    /// All formats, in that order.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Plain, Self::PartialGzip, Self::Partial];

    fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Plain => "",
            Self::PartialGzip => ".gz.partial",
            Self::Partial => ".partial",
        }
    }

    /// Whether it contains only the beginning of a segment.
    #[must_use]
    pub fn is_partial(self) -> bool {
        matches!(self, Self::PartialGzip | Self::Partial)
    }

    fn is_compressed(self) -> bool {
        matches!(self, Self::Gzip | Self::PartialGzip)
    }

    /// Returns the name of a segment's file in this format.
    pub(super) fn name_of(self, segment: &str) -> String {
        format!("{segment}{}", self.suffix())
    }

    /// Parses a file's name into its segment and format.
    pub(super) fn of(name: &str, size: SegmentSize) -> Option<(SegmentId, Self)> {
        Self::ALL.into_iter().find_map(|form| {
            let segment = name.strip_suffix(form.suffix())?;
            Some((SegmentId::parse(segment, size)?, form))
        })
    }
}

/// The outcome of a fetch that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file is at its destination.
    Delivered,
    /// The archive does not have the file, and is not required to have it.
    Missing,
}

impl WalArchive {
    /// Fetches the file that PostgreSQL calls `name` to `destination`.
    ///
    /// The content is written under a temporary name in the same directory, and the file
    /// is renamed once it is complete and checked. Nothing is synced, because PostgreSQL
    /// does that when it moves the file into place. A partial segment is padded with
    /// zeros. A missing segment that is needed to reach later ones is an error, unless
    /// `destination`'s directory has a copy, as in a STREAM backup.
    ///
    /// Only one fetch at a time may write to a `destination`, as is the case with
    /// PostgreSQL.
    ///
    /// # Errors
    /// Returns a [`WalError`] for anything that would make PostgreSQL replay wrong WAL,
    /// or stop at the wrong place.
    pub fn fetch(&self, name: &str, destination: &Path) -> Result<Fetched, WalError> {
        if let Some(id) = SegmentId::parse(name, self.size) {
            let Some(mut source) = self.open_segment(id)? else {
                return self.explain_missing(id, destination);
            };
            deliver(destination, |out| self.copy_segment(id, &mut source, out))?;
            return Ok(Fetched::Delivered);
        }
        if history_timeline(name).is_none() && backup_history_segment(name).is_none() {
            return Err(WalError::Name {
                name: name.to_owned(),
            });
        }
        let path = self.dir.join(name);
        match self.read_whole(name) {
            Ok(content) => {
                deliver(destination, |out| out.write(&content))?;
                Ok(Fetched::Delivered)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // If the whole archive is missing, the missing file does not mark its
                // end.
                self.names()?;
                Ok(Fetched::Missing)
            }
            Err(source) => Err(WalError::Read { path, source }),
        }
    }

    fn explain_missing(&self, id: SegmentId, destination: &Path) -> Result<Fetched, WalError> {
        let Err(gap) = self.check_end(id) else {
            return Ok(Fetched::Missing);
        };
        let name = self.name(id);
        let local = destination.with_file_name(&name);
        // A recycled segment also has the name, but not the content.
        let is_there = |mut file: File| {
            let mut page = [0; PAGE_SIZE];
            file.read_exact(&mut page).is_ok() && self.check_first_page(id, &page, &local).is_ok()
        };
        let open = || Dir::of_file(destination)?.0.file(&name);
        if matches!(gap, WalError::Gap { .. }) && open().is_ok_and(is_there) {
            return Ok(Fetched::Missing);
        }
        Err(gap)
    }

    /// Opens the stored file of a segment, in the first format that exists.
    pub(super) fn open_segment(&self, id: SegmentId) -> Result<Option<StoredSegment>, WalError> {
        for form in Form::ALL {
            let name = form.name_of(&self.name(id));
            let path = self.dir.join(&name);
            match self.files.open(&name) {
                Ok(file) => {
                    let file = Sequential::new(file);
                    let reader: Box<dyn Read> = match form.is_compressed() {
                        true => Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(
                            CHUNK, file,
                        ))),
                        false => Box::new(file),
                    };
                    return Ok(Some(StoredSegment { path, form, reader }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(WalError::Read { path, source }),
            }
        }
        Ok(None)
    }

    /// Copies a whole segment and checks its first page, its length, and gzip's own
    /// checksum. A plain segment has no checksum of its own, so the checksums of its
    /// records are used, except for the archive's last segment, which may have been
    /// archived before it was full.
    pub(super) fn copy_segment(
        &self,
        id: SegmentId,
        source: &mut StoredSegment,
        out: &mut Output<'_>,
    ) -> Result<(), WalError> {
        let scan = source.form == Form::Plain && self.open_segment(id.next())?.is_some();
        let mut scanner = scan.then(|| Scanner::new(id.start(self.size)));
        let copied = self.read_segment(id, source, &mut |chunk| {
            if let Some(scanner) = &mut scanner {
                chunk.chunks(PAGE_SIZE).for_each(|page| scanner.page(page));
            }
            out.write(chunk)
        })?;
        if let Some(End::Damaged { at, problem }) = scanner.and_then(|s| s.end()) {
            return Err(WalError::Record {
                path: source.path.clone(),
                at,
                problem,
            });
        }
        out.extend_to(copied, self.size.bytes())
    }

    /// Passes a segment's content to `take` in chunks of whole pages, except for the last
    /// chunk of an incomplete segment. Returns its length in bytes.
    pub(super) fn read_segment(
        &self,
        id: SegmentId,
        source: &mut StoredSegment,
        take: &mut dyn FnMut(&[u8]) -> Result<(), WalError>,
    ) -> Result<u64, WalError> {
        let mut chunk = vec![0; CHUNK];
        let mut length = 0;
        loop {
            let filled = source.fill(&mut chunk)?;
            let content = chunk.get(..filled).unwrap_or_default();
            if length == 0 {
                self.check_first_page(id, content, &source.path)?;
            }
            length += filled as u64;
            if length > self.size.bytes() {
                return Err(self.wrong_length(source, None));
            }
            take(content)?;
            if filled < CHUNK {
                break;
            }
        }
        if length < self.size.bytes() && !source.form.is_partial() {
            return Err(self.wrong_length(source, Some(length)));
        }
        Ok(length)
    }

    fn wrong_length(&self, source: &StoredSegment, found: Option<u64>) -> WalError {
        WalError::Length {
            path: source.path.clone(),
            found,
            expected: self.size.bytes(),
        }
    }

    fn check_first_page(&self, id: SegmentId, page: &[u8], path: &Path) -> Result<(), WalError> {
        PageHeader::parse(page)
            .and_then(|header| header.check_first(id, self.size, self.system_identifier))
            .map_err(|problem| WalError::NotTheSegment {
                path: path.to_owned(),
                problem,
            })
    }
}

/// A stored segment, open for reading.
pub(super) struct StoredSegment {
    pub(super) path: PathBuf,
    pub(super) form: Form,
    pub(super) reader: Box<dyn Read>,
}

impl StoredSegment {
    /// Reads until `buffer` is full or the content ends.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, WalError> {
        let filled = store::fill(buffer, |rest, _| self.reader.read(rest));
        filled.map_err(|source| self.read_error(source))
    }

    /// Distinguishes a failure of the decoder, which is damage, from one of the system,
    /// which is not.
    fn read_error(&self, source: io::Error) -> WalError {
        let path = self.path.clone();
        if self.form.is_compressed() && source.raw_os_error().is_none() {
            WalError::Gzip { path, source }
        } else {
            WalError::Read { path, source }
        }
    }
}

/// A file being written under its temporary name.
pub(super) struct Output<'a> {
    file: File,
    path: &'a Path,
}

impl Output<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let written = self.file.write_all(bytes);
        written.map_err(WalError::write(self.path))
    }

    /// Pads the file with zeros from `length` to `wanted` bytes.
    fn extend_to(&mut self, length: u64, wanted: u64) -> Result<(), WalError> {
        if length >= wanted {
            return Ok(());
        }
        let extended = self.file.set_len(wanted);
        extended.map_err(WalError::write(self.path))
    }
}

/// Lets `write` write a new file under a temporary name. On success, renames it to its
/// own name, replacing any existing file.
pub(super) fn deliver(
    destination: &Path,
    write: impl FnOnce(&mut Output<'_>) -> Result<(), WalError>,
) -> Result<(), WalError> {
    let (dir, name) = Dir::of_file(destination).map_err(WalError::write(destination))?;
    // The name depends only on the destination, so that a killed fetch leaves at most one
    // file behind, which the next one replaces.
    let temporary: OsString = [name, ".pbkfs".as_ref()].into_iter().collect();
    let path = destination.with_file_name(&temporary);
    let created = dir.remove_file(&temporary);
    let created = created.and_then(|()| dir.create(&temporary, 0o600));
    let result = created
        .map_err(WalError::write(&path))
        .and_then(|file| write(&mut Output { file, path: &path }))
        .and_then(|()| {
            let renamed = dir.rename(&temporary, name);
            renamed.map_err(WalError::write(destination))
        });
    if result.is_err() {
        // The write's error is the one to report; the next fetch replaces a leftover.
        let _ = dir.remove_file(&temporary);
    }
    result
}
