//! The catalog, instance and backup that a subcommand works on, given by flags or by
//! a profile.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::catalog::location::is_url;
use crate::catalog::{BackupRef, Catalog, Location};
use crate::cli::common::{At, ProfileArgs};
use crate::profile::{Origin, Plan, Profile, StoragePlan};
use crate::session::{self, SessionError};

/// The environment variable from which pg_probackup itself takes the catalog.
const BACKUP_PATH: &str = "BACKUP_PATH";

/// A catalog and, optionally, one of its instances.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The pg_probackup catalog, a directory or a URL; by default that of the profile,
    /// else of the environment variable BACKUP_PATH
    #[arg(short = 'B', long, alias = "backup-path")]
    pub catalog: Option<PathBuf>,
    /// The instance within the catalog
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
}

impl CatalogArgs {
    /// Returns the profile, overridden by the flags.
    pub fn given(&self) -> Result<Profile, SessionError> {
        let mut given = self.profile.given()?;
        if let Some(path) = &self.catalog {
            given.set_catalog(path, Origin::Command("-B"))?;
        }
        if let Some(instance) = &self.instance {
            given.set("instance", &**instance, Origin::Command("--instance"));
        }
        Ok(given)
    }

    /// Opens the catalog, and returns it with the selected instance or all that it has.
    pub fn open(&self) -> Result<(Catalog, Vec<String>), SessionError> {
        let (catalog, storage, instance) = self.catalog()?;
        let catalog = session::open_catalog(&catalog, &storage)?;
        let names = instance.map_or_else(|| catalog.instances(), |name| Ok(vec![name]))?;
        Ok((catalog, names))
    }

    /// Returns the catalog, how it is read and, if one is selected, the instance.
    fn catalog(&self) -> Result<(Location, StoragePlan, Option<String>), SessionError> {
        // With an explicit directory, the settings on this host need not be valid.
        let is_url = |path: &PathBuf| path.to_str().is_some_and(is_url);
        if let (Some(catalog), None, []) = (
            self.catalog.as_ref().filter(|path| !is_url(path)),
            &self.profile.profile,
            &*self.profile.sets,
        ) {
            let catalog = Location::Directory(absolute(catalog)?);
            return Ok((catalog, StoragePlan::default(), self.instance.clone()));
        }
        let mut given = self.given()?;
        catalog_of_environment(&mut given)?;
        match given.value("catalog") {
            Some(catalog) => Ok((catalog, given.storage()?, given.value("instance"))),
            None => Err(missing("the catalog, with -B CATALOG")),
        }
    }
}

/// A backup of a catalog.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub catalog: CatalogArgs,
    /// The backup: an id, or "latest"
    #[arg(short = 'i', long, alias = "backup-id", value_name = "ID")]
    pub backup: Option<BackupRef>,
}

impl BackupArgs {
    /// Returns the profile's path, if a profile was given.
    pub fn profile(&self) -> Option<&Path> {
        self.catalog.profile.profile.as_deref()
    }

    /// Returns the profile, overridden by the flags.
    pub fn given(&self) -> Result<Profile, SessionError> {
        let mut given = self.catalog.given()?;
        if let Some(backup) = &self.backup {
            given.set("backup", backup.to_string(), Origin::Command("-i"));
        }
        Ok(given)
    }

    /// Returns the plan of a one-shot job. If the profile sets no target, the job gets a
    /// private mount point below the state directory.
    pub fn job(&self, command: &'static str, at: At) -> Result<Plan, SessionError> {
        let mut given = self.given()?;
        require_backup(&mut given)?;
        if let Some(backup) = &self.backup {
            given.set("verify.backup", backup.to_string(), Origin::Command("-i"));
        }
        if given.get("target").is_none()
            && let Some(catalog) = given.value::<Location>("catalog")
            && let Some(instance) = given.value::<String>("instance")
        {
            let target = session::job_target(command, &catalog, &instance)?;
            given.set_path("target", &target, Origin::Command(command))?;
        }
        at.apply(&mut given);
        Ok(given.plan()?)
    }
}

/// Takes the catalog from pg_probackup's own variable if none was given.
fn catalog_of_environment(given: &mut Profile) -> Result<(), SessionError> {
    let variable = std::env::var_os(BACKUP_PATH).filter(|path| !path.is_empty());
    if let (None, Some(path)) = (given.get("catalog"), variable) {
        let origin = Origin::Variable(BACKUP_PATH.to_owned());
        given.set_catalog(Path::new(&path), origin)?;
    }
    Ok(())
}

/// Refuses a profile that lacks the catalog or the instance, with the catalog of the
/// environment if it names none.
pub fn require_backup(given: &mut Profile) -> Result<(), SessionError> {
    catalog_of_environment(given)?;
    require(given, "catalog", "the catalog, with -B CATALOG")?;
    require(given, "instance", "the instance, with --instance NAME")
}

/// Refuses a profile that lacks a key; `what` describes it, with its flag.
pub fn require(given: &Profile, key: &str, what: &str) -> Result<(), SessionError> {
    given.get(key).map(|_| ()).ok_or_else(|| missing(what))
}

/// Returns the error for a value that was not given.
pub fn missing(what: &str) -> SessionError {
    SessionError::Usage {
        message: format!("give {what}, or a profile that sets it"),
    }
}

/// Makes a path given by the user absolute.
pub fn absolute(path: &Path) -> Result<PathBuf, SessionError> {
    std::path::absolute(path).map_err(|e| SessionError::io("resolve", path, e))
}
