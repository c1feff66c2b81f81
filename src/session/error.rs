//! Everything that can end a session or keep it from starting.

mod materialize;
mod more;
mod promote;
mod target;
mod told;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::catalog::CatalogError;
use crate::catalog::probackup::ProbackupError;
use crate::catalog::wal::{WalError, WalFault};
use crate::chain::ChainError;
use crate::diff::DiffError;
use crate::escape::value;
use crate::fuse::FuseError;
use crate::image::ImageError;
use crate::overlay::OverlayError;
use crate::pg::control::ControlFileError;
use crate::profile::ProfileError;
use crate::server::ServerError;
use crate::session::outside::occupants::Occupant;
pub use materialize::MaterializeError;
pub use promote::PromoteError;
pub use target::TargetError;
pub use told::Side;
use told::{and, named, pid_of, profile_of};

/// An error of a session. `cli/exit.rs` maps each to an exit code.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The catalog or instance.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The WAL archive.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// pg_probackup could not be queried.
    #[error(transparent)]
    Probackup(#[from] ProbackupError),
    /// The backup or its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A backup's content.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The cluster's control file, as it is in the backup.
    #[error("the backup's global/pg_control cannot be used")]
    ControlFile(#[from] ControlFileError),
    /// The archive lacks WAL that recovery needs.
    #[error(
        "recovering backup {backup} to {target} needs the WAL segment {segment}, which is not in \
         the archive; {holds}"
    )]
    WalMissing {
        /// The backup's id.
        backup: String,
        /// The recovery target.
        target: String,
        /// The segment's name.
        segment: String,
        /// What can be reached.
        holds: String,
    },
    /// The recovery target is not in the archive.
    #[error("the recovery target, {target}, is {side}: {holds}{}", and(advice))]
    OutOfReach {
        /// The recovery target.
        target: String,
        /// Where it is, as far as known.
        side: Side,
        /// What can be reached.
        holds: String,
        /// What to ask for instead, if there is anything.
        advice: Option<String>,
    },
    /// No restorable backup precedes the restore point.
    #[error(
        "no restore point \"{name}\" is in the WAL archive of instance {instance} after a \
         restorable backup; {known}"
    )]
    NoRestorePoint {
        /// The instance.
        instance: String,
        /// The wanted name.
        name: String,
        /// A description of the existing restore points.
        known: String,
    },
    /// No backup ended early enough for the target.
    #[error(
        "instance {instance} has no restorable backup that ended before {target}; the oldest \
         ended at {oldest}"
    )]
    NoBackupBefore {
        /// The instance.
        instance: String,
        /// The recovery target.
        target: String,
        /// When the oldest backup ended.
        oldest: String,
    },
    /// The user that PostgreSQL runs as cannot run our restore_command.
    #[error(
        "the user {user}, which PostgreSQL runs as, cannot run {} to fetch WAL ({reason}); \
         install pbkfs where that user can run it, or set recovery.restore_command",
        program.display()
    )]
    WalCommand {
        /// The server's user.
        user: String,
        /// This program.
        program: PathBuf,
        /// Why the attempt failed.
        reason: String,
    },
    /// The fence leaves more open than the profile permits.
    #[error("fence.require cannot be met: {reason}")]
    NotEnclosed {
        /// What is missing.
        reason: String,
    },
    /// The disk did not accept what the clone had written.
    #[error(
        "the clone was stopped because a write to {} failed (see {}); if the disk is full, free \
         some space and start it again: with a diff that is kept, whatever was committed is \
         recovered",
        dir.display(), log.display()
    )]
    LostWrites {
        /// The diff.
        dir: PathBuf,
        /// The session's log, which has the disk's own error.
        log: PathBuf,
    },
    /// The directory for sessions does not belong to this user alone.
    #[error(
        "the directory for sessions, {}, cannot be used: {source}; remove it, or set \
         XDG_RUNTIME_DIR to a directory of your own",
        path.display()
    )]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The server cannot continue with the WAL that an earlier one wrote.
    #[error("the server's WAL is in {}, {obstacle}", dir.display())]
    WalUnusable {
        /// The WAL directory.
        dir: PathBuf,
        /// What is wrong with it.
        obstacle: &'static str,
    },
    /// The restore_command failed, and recovery with it.
    #[error("recovery stopped: {reason}")]
    RecoveryStopped {
        /// The fault that our restore_command reported.
        fault: WalFault,
        /// Its message.
        reason: String,
        /// The last lines of the server's log.
        log: crate::server::LogTail,
    },
    /// Recovery to the end of the archive stopped before it.
    #[error(
        "recovery stopped at {reached}, before the end of the archive at {expected}: the WAL \
         segment {segment} is damaged; the clone is not what was asked for, so use a fresh diff \
         next time"
    )]
    EndedEarly {
        /// Where it stopped.
        reached: crate::pg::Lsn,
        /// Where the archive ends.
        expected: crate::pg::Lsn,
        /// The segment that it could not replay to its end.
        segment: String,
    },
    /// The diff was recovered to another point.
    #[error(
        "the diff was already {recovered}, which cannot be changed to {wanted}; use a fresh \
         diff_dir, or empty this one with pbkfs cleanup"
    )]
    RecoveredElsewhere {
        /// What was done with it.
        recovered: String,
        /// What is wanted now.
        wanted: String,
    },
    /// A member of the chain is being changed, or its lock cannot be read.
    #[error("cannot lock the backups for reading: {message}")]
    Locks {
        /// The message of the process that was to hold the locks.
        message: String,
    },
    /// A member of the chain disappeared during the wait for its lock.
    #[error(
        "backup {} was merged or deleted during the wait for its lock; try again, because the \
         wanted backup may now be in another chain",
        dir.display()
    )]
    BackupGone {
        /// Where it was.
        dir: PathBuf,
    },
    /// The diff.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// The overlay.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The mount.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// PostgreSQL.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The server exited by itself.
    #[error("PostgreSQL exited by itself ({status})")]
    ServerDied {
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its log.
        log: crate::server::LogTail,
    },
    /// Somebody else unmounted the target.
    #[error("{} was unmounted by somebody else", target.display())]
    MountGone {
        /// The mount point.
        target: PathBuf,
    },
    /// A session's owner does not answer.
    #[error(
        "the session on {} (pid {pid}) does not answer: {source}; see {} for what it is doing",
        target.display(), log.display()
    )]
    NoAnswer {
        /// The mount point.
        target: PathBuf,
        /// Its owner.
        pid: u32,
        /// The session's log.
        log: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// There is no diff to inspect.
    #[error(
        "no clone is running on {}, and its changes were discarded because the profile sets no \
         diff_dir",
        target.display()
    )]
    NoDiff {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount point cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A mount that is to be unmounted is not one of pbkfs.
    #[error("{} is a mount point of another file system ({kind}), not of pbkfs; it was left alone", target.display())]
    NotOurs {
        /// The mount point.
        target: PathBuf,
        /// Its file system's type.
        kind: String,
    },
    /// A clone that is to be ended belongs to another user.
    #[error(
        "the clone on {} belongs to user {user}; end it as that user{}: pbkfs down --target {}",
        target.display(), if *is_known && user != "root" { " or as root" } else { "" }, value(target)
    )]
    OfAnotherUser {
        /// The mount point.
        target: PathBuf,
        /// The user it belongs to.
        user: String,
        /// Whether root would find its session.
        is_known: bool,
    },
    /// The mount that is to be unmounted is in use.
    #[error(
        "{} is in use{}; it stays mounted: stop whatever uses it, or use --force",
        target.display(), named(by)
    )]
    Occupied {
        /// The mount point.
        target: PathBuf,
        /// The processes that use it, as far as this user can see.
        by: Vec<Occupant>,
    },
    /// A server is running on the mount that is to be unmounted.
    #[error(
        "PostgreSQL is running on {}{}; stop both with: pbkfs down{}",
        target.display(), pid_of(*pid), profile_of(profile.as_deref())
    )]
    HasServer {
        /// The mount point.
        target: PathBuf,
        /// The server; absent while it is being started.
        pid: Option<u32>,
        /// The session's profile.
        profile: Option<PathBuf>,
    },
    /// A session ended as asked, but with an error.
    #[error("the session on {} has ended, but with an error: {reason}", target.display())]
    EndedBadly {
        /// The mount point.
        target: PathBuf,
        /// The error that the session's owner recorded.
        reason: String,
    },
    /// A session that should have ended is still running.
    #[error(
        "the session on {}{} did not end within {seconds} s; see {} for what it is doing",
        target.display(), pid_of(*pid), log.display()
    )]
    DidNotEnd {
        /// The mount point.
        target: PathBuf,
        /// Its owner, if that is known.
        pid: Option<u32>,
        /// How long it was given.
        seconds: u64,
        /// The session's log.
        log: PathBuf,
    },
    /// A server that outlived its owner could not be stopped.
    #[error("the server (pid {pid}) of the ended session on {} cannot be stopped", target.display())]
    ServerStays {
        /// The mount point.
        target: PathBuf,
        /// The server.
        pid: u32,
    },
    /// The request is incomplete or contradictory.
    #[error("{message}")]
    Usage {
        /// What is missing or wrong, and what to specify instead.
        message: String,
    },
    /// A data directory could not be written.
    #[error(transparent)]
    Materialize(#[from] MaterializeError),
    /// A clone was not promoted.
    #[error(transparent)]
    Promote(#[from] PromoteError),
    /// A program or query that an extraction ran against the clone failed.
    #[error("{what} failed: {said}")]
    Extract {
        /// pg_dump or the query.
        what: &'static str,
        /// Its error message.
        said: String,
    },
    /// A signal arrived during setup.
    #[error("interrupted; everything was undone")]
    Interrupted,
    /// A file or directory of the session.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file of the clone, from the backup or the diff.
    #[error("cannot {action} {}: {source}", path.display())]
    Tree {
        /// What was tried, as a verb.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// The overlay's error.
        #[source]
        source: Box<OverlayError>,
    },
    /// A session's state file makes no sense.
    #[error("the session state {} is damaged: {source}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        #[source]
        source: serde_json::Error,
    },
}
