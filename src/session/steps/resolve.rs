//! From a plan to the chain that it means.

use crate::catalog::probackup::Probackup;
use crate::catalog::{Backup, BackupRef, Catalog, Instance};
use crate::chain::Chain;
use crate::profile::{MetadataSource, Plan};

use crate::pg::{NEWEST_MAJOR, OLDEST_MAJOR};
use crate::session::SessionError;
use crate::session::recovery::choice::{GoOn, before_target};

/// What a plan's catalog, instance and backup turned out to be.
#[derive(Debug)]
pub struct Resolved {
    /// The instance.
    pub instance: Instance,
    /// The chain up to the backup.
    pub chain: Chain,
    /// The pg_probackup that told; `None` if its files were read natively.
    pub probackup: Option<String>,
}

/// All backups of a plan's instance, restorable or not. Reads only.
///
/// # Errors
/// Those of the catalog, and of asking pg_probackup.
pub fn all_backups(plan: &Plan) -> Result<(Instance, Vec<Backup>), SessionError> {
    let instance = Catalog::open(&plan.catalog)?.instance(&plan.instance)?;
    let (backups, _) = read_metadata(plan, &instance)?;
    Ok((instance, backups))
}

/// Finds the backup that a plan means. Reads only. What has to be looked for in the
/// archive's WAL is, while `go_on` says so.
///
/// # Errors
/// Those of the catalog and its archive, of asking pg_probackup, and of resolving the
/// chain; no backup leads to the target.
pub fn resolve(plan: &Plan, go_on: GoOn<'_>) -> Result<Resolved, SessionError> {
    let catalog = Catalog::open(&plan.catalog)?;
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
    })
}

fn read_metadata(
    plan: &Plan,
    instance: &Instance,
) -> Result<(Vec<Backup>, Option<String>), SessionError> {
    if plan.metadata == MetadataSource::Native {
        return Ok((instance.backups()?, None));
    }
    let majors: Vec<u32> = (OLDEST_MAJOR..=NEWEST_MAJOR).rev().collect();
    let found = Probackup::find(plan.pg_probackup.as_deref(), &majors)?;
    let Some(probackup) = found else {
        if plan.metadata == MetadataSource::PgProbackup {
            return Err(crate::catalog::probackup::ProbackupError::NotInstalled.into());
        }
        tracing::debug!("no pg_probackup was found; reading the control files natively");
        return Ok((instance.backups()?, None));
    };
    let backups = probackup.show(instance, plan.metadata_timeout.0)?;
    let teller = format!("{} {}", probackup.path().display(), probackup.version());
    Ok((backups, Some(teller)))
}
