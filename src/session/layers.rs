//! What is mounted: the image of a chain, and the diff over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::geteuid;

use super::orphans::{self, ThrowAway};
use super::postgres::Preparation;
use super::resolve::Resolved;
use super::undo::Undo;
use super::up::{Progress, Up};
use super::{SessionError, wal_dir};
use crate::chain::Chain;
use crate::diff::{self, Binding, Diff, DiffLock, FORMAT_VERSION, LockHolder};
use crate::fuse::may_pass_through;
use crate::image::{Image, ImageOptions};
use crate::overlay::{Overlay, OverlayOptions};
use crate::pg::control::ControlFile;
use crate::profile::{Passthrough, Plan};
use crate::server::OsUser;
use crate::untrusted;

/// Opens the image and lays the diff, if there is to be one, over it. Settles
/// where the server that is to come has its WAL, and what it holds.
pub fn open(
    up: &Up<'_>,
    resolved: &Resolved,
    server: Option<&mut Preparation>,
    progress: &Progress,
    undo: &mut Undo<'_>,
) -> Result<Arc<Overlay<Image>>, SessionError> {
    let (plan, chain) = (up.plan, &resolved.chain);
    let image = open_image(plan, chain)?;
    let diff = match up.read_only {
        true => None,
        false => Some(open_diff(plan, &image, resolved, progress, undo)?),
    };
    let (uid, gid) = owner(plan)?;
    let options = OverlayOptions {
        uid,
        gid,
        tablespace_version_dir: Some(tablespace_version_dir(&image, chain)?),
        data_dir: server.is_some().then(|| plan.target.clone()),
        passthrough: false,
    };
    let mut overlay = Overlay::new(image, diff, options)?;
    let wal_dir = wal_dir::settle(&overlay, server.as_deref(), plan.diff_dir.is_some())?;
    let wal_elsewhere = server.is_some() && wal_dir.is_some();
    overlay.pass_through(!up.read_only && !wal_elsewhere && passthrough(plan));
    if let Some(server) = server {
        server.wal_dir = wal_dir;
        let lock = overlay.layer().map(Diff::share_lock).transpose()?.flatten();
        server.hold = lock.map(Arc::new);
    }
    Ok(Arc::new(overlay))
}

/// Whether the kernel may serve files of the diff by itself, where WAL is
/// written through the mount. Where it is not, the kernel does better to gather
/// writes, which excludes the other.
pub fn passthrough(plan: &Plan) -> bool {
    plan.fuse.passthrough == Passthrough::Auto && may_pass_through()
}

/// Opens the image of a chain.
pub fn open_image(plan: &Plan, chain: &Chain) -> Result<Image, SessionError> {
    let options = ImageOptions {
        verify_checksums: plan.verify_checksums,
        index_cache_bytes: usize::try_from(plan.cache_size.0).unwrap_or(usize::MAX),
    };
    Ok(Image::open(chain, &options)?)
}

fn open_diff(
    plan: &Plan,
    image: &Image,
    resolved: &Resolved,
    progress: &Progress,
    undo: &mut Undo<'_>,
) -> Result<Diff, SessionError> {
    let dir = match &plan.diff_dir {
        Some(dir) => {
            progress.change(|state| state.diff_dir = Some(dir.clone()))?;
            dir.clone()
        }
        None => begin_throw_away(plan, progress, undo)?,
    };
    let holder = LockHolder::this_process(&plan.target);
    let lock = match plan.diff_dir {
        Some(_) => DiffLock::acquire(&dir, &holder)?,
        None => DiffLock::acquire_new(&dir, &holder)?,
    };
    Ok(Diff::open(lock, &binding(plan, image, resolved))?)
}

/// Finds what would keep the profile's diff from being opened over the image, and
/// makes or binds nothing.
///
/// # Errors
/// Those of the diff, and of its records where they are not of this image.
pub fn check_diff(plan: &Plan, image: &Image, resolved: &Resolved) -> Result<(), SessionError> {
    let Some(dir) = &plan.diff_dir else {
        return Ok(());
    };
    let holder = LockHolder::this_process(&plan.target);
    let wanted = binding(plan, image, resolved);
    Ok(diff::check(dir, &wanted, &holder)?)
}

fn binding(plan: &Plan, image: &Image, resolved: &Resolved) -> Binding {
    let chain = &resolved.chain;
    Binding {
        version: FORMAT_VERSION,
        catalog: plan.catalog.clone(),
        instance: plan.instance.clone(),
        system_identifier: resolved.instance.config.system_identifier,
        backup: chain.target().id.to_string(),
        chain: chain.ids().iter().map(ToString::to_string).collect(),
        image: format!("{:016x}", image.fingerprint()),
    }
}

/// Who owns the files of the image: whom PostgreSQL runs as.
pub fn owner(plan: &Plan) -> Result<(u32, u32), SessionError> {
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    if !geteuid().is_root() {
        return Ok((uid, gid));
    }
    match OsUser::find(&plan.postgres.user) {
        Ok(user) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Err(_) if !plan.postgres.launch => Ok((uid, gid)),
        Err(e) => Err(e.into()),
    }
}

/// The backup's own `pg_control`.
pub fn control_file(image: &Image) -> Result<ControlFile, SessionError> {
    let path = Path::new("global/pg_control");
    let mut bytes = vec![0; 8192];
    let node = image.find(path).ok_or_else(|| {
        SessionError::io(
            "find in the backup",
            path,
            std::io::ErrorKind::NotFound.into(),
        )
    })?;
    let n = image.read_at(node, 0, &mut bytes)?;
    bytes.truncate(n);
    Ok(ControlFile::parse(&bytes)?)
}

/// Reads what a server's start reads of the backup. Where a diff was used, the
/// clone's `backup_label` counts.
///
/// # Errors
/// One of the files cannot be read.
pub fn check_files(plan: &Plan, image: &Image) -> Result<(), SessionError> {
    control_file(image)?;
    let bound = plan.diff_dir.as_deref().map(Binding::read).transpose()?;
    if let (None, Some(label)) = (bound.flatten(), image.find(Path::new("backup_label"))) {
        image.read_at(label, 0, &mut [0; 512])?;
    }
    Ok(())
}

/// `PG_15_202209061`: PostgreSQL's `TABLESPACE_VERSION_DIRECTORY`.
fn tablespace_version_dir(image: &Image, chain: &Chain) -> Result<String, SessionError> {
    let control = control_file(image)?;
    let version = &chain.target().server_version;
    Ok(format!("PG_{version}_{}", control.catalog_version_no))
}

/// Names a throw-away diff, and writes it down for whoever has to remove it if we
/// cannot: in the session's state, and where that outlasts a reboot.
fn begin_throw_away(
    plan: &Plan,
    progress: &Progress,
    undo: &mut Undo<'_>,
) -> Result<PathBuf, SessionError> {
    let dir = throw_away_dir(plan.beside.as_deref().unwrap_or(&plan.target))?;
    progress.change(|state| state.diff_dir = Some(dir.clone()))?;
    if let Err(error) = ThrowAway::begin(&dir, &progress.target()).write_down() {
        tracing::warn!(
            "if the host ends before this session, {} is left over and not found again: {error}",
            dir.display()
        );
    }
    let made = dir.clone();
    undo.push("the throw-away diff", move || orphans::remove(&made));
    Ok(dir)
}

/// A new name beside that place, on the same disk most likely; the clone's
/// writes can be large, so it is not for /run or /tmp.
fn throw_away_dir(place: &Path) -> Result<PathBuf, SessionError> {
    let beside = place.parent().unwrap_or(Path::new("/"));
    let writable = nix::unistd::access(beside, nix::unistd::AccessFlags::W_OK).is_ok();
    let parent = if writable {
        beside
    } else {
        Path::new("/var/tmp")
    };
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let number = untrusted::random().map_err(|e| SessionError::io("name a diff in", parent, e))?;
    Ok(parent.join(format!(".{name}.pbkfs-{number:016x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throw_away_diff_is_never_one_that_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("main");
        let first = throw_away_dir(&target).unwrap();
        assert_eq!(first.parent(), Some(dir.path()));
        assert_ne!(first, throw_away_dir(&target).unwrap());
    }
}
