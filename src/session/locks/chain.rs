//! Locking a chain as the profile wants it.

use super::holder::{HeldLocks, Holder, Locking};
use crate::catalog::Location;
use crate::profile::LockBackups;
use crate::session::SessionError;
use crate::session::context::Context;
use crate::session::steps::resolve::Resolved;

/// Locks the chain for reading until the session is torn down, then rereads it.
///
/// # Errors
/// If [`Holder::start`] fails, or if the chain has changed since it was resolved.
pub fn lock_chain(context: &mut Context<'_>, resolved: &Resolved) -> Result<(), SessionError> {
    let lock_backups = context.plan.lock_backups;
    if resolved.kept {
        return Ok(());
    }
    if lock_backups == LockBackups::Never {
        tracing::info!("the backups are not locked (lock_backups = false)");
        return Ok(());
    }
    if let Location::Remote(_) = context.plan.catalog {
        return without_locks(lock_backups, resolved);
    }
    match Holder::start(&resolved.chain.dirs(), &|| context.signals.end_asked())? {
        Locking::Held(holder) => {
            let locks = holder.locks();
            tracing::debug!(pid = locks.holder_pid, "the backups are locked for reading");
            context.progress.change(|state| state.locks = Some(locks))?;
            let held = HeldLocks::new(holder);
            context.locks = Some(held.clone());
            context
                .undo
                .push("the read locks on the backups", move || held.release());
        }
        Locking::Without(reason) if lock_backups == LockBackups::Auto => {
            tracing::warn!(
                "the backups are not locked against pg_probackup's delete and merge: {reason}"
            );
        }
        Locking::Without(message) => return Err(SessionError::Locks { message }),
    }
    // Reread it now that it cannot change: a merge may have changed it between the
    // first read and the lock.
    Ok(resolved.chain.recheck(&resolved.instance)?)
}

/// pg_probackup's locks name processes, and a bucket has none: who deletes a backup there
/// does not see that it is in use.
fn without_locks(wanted: LockBackups, resolved: &Resolved) -> Result<(), SessionError> {
    if wanted == LockBackups::Always {
        return Err(SessionError::Locks {
            message: "there are no locks in a bucket".to_owned(),
        });
    }
    tracing::info!(
        "the backups are not locked, because there are no locks in a bucket: do not delete or \
         merge them while they are in use"
    );
    Ok(resolved.chain.recheck(&resolved.instance)?)
}
