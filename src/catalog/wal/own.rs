//! The WAL without which a backup cannot be restored: all of it from its start to its
//! stop. A STREAM backup has it in its own `pg_wal`, an ARCHIVE backup in the archive.
//! `pg_probackup validate` marks a backup CORRUPT if any of it is missing (`validate_wal`
//! in pg_probackup's parsexlog.c). Until that is run, the status does not reveal it.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{Form, WalArchive, WalError, WalFault};
use crate::catalog::{Backup, Instance};
use crate::causes::sentence;
use crate::pg::Lsn;
use crate::pg::wal::SegmentId;
use crate::pg::wal::page::{LONG_HEADER, PAGE_SIZE};
use crate::pg::wal::scan::{End, RecordProblem, Scanner};

/// The state of a backup's own WAL.
#[derive(Debug)]
pub enum OwnWal {
    /// All of it exists.
    Complete,
    /// Its metadata does not record where it stopped.
    Unrecorded,
    /// A segment does not exist; the first such segment.
    Missing {
        /// The segment, with its timeline.
        segment: SegmentId,
        /// Its name.
        name: String,
        /// The directory that should contain it.
        dir: PathBuf,
    },
    /// A segment exists but is unusable; the first such segment.
    Damaged {
        /// The segment, with its timeline.
        segment: SegmentId,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: WalError,
    },
}

impl OwnWal {
    /// Whether WAL is missing or damaged, so that the backup cannot be restored.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }

    /// Returns one word: complete, unrecorded, missing or damaged.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unrecorded => "unrecorded",
            Self::Missing { .. } => "missing",
            Self::Damaged { .. } => "damaged",
        }
    }

    /// Returns the segment at fault, and its name.
    #[must_use]
    pub fn segment(&self) -> Option<(SegmentId, &str)> {
        match self {
            Self::Complete | Self::Unrecorded => None,
            Self::Missing { segment, name, .. } | Self::Damaged { segment, name, .. } => {
                Some((*segment, name))
            }
        }
    }
}

impl fmt::Display for OwnWal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("the WAL that it needs is available"),
            Self::Unrecorded => f.write_str("it does not record where its WAL ends"),
            Self::Missing {
                segment, name, dir, ..
            } => write!(
                f,
                "the WAL segment {name} of timeline {}, without which it cannot be restored, is \
                 not in {}; take a new backup, unless you have the segment elsewhere",
                segment.timeline,
                dir.display()
            ),
            Self::Damaged { source, .. } => write!(
                f,
                "the WAL without which it cannot be restored is damaged: {}; take a new backup, \
                 unless you have the segment elsewhere",
                sentence(source)
            ),
        }
    }
}

/// Finds the WAL of an instance's backups. The archive is opened only once, when the
/// first ARCHIVE backup needs it.
#[derive(Debug)]
pub struct OwnWalFinder<'a> {
    instance: &'a Instance,
    archive: OnceCell<WalArchive>,
}

impl<'a> OwnWalFinder<'a> {
    /// Creates a finder without opening anything.
    #[must_use]
    pub fn new(instance: &'a Instance) -> Self {
        Self {
            instance,
            archive: OnceCell::new(),
        }
    }

    /// Checks the names and sizes of the files, which takes a few system calls for each
    /// segment that the backup needs.
    ///
    /// # Errors
    /// If a file exists but cannot be examined, or if the segment size cannot be
    /// determined.
    pub fn look(&self, backup: &Backup) -> Result<OwnWal, WalError> {
        self.each_segment(backup, |archive, id, _| archive.look_at(id))
    }

    /// Reads the WAL between start and stop, and checks the header of each page, and each
    /// record with its checksum.
    ///
    /// # Errors
    /// As for [`look`](Self::look); also if a file cannot be read completely.
    pub fn read(&self, backup: &Backup) -> Result<OwnWal, WalError> {
        let mut reader = Reader::new(backup);
        self.each_segment(backup, |archive, id, is_last| {
            reader.read(archive, id, is_last)
        })
    }

    /// Examines the segments until one is missing or damaged. `look` receives whether a
    /// segment is the last, and returns whether it exists. No matter how far the metadata
    /// says that the WAL extends, this ends with the existing files.
    fn each_segment(
        &self,
        backup: &Backup,
        mut look: impl FnMut(&WalArchive, SegmentId, bool) -> Result<bool, WalError>,
    ) -> Result<OwnWal, WalError> {
        let Some(last_byte) = backup.stop_lsn.0.checked_sub(1).map(Lsn) else {
            return Ok(OwnWal::Unrecorded);
        };
        if last_byte < backup.start_lsn {
            return Ok(OwnWal::Unrecorded);
        }
        let archive = self.place_of(backup)?;
        let containing = |lsn| SegmentId::containing(lsn, backup.timeline, archive.size);
        let (first, last) = (containing(backup.start_lsn), containing(last_byte));
        for number in first.number..=last.number {
            let segment = SegmentId { number, ..first };
            let name = archive.name(segment);
            match look(&archive, segment, segment == last) {
                Ok(true) => {}
                Ok(false) => {
                    return Ok(OwnWal::Missing {
                        segment,
                        name,
                        dir: archive.dir,
                    });
                }
                // A fault of the file is one of the backup; a fault of the host is
                // neither.
                Err(source) if source.fault() == WalFault::Damaged => {
                    return Ok(OwnWal::Damaged {
                        segment,
                        name,
                        source,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(OwnWal::Complete)
    }

    /// Returns the location of a backup's WAL.
    fn place_of(&self, backup: &Backup) -> Result<WalArchive, WalError> {
        if backup.stream {
            return WalArchive::at(backup.file("pg_wal"), &self.instance.config);
        }
        let opened = match self.archive.get() {
            Some(opened) => opened.clone(),
            None => WalArchive::open(self.instance)?,
        };
        Ok(self.archive.get_or_init(|| opened).clone())
    }
}

impl WalArchive {
    /// Returns whether a segment exists, and judges it by the size of the file from which
    /// it would be fetched.
    fn look_at(&self, id: SegmentId) -> Result<bool, WalError> {
        for form in Form::ALL {
            let name = form.name_of(&self.name(id));
            let path = self.dir.join(&name);
            let length = match self.files.open(&name).and_then(|file| file.length()) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(WalError::Read { path, source }),
            };
            let expected = self.size.bytes();
            let is_possible = match form {
                Form::Plain => length == expected,
                Form::Partial => length <= expected,
                Form::Gzip | Form::PartialGzip => length > 0,
            };
            return match is_possible {
                true => Ok(true),
                false => Err(WalError::Length {
                    path,
                    found: Some(length),
                    expected,
                }),
            };
        }
        Ok(false)
    }
}

/// Reads a backup's WAL in order, one segment after the other.
struct Reader {
    /// Start of the page in which the backup starts.
    start: Lsn,
    /// End of the required WAL.
    stop: Lsn,
    scanner: Option<Scanner>,
}

impl Reader {
    fn new(backup: &Backup) -> Self {
        let page = PAGE_SIZE as u64;
        let stop = backup.stop_lsn.0;
        // If it stops right after a page's header, that page is not needed.
        let stop = match stop % page <= LONG_HEADER as u64 {
            true => stop - stop % page,
            false => stop,
        };
        Self {
            start: Lsn(backup.start_lsn.0 - backup.start_lsn.0 % page),
            stop: Lsn(stop),
            scanner: None,
        }
    }

    /// Reads a segment, and returns whether it exists.
    fn read(
        &mut self,
        archive: &WalArchive,
        id: SegmentId,
        is_last: bool,
    ) -> Result<bool, WalError> {
        let Some(mut source) = archive.open_segment(id)? else {
            return Ok(false);
        };
        let path = source.path.clone();
        let mut address = id.start(archive.size);
        let begin = address.max(self.start);
        let mut scanner = match self.scanner.take() {
            // After a switch, records start afresh in the next segment.
            Some(scanner) if scanner.end().is_none() => scanner,
            _ => Scanner::new(begin),
        };
        archive.read_segment(id, &mut source, &mut |chunk| {
            for page in chunk.chunks(PAGE_SIZE) {
                if address >= begin && address < self.stop {
                    scanner.page(page);
                }
                address = Lsn(address.0.saturating_add(PAGE_SIZE as u64));
            }
            Ok(())
        })?;
        let read_to = scanner.last_end().unwrap_or(begin);
        let damaged = |at, problem| WalError::Record { path, at, problem };
        match scanner.end() {
            Some(End::Damaged { at, problem }) if at < self.stop => {
                return Err(damaged(at, problem));
            }
            // Records start at multiples of eight.
            Some(End::NoRecord) | None
                if (is_last || scanner.end().is_some())
                    && Lsn(read_to.0.next_multiple_of(8)) < self.stop =>
            {
                return Err(damaged(read_to, RecordProblem::Length(0)));
            }
            _ => {}
        }
        self.scanner = Some(scanner);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::catalog::fixtures;

    /// An unpacked fixture with its WAL, and the backup with this id.
    struct Sample {
        _unpacked: TempDir,
        instance: Instance,
        backup: Backup,
    }

    /// An ARCHIVE backup of pg15-chain, whose archive is compressed.
    const ARCHIVED: &str = "TOW7K6";
    /// A STREAM backup of the same fixture.
    const STREAMED: &str = "TOW7KQ";

    impl Sample {
        fn new(fixture: &str, id: &str) -> Self {
            let unpacked = fixtures::unpack_all_wal(fixture);
            let instance = fixtures::main_instance(&unpacked);
            let id = crate::catalog::BackupId(id.to_owned());
            Self {
                backup: instance.backup(&id).unwrap(),
                instance,
                _unpacked: unpacked,
            }
        }

        /// The results of both looking and reading.
        fn both(&self) -> [OwnWal; 2] {
            let finder = OwnWalFinder::new(&self.instance);
            [
                finder.look(&self.backup).unwrap(),
                finder.read(&self.backup).unwrap(),
            ]
        }

        fn words(&self) -> [&'static str; 2] {
            self.both().map(|own| own.word())
        }

        /// The stored files of the backup's own segments, in order.
        fn files(&self) -> Vec<PathBuf> {
            let finder = OwnWalFinder::new(&self.instance);
            let mut files = Vec::new();
            let complete = finder.each_segment(&self.backup, |archive, id, _| {
                files.push(archive.open_segment(id)?.unwrap().path);
                Ok(true)
            });
            assert!(matches!(complete, Ok(OwnWal::Complete)));
            files
        }
    }

    fn flip(path: &Path, at: u64) {
        let file = fs::File::options().read(true).write(true).open(path);
        let file = file.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }

    #[test]
    fn every_real_backup_has_its_own_wal() {
        for fixture in fixtures::ALL {
            let unpacked = fixtures::unpack_all_wal(fixture);
            let instance = fixtures::main_instance(&unpacked);
            let finder = OwnWalFinder::new(&instance);
            for backup in instance.backups().unwrap() {
                let looked = finder.look(&backup).unwrap();
                assert!(matches!(looked, OwnWal::Complete), "{fixture}: {looked}");
                let read = finder.read(&backup).unwrap();
                assert!(matches!(read, OwnWal::Complete), "{fixture}: {read}");
            }
        }
    }

    #[test]
    fn a_missing_segment_is_named() {
        for id in [ARCHIVED, STREAMED] {
            let sample = Sample::new("pg15-chain", id);
            let file = sample.files().pop().unwrap();
            fs::remove_file(&file).unwrap();
            for own in sample.both() {
                assert!(own.is_bad());
                let (segment, name) = own.segment().unwrap();
                assert_eq!(segment.timeline, 1);
                let stored = file.file_name().unwrap().to_str().unwrap();
                assert_eq!(stored.trim_end_matches(".gz"), name);
                let told = own.to_string();
                let dir = file.parent().unwrap().display().to_string();
                assert!(told.contains(name) && told.contains(&dir), "{told}");
            }
        }
    }

    #[test]
    fn a_segment_of_another_size_is_damaged() {
        for id in [ARCHIVED, STREAMED] {
            let sample = Sample::new("pg15-chain", id);
            let file = sample.files().remove(0);
            fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(if id == ARCHIVED { 0 } else { 500_000 })
                .unwrap();
            assert_eq!(sample.words(), ["damaged", "damaged"], "{id}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_segment_is_damage() {
        let sample = Sample::new("pg15-chain", STREAMED);
        let file = sample.files().remove(0);
        let elsewhere = file.with_file_name("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert_eq!(sample.words(), ["damaged", "damaged"]);
    }

    #[test]
    fn only_what_stands_between_start_and_stop_counts() {
        let sample = Sample::new("pg15-chain", STREAMED);
        let (start, stop) = (sample.backup.start_lsn, sample.backup.stop_lsn);
        let file = sample.files().remove(0);
        let in_segment = |lsn: Lsn| lsn.0 % (1 << 20);
        // Everything between them is on one page of one segment.
        assert_eq!(in_segment(start) / 8192, in_segment(stop) / 8192);
        flip(&file, in_segment(stop) + 20_000);
        assert_eq!(sample.words(), ["complete", "complete"]);
        flip(&file, in_segment(stop) - 12);
        assert_eq!(sample.words(), ["complete", "damaged"]);
        flip(&file, in_segment(stop) - 12);
        assert_eq!(sample.words(), ["complete", "complete"]);
        // Records that end too early.
        let zeros = vec![0; (in_segment(stop) - in_segment(start)) as usize];
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.write_all_at(&zeros, in_segment(start)).unwrap();
        assert_eq!(sample.words(), ["complete", "damaged"]);
    }

    #[test]
    fn what_a_backup_does_not_record_is_not_judged() {
        let mut sample = Sample::new("pg15-chain", STREAMED);
        sample.backup.stop_lsn = Lsn(0);
        assert_eq!(sample.words(), ["unrecorded", "unrecorded"]);
        // A stop that cannot be reached does not take forever, either.
        sample.backup.stop_lsn = Lsn(u64::MAX);
        assert_eq!(sample.words(), ["missing", "missing"]);
    }
}
