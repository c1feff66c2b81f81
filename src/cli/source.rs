//! The catalog, instance and backup that a subcommand works on, given by flags or by
//! a profile.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::catalog::BackupRef;
use crate::cli::common::ProfileArgs;
use crate::profile::{Origin, Profile};
use crate::session::{self, SessionError};

/// The environment variable from which pg_probackup itself takes the catalog.
const BACKUP_PATH: &str = "BACKUP_PATH";

/// A catalog and, optionally, one of its instances.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// The pg_probackup catalog; by default that of the profile, else of the
    /// environment variable BACKUP_PATH
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
        self.apply(&mut given)?;
        Ok(given)
    }

    /// Returns the catalog and, if one is selected, the instance.
    pub fn catalog(&self) -> Result<(PathBuf, Option<String>), SessionError> {
        // With an explicit catalog, the settings on this host need not be valid.
        if let (Some(catalog), None, []) =
            (&self.catalog, &self.profile.profile, &*self.profile.sets)
        {
            return Ok((absolute(catalog)?, self.instance.clone()));
        }
        let mut given = self.given()?;
        catalog_of_environment(&mut given)?;
        match given.value("catalog") {
            Some(catalog) => Ok((catalog, given.value("instance"))),
            None => Err(missing("the catalog, with -B CATALOG")),
        }
    }

    fn apply(&self, given: &mut Profile) -> Result<(), SessionError> {
        if let Some(path) = &self.catalog {
            given.set_path("catalog", path, Origin::Command("-B"))?;
        }
        if let Some(instance) = &self.instance {
            given.set("instance", &**instance, Origin::Command("--instance"));
        }
        Ok(())
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

    /// Returns the profile of a one-shot job. If it sets no target, the job gets a
    /// private mount point below the state directory.
    pub fn job(&self, command: &'static str) -> Result<Profile, SessionError> {
        let mut given = self.given()?;
        catalog_of_environment(&mut given)?;
        require_backup(&given)?;
        if let Some(backup) = &self.backup {
            given.set("verify.backup", backup.to_string(), Origin::Command("-i"));
        }
        let source = (
            given.value::<PathBuf>("catalog"),
            given.value::<String>("instance"),
        );
        if let (None, (Some(catalog), Some(instance))) = (given.get("target"), source) {
            let target = session::job_target(command, &catalog, &instance)?;
            given.set_path("target", &target, Origin::Command(command))?;
        }
        Ok(given)
    }
}

/// Takes the catalog from pg_probackup's own variable if none was given.
pub fn catalog_of_environment(given: &mut Profile) -> Result<(), SessionError> {
    let variable = std::env::var_os(BACKUP_PATH).filter(|path| !path.is_empty());
    if let (None, Some(path)) = (given.get("catalog"), variable) {
        let origin = Origin::Variable(BACKUP_PATH.to_owned());
        given.set_path("catalog", Path::new(&path), origin)?;
    }
    Ok(())
}

/// Refuses a profile that lacks the catalog or the instance.
pub fn require_backup(given: &Profile) -> Result<(), SessionError> {
    if given.get("catalog").is_none() {
        return Err(missing("the catalog, with -B CATALOG"));
    }
    match given.get("instance") {
        None => Err(missing("the instance, with --instance NAME")),
        Some(_) => Ok(()),
    }
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
