//! The one table of what each failure means for a backup. A backup is bad only if
//! there is evidence of it. A fault of this host, a lack of time or space, and
//! anything that is unknown here are "could not tell".

pub mod findings;
pub mod words;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::content::ContentError;
use crate::catalog::error::ControlError;
use crate::catalog::pages::PageIndexError;
use crate::catalog::wal::{WalError, WalFault};
use crate::catalog::{BackupStatus, CatalogError};
use crate::chain::ChainError;
use crate::image::ImageError;
use crate::overlay::OverlayError;
use crate::server::ServerError;
use crate::session::{Counts, MaterializeError, SessionError};
use crate::untrusted::refused;

/// What is known about a backup. The worst verdict counts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was asked for was checked and is right.
    Proved,
    /// The pages are intact, but the rest of what was requested was not checked.
    PagesRight,
    /// Something other than the backup kept it from being proved.
    CouldNotTell,
    /// The backup is bad.
    Bad,
}

impl Verdict {
    /// Returns the exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Proved | Self::PagesRight => 0,
            Self::Bad => 1,
            Self::CouldNotTell => 3,
        }
    }

    /// Returns the verdict for people.
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

/// Returns what the end of a session says about its backup, given the faults that its
/// mount counted. `None` means nothing, because the session was asked for wrongly.
#[must_use]
pub fn of_session(error: &SessionError, faults: &Counts) -> Option<Verdict> {
    Some(match error {
        SessionError::Profile(_) | SessionError::Usage { .. } | SessionError::NoDiff { .. } => {
            return None;
        }
        SessionError::Catalog(e) => return of_catalog(e),
        SessionError::Chain(e) => return of_chain(e),
        SessionError::Image(e) => of_image(e),
        SessionError::Materialize(MaterializeError::Damaged { first, .. }) => of_image(first),
        SessionError::ControlFile(_) | SessionError::EndedEarly { .. } => Bad,
        SessionError::Wal(e) => of_wal(e),
        SessionError::RecoveryStopped { fault, .. } => of_fault(*fault),
        SessionError::Overlay(e) => of_overlay(e),
        SessionError::Tree { source, .. } => of_overlay(source),
        SessionError::Server(e) => return of_server(e, faults),
        SessionError::ServerDied { status, log } => of_death(*status, &log.to_string(), faults),
        SessionError::Probackup(_)
        | SessionError::BackupGone { .. }
        | SessionError::NoBackupBefore { .. }
        | SessionError::NoRestorePoint { .. }
        | SessionError::WalMissing { .. }
        | SessionError::OutOfReach { .. }
        | SessionError::WalCommand { .. }
        | SessionError::RunDir { .. }
        | SessionError::RecoveredElsewhere { .. }
        | SessionError::Locks { .. }
        | SessionError::Diff(_)
        | SessionError::Fuse(_)
        | SessionError::MountGone { .. }
        | SessionError::LostWrites { .. }
        | SessionError::NoAnswer { .. }
        | SessionError::Target(_)
        | SessionError::NotOurs { .. }
        | SessionError::OfAnotherUser { .. }
        | SessionError::Occupied { .. }
        | SessionError::HasServer { .. }
        | SessionError::EndedBadly { .. }
        | SessionError::DidNotEnd { .. }
        | SessionError::ServerStays { .. }
        | SessionError::Interrupted
        | SessionError::Materialize(MaterializeError::Unfinished { .. })
        | SessionError::Promote(_)
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
        // A disk that is not mounted looks like this.
        CatalogError::NotACatalog { .. } => Some(CouldNotTell),
        CatalogError::Read { source, .. }
        | CatalogError::Control(ControlError::Read { source, .. }) => Some(of_read(source)),
        CatalogError::Control(
            ControlError::Syntax { .. } | ControlError::Value { .. } | ControlError::Missing { .. },
        ) => Some(Bad),
    }
}

/// Judges a chain that cannot be used. One that pg_probackup itself does not restore
/// is not checked further: pg_probackup's own status is the evidence.
#[must_use]
pub fn of_chain(error: &ChainError) -> Option<Verdict> {
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

/// Judges a backup's status. A backup that is being created, merged or deleted may be
/// intact in a moment.
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

/// Judges a file of the backup that cannot be shown.
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
        // What pbkfs cannot do, another program may.
        ImageError::Cfs { .. } | ImageError::NotAFile { .. } => CouldNotTell,
    }
}

/// Judges a file of the clone that cannot be shown. A fault of its diff is a fault of
/// this host.
fn of_overlay(error: &OverlayError) -> Verdict {
    match error {
        OverlayError::Lower(e) => of_image(e),
        OverlayError::NotFound
        | OverlayError::Exists
        | OverlayError::NotADirectory
        | OverlayError::IsADirectory
        | OverlayError::NotEmpty
        | OverlayError::ReadOnly
        | OverlayError::NotPermitted(_)
        | OverlayError::Invalid(_)
        | OverlayError::TooLarge
        | OverlayError::NameTooLong
        | OverlayError::Unsupported
        | OverlayError::NoSuchOffset
        | OverlayError::Diff(_)
        | OverlayError::Io(_)
        | OverlayError::MissingBlock { .. }
        | OverlayError::Mismatch(_) => CouldNotTell,
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

/// Judges an error in reading a file of the backup. The file is lost if it is missing
/// or ends too early, or if something else is in its place or above it. A file that
/// may not be read, or whose disk fails, may be intact.
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

/// Judges an error in reading WAL.
#[must_use]
pub fn of_wal(error: &WalError) -> Verdict {
    of_fault(error.fault())
}

fn of_fault(fault: WalFault) -> Verdict {
    match fault {
        WalFault::Damaged => Bad,
        // The missing WAL may be elsewhere.
        WalFault::Missing | WalFault::Unavailable => CouldNotTell,
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

/// Judges a server's exit. A server that a signal ended was killed: by somebody, or
/// because memory ran out.
fn of_death(status: ExitStatus, log: &str, faults: &Counts) -> Verdict {
    match status.signal() {
        Some(_) => CouldNotTell,
        None => of_text(log, faults),
    }
}

/// Judges a message of PostgreSQL or its programs, given the faults that the mount
/// counted.
#[must_use]
pub fn of_text(text: &str, faults: &Counts) -> Verdict {
    match words::blame_files(text) {
        true => of_broken(text, faults),
        false => of_faults(faults),
    }
}

/// Judges an error by which PostgreSQL reports broken data or files.
#[must_use]
pub fn of_broken(text: &str, faults: &Counts) -> Verdict {
    let of_host = count(faults, "errors_no_space") + count(faults, "errors_diff") > 0;
    match of_host || words::blame_host(text) {
        true => of_faults(faults),
        false => Bad,
    }
}

/// Judges by the mount alone: by whether there was a page of the backup that it could
/// not show.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::LogTail;
    use crate::untrusted::{Kind, Refused};

    fn log(line: &str) -> LogTail {
        LogTail {
            path: "/log".into(),
            lines: vec![line.to_owned()],
        }
    }

    fn died(raw_status: i32, line: &str) -> SessionError {
        SessionError::ServerDied {
            status: ExitStatus::from_raw(raw_status),
            log: log(line),
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
        // As reported by a session whose recovery this ended.
        let stopped = |fault| SessionError::RecoveryStopped {
            fault,
            reason: "the WAL segment is damaged".into(),
            log: log(""),
        };
        for (fault, expected) in [
            (WalFault::Damaged, Bad),
            (WalFault::Missing, CouldNotTell),
            (WalFault::Unavailable, CouldNotTell),
        ] {
            let verdict = of_session(&stopped(fault), &Counts::new());
            assert_eq!(verdict, Some(expected), "{fault}");
        }
    }

    /// It does not matter in which way the overlay was asked.
    #[test]
    fn a_file_of_the_backup_that_cannot_be_shown_is_the_backups_fault() {
        let lost = || OverlayError::from(ImageError::EmptyChain);
        let of_path = |error| SessionError::io("read", "/c/x".as_ref(), error);
        for (error, expected) in [
            (SessionError::from(lost()), Bad),
            (of_path(io::Error::other(lost())), Bad),
            (
                of_path(io::Error::other(OverlayError::TooLarge)),
                CouldNotTell,
            ),
            (of_path(io::Error::other("is damaged")), CouldNotTell),
        ] {
            assert_eq!(
                of_session(&error, &Counts::new()),
                Some(expected),
                "{error}"
            );
        }
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

    /// Each row of the table for people, except those about checks and about a whole
    /// report, which have tests of their own.
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
                "permission to read a file",
                stored(io::ErrorKind::PermissionDenied.into()),
            ),
            ("the backup is being created", status(BackupStatus::Merging)),
            ("the disk or the memory is full", died(9, "")),
            (
                "the disk or the memory is full",
                died(1 << 8, "PANIC: No space left on device"),
            ),
            ("the disk or the memory is full", gap),
            ("a page, a file list or a header map", index.into()),
            (
                "a file of the backup is missing",
                stored(io::ErrorKind::NotFound.into()),
            ),
            (
                "a file of the backup is missing",
                stored(Refused::Is(Kind::Fifo).into()),
            ),
            ("a WAL segment that is read", record.into()),
            (
                "pg_probackup gives it the status",
                status(BackupStatus::Corrupt),
            ),
            ("PostgreSQL reports that its files", died(1 << 8, page)),
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
