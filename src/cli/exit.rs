//! The single table of exit codes. They are stable, because scripts and cron jobs
//! rely on them.

use std::process::ExitCode;

use crate::catalog::probackup::ProbackupError;
use crate::diff::DiffError;
use crate::fuse::FuseError;
use crate::overlay::OverlayError;
use crate::server::ServerError;
use crate::session::{MaterializeError, PromoteError, SessionError, TargetError};

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Done = 0,
    /// Verification found the backup bad.
    Bad = 1,
    /// Usage or profile error.
    Usage = 2,
    /// Could not tell, or operation failed: I/O, no space, timeout.
    Failed = 3,
    /// Backup, instance or chain missing or unusable.
    Backup = 4,
    /// Diff or target busy, or bound to another backup.
    Busy = 5,
    /// Mount failed.
    Mount = 6,
    /// PostgreSQL failed to start, or died.
    Server = 7,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl Code {
    /// Returns the code with which another pbkfs exited.
    pub fn from_number(number: i32) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Bad,
            Self::Usage,
            Self::Failed,
            Self::Backup,
            Self::Busy,
            Self::Mount,
            Self::Server,
        ];
        all.into_iter().find(|code| *code as i32 == number)
    }

    /// Returns the code for an error. There is no catch-all, so every new kind of
    /// error has to be considered here.
    pub fn of(error: &SessionError) -> Self {
        match error {
            SessionError::Profile(_)
            | SessionError::Usage { .. }
            | SessionError::NoDiff { .. }
            | SessionError::Promote(PromoteError::NotKept | PromoteError::NoClone { .. }) => {
                Self::Usage
            }
            SessionError::Catalog(_)
            | SessionError::Chain(_)
            | SessionError::Image(_)
            | SessionError::Materialize(MaterializeError::Damaged { .. })
            | SessionError::Wal(_)
            | SessionError::ControlFile(_)
            | SessionError::BackupGone { .. }
            | SessionError::WalMissing { .. }
            | SessionError::OutOfReach { .. }
            | SessionError::NoRestorePoint { .. }
            | SessionError::NoBackupBefore { .. } => Self::Backup,
            SessionError::Probackup(e) => of_probackup(e),
            SessionError::Locks { .. }
            | SessionError::DidNotEnd { .. }
            | SessionError::EndedBadly { .. }
            | SessionError::NoAnswer { .. }
            | SessionError::ServerStays { .. }
            | SessionError::Interrupted
            | SessionError::Materialize(MaterializeError::Unfinished { .. })
            | SessionError::Promote(
                PromoteError::Hydration { .. }
                | PromoteError::Stopped
                | PromoteError::Gone { .. }
                | PromoteError::CutOver { .. },
            )
            | SessionError::Target(
                TargetError::ParentMissing { .. } | TargetError::Unsafe { .. },
            )
            | SessionError::RunDir { .. }
            | SessionError::BadState { .. }
            | SessionError::Io { .. }
            | SessionError::MountGone { .. }
            | SessionError::LostWrites { .. }
            | SessionError::Extract { .. } => Self::Failed,
            SessionError::Diff(e) => of_diff(e),
            SessionError::Overlay(e) => of_overlay(e),
            SessionError::Tree { source, .. } => of_overlay(source),
            SessionError::RecoveredElsewhere { .. }
            | SessionError::Target(
                TargetError::Busy { .. }
                | TargetError::Mounted { .. }
                | TargetError::Served { .. }
                | TargetError::Inside { .. }
                | TargetError::NotEmpty { .. }
                | TargetError::NotADirectory { .. },
            )
            | SessionError::NotOurs { .. }
            | SessionError::OfAnotherUser { .. }
            | SessionError::Occupied { .. }
            | SessionError::HasServer { .. }
            | SessionError::Promote(PromoteError::Refused { .. }) => Self::Busy,
            SessionError::Fuse(FuseError::Mount { .. }) => Self::Mount,
            SessionError::Fuse(
                FuseError::Busy { .. } | FuseError::Copied { .. } | FuseError::Unmount { .. },
            ) => Self::Failed,
            SessionError::Server(
                ServerError::ForcedSetting { .. }
                | ServerError::FencedSetting { .. }
                | ServerError::NothingToAllow { .. }
                | ServerError::BadSetting { .. }
                | ServerError::RefusedSettings { .. }
                | ServerError::NoUser { .. },
            ) => Self::Usage,
            SessionError::Server(_)
            | SessionError::Promote(PromoteError::NotStarted { .. })
            | SessionError::NotEnclosed { .. }
            | SessionError::WalUnusable { .. }
            | SessionError::ServerDied { .. }
            | SessionError::RecoveryStopped { .. }
            | SessionError::EndedEarly { .. }
            | SessionError::WalCommand { .. } => Self::Server,
        }
    }
}

/// A missing program is a fault of the profile. A program that is unsuitable, fails
/// or hangs says nothing about the backup.
fn of_probackup(error: &ProbackupError) -> Code {
    match error {
        ProbackupError::NotInstalled | ProbackupError::NotFound { .. } => Code::Usage,
        ProbackupError::UnsupportedVersion { .. }
        | ProbackupError::UnknownVersion { .. }
        | ProbackupError::Run { .. }
        | ProbackupError::Timeout { .. }
        | ProbackupError::Failed { .. }
        | ProbackupError::BadJson { .. } => Code::Failed,
    }
}

fn of_diff(error: &DiffError) -> Code {
    match error {
        DiffError::Busy { .. }
        | DiffError::HeldByServer { .. }
        | DiffError::BoundElsewhere { .. }
        | DiffError::Promoted { .. }
        | DiffError::PromotionInterrupted { .. }
        | DiffError::NotADiff { .. }
        | DiffError::HoldsChanges { .. }
        | DiffError::Foreign { .. }
        | DiffError::Linked { .. }
        | DiffError::WritableByOthers { .. } => Code::Busy,
        DiffError::Io { .. }
        | DiffError::BadFile { .. }
        | DiffError::Version { .. }
        | DiffError::Store { .. }
        | DiffError::Damaged { .. }
        | DiffError::BadRecord { .. } => Code::Failed,
    }
}

fn of_overlay(error: &OverlayError) -> Code {
    match error {
        OverlayError::Lower(_) => Code::Backup,
        OverlayError::Diff(e) => of_diff(e),
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
        | OverlayError::Io(_)
        | OverlayError::MissingBlock { .. }
        | OverlayError::Mismatch(_) => Code::Failed,
    }
}

/// The exit codes for people, shown below the help of pbkfs.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  verification found the backup bad
  2  usage or profile error
  3  could not tell, or operation failed (I/O, no space, timeout)
  4  backup, instance or chain missing or unusable
  5  diff or target busy, or bound to another backup
  6  mount failed
  7  PostgreSQL failed to start, or died";
