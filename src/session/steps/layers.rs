//! What is mounted: the image of a chain, and the diff over it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::{open_image, tablespace_version_dir};
use super::needs::{ServerNeeds, passthrough};
use super::resolve::Resolved;
use super::target::owner;
use super::wal_dir::{self, WalDir};
use crate::diff::{self, Binding, Diff, DiffLock, FORMAT_VERSION, LockHolder};
use crate::image::Image;
use crate::overlay::{Overlay, OverlayOptions};
use crate::profile::Plan;
use crate::session::SessionError;
use crate::session::context::Context;
use crate::session::outside::orphans::{self, ThrowAway};
use crate::untrusted;

/// What is mounted, and what the server gets of it besides the mount.
pub struct Layers {
    /// The image with the diff over it.
    pub overlay: Arc<Overlay<Image>>,
    /// The server's WAL directory, if it is not in the mount.
    pub wal_dir: Option<WalDir>,
    /// The diff's lock, for the server's side to hold as well.
    pub hold: Option<Arc<OwnedFd>>,
}

/// Opens the image and lays the diff, if there is to be one, over it. If a server is to
/// be started, settles where its WAL is.
///
/// # Errors
/// If the image or the diff cannot be opened, or if the server cannot
/// use its WAL directory.
pub fn open(
    context: &mut Context<'_>,
    resolved: &Resolved,
    server: Option<&ServerNeeds>,
) -> Result<Layers, SessionError> {
    let (plan, chain) = (context.plan, &resolved.chain);
    let image = open_image(plan, chain)?;
    let diff = match context.up.read_only {
        true => None,
        false => Some(open_diff(context, &image, resolved)?),
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
    let wal_dir = wal_dir::settle(&overlay, server, plan.diff_dir.is_some())?;
    overlay.pass_through(!context.up.read_only && wal_dir.is_none() && passthrough(plan));
    let layer = overlay.layer().filter(|_| server.is_some());
    let lock = layer.map(Diff::share_lock).transpose()?.flatten();
    let overlay = Arc::new(overlay);
    context.overlay = Some(overlay.clone());
    Ok(Layers {
        overlay,
        wal_dir,
        hold: lock.map(Arc::new),
    })
}

fn open_diff(
    context: &mut Context<'_>,
    image: &Image,
    resolved: &Resolved,
) -> Result<Diff, SessionError> {
    let plan = context.plan;
    let holder = LockHolder::this_process(&plan.target);
    let lock = match &plan.diff_dir {
        Some(dir) => {
            let used = Some(dir.clone());
            context.progress.change(|state| state.diff_dir = used)?;
            DiffLock::acquire(dir, &holder)?
        }
        None => DiffLock::acquire_new(&begin_throw_away(context)?, &holder)?,
    };
    Ok(Diff::open(lock, &binding(plan, image, resolved))?)
}

/// Finds what would keep the profile's diff from being opened over the image, but
/// creates and binds nothing.
///
/// # Errors
/// If the diff cannot be used, or if its records do not belong to this image.
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
        catalog: plan.catalog.name(),
        instance: plan.instance.clone(),
        system_identifier: resolved.instance.config.system_identifier,
        backup: chain.target().id.to_string(),
        chain: chain.ids().iter().map(ToString::to_string).collect(),
        image: format!("{:016x}", image.fingerprint()),
    }
}

/// Chooses the name of a throw-away diff, and records it for whichever process
/// has to remove the diff if we cannot: in the session's state, and in a list
/// that survives a reboot.
fn begin_throw_away(context: &mut Context<'_>) -> Result<PathBuf, SessionError> {
    let (plan, progress) = (context.plan, &context.progress);
    let dir = throw_away_dir(plan.beside.as_deref().unwrap_or(&plan.target))?;
    progress.change(|state| state.diff_dir = Some(dir.clone()))?;
    if let Err(error) = ThrowAway::begin(&dir, &progress.target()).write_down() {
        tracing::warn!(
            "if the host goes down before this session ends, {} is left behind and not found \
             again: {error}",
            dir.display()
        );
    }
    let made = dir.clone();
    context
        .undo
        .push("the throw-away diff", move || orphans::remove(&made));
    Ok(dir)
}

/// Returns a new name beside that place, most likely on the same disk. The clone's
/// writes can be large, so /run and /tmp are unsuitable.
fn throw_away_dir(place: &Path) -> Result<PathBuf, SessionError> {
    let beside = place.parent().unwrap_or(Path::new("/"));
    let writable = nix::unistd::access(beside, nix::unistd::AccessFlags::W_OK).is_ok();
    let parent = if writable {
        beside
    } else {
        Path::new("/var/tmp")
    };
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let number = untrusted::random()
        .map_err(|e| SessionError::io("choose a name for a diff in", parent, e))?;
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
