//! Everything that can end a session, or keep it from beginning.

mod more;
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
pub use target::TargetError;
pub use told::Side;
use told::{and, named, pid_of, profile_of};

/// An error of a session. `cli/exit.rs` turns each into an exit code.
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
    /// pg_probackup could not be asked.
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
        "recovering backup {backup} to {target} needs the WAL segment {segment}, which the \
         archive does not have; {holds}"
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
        /// Where it is, as far as is known.
        side: Side,
        /// What can be reached.
        holds: String,
        /// What to take instead, if there is something.
        advice: Option<String>,
    },
    /// No backup has the restore point behind it.
    #[error(
        "no restore point \"{name}\" is in the WAL archive of instance {instance} behind a backup \
         that can be restored; {known}"
    )]
    NoRestorePoint {
        /// The instance.
        instance: String,
        /// The wanted name.
        name: String,
        /// The restore points that there are, in words.
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
    /// Whom PostgreSQL runs as cannot run our restore_command.
    #[error(
        "the user {user}, as whom PostgreSQL runs, cannot run {} to fetch WAL ({reason}); install \
         pbkfs where that user can run it, or set recovery.restore_command",
        program.display()
    )]
    WalCommand {
        /// The server's user.
        user: String,
        /// This program.
        program: PathBuf,
        /// What the attempt said.
        reason: String,
    },
    /// The fence leaves more open than the profile permits.
    #[error("fence.require cannot be met: {reason}")]
    NotEnclosed {
        /// What is missing.
        reason: String,
    },
    /// The disk did not take what the clone had written.
    #[error(
        "the clone was ended, as a write to {} failed (see {}); if the disk is full, make room, \
         and start it again: a diff that is kept recovers what was committed",
        dir.display(), log.display()
    )]
    LostWrites {
        /// The diff.
        dir: PathBuf,
        /// The session's log, which has the disk's own words.
        log: PathBuf,
    },
    /// The directory for sessions is not this user's.
    #[error(
        "the directory for sessions, {}, cannot be used: {source}; remove it, or set \
         XDG_RUNTIME_DIR to a directory of your own",
        path.display()
    )]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What is the matter with it.
        #[source]
        source: io::Error,
    },
    /// The server cannot go on with the WAL that an earlier one wrote.
    #[error("the server's WAL is in {}, {obstacle}", dir.display())]
    WalUnusable {
        /// The WAL directory.
        dir: PathBuf,
        /// What is the matter with it, and what to do.
        obstacle: &'static str,
    },
    /// The restore_command failed, and recovery with it.
    #[error("recovery stopped: {reason}")]
    RecoveryStopped {
        /// What our restore_command said of the WAL.
        fault: WalFault,
        /// What it said for people.
        reason: String,
        /// The last lines of the server's log.
        log: crate::server::LogTail,
    },
    /// Recovery to the end of the archive ended before it.
    #[error(
        "recovery ended at {reached}, before the archive's end at {expected}: the WAL segment \
         {segment} is damaged; the clone is not what was asked for, so use a fresh diff next time"
    )]
    EndedEarly {
        /// Where it ended.
        reached: crate::pg::Lsn,
        /// Where the archive ends.
        expected: crate::pg::Lsn,
        /// The segment that it did not get through.
        segment: String,
    },
    /// The diff was recovered to another point.
    #[error(
        "the diff was {recovered} already, and cannot be brought to {wanted} from there; use a \
         fresh diff_dir, or empty this one with pbkfs cleanup"
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
        /// What the process that was to hold the locks said.
        message: String,
    },
    /// A member of the chain went while its lock was waited for.
    #[error(
        "backup {} was merged or deleted while its lock was waited for; try again, as the backup \
         may be in another chain now",
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
    /// The server ended by itself.
    #[error("PostgreSQL ended by itself ({status})")]
    ServerDied {
        /// How.
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
        "the session on {} (pid {pid}) does not answer: {source}; see {} for what it does",
        target.display(), log.display()
    )]
    NoAnswer {
        /// The mount point.
        target: PathBuf,
        /// Its owner.
        pid: u32,
        /// The session's log.
        log: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// There is no diff to look at.
    #[error(
        "no clone runs on {}, and its changes were discarded, as the profile sets no diff_dir",
        target.display()
    )]
    NoDiff {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount point cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A mount that is to be taken away is not of pbkfs.
    #[error("{} is a mount of something else ({kind}), not of pbkfs; it was left alone", target.display())]
    NotOurs {
        /// The mount point.
        target: PathBuf,
        /// Its file system's type.
        kind: String,
    },
    /// A clone that is to be ended belongs to somebody else.
    #[error(
        "the clone on {} is user {user}'s; end it as that user{}: pbkfs down --target {}",
        target.display(), if *is_known && user != "root" { " or as root" } else { "" }, value(target)
    )]
    OfAnotherUser {
        /// The mount point.
        target: PathBuf,
        /// Whose it is.
        user: String,
        /// Whether root would find its session.
        is_known: bool,
    },
    /// Somebody is in the mount that is to be taken away.
    #[error(
        "{} is in use{}; it stays mounted: end them first, or give --force",
        target.display(), named(by)
    )]
    Occupied {
        /// The mount point.
        target: PathBuf,
        /// Who, as far as this user can see.
        by: Vec<Occupant>,
    },
    /// A server runs on the mount that is to be taken away.
    #[error(
        "PostgreSQL runs on {}{}; end both: pbkfs down{}",
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
    /// A session was asked to end and did, but not everything went well.
    #[error("the session on {} has ended, but not all went well: {reason}", target.display())]
    EndedBadly {
        /// The mount point.
        target: PathBuf,
        /// What the session's owner wrote down.
        reason: String,
    },
    /// A session that should have ended goes on.
    #[error(
        "the session on {}{} did not end within {seconds} s; see {} for what it does",
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
    /// A server that outlived its owner could not be ended.
    #[error("the server (pid {pid}) of the ended session on {} does not end", target.display())]
    ServerStays {
        /// The mount point.
        target: PathBuf,
        /// The server.
        pid: u32,
    },
    /// What was asked for is not complete, or does not go together.
    #[error("{message}")]
    Usage {
        /// What is missing or wrong, and what to give instead.
        message: String,
    },
    /// What an extraction runs against the clone failed.
    #[error("{what} failed: {said}")]
    Extract {
        /// pg_dump or the query.
        what: &'static str,
        /// What it said.
        said: String,
    },
    /// A signal came while things were being set up.
    #[error("interrupted; everything was undone")]
    Interrupted,
    /// A file or directory of the session.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the clone, which is of the backup or of the diff.
    #[error("cannot {action} {}: {source}", path.display())]
    Tree {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The overlay's answer.
        #[source]
        source: Box<OverlayError>,
    },
    /// A session's state file that makes no sense.
    #[error("the session state {} is damaged: {source}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}
