//! Reads the layers, each with its own errors, and merges them.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::error::ProfileError;
use super::given::{Origin, Profile};
use super::keys::{self, SETTINGS};
use super::plan::Plan;
use crate::untrusted::{SMALL, read_limited};

/// The prefix of our environment variables.
const ENV_PREFIX: &str = "PBKFS_";

impl Profile {
    /// Reads and merges all layers above the defaults: `system_config` (which need not
    /// exist), `profile`, the environment and `sets` (each `key=value`).
    ///
    /// Relative paths in a file start at its directory, those in the environment and
    /// in `sets` at the working directory, so that all paths in the result are
    /// absolute. (`pg_probackup` may stay a bare command name.)
    ///
    /// # Errors
    /// Returns the error of the first layer that has one. Nothing is checked across
    /// keys; [`Self::plan`] does that.
    pub fn load(
        profile: Option<&Path>,
        sets: &[String],
        system_config: &Path,
    ) -> Result<Self, ProfileError> {
        Self::load_with(profile, sets, system_config, env::vars_os())
    }

    fn load_with(
        profile: Option<&Path>,
        sets: &[String],
        system_config: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ProfileError> {
        let mut merged = Self::default();
        match Self::read(system_config) {
            Err(ProfileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            layer => merged.extend(layer?),
        }
        if let Some(path) = profile {
            merged.extend(Self::read(path)?);
        }
        for assignment in from_environment(environment)? {
            merged.extend(assignment.into_layer()?);
        }
        for argument in sets {
            let assignment = Assignment::of_set(argument)?;
            merged.extend(assignment.into_layer()?);
        }
        Ok(merged)
    }

    fn read(path: &Path) -> Result<Self, ProfileError> {
        // It may be a pipe of the user's own, but its size is limited.
        let read = || {
            let bytes = read_limited(File::open(path)?, SMALL)?;
            String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        };
        let text = read().map_err(|source| ProfileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of the file `path` as a layer. Errors name the file, and
    /// relative paths start at its directory.
    ///
    /// # Errors
    /// If the text is not TOML, or has unknown keys or values of the wrong type.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let toml_error = |source| ProfileError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let table = DeTable::parse(text).map_err(toml_error)?;
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let mut leaves = Leaves {
            path,
            line_starts,
            found: Vec::new(),
        };
        leaves.add_table("", table.get_ref())?;
        let found = leaves.found;
        // Parsed only for its errors, which show the line: layers are merged before
        // their values count.
        let _: Plan = toml::from_str(text).map_err(toml_error)?;
        let mut layer = Self::default();
        for (key, origin, value) in found {
            let value = Value::deserialize(ValueDeserializer::from(value)).map_err(toml_error)?;
            layer.set(&key, value, origin);
        }
        layer.make_absolute(path.parent().unwrap_or(Path::new("")))?;
        Ok(layer)
    }
}

/// The keys in a file, each with its place.
struct Leaves<'a, 'i> {
    path: &'a Path,
    line_starts: Vec<usize>,
    found: Vec<(String, Origin, Spanned<DeValue<'i>>)>,
}

impl<'i> Leaves<'_, 'i> {
    /// Collects the keys below `section`, and refuses the first that is neither a key
    /// nor a section.
    fn add_table(&mut self, section: &str, table: &DeTable<'i>) -> Result<(), ProfileError> {
        for (name, value) in table {
            let key = match section {
                "" => name.get_ref().to_string(),
                section => format!("{section}.{}", name.get_ref()),
            };
            let start = name.span().start;
            let origin = Origin::File {
                path: self.path.to_owned(),
                line: self.line_starts.partition_point(|line| *line <= start) + 1,
            };
            match value.get_ref() {
                DeValue::Table(table) if key == SETTINGS || keys::is_section(&key) => {
                    self.add_table(&key, table)?;
                }
                // The TOML parser's own message for `postgres = 1` is better.
                _ if keys::is_section(&key) => {}
                _ if keys::find(&key).is_some() => self.found.push((key, origin, value.clone())),
                _ => return Err(unknown(origin.to_string(), key)),
            }
        }
        Ok(())
    }
}

fn unknown(place: String, key: String) -> ProfileError {
    let nearest = keys::nearest(&key);
    ProfileError::UnknownKey {
        place,
        key,
        nearest,
    }
}

/// One key set as text, by an environment variable or by `--set`.
struct Assignment {
    key: String,
    text: String,
    origin: Origin,
}

impl Assignment {
    fn of_set(argument: &str) -> Result<Self, ProfileError> {
        let no_equals = || ProfileError::NoEquals {
            argument: argument.to_owned(),
        };
        let (key, text) = argument.split_once('=').ok_or_else(no_equals)?;
        Ok(Self {
            key: key.trim().to_owned(),
            text: text.to_owned(),
            origin: Origin::Set(argument.to_owned()),
        })
    }

    fn into_layer(self) -> Result<Profile, ProfileError> {
        let Some(known) = may_be_set(&self.key) else {
            return Err(unknown(self.origin.to_string(), self.key));
        };
        let mut layer = Profile::default();
        layer.set(&self.key, known.value_of(&self.text), self.origin);
        layer.typed()?;
        layer.make_absolute(Path::new(""))?;
        Ok(layer)
    }
}

/// Returns the key, if it can be set as text.
fn may_be_set(key: &str) -> Option<&'static keys::Key> {
    keys::find(key).filter(|_| key != SETTINGS)
}

/// Returns warnings about environment variables with our prefix that match no key.
/// They are more often another program's than mistyped: for a service called pbkfs,
/// Kubernetes sets `PBKFS_SERVICE_HOST`.
#[must_use]
pub fn unknown_variables() -> Vec<String> {
    unknown_variables_in(env::vars_os().map(|(name, _)| name))
}

fn unknown_variables_in(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut found: Vec<String> = names
        .filter_map(|name| {
            let name = name.to_string_lossy().into_owned();
            let key = key_of_variable(name.strip_prefix(ENV_PREFIX)?);
            let place = format!("environment variable {name}");
            may_be_set(&key)
                .is_none()
                .then(|| format!("{}; it is ignored", unknown(place, key)))
        })
        .collect();
    found.sort();
    found
}

fn key_of_variable(rest: &str) -> String {
    rest.to_ascii_lowercase().replace("__", ".")
}

/// Returns what the environment sets: `PBKFS_POSTGRES__PORT=5433` sets
/// `postgres.port`. A variable that matches no key is skipped.
fn from_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<Assignment>, ProfileError> {
    let mut assignments = Vec::new();
    for (name, value) in environment {
        let lossy = name.to_string_lossy();
        let Some(rest) = lossy.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let key = key_of_variable(rest);
        if may_be_set(&key).is_none() {
            continue;
        }
        match (name.to_str(), value.into_string()) {
            (Some(name), Ok(text)) => assignments.push(Assignment {
                key,
                text,
                origin: Origin::Variable(name.to_owned()),
            }),
            _ => {
                return Err(ProfileError::NotUtf8 {
                    name: lossy.into_owned(),
                });
            }
        }
    }
    // The environment has no order, but errors should be reported in one.
    assignments.sort_by_key(|assignment| assignment.origin.to_string());
    Ok(assignments)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::catalog::{BackupId, BackupRef};
    use crate::profile::plan::LockBackups;
    use crate::profile::section::fuse::Passthrough;
    use crate::profile::section::postgres::Port;
    use crate::profile::section::recovery::{MomentText, RecoveryTarget};
    use crate::profile::values::ByteSize;

    /// Returns what is set, typed; no key is required.
    fn load_text(profile: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Plan, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.toml");
        fs::write(&path, profile).unwrap();
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let given = Profile::load_with(Some(&path), &sets, &dir.path().join("config.toml"), env);
        given.and_then(|given| given.typed()).map_err(|error| {
            error
                .to_string()
                .replace(dir.path().to_str().unwrap(), "DIR")
        })
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let (system, profile) = (dir.path().join("config.toml"), dir.path().join("p.toml"));
        fs::write(
            &system,
            "instance = 'system'\ncache_size = '1MB'\n[postgres]\nport = 1\n",
        )
        .unwrap();
        fs::write(
            &profile,
            "instance = 'profile'\n[postgres]\nport = 2\nrole = 'p'\n\
             [postgres.settings]\nwork_mem = '1MB'\nJIT = 'off'\ncron.Use = 1\n",
        )
        .unwrap();
        let env = [
            ("PBKFS_POSTGRES__PORT", "3"),
            ("PBKFS_LOG__LEVEL", "debug"),
            ("PATH", "/bin"),
        ];
        let sets = ["postgres.port=4", "postgres.settings.Work_Mem=64MB"].map(str::to_owned);
        let given = Profile::load_with(
            Some(&profile),
            &sets,
            &system,
            env.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        )
        .unwrap();
        assert_eq!(given.get("backup"), None, "nobody set it");
        let origin = |key: &str| given.get(key).unwrap().origin.to_string();
        let dir = dir.path().to_str().unwrap();
        let origin = |key: &str| origin(key).replace(dir, "DIR");
        assert_eq!(origin("instance"), "DIR/p.toml:1");
        assert_eq!(origin("postgres.role"), "DIR/p.toml:4");
        assert_eq!(origin("postgres.port"), "--set postgres.port=4");
        assert_eq!(origin("log.level"), "environment variable PBKFS_LOG__LEVEL");
        assert_eq!(origin("postgres.settings.jit"), "DIR/p.toml:7");
        assert_eq!(origin("postgres.settings.cron.use"), "DIR/p.toml:8");
        let plan = given.typed().unwrap();
        assert_eq!(plan.instance, "profile");
        assert_eq!(plan.cache_size, ByteSize(1 << 20));
        assert_eq!(plan.postgres.port, Port::new(4));
        assert_eq!(plan.postgres.role, "p");
        assert_eq!(plan.backup, BackupRef::Latest, "a default shines through");
        let settings: Vec<_> = plan.postgres.settings.iter().collect();
        assert_eq!(
            format!("{settings:?}"),
            r#"[("cron.use", "1"), ("jit", "off"), ("work_mem", "64MB")]"#
        );
        let error = given.plan().unwrap_err();
        assert!(matches!(
            error,
            ProfileError::Missing { key: "catalog", .. }
        ));
    }

    #[test]
    fn values_that_do_not_go_together_are_told_with_their_place() {
        let sets = ["catalog=/n/a", "target=/n/b", "instance=main"];
        let said = |text: &str, sets: &[&str]| {
            let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
            let mut given = Profile::parse(text, Path::new("/p/x.toml")).unwrap();
            let flags = Profile::load_with(None, &sets, Path::new("/none"), std::iter::empty());
            given.extend(flags.unwrap());
            given.plan().unwrap_err().to_string()
        };
        assert_eq!(
            said(
                "\n[fence]\nrequire = 'namespace'\nlevel = 'settings'",
                &sets
            ),
            "/p/x.toml:3: invalid value for \"fence.require\": fence.level = \"settings\" asks for \
             less"
        );
        let wrong = [&sets[..], &["instance=.."]].concat();
        assert!(said("", &wrong).starts_with("--set instance=..: invalid value"));
        assert_eq!(
            said("", &sets[..2]),
            "the profile does not set \"instance\" (Instance within the catalog, as passed to \
             pg_probackup with --instance)"
        );
    }

    #[test]
    fn unknown_keys_are_refused_with_place_and_nearest_key() {
        let refused = |profile, env: &[(&str, &str)], sets: &[&str]| {
            load_text(profile, env, sets).unwrap_err()
        };
        assert_eq!(
            refused("instance = 'a'\n\n[postgres]\nprot = 1\n", &[], &[]),
            "DIR/profile.toml:4: unknown key \"postgres.prot\"; did you mean \"postgres.port\"?"
        );
        assert_eq!(
            refused("\n[postgers]\nport = 1\n", &[], &[]),
            "DIR/profile.toml:2: unknown key \"postgers\"; did you mean \"postgres\"?"
        );
        // Other programs set variables, too.
        let names = [
            "PBKFS_SERVICE_HOST",
            "PBKFS_DIFFDIR",
            "PBKFS_CATALOG",
            "HOME",
        ];
        assert!(load_text("", &names.map(|name| (name, "/x")), &[]).is_ok());
        assert_eq!(
            unknown_variables_in(names.into_iter().map(OsString::from)),
            [
                "environment variable PBKFS_DIFFDIR: unknown key \"diffdir\"; \
                 did you mean \"diff_dir\"?; it is ignored",
                "environment variable PBKFS_SERVICE_HOST: unknown key \"service_host\"; \
                 it is ignored",
            ]
        );
        assert_eq!(
            refused("", &[], &["bakup=latest"]),
            "--set bakup=latest: unknown key \"bakup\"; did you mean \"backup\"?"
        );
        assert_eq!(
            refused("qqqqqqqq = 1", &[], &[]),
            "DIR/profile.toml:1: unknown key \"qqqqqqqq\""
        );
    }

    #[test]
    fn values_of_the_wrong_form_are_refused_with_place() {
        for (profile, env, set, parts) in [
            (
                "[postgres]\nport = 70000",
                None,
                None,
                &["profile.toml", "line 2", "1 to 65535"][..],
            ),
            ("backup = 'a b'", None, None, &["line 1", "a backup id"]),
            (
                "lock_backups = 'no'",
                None,
                None,
                &["line 1", "\"auto\", true or false"],
            ),
            ("postgres = 1", None, None, &["line 1", "invalid type"]),
            (
                "catalog = ''",
                None,
                None,
                &["profile.toml", "\"catalog\"", "empty"],
            ),
            ("a = = 1", None, None, &["line 1"]),
            (
                "",
                Some(("PBKFS_METADATA_TIMEOUT", "soon")),
                None,
                &["PBKFS_METADATA_TIMEOUT", "sec"],
            ),
            (
                "",
                None,
                Some("verify_checksums=maybe"),
                &["--set verify_checksums=maybe"],
            ),
            ("", None, Some("postgres.port"), &["expected key=value"]),
            ("", None, Some("postgres.settings=1"), &["unknown key"]),
        ] {
            let env: Vec<_> = env.into_iter().collect();
            let set: Vec<_> = set.into_iter().collect();
            let error = load_text(profile, &env, &set).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{profile}: no {part:?} in {error}");
            }
        }
    }

    #[test]
    fn relative_paths_start_at_their_file() {
        let profile = Profile::parse(
            "catalog = 'cat'\ntarget = '/abs'\ndiff_dir = '~/d'\npg_probackup = 'pg_probackup-15'",
            Path::new("/etc/clones/p.toml"),
        )
        .unwrap();
        let path = |key: &str| profile.value::<PathBuf>(key).unwrap();
        assert_eq!(path("catalog"), Path::new("/etc/clones/cat"));
        assert_eq!(path("target"), Path::new("/abs"));
        assert_eq!(path("diff_dir"), Path::new("/etc/clones/~/d"));
        assert_eq!(path("pg_probackup"), Path::new("pg_probackup-15"));
        let set = load_text("", &[], &["target=here"]).unwrap();
        assert_eq!(set.target, env::current_dir().unwrap().join("here"));
    }

    #[test]
    fn a_time_takes_the_place_of_any_target() {
        let sets = ["recovery.xid=5", "recovery.target=latest"].map(str::to_owned);
        let given = Profile::load_with(None, &sets, Path::new("/none"), std::iter::empty());
        let mut given = given.unwrap();
        let time: MomentText = "2026-11-22 14:32Z".parse().unwrap();
        given.recover_to(time, Origin::Command("--at"));
        let recovery = given.typed().unwrap().recovery;
        assert_eq!(recovery.check().map_err(|e| e.to_string()), Ok(()));
        assert_eq!(recovery.target(), Some(RecoveryTarget::Time(time.0)));
    }

    #[test]
    fn text_takes_the_type_of_its_key() {
        let profile = load_text(
            "",
            &[("PBKFS_BACKUP", "123456"), ("PBKFS_INSTANCE", "true")],
            &[
                "lock_backups=false",
                "fuse.passthrough=false",
                "cache_size=1024",
                "fuse.threads=2",
            ],
        )
        .unwrap();
        assert_eq!(profile.backup, BackupRef::Id(BackupId("123456".into())));
        assert_eq!(profile.instance, "true");
        assert_eq!(profile.lock_backups, LockBackups::Never);
        assert_eq!(profile.fuse.passthrough, Passthrough::Off);
        assert_eq!(profile.cache_size, ByteSize(1024));
    }

    #[test]
    fn a_missing_profile_is_an_error_and_a_missing_system_file_is_not() {
        let nowhere = Path::new("/nonexistent/p.toml");
        let none = || std::iter::empty();
        assert!(Profile::load_with(None, &[], nowhere, none()).is_ok());
        let error = Profile::load_with(Some(nowhere), &[], nowhere, none()).unwrap_err();
        assert!(matches!(error, ProfileError::Read { .. }));
    }

    #[test]
    fn every_example_and_every_default_is_accepted() {
        for key in keys::keys() {
            for value in std::iter::once(&key.example).chain(&key.value) {
                let text = format!("{} = {value}\n", key.path);
                let profile = Profile::parse(&text, "/p/example.toml".as_ref());
                assert!(profile.is_ok(), "{text}{profile:?}");
            }
        }
    }

    fn samples() -> Vec<PathBuf> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
            .collect()
    }

    #[test]
    fn every_sample_is_a_complete_profile() {
        let samples = samples();
        assert!(samples.len() >= 3, "{samples:?}");
        for path in samples {
            let text = fs::read_to_string(&path).unwrap();
            let plan = Profile::parse(&text, &path).and_then(|profile| profile.plan());
            assert!(plan.is_ok(), "{}: {}", path.display(), plan.unwrap_err());
        }
    }

    /// Keys without a fixed default are in it as `#key = example`.
    #[test]
    fn full_sample_names_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/full.toml");
        let text = fs::read_to_string(&path).unwrap();
        let is_key = |line: &&str| !line.starts_with("# ") && *line != "#";
        let lines = text.lines().filter(is_key);
        let all: String = lines
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        let named = Profile::parse(&all, &path).unwrap();
        for key in keys::keys() {
            let is_set = named.get(&key.path).is_some() || key.path == SETTINGS;
            assert!(is_set, "{} is not in it", key.path);
        }
        assert!(named.settings().count() > 1);

        let mut written = Profile::parse(&text, &path).unwrap();
        for key in ["catalog", "instance", "target"] {
            written.unset(key);
        }
        assert_eq!(written.typed().unwrap(), Plan::default());
        for key in keys::keys().filter(|key| key.path != SETTINGS) {
            let is_set = written.get(&key.path).is_some();
            assert_eq!(is_set, key.value.is_some(), "{}", key.path);
        }
    }
}
