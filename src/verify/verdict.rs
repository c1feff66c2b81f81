//! The one table of what each failure says about a backup. A backup is bad
//! only where there is evidence that it is; a fault of this host, a lack of
//! time or room, and whatever is not known here, is "could not tell".

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::catalog::content::ContentError;
use crate::catalog::error::ControlError;
use crate::catalog::page_index::PageIndexError;
use crate::catalog::wal::WalError;
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
            Self::Proved => 0,
            Self::Bad => 1,
            Self::CouldNotTell => 3,
        }
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Bad => "BAD",
            Self::CouldNotTell => "could not tell",
        }
    }
}

use Verdict::{Bad, CouldNotTell};

/// What ended a session says about its backup, given the faults that its mount
/// counted. `None`: nothing, because there was no such backup to look at, or
/// because it was asked for wrongly.
#[must_use]
pub fn of_session(error: &SessionError, faults: &Counts) -> Option<Verdict> {
    Some(match error {
        SessionError::Profile(_)
        | SessionError::Usage { .. }
        | SessionError::NoDiff { .. }
        | SessionError::BackupGone { .. }
        | SessionError::NoBackupBefore { .. } => return None,
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
        | SessionError::WalMissing { .. }
        | SessionError::OutOfReach { .. }
        | SessionError::WalCommand { .. }
        | SessionError::TargetParentMissing { .. }
        | SessionError::UnsafeTarget { .. }
        | SessionError::RunDir { .. }
        | SessionError::RecoveredElsewhere { .. }
        | SessionError::Locks { .. }
        | SessionError::Diff(_)
        | SessionError::Overlay(_)
        | SessionError::Fuse(_)
        | SessionError::MountGone { .. }
        | SessionError::LostWrites { .. }
        | SessionError::NoAnswer { .. }
        | SessionError::TargetBusy { .. }
        | SessionError::TargetMounted { .. }
        | SessionError::TargetNotEmpty { .. }
        | SessionError::TargetNotADirectory { .. }
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
        CatalogError::NotACatalog { .. }
        | CatalogError::InvalidInstanceName { .. }
        | CatalogError::NoSuchInstance { .. }
        | CatalogError::NoSuchBackup { .. } => None,
        CatalogError::Read { source, .. }
        | CatalogError::Control(ControlError::Read { source, .. }) => Some(of_read(source)),
        CatalogError::Control(
            ControlError::Syntax { .. } | ControlError::Value { .. } | ControlError::Missing { .. },
        ) => Some(Bad),
    }
}

/// A chain that pg_probackup itself calls unusable is not looked at.
fn of_chain(error: &ChainError) -> Option<Verdict> {
    match error {
        ChainError::Changed { .. } => Some(CouldNotTell),
        ChainError::Reread { source, .. } => of_catalog(source),
        ChainError::Unlisted { source, .. } => Some(of_content(source.as_ref())),
        ChainError::NoSuchBackup { .. }
        | ChainError::NothingRestorable { .. }
        | ChainError::MissingParent { .. }
        | ChainError::Status { .. }
        | ChainError::Cycle { .. }
        | ChainError::NoFull { .. }
        | ChainError::UnsupportedMajor { .. }
        | ChainError::UnsupportedBlockSize { .. } => None,
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
        ImageError::Cfs { .. }
        | ImageError::NotAFile { .. }
        | ImageError::TruncationMarker { .. } => CouldNotTell,
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

fn of_wal(error: &WalError) -> Verdict {
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
    let count = |key: &str| faults.get(key).copied().unwrap_or(0);
    let says = |list: &[&str]| list.iter().any(|what| text.contains(what));
    if count("errors_damaged_page") > 0 {
        return Bad;
    }
    if count("errors_no_space") + count("errors_diff") > 0 || says(HOST) {
        return CouldNotTell;
    }
    // An EIO that no damaged page explains is of a disk.
    if text.contains("Input/output error") {
        return CouldNotTell;
    }
    match says(DAMAGE) {
        true => Bad,
        false => CouldNotTell,
    }
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

    #[test]
    fn the_worse_counts_more() {
        assert!(Bad > CouldNotTell && CouldNotTell > Verdict::Proved);
        let codes = [Verdict::Proved, Bad, CouldNotTell].map(Verdict::exit_code);
        assert_eq!(codes, [0, 1, 3]);
    }
}
