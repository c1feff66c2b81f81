//! A clone's own files, as pbkfs needs them around its server. The clone's
//! superuser can have filled its data directory as he likes.
//!
//! They are read and written by the overlay, in this process, and never by the
//! mount. There are no links to be followed on that way, and nothing to wait
//! for. And a process that is killed while it waits for an answer from its own
//! mount never ends: the kernel gives the mount up only when the process is
//! gone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::recovery::Recovery;
use super::{SessionError, hazards, limits, recovered};
use crate::diff::{Diff, InodeKind};
use crate::image::Image;
use crate::overlay::{Attr, Ino, Overlay, OverlayError};
use crate::pg::control::ControlFile;
use crate::profile::Plan;
use crate::server::{Conf, OsUser, conf};
use crate::untrusted::{Dir, Kind, Refused, SMALL};

/// What is settled about a clone before it is mounted.
pub struct Settled<'a> {
    pub clone: Clone<'a>,
    pub conf: Conf,
    /// What of the host's files the configuration includes.
    pub includes: Vec<PathBuf>,
    /// The recovery that the server will be in.
    pub recovery: Option<&'a Recovery>,
    /// The limits that the recovery asks for.
    pub least: Vec<(&'static str, i32)>,
}

impl<'a> Settled<'a> {
    /// Reads what the clone itself says of its server, and prepares it for the
    /// recovery that is wanted.
    pub fn new(
        plan: &Plan,
        clone: Clone<'a>,
        wanted: Option<&'a Recovery>,
    ) -> Result<Self, SessionError> {
        let conf = clone.conf()?;
        for missing in &conf.missing_includes {
            tracing::warn!(
                "the backup's configuration includes {}, which is not there; \
                 PostgreSQL will not start without it",
                missing.display()
            );
        }
        let includes = clone.includes(&conf)?;
        let recovery = recovered::begin(&clone, wanted)?;
        let mut least = Vec::new();
        if recovery.is_some() {
            let user = &plan.postgres.settings;
            least.extend(limits::least(&clone.control_file()?, &conf, user));
        }
        Ok(Self {
            clone,
            conf,
            includes,
            recovery,
            least,
        })
    }
}

/// A clone whose server is to be started.
pub struct Clone<'a> {
    /// Its data directory.
    pub files: Files<'a>,
    /// Where that is mounted, or is going to be.
    target: &'a Path,
    /// The diff, if it is kept: nobody asks a throw-away one again.
    pub memory: Option<&'a Diff>,
    /// Whom the server runs as, if that is another user.
    user: Option<&'a OsUser>,
}

impl<'a> Clone<'a> {
    /// The clone of a plan.
    pub fn new(plan: &'a Plan, overlay: &'a Overlay<Image>, user: Option<&'a OsUser>) -> Self {
        Self {
            files: Files(overlay),
            target: &plan.target,
            memory: overlay.layer().filter(|_| plan.diff_dir.is_some()),
            user,
        }
    }

    /// The configuration as it is in the clone.
    pub fn conf(&self) -> Result<Conf, SessionError> {
        let source = conf::InClone {
            root: self.target,
            inside: &self.files,
            host: conf::Host {
                rights: self.user.map(OsUser::rights),
            },
        };
        Conf::read_from(&source, self.target).map_err(SessionError::conf)
    }

    /// The files outside the data directory that the configuration includes:
    /// those that the backup's does. One that the clone has added would show it
    /// a file of the host.
    pub fn includes(&self, conf: &Conf) -> Result<Vec<PathBuf>, SessionError> {
        let outside = |file: &&PathBuf| !conf::normal(file).starts_with(self.target);
        let mut includes: Vec<PathBuf> = conf.files.iter().filter(outside).cloned().collect();
        if includes.is_empty() {
            return Ok(includes);
        }
        let backed_up = hazards::configuration(self.files.0.lower(), self.user)?.files;
        includes.retain(|file| {
            let is_known = backed_up.contains(file);
            if !is_known {
                tracing::warn!(
                    "the clone's configuration includes {}, which the backup's does not; \
                     the server does not get to see it",
                    file.display()
                );
            }
            is_known
        });
        Ok(includes)
    }

    /// The control file: in a diff that was in use, it is newer than the
    /// backup's.
    pub fn control_file(&self) -> Result<ControlFile, SessionError> {
        /// PostgreSQL's has 8 KiB (`PG_CONTROL_FILE_SIZE`).
        const LIMIT: u64 = 64 << 10;
        let path = Path::new("global/pg_control");
        let bytes = self.files.read(path, LIMIT);
        let bytes = bytes.map_err(|e| SessionError::io("read", &self.path(path), e))?;
        Ok(ControlFile::parse(&bytes)?)
    }

    /// The names in the server's WAL directory, which may be out of the mount.
    pub fn wal_names(&self, elsewhere: Option<&Dir>) -> Result<Vec<OsString>, SessionError> {
        let names = match elsewhere {
            Some(dir) => dir.names(),
            None => self.files.names(Path::new("pg_wal")),
        };
        names.map_err(|e| SessionError::io("list", &self.path("pg_wal"), e))
    }

    /// A small file in it.
    pub fn wal_file(&self, elsewhere: Option<&Dir>, name: &str) -> Result<Vec<u8>, SessionError> {
        let path = Path::new("pg_wal").join(name);
        let bytes = match elsewhere {
            Some(dir) => dir.read(name, SMALL),
            None => self.files.read(&path, SMALL),
        };
        bytes.map_err(|e| SessionError::io("read", &self.path(path), e))
    }

    /// A path in the data directory, for messages.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.target.join(inside)
    }
}

/// The files of an overlay, by their paths from its root.
pub struct Files<'a>(&'a Overlay<Image>);

impl Files<'_> {
    /// What stands at a path; no link is followed.
    pub fn find(&self, path: &Path) -> io::Result<Option<Attr>> {
        let mut at = self.0.attr(Ino::ROOT).map_err(to_io)?;
        for part in path.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            at = match self.0.lookup(at.ino, name) {
                Ok(found) => found,
                Err(OverlayError::NotFound | OverlayError::NotADirectory) => return Ok(None),
                Err(error) => return Err(to_io(error)),
            };
        }
        Ok(Some(at))
    }

    /// Reads a whole file of at most `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let attr = self.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        if attr.kind != InodeKind::File {
            return Err(Refused::Is(kind_of(attr.kind)).into());
        }
        if attr.size > limit {
            return Err(Refused::TooLarge { limit }.into());
        }
        let mut bytes = vec![0; usize::try_from(attr.size).map_err(io::Error::other)?];
        self.0.open(attr.ino).map_err(to_io)?;
        let read = self.0.read(attr.ino, 0, &mut bytes);
        self.0.release(attr.ino);
        bytes.truncate(read.map_err(to_io)?);
        Ok(bytes)
    }

    /// The names in a directory.
    pub fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let attr = self.find(dir)?.ok_or(io::ErrorKind::NotFound)?;
        if attr.kind != InodeKind::Directory {
            return Err(Refused::Is(kind_of(attr.kind)).into());
        }
        // Behind `.` and `..`.
        let entries = self
            .0
            .read_dir(attr.ino)
            .map_err(to_io)?
            .into_iter()
            .skip(2);
        Ok(entries.map(|entry| entry.name).collect())
    }

    /// Has an empty file of the server's at a name in the root, durably, in
    /// place of whatever is there but for a directory. To be called before the
    /// overlay is mounted: the kernel would not know of it.
    pub fn put_empty(&self, name: &str) -> io::Result<()> {
        let name = OsStr::new(name);
        let put = || {
            match self.0.lookup(Ino::ROOT, name) {
                Err(OverlayError::NotFound) => {}
                found => {
                    found?;
                    self.0.unlink(Ino::ROOT, name)?;
                }
            }
            let owner = self.0.attr(Ino::ROOT)?;
            let made = self
                .0
                .create(Ino::ROOT, name, 0o600, owner.uid, owner.gid)?;
            self.0.release(made.ino);
            self.0.sync_names()
        };
        put().map_err(to_io)
    }
}

impl conf::Source for Files<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read(path, conf::LIMIT)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.names(dir)
    }
}

/// [`SessionError::io`] takes it out again.
fn to_io(error: OverlayError) -> io::Error {
    match error {
        OverlayError::NotFound => io::ErrorKind::NotFound.into(),
        OverlayError::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn kind_of(kind: InodeKind) -> Kind {
    match kind {
        InodeKind::File => Kind::File,
        InodeKind::Directory => Kind::Directory,
        InodeKind::Symlink => Kind::Symlink,
        InodeKind::Fifo => Kind::Fifo,
        InodeKind::Socket => Kind::Socket,
    }
}
