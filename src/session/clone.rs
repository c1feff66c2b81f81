//! A mounted clone's own files, as pbkfs needs them before its server runs. The
//! clone's superuser can have filled its data directory as he likes.

use std::path::{Path, PathBuf};

use super::{SessionError, hazards};
use crate::diff::Diff;
use crate::image::Image;
use crate::overlay::Overlay;
use crate::pg::control::ControlFile;
use crate::profile::Plan;
use crate::server::{Conf, OsUser, conf};
use crate::untrusted::Dir;

/// A clone whose server is to be started.
pub struct Clone<'a> {
    /// Its data directory, by the mount.
    pub data: Dir,
    /// The diff, if it is kept: nobody asks a throw-away one again.
    pub memory: Option<&'a Diff>,
    /// Whom the server runs as, if that is another user.
    pub user: Option<&'a OsUser>,
}

impl<'a> Clone<'a> {
    /// The clone on the mounted target.
    pub fn open(
        plan: &Plan,
        overlay: &'a Overlay<Image>,
        user: Option<&'a OsUser>,
    ) -> Result<Self, SessionError> {
        let target = &plan.target;
        Ok(Self {
            data: Dir::open(target).map_err(|e| SessionError::io("open", target, e))?,
            memory: overlay.layer().filter(|_| plan.diff_dir.is_some()),
            user,
        })
    }

    /// The configuration as it is in the clone.
    pub fn conf(&self) -> Result<Conf, SessionError> {
        let source = conf::InClone {
            data: &self.data,
            host: conf::Host {
                rights: self.user.map(OsUser::rights),
            },
        };
        Ok(Conf::read_from(&source, self.data.path())?)
    }

    /// The files outside the data directory that the configuration includes:
    /// those that the backup's does. One that the clone has added would show it
    /// a file of the host.
    pub fn includes(&self, conf: &Conf, image: &Image) -> Result<Vec<PathBuf>, SessionError> {
        let outside = |file: &&PathBuf| !conf::normal(file).starts_with(self.data.path());
        let mut includes: Vec<PathBuf> = conf.files.iter().filter(outside).cloned().collect();
        if includes.is_empty() {
            return Ok(includes);
        }
        let backed_up = hazards::configuration(image, self.user)?.files;
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

    /// The server's WAL directory, which may be out of the mount.
    pub fn pg_wal(&self, elsewhere: Option<&Path>) -> Result<Dir, SessionError> {
        let opened = match elsewhere {
            Some(dir) => Dir::of_file(dir).and_then(|(diff, name)| diff.dir(name)),
            None => self.data.dir("pg_wal"),
        };
        opened.map_err(|e| SessionError::io("open", &self.data.path().join("pg_wal"), e))
    }

    /// The data directory's own: in a diff that was in use, it is newer than the
    /// backup's.
    pub fn control_file(&self) -> Result<ControlFile, SessionError> {
        /// PostgreSQL's has 8 KiB (`PG_CONTROL_FILE_SIZE`).
        const LIMIT: u64 = 64 << 10;
        let path = "global/pg_control";
        let bytes = self.data.read(path, LIMIT);
        let bytes = bytes.map_err(|e| SessionError::io("read", &self.data.path().join(path), e))?;
        Ok(ControlFile::parse(&bytes)?)
    }
}
