//! Fetching one file, as PostgreSQL's `restore_command` does.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{WalArchive, WalError};
use crate::catalog::store::Sequential;
use crate::pg::wal::page::{PAGE_SIZE, PageHeader};
use crate::pg::wal::scan::{End, Scanner};
use crate::pg::wal::segment::{backup_history_segment, history_timeline};
use crate::pg::wal::{SegmentId, SegmentSize};
use crate::untrusted::Dir;

/// How much is moved at once, in bytes; a multiple of the page size.
const CHUNK: usize = 256 << 10;

/// How a segment is stored, in the order in which pg_probackup's archive-get
/// looks for it.
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
    /// All, in that order.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Plain, Self::PartialGzip, Self::Partial];

    fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Plain => "",
            Self::PartialGzip => ".gz.partial",
            Self::Partial => ".partial",
        }
    }

    /// Whether it is the beginning of a segment only.
    #[must_use]
    pub fn is_partial(self) -> bool {
        matches!(self, Self::PartialGzip | Self::Partial)
    }

    fn is_compressed(self) -> bool {
        matches!(self, Self::Gzip | Self::PartialGzip)
    }

    /// The name of a segment's file in this form.
    pub(super) fn name_of(self, segment: &str) -> String {
        format!("{segment}{}", self.suffix())
    }

    /// The segment and the form of a file, by its name.
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
    /// The archive does not have it, and needs not have it.
    Missing,
}

impl WalArchive {
    /// Fetches the file that PostgreSQL calls `name` to `destination`.
    ///
    /// The content goes to a temporary name beside it and gets its own name
    /// once it is complete and checked; nothing is synced, because PostgreSQL
    /// does that when it moves the file into its place. A beginning of a
    /// segment is filled up with zeros. Of a missing segment that is needed
    /// to get to later ones, `destination`'s directory may have a copy, as it
    /// does in a STREAM backup; else it is an error.
    ///
    /// One fetch at a time may write to a `destination`, as PostgreSQL does.
    ///
    /// # Errors
    /// Anything that would make PostgreSQL replay something wrong, or stop
    /// where it should not: see [`WalError`].
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
                // An archive that is gone as a whole has no end either.
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
        // A recycled segment bears the name as well, but not the content.
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

    /// The stored file of a segment, the first that there is.
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

    /// Copies a whole segment, checking it on the way: its first page, its
    /// length, gzip's own checksum. A plain one has no checksum of its own, so
    /// its records' are taken; but the last segment of an archive may have
    /// been put there before it was full.
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

    /// Gives a segment's content to `take`, in chunks of whole pages but for
    /// the last of an incomplete one, and returns its length in bytes.
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
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.read_error(source)),
            }
        }
        Ok(filled)
    }

    /// A failure of the decoder is damage; one of the system is not.
    fn read_error(&self, source: io::Error) -> WalError {
        let path = self.path.clone();
        if self.form.is_compressed() && source.raw_os_error().is_none() {
            WalError::Gzip { path, source }
        } else {
            WalError::Read { path, source }
        }
    }
}

/// A file that is being written under its temporary name.
pub(super) struct Output<'a> {
    file: File,
    path: &'a Path,
}

impl Output<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.error(source))
    }

    /// Fills up with zeros from `length` to `wanted` bytes.
    fn extend_to(&mut self, length: u64, wanted: u64) -> Result<(), WalError> {
        if length >= wanted {
            return Ok(());
        }
        let extended = self.file.set_len(wanted);
        extended.map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> WalError {
        WalError::Write {
            path: self.path.to_owned(),
            source,
        }
    }
}

/// Has `write` write a new file under a temporary name, and gives it its own
/// name if that went well, over whatever is there.
pub(super) fn deliver(
    destination: &Path,
    write: impl FnOnce(&mut Output<'_>) -> Result<(), WalError>,
) -> Result<(), WalError> {
    let write_error = |source| WalError::Write {
        path: destination.to_owned(),
        source,
    };
    let (dir, name) = Dir::of_file(destination).map_err(write_error)?;
    // Always the same for a destination, so that a killed fetch leaves at most
    // one file behind, which the next one replaces.
    let temporary: OsString = [name, ".pbkfs".as_ref()].into_iter().collect();
    let path = destination.with_file_name(&temporary);
    let created = dir.remove_file(&temporary);
    let created = created.and_then(|()| dir.create(&temporary, 0o600));
    let result = created
        .map_err(|source| WalError::Write {
            path: path.clone(),
            source,
        })
        .and_then(|file| write(&mut Output { file, path: &path }))
        .and_then(|()| dir.rename(&temporary, name).map_err(write_error));
    if result.is_err() {
        // What made the write fail is what has to be told; a leftover is
        // replaced by the next fetch.
        let _ = dir.remove_file(&temporary);
    }
    result
}
