//! The one table of what each failure says about a backup. A backup is bad
//! only where there is evidence that it is; a fault of this host, a lack of
//! time or room, and whatever is not known here, is "could not tell".

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

use crate::catalog::content::ContentError;
use crate::catalog::error::ControlError;
use crate::catalog::page_index::PageIndexError;
use crate::catalog::wal::WalError;
use crate::catalog::{BackupStatus, CatalogError};
use crate::chain::ChainError;
use crate::image::ImageError;
use crate::overlay::OverlayError;
use crate::server::ServerError;
use crate::session::{Counts, SessionError};
use crate::untrusted::refused;

/// What is known of a backup. The worse counts more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was asked for was done and was right.
    Proved,
    /// Of what was asked for only the pages were looked at, and they are right.
    PagesRight,
    /// Something else than the backup kept it from being proved.
    CouldNotTell,
    /// It is bad.
    Bad,
}

impl Verdict {
    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Proved | Self::PagesRight => 0,
            Self::Bad => 1,
            Self::CouldNotTell => 3,
        }
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::PagesRight => "pages right",
            Self::Bad => "BAD",
            Self::CouldNotTell => "could not tell",
        }
    }
}

use Verdict::{Bad, CouldNotTell};

/// What ended a session says about its backup, given the faults that its mount
/// counted. `None`: nothing, because it was asked for wrongly.
#[must_use]
pub fn of_session(error: &SessionError, faults: &Counts) -> Option<Verdict> {
    Some(match error {
        SessionError::Profile(_) | SessionError::Usage { .. } | SessionError::NoDiff { .. } => {
            return None;
        }
        SessionError::Catalog(e) => return of_catalog(e),
        SessionError::Chain(e) => return of_chain(e),
        SessionError::Image(e) => of_image(e),
        SessionError::ControlFile(_) | SessionError::EndedEarly { .. } => Bad,
        SessionError::Wal(e) => of_wal(e),
        SessionError::RecoveryStopped { reason, .. } => of_complaint(reason),
        SessionError::Overlay(OverlayError::Lower(e)) => match e.downcast_ref::<ImageError>() {
            Some(e) => of_image(e),
            None => CouldNotTell,
        },
        SessionError::Server(e) => return of_server(e, faults),
        SessionError::ServerDied { status, log } => of_death(*status, &log.to_string(), faults),
        SessionError::Probackup(_)
        | SessionError::BackupGone { .. }
        | SessionError::NoBackupBefore { .. }
        | SessionError::WalMissing { .. }
        | SessionError::OutOfReach { .. }
        | SessionError::WalCommand { .. }
        | SessionError::RunDir { .. }
        | SessionError::RecoveredElsewhere { .. }
        | SessionError::Locks { .. }
        | SessionError::Diff(_)
        | SessionError::Overlay(_)
        | SessionError::Fuse(_)
        | SessionError::MountGone { .. }
        | SessionError::LostWrites { .. }
        | SessionError::NoAnswer { .. }
        | SessionError::Target(_)
        | SessionError::NotOurs { .. }
        | SessionError::Occupied { .. }
        | SessionError::HasServer { .. }
        | SessionError::EndedBadly { .. }
        | SessionError::DidNotEnd { .. }
        | SessionError::ServerStays { .. }
        | SessionError::Interrupted
        | SessionError::Extract { .. }
        | SessionError::NotEnclosed { .. }
        | SessionError::WalUnusable { .. }
        | SessionError::Io { .. }
        | SessionError::BadState { .. } => CouldNotTell,
    })
}

fn of_catalog(error: &CatalogError) -> Option<Verdict> {
    match error {
        CatalogError::InvalidInstanceName { .. }
        | CatalogError::NoSuchInstance { .. }
        | CatalogError::NoSuchBackup { .. } => None,
        // A disk that is not mounted looks like that.
        CatalogError::NotACatalog { .. } => Some(CouldNotTell),
        CatalogError::Read { source, .. }
        | CatalogError::Control(ControlError::Read { source, .. }) => Some(of_read(source)),
        CatalogError::Control(
            ControlError::Syntax { .. } | ControlError::Value { .. } | ControlError::Missing { .. },
        ) => Some(Bad),
    }
}

/// A chain that pg_probackup itself does not restore is not looked at: its own word
/// is the evidence.
fn of_chain(error: &ChainError) -> Option<Verdict> {
    Some(match error {
        ChainError::NoSuchBackup { .. } => return None,
        ChainError::Reread { source, .. } => return of_catalog(source),
        ChainError::Unlisted { source, .. } => of_content(source.as_ref()),
        ChainError::Status { status, .. } => of_status(*status),
        ChainError::NothingRestorable { newest, .. } => {
            let verdicts = newest.iter().map(|(_, status)| of_status(*status));
            verdicts.min().unwrap_or(CouldNotTell)
        }
        ChainError::MissingParent { .. } | ChainError::Cycle { .. } | ChainError::NoFull { .. } => {
            Bad
        }
        ChainError::Changed { .. }
        | ChainError::UnsupportedMajor { .. }
        | ChainError::UnsupportedBlockSize { .. } => CouldNotTell,
    })
}

/// One that is being made, merged or deleted may be well in a moment.
fn of_status(status: BackupStatus) -> Verdict {
    match status {
        BackupStatus::Error | BackupStatus::Orphan | BackupStatus::Corrupt => Bad,
        BackupStatus::Unknown
        | BackupStatus::Ok
        | BackupStatus::Done
        | BackupStatus::Running
        | BackupStatus::Merging
        | BackupStatus::Merged
        | BackupStatus::Deleting
        | BackupStatus::Deleted => CouldNotTell,
    }
}

/// What a file of the backup says that cannot be shown.
#[must_use]
pub fn of_image(error: &ImageError) -> Verdict {
    match error {
        ImageError::Content { source, .. } => of_content(source),
        ImageError::Stored { source, .. } => of_read(source),
        ImageError::Index { source, .. } => match source {
            PageIndexError::Read { source, .. } => of_read(source),
            PageIndexError::Deflate { .. }
            | PageIndexError::MapLength { .. }
            | PageIndexError::MapChecksum { .. }
            | PageIndexError::TooManyPages(_)
            | PageIndexError::Record { .. } => Bad,
        },
        ImageError::EmptyChain
        | ImageError::Refused { .. }
        | ImageError::Misplaced { .. }
        | ImageError::KindChanged { .. }
        | ImageError::NotInParent { .. }
        | ImageError::Short { .. }
        | ImageError::Long { .. }
        | ImageError::Checksum { .. }
        | ImageError::Control { .. }
        | ImageError::Page(_) => Bad,
        // What this program cannot do, another may.
        ImageError::Cfs { .. } | ImageError::NotAFile { .. } => CouldNotTell,
    }
}

fn of_content(error: &ContentError) -> Verdict {
    match error {
        ContentError::Read { source, .. } => of_read(source),
        ContentError::Checksum { .. }
        | ContentError::Line { .. }
        | ContentError::Duplicate { .. } => Bad,
    }
}

/// A file of the backup that is not there, or ends too early, is lost, and so
/// is one in whose place, or above it, something else stands; one that may not
/// be read, or whose disk fails, may be well.
fn of_read(source: &io::Error) -> Verdict {
    match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData => Bad,
        _ if refused(source).is_some() => Bad,
        _ => CouldNotTell,
    }
}

/// What an error of WAL says that is read.
#[must_use]
pub fn of_wal(error: &WalError) -> Verdict {
    match error {
        WalError::Gzip { .. }
        | WalError::Length { .. }
        | WalError::NotTheSegment { .. }
        | WalError::Record { .. }
        | WalError::History { .. } => Bad,
        WalError::Read { source, .. } if refused(source).is_some() => Bad,
        // The missing WAL may be elsewhere.
        WalError::Gap { .. }
        | WalError::List { .. }
        | WalError::Read { .. }
        | WalError::Write { .. }
        | WalError::SegmentSize { .. }
        | WalError::Name { .. } => CouldNotTell,
    }
}

/// What pbkfs wal-get complained of, in its own words.
fn of_complaint(reason: &str) -> Verdict {
    const DAMAGE: &[&str] = &[
        "is damaged",
        "is not the WAL segment of its name",
        "which does not belong there",
    ];
    match DAMAGE.iter().any(|words| reason.contains(words)) {
        true => Bad,
        false => CouldNotTell,
    }
}

fn of_server(error: &ServerError, faults: &Counts) -> Option<Verdict> {
    Some(match error {
        ServerError::ForcedSetting { .. }
        | ServerError::FencedSetting { .. }
        | ServerError::NothingToAllow { .. }
        | ServerError::BadSetting { .. }
        | ServerError::RefusedSettings { .. } => return None,
        ServerError::Died { status, log } => of_death(*status, &log.to_string(), faults),
        ServerError::Refused { log, source, .. } => of_text(&format!("{log}\n{source}"), faults),
        ServerError::NotReady { .. }
        | ServerError::MissingLocale { .. }
        | ServerError::NoBinaries { .. }
        | ServerError::Run { .. }
        | ServerError::RunTimeout { .. }
        | ServerError::RunFailed { .. }
        | ServerError::NotUtf8 { .. }
        | ServerError::Read { .. }
        | ServerError::Write { .. }
        | ServerError::NoUser { .. }
        | ServerError::RootUser { .. }
        | ServerError::LookUp { .. }
        | ServerError::SocketPathTooLong { .. }
        | ServerError::PortTaken { .. }
        | ServerError::NoFreePort { .. }
        | ServerError::Spawn { .. }
        | ServerError::Paused { .. }
        | ServerError::Interrupted
        | ServerError::NotFenced { .. }
        | ServerError::NoNamespaces { .. }
        | ServerError::Replaced { .. }
        | ServerError::TooManyTablespaces { .. }
        | ServerError::Control { .. }
        | ServerError::Unkillable { .. } => CouldNotTell,
    })
}

/// What a server's end says. One that a signal ended was killed: by somebody,
/// or because memory ran out.
fn of_death(status: ExitStatus, log: &str, faults: &Counts) -> Verdict {
    match status.signal() {
        Some(_) => CouldNotTell,
        None => of_text(log, faults),
    }
}

/// What PostgreSQL says when the host is at fault.
const HOST: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "out of memory",
    "Permission denied",
    "Operation not permitted",
    "Too many open files",
    "Read-only file system",
    "File too large",
    "Transport endpoint is not connected",
    "could not access file \"$libdir",
    "could not load library",
    "shared memory",
    "was terminated by signal 9",
    "canceling statement due to",
];

/// What it says when its files are.
const DAMAGE: &[&str] = &[
    "invalid page in block",
    "page verification failed",
    "could not read block",
    "invalid checkpoint record",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "could not find redo location",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "WAL contains references to invalid pages",
    "incorrect resource manager data checksum",
    "invalid magic number",
    "unexpected pageaddr",
    "incorrect checksum in control file",
    "control file appears to be corrupt",
    "incorrect checksum in file",
    "relation mapping file",
    "invalid data in file",
    "could not access status of transaction",
    "is not a valid data directory",
    "could not open file \"base/",
    "could not open file \"global/",
    "could not open file \"pg_",
    "missing chunk number",
    "unexpected chunk number",
    "compressed pglz data is corrupt",
    "compressed lz4 data is corrupt",
    "unexpected zero page",
    "contains corrupted page",
    "invalid memory alloc request size",
    "backup_label contains data inconsistent with control file",
    "was terminated by signal 6",
    "was terminated by signal 11",
    "was terminated by signal 7",
];

/// What the words of PostgreSQL or its programs say, given the faults that the
/// mount counted.
#[must_use]
pub fn of_text(text: &str, faults: &Counts) -> Verdict {
    match says(text, DAMAGE) {
        true => of_broken(text, faults),
        false => of_faults(faults),
    }
}

/// What an error says by which PostgreSQL means broken data or files.
#[must_use]
pub fn of_broken(text: &str, faults: &Counts) -> Verdict {
    let of_host = count(faults, "errors_no_space") + count(faults, "errors_diff") > 0;
    // An EIO that no damaged page explains is of a disk.
    match of_host || says(text, HOST) || text.contains("Input/output error") {
        true => of_faults(faults),
        false => Bad,
    }
}

/// What the mount alone says: a page of the backup that it could not show.
#[must_use]
pub fn of_faults(faults: &Counts) -> Verdict {
    match count(faults, "errors_damaged_page") > 0 {
        true => Bad,
        false => CouldNotTell,
    }
}

fn count(faults: &Counts, key: &str) -> u64 {
    faults.get(key).copied().unwrap_or(0)
}

fn says(text: &str, list: &[&str]) -> bool {
    list.iter().any(|what| text.contains(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::LogTail;
    use crate::untrusted::{Kind, Refused};

    fn died(raw_status: i32, line: &str) -> SessionError {
        SessionError::ServerDied {
            status: ExitStatus::from_raw(raw_status),
            log: LogTail {
                path: "/log".into(),
                lines: vec![line.to_owned()],
            },
        }
    }

    #[test]
    fn a_killed_server_says_nothing_and_a_broken_one_does() {
        let none = Counts::new();
        let judge = |raw, line: &str| of_session(&died(raw, line), &none).unwrap();
        assert_eq!(judge(9, "PANIC: invalid page in block 3"), CouldNotTell);
        assert_eq!(
            judge(1 << 8, "FATAL: WAL ends before end of online backup"),
            Bad
        );
        let full = "PANIC: could not write to file \"pg_wal/x\": No space left on device";
        assert_eq!(judge(1 << 8, full), CouldNotTell);
        assert_eq!(judge(1 << 8, "FATAL: something new"), CouldNotTell);
    }

    #[test]
    fn faults_of_the_mount_decide() {
        let faults = |key: &str| Counts::from([(key.to_owned(), 1)]);
        let eio = "ERROR: could not read block 3 in file \"base/1/2\": Input/output error";
        assert_eq!(of_text(eio, &faults("errors_damaged_page")), Bad);
        assert_eq!(of_text(eio, &faults("errors_catalog")), CouldNotTell);
        let page = "ERROR: invalid page in block 3";
        assert_eq!(of_text(page, &Counts::new()), Bad);
        assert_eq!(of_text(page, &faults("errors_no_space")), CouldNotTell);
    }

    #[test]
    fn a_lost_file_is_lost_and_a_closed_one_may_be_well() {
        let stored = |kind: io::ErrorKind| ImageError::Stored {
            path: "x".into(),
            backup: crate::catalog::BackupId("A".into()),
            file: "/x".into(),
            source: kind.into(),
        };
        assert_eq!(of_image(&stored(io::ErrorKind::NotFound)), Bad);
        let closed = stored(io::ErrorKind::PermissionDenied);
        assert_eq!(of_image(&closed), CouldNotTell);
        assert_eq!(of_image(&stored(io::ErrorKind::NotADirectory)), Bad);
    }

    #[test]
    fn what_does_not_belong_into_a_catalog_is_damage() {
        let link = || io::Error::from(Refused::Is(Kind::Symlink));
        let path = || "/c/x".into();
        let list = ImageError::Content {
            backup: crate::catalog::BackupId("A".into()),
            source: ContentError::Read {
                path: path(),
                source: link(),
            },
        };
        assert_eq!(of_image(&list), Bad);
        let read = |source| WalError::Read {
            path: path(),
            source,
        };
        assert_eq!(of_wal(&read(link())), Bad);
        let denied = io::ErrorKind::PermissionDenied.into();
        assert_eq!(of_wal(&read(denied)), CouldNotTell);
        // As the restore_command tells it.
        let told = crate::causes::sentence(&read(link()));
        assert_eq!(of_complaint(&told), Bad);
    }

    fn stored(source: io::Error) -> SessionError {
        let error = ImageError::Stored {
            path: "x".into(),
            backup: crate::catalog::BackupId("A".into()),
            file: "/x".into(),
            source,
        };
        error.into()
    }

    fn status(status: BackupStatus) -> SessionError {
        let id = || crate::catalog::BackupId("A".into());
        let error = ChainError::Status {
            instance: "main".into(),
            target: id(),
            member: id(),
            status,
            dir: "/c".into(),
        };
        error.into()
    }

    /// Each row of the table that people read, but for those of the checks and of a
    /// whole report, which have tests of their own.
    #[test]
    fn the_table_for_people_is_true() {
        use crate::verify::FINDINGS;
        let broken = PageIndexError::MapLength {
            offset: 0,
            expected: 1,
            found: 2,
        };
        let index = ImageError::Index {
            path: "x".into(),
            backup: crate::catalog::BackupId("A".into()),
            source: broken,
        };
        let record = WalError::NotTheSegment {
            path: "/w".into(),
            problem: crate::pg::wal::page::PageProblem::TooShort,
        };
        let gap = SessionError::Interrupted;
        let page = "FATAL: invalid page in block 3 of relation base/1/2";
        let examples: Vec<(&str, SessionError)> = vec![
            (
                "a file may not be read",
                stored(io::ErrorKind::PermissionDenied.into()),
            ),
            ("the backup is being made", status(BackupStatus::Merging)),
            ("the disk or the memory is full", died(9, "")),
            (
                "the disk or the memory is full",
                died(1 << 8, "PANIC: No space left on device"),
            ),
            ("the disk or the memory is full", gap),
            ("a page, a list or a header map", index.into()),
            (
                "a file of the backup is missing",
                stored(io::ErrorKind::NotFound.into()),
            ),
            (
                "a file of the backup is missing",
                stored(Refused::Is(Kind::Fifo).into()),
            ),
            ("a segment of WAL that is read", record.into()),
            ("pg_probackup calls it ERROR", status(BackupStatus::Corrupt)),
            ("PostgreSQL says that its files", died(1 << 8, page)),
        ];
        for (row, error) in examples {
            let mut rows = FINDINGS
                .iter()
                .filter(|finding| finding.what.starts_with(row));
            let finding = rows.next().unwrap_or_else(|| panic!("no row {row:?}"));
            let verdict = of_session(&error, &Counts::new());
            assert_eq!(verdict, Some(finding.verdict), "{row}: {error}");
        }
    }

    #[test]
    fn the_worse_counts_more() {
        assert!(Bad > CouldNotTell && CouldNotTell > Verdict::Proved);
        let codes = [Verdict::Proved, Bad, CouldNotTell].map(Verdict::exit_code);
        assert_eq!(codes, [0, 1, 3]);
    }
}
