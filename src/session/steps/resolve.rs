//! Finding the chain that a plan refers to.

use crate::catalog::probackup::{Probackup, ProbackupError};
use crate::catalog::{Backup, BackupRef, Instance, Location};
use crate::chain::Chain;
use crate::profile::{MetadataSource, Plan};

use crate::pg::{NEWEST_MAJOR, OLDEST_MAJOR};
use crate::session::SessionError;
use crate::session::hydrate::kept;
use crate::session::recovery::choice::{GoOn, before_target};
use crate::session::source::open_plan;

/// What a plan's catalog, instance and backup resolve to.
#[derive(Debug)]
pub struct Resolved {
    /// The instance.
    pub instance: Instance,
    /// The chain up to the backup.
    pub chain: Chain,
    /// The pg_probackup that reported them; `None` if the catalog's
    /// files were read natively.
    pub probackup: Option<String>,
    /// Whether this is what the diff has kept, and the catalog is not needed.
    pub kept: bool,
}

/// Returns all backups of a plan's instance, restorable or not. Only reads.
///
/// # Errors
/// If the catalog cannot be read, or if pg_probackup cannot be queried.
pub fn all_backups(plan: &Plan) -> Result<(Instance, Vec<Backup>), SessionError> {
    let instance = open_plan(plan)?.instance(&plan.instance)?;
    let (backups, _) = read_metadata(plan, &instance)?;
    Ok((instance, backups))
}

/// Finds the backup that a plan refers to. Only reads. If the archive's WAL has to be
/// searched, the search runs as long as `go_on` allows.
///
/// # Errors
/// If the catalog or its archive cannot be read, if pg_probackup cannot be queried, or
/// if the chain cannot be resolved; if the target cannot be reached from any backup.
pub fn resolve(plan: &Plan, go_on: GoOn<'_>) -> Result<Resolved, SessionError> {
    if let Some((instance, chain)) = kept::find(plan)? {
        tracing::debug!("the diff has all of the backup; the catalog is not needed");
        return Ok(Resolved {
            instance,
            chain,
            probackup: None,
            kept: true,
        });
    }
    let catalog = open_plan(plan)?;
    let instance = catalog.instance(&plan.instance)?;
    let (backups, probackup) = read_metadata(plan, &instance)?;
    let backups = match plan.backup {
        BackupRef::Latest => before_target(plan, &instance, backups, go_on)?,
        BackupRef::Id(_) => backups,
    };
    let chain = Chain::resolve(&instance.name, &backups, &plan.backup)?;
    Ok(Resolved {
        instance,
        chain,
        probackup,
        kept: false,
    })
}

/// Finds the pg_probackup that a plan names, or else the installed one.
///
/// # Errors
/// If the named one does not exist, or if the one found cannot be used.
pub fn find_probackup(plan: &Plan) -> Result<Option<Probackup>, ProbackupError> {
    let majors: Vec<u32> = (OLDEST_MAJOR..=NEWEST_MAJOR).rev().collect();
    Probackup::find(plan.pg_probackup.as_deref(), &majors)
}

fn read_metadata(
    plan: &Plan,
    instance: &Instance,
) -> Result<(Vec<Backup>, Option<String>), SessionError> {
    let is_remote = matches!(plan.catalog, Location::Remote(_));
    if plan.metadata == MetadataSource::Native || is_remote {
        return Ok((instance.backups()?, None));
    }
    let Some(probackup) = find_probackup(plan)? else {
        if plan.metadata == MetadataSource::PgProbackup {
            return Err(ProbackupError::NotInstalled.into());
        }
        tracing::debug!("no pg_probackup was found; reading the control files natively");
        return Ok((instance.backups()?, None));
    };
    let backups = probackup.show(instance, plan.metadata_timeout.0)?;
    let teller = format!("{} {}", probackup.path().display(), probackup.version());
    Ok((backups, Some(teller)))
}
