//! The mount of a session: mounting, saving its changes, and unmounting.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::unistd::geteuid;

use super::resolve::Resolved;
use super::target;
use crate::fuse::{FuseError, Mount, MountOptions};
use crate::image::Image;
use crate::overlay::Overlay;
use crate::session::context::Context;
use crate::session::hydrate::{Hydrator, Source};
use crate::session::outside::control::Control;
use crate::session::outside::orphans;
use crate::session::place::mounts;
use crate::session::{SessionError, Signals};

/// How often names and freed space are committed without a request.
const FLUSH: Duration = Duration::from_secs(5);

/// How long an unmount waits for processes that still have files open.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// A mount, shared by the code that watches it and the code that unmounts it.
pub type SharedMount = Rc<RefCell<Mount>>;

/// Mounts the overlay on the target, and saves its changes from then on.
///
/// # Errors
/// If the mount point cannot be used, or if mounting fails.
pub fn mount(
    context: &mut Context<'_>,
    resolved: &Resolved,
    overlay: &Arc<Overlay<Image>>,
) -> Result<SharedMount, SessionError> {
    let (plan, progress, undo) = (context.plan, &context.progress, &mut context.undo);
    let target = progress.target();
    let prepared = target::prepare(&plan.target, &target, target::owner(plan)?)?;
    if prepared.made {
        let made = target.clone();
        undo.push("the mount point", move || mounts::remove_point(&made));
        progress.change(|state| state.made_target = true)?;
        orphans::target_made(&progress.state());
    }
    // A throw-away diff is never read again.
    if plan.diff_dir.is_some() {
        let saved = overlay.clone();
        undo.push("saving the diff", move || Ok(saved.sync_all()?));
    }
    let options = MountOptions {
        threads: plan
            .fuse
            .threads()
            .get()
            .max(resolved.instance.place.parallel()),
        allow_other: geteuid().is_root(),
        passthrough: overlay.passes_through(),
        ends_with_loss: plan.postgres.launch,
        source: mounts::OUR_SOURCE.to_owned(),
    };
    let mount = Mount::new(overlay.clone(), prepared.point, &prepared.dir, &options)?;
    let mount = Rc::new(RefCell::new(mount));
    let (mounted, signals) = (mount.clone(), context.signals.clone());
    undo.push("the mount", move || unmount(&mounted, &signals));
    let locks = context.locks.take();
    let backup = Source {
        instance: resolved.instance.clone(),
        chain: resolved.chain.clone(),
        locks: locks.filter(|_| plan.unlock_hydrated),
    };
    let hydrator = Arc::new(Hydrator::new(overlay.clone(), backup));
    let control = Control::start(progress.place(), overlay.clone(), hydrator.clone());
    undo.push("the control socket", move || {
        // Nobody can start it again then.
        if let Some(control) = control {
            control.stop();
        }
        hydrator.stop();
        Ok(())
    });
    if !overlay.is_read_only() {
        let flusher = Flusher::start(overlay.clone());
        undo.push("the flusher", move || {
            flusher.stop();
            Ok(())
        });
    }
    Ok(mount)
}

/// Unmounts. If others keep files open, detaches the mount from the tree, so that at
/// least nobody else can enter it.
fn unmount(mount: &SharedMount, signals: &Signals) -> Result<(), SessionError> {
    let patience = if signals.hurry() {
        Duration::ZERO
    } else {
        UNMOUNT_PATIENCE
    };
    let mut mount = mount.borrow_mut();
    match mount.unmount(patience) {
        Err(error @ FuseError::Busy { .. }) => {
            tracing::warn!("{error}; it was detached, and stops working for them now");
            Ok(mount.detach()?)
        }
        Err(error @ FuseError::Copied { .. }) => {
            tracing::warn!("{error}; that copy stops working now, too");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Commits names and releases freed space every few seconds.
struct Flusher {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(overlay: Arc<Overlay<Image>>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let flush = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(FLUSH) {
                if let Err(error) = overlay.sync_periodically() {
                    tracing::error!("cannot save the diff's names: {error}");
                }
            }
        };
        let thread = thread::Builder::new()
            .name("flusher".to_owned())
            .spawn(flush)
            .ok();
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        if let Some(thread) = self.thread {
            // It ends by itself; a panic in it has already been printed.
            let _ = thread.join();
        }
    }
}
