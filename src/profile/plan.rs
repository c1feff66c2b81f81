//! A profile that was checked: what is needed is there, and no path would
//! damage another.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::error::ProfileError;
use super::fence::{FencePlan, Level, Network};
use super::keys;
use super::logging::{LogDestination, LogFormat, LogLevel};
use super::raw::{LogProfile, PostgresProfile, Profile};
use super::recovery::RecoveryPlan;
use super::values::{BackupChoice, LockBackups, MetadataSource, Passthrough};
use super::verify::VerifyPlan;

/// What a session is to do. All paths are absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The pg_probackup catalog.
    pub catalog: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// Which of its backups.
    pub backup: BackupChoice,
    /// The mount point.
    pub target: PathBuf,
    /// Where the clone's writes are kept; `None` is a throw-away place.
    pub diff_dir: Option<PathBuf>,
    /// Beside what a throw-away place is made; `None` is the mount point.
    pub beside: Option<PathBuf>,
    /// The pg_probackup program (path or command name); `None` is to be found.
    pub pg_probackup: Option<PathBuf>,
    /// Who reads the metadata.
    pub metadata: MetadataSource,
    /// How long pg_probackup may take to answer.
    pub metadata_timeout: Duration,
    /// Whether the chain is locked.
    pub lock_backups: LockBackups,
    /// Whether page checksums are checked on reading.
    pub verify_checksums: bool,
    /// Memory for indexes and pages, in bytes.
    pub cache_size: u64,
    /// The mount's part.
    pub fuse: FusePlan,
    /// PostgreSQL's part.
    pub postgres: PostgresPlan,
    /// How far the WAL archive is replayed.
    pub recovery: RecoveryPlan,
    /// What proves that the backup restores.
    pub verify: VerifyPlan,
    /// How far it is kept from production.
    pub fence: FencePlan,
    /// What is logged, and where.
    pub log: LogPlan,
}

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPlan {
    /// How much is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go.
    pub target: LogTarget,
    /// How many files of a day each are kept.
    pub keep: NonZeroUsize,
    /// The server's user, who may own a log's directory.
    pub server_user: String,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// The systemd journal.
    Journald,
    /// A file of this name with the date behind it; absolute.
    File(PathBuf),
}

/// How the mount is served.
#[derive(Debug, Clone, PartialEq)]
pub struct FusePlan {
    /// Threads that answer the kernel.
    pub threads: NonZeroUsize,
    /// Whether the kernel may serve files by itself.
    pub passthrough: Passthrough,
}

/// How PostgreSQL is run.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresPlan {
    /// Whether it is run at all.
    pub launch: bool,
    /// Where its programs are; `None` is to be found.
    pub bin_dir: Option<PathBuf>,
    /// Its port, never 0; `None` is a free one.
    pub port: Option<u16>,
    /// The operating system user, used when pbkfs is root.
    pub user: String,
    /// The database role that pbkfs connects as.
    pub role: String,
    /// The user's settings, by lower-case name.
    pub settings: BTreeMap<String, String>,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long each kind of stop may take.
    pub stop_timeout: Duration,
    /// Where the socket goes; `None` is the session's own directory.
    pub socket_dir: Option<PathBuf>,
}

impl Plan {
    /// Checks a merged profile, as [`load`](super::load) gives it. Looks at
    /// the file system only to resolve symbolic links.
    ///
    /// # Errors
    /// The first key that is missing, or the first pair of paths that cannot
    /// go together.
    pub fn check(profile: &Profile) -> Result<Self, ProfileError> {
        let plan = Self {
            catalog: absolute("catalog", need("catalog", &profile.catalog)?)?,
            instance: instance(profile)?,
            backup: need("backup", &profile.backup)?,
            target: absolute("target", need("target", &profile.target)?)?,
            diff_dir: optional_absolute("diff_dir", &profile.diff_dir)?,
            beside: None,
            pg_probackup: profile.pg_probackup.clone(),
            metadata: need("metadata", &profile.metadata)?,
            metadata_timeout: need("metadata_timeout", &profile.metadata_timeout)?.into(),
            lock_backups: need("lock_backups", &profile.lock_backups)?,
            verify_checksums: need("verify_checksums", &profile.verify_checksums)?,
            cache_size: need("cache_size", &profile.cache_size)?.0,
            fuse: FusePlan {
                threads: profile.fuse.threads.unwrap_or_else(processors),
                passthrough: need("fuse.passthrough", &profile.fuse.passthrough)?,
            },
            postgres: PostgresPlan::check(&profile.postgres)?,
            recovery: RecoveryPlan::check(&profile.recovery)?,
            verify: VerifyPlan::check(&profile.verify)?,
            fence: FencePlan::check(&profile.fence)?,
            log: LogPlan::check(&profile.log, &profile.postgres)?,
        };
        plan.check_paths()?;
        plan.check_listen_addresses()?;
        Ok(plan)
    }

    /// Mounts elsewhere, and keeps none of the clone's writes. They go to the same
    /// disk as if they were kept.
    pub fn throw_away(&mut self, target: PathBuf) {
        let target = std::mem::replace(&mut self.target, target);
        self.beside = self.diff_dir.take().or(Some(target));
    }

    /// Who asks for TCP wants to be reached by it.
    fn check_listen_addresses(&self) -> Result<(), ProfileError> {
        let listens = self.postgres.settings.get("listen_addresses");
        let is_closed = self.fence.level == Level::Auto && self.fence.network == Network::None;
        if is_closed && listens.is_some_and(|addresses| !addresses.is_empty()) {
            return Err(ProfileError::Value {
                place: "profile".to_owned(),
                key: "postgres.settings.listen_addresses".to_owned(),
                reason: "nobody could connect, as fence.network is \"none\"; \"host\" is the \
                         host's network, and needs fence.allow = [\"listen_addresses\"] besides"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), ProfileError> {
        let catalog = Place::new("catalog", &self.catalog);
        let target = Place::new("target", &self.target);
        target.outside(&catalog, "the catalog belongs to pg_probackup")?;
        catalog.outside(&target, "the mount would hide the catalog that it reads")?;
        if let Some(diff_dir) = &self.diff_dir {
            let diff = Place::new("diff_dir", diff_dir);
            diff.outside(&catalog, "the catalog belongs to pg_probackup")?;
            catalog.outside(&diff, "the diff needs a directory of its own")?;
            diff.outside(&target, "the mount would hide the diff that it writes")?;
            target.outside(&diff, "the diff needs a directory of its own")?;
        }
        let log = match &self.log.target {
            LogTarget::File(file) => Some(file),
            LogTarget::Stderr | LogTarget::Journald => None,
        };
        let written = [
            ("log.file", log),
            ("verify.dump_dir", self.verify.dump_dir.as_ref()),
            ("verify.state_dir", self.verify.state_dir.as_ref()),
            ("verify.prometheus", self.verify.prometheus.as_ref()),
            ("verify.html", self.verify.html.as_ref()),
        ];
        for (key, path) in written {
            let Some(path) = path else { continue };
            let place = Place::new(key, path);
            place.outside(&catalog, "the catalog belongs to pg_probackup")?;
            place.outside(&target, "the mount would hide it")?;
        }
        Ok(())
    }
}

impl LogPlan {
    fn check(profile: &LogProfile, postgres: &PostgresProfile) -> Result<Self, ProfileError> {
        let file = optional_absolute("log.file", &profile.file)?;
        let target = match (profile.destination, file) {
            (None, None) | (Some(LogDestination::Stderr), _) => LogTarget::Stderr,
            (Some(LogDestination::Journald), _) => LogTarget::Journald,
            (None | Some(LogDestination::File), Some(file)) => LogTarget::File(file),
            (Some(LogDestination::File), None) => {
                return Err(ProfileError::Value {
                    place: "profile".to_owned(),
                    key: "log.destination".to_owned(),
                    reason: "\"file\" needs log.file, the file to log to".to_owned(),
                });
            }
        };
        Ok(Self {
            level: need("log.level", &profile.level)?,
            format: need("log.format", &profile.format)?,
            target,
            keep: need("log.keep", &profile.keep)?,
            server_user: need("postgres.user", &postgres.user)?,
        })
    }
}

impl PostgresPlan {
    fn check(profile: &PostgresProfile) -> Result<Self, ProfileError> {
        Ok(Self {
            launch: need("postgres.launch", &profile.launch)?,
            bin_dir: optional_absolute("postgres.bin_dir", &profile.bin_dir)?,
            port: profile.port.map(super::values::Port::get),
            user: plain_name("postgres.user", need("postgres.user", &profile.user)?)?,
            role: plain_name("postgres.role", need("postgres.role", &profile.role)?)?,
            settings: profile.settings.as_map().clone(),
            start_timeout: need("postgres.start_timeout", &profile.start_timeout)?.into(),
            stop_timeout: need("postgres.stop_timeout", &profile.stop_timeout)?.into(),
            socket_dir: optional_absolute("postgres.socket_dir", &profile.socket_dir)?,
        })
    }
}

pub(super) fn need<T: Clone>(key: &'static str, value: &Option<T>) -> Result<T, ProfileError> {
    value.clone().ok_or_else(|| ProfileError::Missing {
        key,
        help: keys::find(key).map_or("", |key| key.help),
    })
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ProfileError> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ProfileError::NotAbsolute { key, path })
    }
}

pub(super) fn optional_absolute(
    key: &'static str,
    path: &Option<PathBuf>,
) -> Result<Option<PathBuf>, ProfileError> {
    path.clone().map(|path| absolute(key, path)).transpose()
}

/// The instance is a directory's name in the catalog, so it may not lead out.
fn instance(profile: &Profile) -> Result<String, ProfileError> {
    let name = need("instance", &profile.instance)?;
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(ProfileError::Value {
            place: "profile".to_owned(),
            key: "instance".to_owned(),
            reason: format!("\"{name}\" is not the name of an instance"),
        });
    }
    Ok(name)
}

/// Names of users and roles go into `pg_ident.conf`, where a leading slash
/// makes a pattern and a line break another entry.
fn plain_name(key: &'static str, name: String) -> Result<String, ProfileError> {
    if name.is_empty() || name.starts_with('/') || name.chars().any(char::is_control) {
        return Err(ProfileError::Value {
            place: "profile".to_owned(),
            key: key.to_owned(),
            reason: format!("{name:?} cannot be used as a name here"),
        });
    }
    Ok(name)
}

fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// A key's path, with links resolved as far as it exists.
struct Place {
    key: &'static str,
    path: PathBuf,
}

impl Place {
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

/// Resolves links in the longest part of `path` that can be resolved: a mount
/// point need not exist, and a dead mount left there answers only errors.
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

    fn profile(catalog: &str, target: &str, diff_dir: Option<&str>) -> Profile {
        Profile {
            catalog: Some(catalog.into()),
            instance: Some("main".into()),
            target: Some(target.into()),
            diff_dir: diff_dir.map(Into::into),
            ..Profile::defaults().unwrap()
        }
    }

    #[test]
    fn defaults_fill_everything_but_three_keys() {
        let plan = Plan::check(&profile("/nonexistent/cat", "/nonexistent/mnt", None)).unwrap();
        assert_eq!(plan.backup, BackupChoice::Latest);
        assert_eq!(plan.postgres.start_timeout, Duration::from_secs(300));
        assert_eq!(plan.postgres.stop_timeout, Duration::from_secs(60));
        assert_eq!(plan.metadata_timeout, Duration::from_secs(60));
        assert_eq!(plan.cache_size, 256 << 20);
        assert!(plan.verify_checksums && plan.postgres.launch);
        assert!(plan.diff_dir.is_none() && plan.postgres.port.is_none());

        for key in ["catalog", "instance", "target"] {
            let mut profile = profile("/nonexistent/cat", "/nonexistent/mnt", None);
            match key {
                "catalog" => profile.catalog = None,
                "instance" => profile.instance = None,
                _ => profile.target = None,
            }
            let error = Plan::check(&profile).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{key}\"")), "{error}");
        }
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
            let error = Plan::check(&profile(catalog, target, diff))
                .unwrap_err()
                .to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(Plan::check(&profile("/n/cat", "/n/catalog2", Some("/n/cat.diff"))).is_ok());
    }

    #[test]
    fn links_do_not_hide_an_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("cat")).unwrap();
        symlink(dir.join("cat"), dir.join("link")).unwrap();
        let text = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let error = Plan::check(&profile(&text("cat"), &text("link/mnt"), None)).unwrap_err();
        assert!(matches!(error, ProfileError::Overlap { .. }), "{error}");
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for name in ["", "..", "a/b", ".hidden"] {
            let mut profile = profile("/n/cat", "/n/mnt", None);
            profile.instance = Some(name.into());
            assert!(Plan::check(&profile).is_err(), "{name}");
        }
        for name in ["", "/^(.*)$", "a\nb"] {
            let mut profile = profile("/n/cat", "/n/mnt", None);
            profile.postgres.role = Some(name.into());
            assert!(Plan::check(&profile).is_err(), "{name}");
        }
        let mut relative = profile("cat", "/n/mnt", None);
        assert!(matches!(
            Plan::check(&relative),
            Err(ProfileError::NotAbsolute { .. })
        ));
        relative.catalog = Some("/n/cat".into());
        assert!(Plan::check(&relative).is_ok());
    }
}
