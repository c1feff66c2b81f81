//! The keys at the top of a profile, and the profile as a whole: merged, typed and
//! checked.

use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use toml::Value;

use super::error::ProfileError;
use super::section::fence::{FencePlan, Level, Network};
use super::section::fuse::FusePlan;
use super::section::log::{LogPlan, LogTarget};
use super::section::postgres::PostgresPlan;
use super::section::recovery::RecoveryPlan;
use super::section::storage::StoragePlan;
use super::section::verify::VerifyPlan;
use super::values::{ByteSize, FromValue, Seconds, from_value};
use crate::catalog::{BackupRef, Location};

section! {
    /// The plan of a session, as returned by [`Profile::plan`](super::Profile::plan):
    /// all required keys are set, all paths are absolute, and none would damage another.
    pub struct Plan {
        /// The pg_probackup catalog: its directory, as passed to pg_probackup with -B, or the
        /// URL of a copy in a bucket (s3://BUCKET/PATH, gs://BUCKET/PATH,
        /// az://CONTAINER/PATH).
        #[schemars(extend("format" = "path"), example = "/srv/backup")]
        pub catalog: Location,

        /// Instance within the catalog, as passed to pg_probackup with --instance.
        #[schemars(title = "name", example = &"main")]
        pub instance: String,

        /// Backup to mount. "latest" is the newest backup that can be restored; with a
        /// recovery target, the newest one before the target.
        #[schemars(example = &"SBOL8S")]
        pub backup: BackupRef = BackupRef::Latest,

        /// Mount point, which becomes PostgreSQL's data directory.
        #[schemars(extend("format" = "path"), example = "/srv/clone/main")]
        pub target: PathBuf,

        /// Directory that keeps everything the clone writes.
        ///
        /// Default: a temporary directory, deleted on exit
        #[schemars(extend("format" = "path"), example = "/srv/clone/main.diff")]
        pub diff_dir: Option<PathBuf>,

        /// The path beside which a throw-away diff is created; `None` means the mount
        /// point.
        #[serde(skip)]
        pub beside: Option<PathBuf>,

        /// pg_probackup program that is used to query the catalog.
        ///
        /// Default: pg_probackup, then pg_probackup-MAJOR, from PATH
        #[schemars(
            title = "path or command name",
            extend("format" = "path"),
            example = "/usr/bin/pg_probackup-15"
        )]
        pub pg_probackup: Option<PathBuf>,

        /// Reader of the catalog: "pg_probackup", "native" (pbkfs itself) or "auto"
        /// (pg_probackup if it is found, else pbkfs itself).
        #[schemars(example = MetadataSource::Native)]
        pub metadata: MetadataSource = MetadataSource::Auto,

        /// Time limit for an answer from pg_probackup.
        #[schemars(example = 60)]
        pub metadata_timeout: Seconds = Seconds::new(60),

        /// Whether to lock the backups against pg_probackup's delete and merge. "auto" locks
        /// them too, but only warns if the catalog cannot be written.
        #[schemars(example = true)]
        pub lock_backups: LockBackups = LockBackups::Auto,

        /// Whether to unlock the backups once pbkfs promote has brought all of the backup into
        /// the diff: the clone no longer needs the catalog then.
        #[schemars(example = false)]
        pub unlock_hydrated: bool = true,

        /// Whether to verify the checksum of every page that is read, if the cluster has
        /// data checksums.
        #[schemars(example = false)]
        pub verify_checksums: bool = true,

        /// Memory for the page indexes of recently read files, a few bytes per page.
        #[schemars(example = &"1GB")]
        pub cache_size: ByteSize = ByteSize::megabytes(256),

        /// How a catalog in a bucket is read.
        pub storage: StoragePlan,

        /// How the mount is served.
        pub fuse: FusePlan,

        /// How PostgreSQL is run.
        pub postgres: PostgresPlan,

        /// How far the catalog's WAL archive is replayed before the server answers.
        pub recovery: RecoveryPlan,

        /// How the clone is isolated from production.
        pub fence: FencePlan,

        /// What pbkfs verify does to prove that a backup restores.
        pub verify: VerifyPlan,

        /// What pbkfs logs, and where.
        pub log: LogPlan,
    }
}

/// The reader of the catalog's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetadataSource {
    /// pg_probackup if it is found, else pbkfs itself.
    Auto,
    /// `pg_probackup show`.
    PgProbackup,
    /// pbkfs reads the control files.
    Native,
}

/// Whether the chain is locked against pg_probackup's delete and merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBackups {
    /// Locked; if the catalog cannot be written, there is only a warning.
    Auto,
    /// Locked; failure to lock is an error.
    Always,
    /// Not locked.
    Never,
}

from_value!(LockBackups);

impl FromValue for LockBackups {
    const EXPECTED: &'static str = "\"auto\", true or false";

    fn schema() -> Schema {
        json_schema!({ "type": ["boolean", "string"], "enum": ["auto", true, false] })
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(true) => Some(Self::Always),
            Value::Boolean(false) => Some(Self::Never),
            Value::String(text) if text == "auto" => Some(Self::Auto),
            _ => None,
        }
    }
}

impl Serialize for LockBackups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Always => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_bool(false),
        }
    }
}

impl Plan {
    /// Checks what the types do not. Accesses the file system only to resolve symbolic
    /// links, and for the paths of `fence.expose`.
    ///
    /// # Errors
    /// Returns the first value that is invalid or conflicts with another.
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        // It is the name of a directory in the catalog, and must not lead out of it.
        let name = &self.instance;
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            let reason = format!("\"{name}\" is not the name of an instance");
            return Err(ProfileError::wrong("instance", reason));
        }
        self.storage.check()?;
        let is_remote = matches!(self.catalog, Location::Remote(_));
        if is_remote && self.metadata == MetadataSource::PgProbackup {
            let reason = "pg_probackup cannot read a bucket; use \"native\" or \"auto\"";
            return Err(ProfileError::wrong("metadata", reason));
        }
        self.postgres.check()?;
        self.recovery.check()?;
        self.verify.check()?;
        self.fence.check()?;
        self.log.check()?;
        self.check_paths()?;
        self.check_listen_addresses()
    }

    /// Makes the clone mount on `target` and discard its writes. They still go to the
    /// disk on which they would have been kept.
    pub fn throw_away(&mut self, target: PathBuf) {
        let target = std::mem::replace(&mut self.target, target);
        self.beside = self.diff_dir.take().or(Some(target));
    }

    /// Refuses addresses to listen on in a network where nobody could connect to
    /// them.
    fn check_listen_addresses(&self) -> Result<(), ProfileError> {
        let listens = self.postgres.settings.get("listen_addresses");
        let is_closed = self.fence.level == Level::Auto && self.fence.network == Network::None;
        if is_closed && listens.is_some_and(|addresses| !addresses.is_empty()) {
            return Err(ProfileError::wrong(
                "postgres.settings.listen_addresses",
                "nobody could connect, because fence.network is \"none\"; \"host\" is the host's \
                 network, and also needs fence.allow = [\"listen_addresses\"]",
            ));
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), ProfileError> {
        let catalog = (self.catalog.directory()).map(|dir| KeyPath::new("catalog", dir));
        let outside_catalog = |path: &KeyPath, reason| match &catalog {
            Some(catalog) => path.outside(catalog, reason),
            None => Ok(()),
        };
        let target = KeyPath::new("target", &self.target);
        outside_catalog(&target, "the catalog belongs to pg_probackup")?;
        if let Some(catalog) = &catalog {
            catalog.outside(&target, "the mount would hide the catalog that it reads")?;
        }
        if let Some(diff_dir) = &self.diff_dir {
            let diff = KeyPath::new("diff_dir", diff_dir);
            outside_catalog(&diff, "the catalog belongs to pg_probackup")?;
            if let Some(catalog) = &catalog {
                catalog.outside(&diff, "the diff needs a directory of its own")?;
            }
            diff.outside(&target, "the mount would hide the diff that it writes")?;
            target.outside(&diff, "the diff needs a directory of its own")?;
        }
        let target_of_log = self.log.target();
        let log = match &target_of_log {
            LogTarget::File(file) => Some(file),
            LogTarget::Stderr | LogTarget::Journald => None,
        };
        let written = [
            ("log.file", log),
            ("storage.cache_dir", self.storage.cache_dir.as_ref()),
            ("verify.dump_dir", self.verify.dump_dir.as_ref()),
            ("verify.state_dir", self.verify.state_dir.as_ref()),
            ("verify.prometheus", self.verify.prometheus.as_ref()),
            ("verify.html", self.verify.html.as_ref()),
        ];
        for (key, path) in written {
            let Some(path) = path else { continue };
            let place = KeyPath::new(key, path);
            outside_catalog(&place, "the catalog belongs to pg_probackup")?;
            place.outside(&target, "the mount would hide it")?;
        }
        Ok(())
    }
}

/// A key's path, with links resolved as far as it exists.
struct KeyPath {
    key: &'static str,
    path: PathBuf,
}

impl KeyPath {
    fn new(key: &'static str, path: &Path) -> Self {
        Self {
            key,
            path: resolve(path),
        }
    }

    fn outside(&self, outer: &Self, reason: &'static str) -> Result<(), ProfileError> {
        if !self.path.starts_with(&outer.path) {
            return Ok(());
        }
        Err(ProfileError::Overlap {
            inner_key: self.key,
            inner: self.path.clone(),
            relation: if self.path == outer.path {
                "the same as"
            } else {
                "inside"
            },
            outer_key: outer.key,
            outer: outer.path.clone(),
            reason,
        })
    }
}

/// Resolves links in the longest part of `path` that can be resolved: a mount point
/// need not exist, and a dead mount left there returns only errors.
fn resolve(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(resolved), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return resolved.join(rest);
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn plan(catalog: &str, target: &str, diff_dir: Option<&str>) -> Plan {
        Plan {
            catalog: catalog.into(),
            instance: "main".into(),
            target: target.into(),
            diff_dir: diff_dir.map(Into::into),
            ..Plan::default()
        }
    }

    #[test]
    fn defaults_fill_the_rest() {
        let plan = plan("/nonexistent/cat", "/nonexistent/mnt", None);
        plan.check().unwrap();
        assert_eq!(plan.backup, BackupRef::Latest);
        assert_eq!(plan.postgres.start_timeout, Seconds::new(300));
        assert_eq!(plan.postgres.stop_timeout, Seconds::new(60));
        assert_eq!(plan.metadata_timeout, Seconds::new(60));
        assert_eq!(plan.cache_size, ByteSize(256 << 20));
        assert!(plan.verify_checksums && plan.postgres.launch);
        assert!(plan.diff_dir.is_none() && plan.postgres.port.is_none());
    }

    #[test]
    fn overlapping_paths_are_refused() {
        for (catalog, target, diff, said) in [
            (
                "/n/cat",
                "/n/cat/mnt",
                None,
                "target (/n/cat/mnt) may not be inside catalog",
            ),
            ("/n/cat", "/n/cat", None, "may not be the same as"),
            (
                "/n/mnt/cat",
                "/n/mnt",
                None,
                "catalog (/n/mnt/cat) may not be inside target",
            ),
            (
                "/n/cat",
                "/n/mnt",
                Some("/n/cat/diff"),
                "diff_dir (/n/cat/diff) may not be inside",
            ),
            (
                "/n/cat",
                "/n/mnt",
                Some("/n/mnt"),
                "may not be the same as target",
            ),
            (
                "/n/cat",
                "/n/mnt",
                Some("/n/mnt/diff"),
                "may not be inside target",
            ),
            (
                "/n/cat",
                "/n/diff/mnt",
                Some("/n/diff"),
                "target (/n/diff/mnt) may not be inside",
            ),
            (
                "/n/cat",
                "/n/mnt",
                Some("/n"),
                "may not be inside diff_dir (/n)",
            ),
        ] {
            let error = plan(catalog, target, diff).check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let beside = plan("/n/cat", "/n/catalog2", Some("/n/cat.diff"));
        assert!(beside.check().is_ok());
    }

    #[test]
    fn what_a_bucket_does_not_have_is_refused() {
        let mut plan = plan("/n/cat", "/n/mnt", None);
        plan.catalog = "s3://backups/pg".parse().unwrap();
        plan.check().unwrap();
        plan.metadata = MetadataSource::PgProbackup;
        let error = plan.check().unwrap_err().to_string();
        assert!(error.contains("cannot read a bucket"), "{error}");
    }

    #[test]
    fn links_do_not_hide_an_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("cat")).unwrap();
        symlink(dir.join("cat"), dir.join("link")).unwrap();
        let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let plan = plan(&text("cat"), &text("link/mnt"), None);
        let error = plan.check().unwrap_err();
        assert!(matches!(error, ProfileError::Overlap { .. }), "{error}");
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["", "..", "a/b", ".hidden"] {
            let mut plan = plan("/n/cat", "/n/mnt", None);
            plan.instance = name.into();
            assert!(plan.check().is_err(), "{name}");
        }
        for name in ["", "/^(.*)$", "a\nb"] {
            let mut plan = plan("/n/cat", "/n/mnt", None);
            plan.postgres.role = name.into();
            assert!(plan.check().is_err(), "{name}");
        }
    }
}
