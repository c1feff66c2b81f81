//! Reading the layers, each with its own errors, and merging them.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{self, Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::error::ProfileError;
use super::keys::{self, Default, KEYS, Kind, SETTINGS};
use super::raw::Profile;
use crate::untrusted::{SMALL, read_limited};

/// What the names of our environment variables begin with.
const ENV_PREFIX: &str = "PBKFS_";

/// Reads and merges all layers: defaults, `system_config` (which need not
/// exist), `profile`, the environment, `sets` (each `key=value`).
///
/// Relative paths of a file start at its directory, those of the environment
/// and of `sets` at the working directory, so that all paths of the result
/// are absolute. (`pg_probackup` may stay a bare command name.)
///
/// # Errors
/// Whatever is wrong with the first layer that has something wrong; nothing
/// is checked across keys, that is [`Plan::check`](super::Plan::check)'s work.
pub fn load(
    profile: Option<&Path>,
    sets: &[String],
    system_config: &Path,
) -> Result<Profile, ProfileError> {
    load_given(profile, sets, system_config)?.over_defaults()
}

/// Like [`load`], without the defaults: what nobody set is `None`, and may be
/// found elsewhere before [`Profile::over_defaults`] fills it.
///
/// # Errors
/// Those of [`load`].
pub fn load_given(
    profile: Option<&Path>,
    sets: &[String],
    system_config: &Path,
) -> Result<Profile, ProfileError> {
    load_with(profile, sets, system_config, env::vars_os())
}

fn load_with(
    profile: Option<&Path>,
    sets: &[String],
    system_config: &Path,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Profile, ProfileError> {
    let mut layers = Vec::new();
    match read_file(system_config) {
        Err(ProfileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        layer => layers.push(layer?),
    }
    if let Some(path) = profile {
        layers.push(read_file(path)?);
    }
    for assignment in from_environment(environment)?
        .into_iter()
        .chain(from_sets(sets)?)
    {
        layers.push(assignment.into_profile()?);
    }
    merge_layers(layers)
}

/// Later layers win.
fn merge_layers(layers: Vec<Profile>) -> Result<Profile, ProfileError> {
    layers
        .into_iter()
        .fold(Figment::new(), |merged, layer| {
            merged.merge(Serialized::defaults(layer))
        })
        .extract()
        .map_err(|error| ProfileError::Merge(Box::new(error)))
}

impl Profile {
    /// Fills what nobody set from the defaults.
    ///
    /// # Errors
    /// None in practice.
    pub fn over_defaults(self) -> Result<Self, ProfileError> {
        merge_layers(vec![Self::defaults()?, self])
    }

    /// The lowest layer: the defaults of [`KEYS`].
    ///
    /// # Errors
    /// None in practice; a test reads every default.
    pub fn defaults() -> Result<Self, ProfileError> {
        let assignments = KEYS.iter().filter_map(|key| match key.default {
            Default::Value(text) => Some(Assignment {
                place: "defaults".to_owned(),
                key: key.path.to_owned(),
                text: text.to_owned(),
            }),
            Default::Derived(_) | Default::Required => None,
        });
        let mut table = toml::Table::new();
        for assignment in assignments {
            merge(&mut table, assignment.to_table());
        }
        Self::deserialize(table).map_err(|error| ProfileError::Value {
            place: "defaults".to_owned(),
            key: String::new(),
            reason: error.message().to_owned(),
        })
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

fn read_file(path: &Path) -> Result<Profile, ProfileError> {
    // It may be a pipe of the user's own, but has an end.
    let read = || {
        let bytes = read_limited(File::open(path)?, SMALL)?;
        String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    };
    let text = read().map_err(|source| ProfileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Reads one file's text as a layer. `path` is where it came from: errors
/// name it, and relative paths start at its directory.
///
/// # Errors
/// Not TOML, unknown keys, values of the wrong type.
pub fn parse(text: &str, path: &Path) -> Result<Profile, ProfileError> {
    let toml_error = |source| ProfileError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let table = DeTable::parse(text).map_err(toml_error)?;
    check_keys(table.get_ref(), "", text, path)?;
    let mut profile: Profile = toml::from_str(text).map_err(toml_error)?;
    let base = path.parent().unwrap_or(Path::new(""));
    make_absolute(&mut profile, base, &path.display().to_string())?;
    Ok(profile)
}

/// Refuses the first key below `prefix` that is neither a key nor a section.
fn check_keys(
    table: &DeTable<'_>,
    prefix: &str,
    text: &str,
    path: &Path,
) -> Result<(), ProfileError> {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        if keys::find(&key).is_some() {
            continue;
        }
        match value.get_ref() {
            DeValue::Table(table) if keys::is_section(&key) => {
                check_keys(table, &key, text, path)?;
            }
            // The TOML parser's own message for `postgres = 1` is the better one.
            _ if keys::is_section(&key) => {}
            _ => {
                let before = text.get(..name.span().start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                return Err(unknown(format!("{}:{line}", path.display()), key));
            }
        }
    }
    Ok(())
}

fn unknown(place: String, key: String) -> ProfileError {
    let nearest = keys::nearest(&key);
    ProfileError::UnknownKey {
        place,
        key,
        nearest,
    }
}

fn make_absolute(profile: &mut Profile, base: &Path, place: &str) -> Result<(), ProfileError> {
    for (key, value) in profile.paths_mut() {
        let Some(written) = value else { continue };
        if written.as_os_str().is_empty() {
            return Err(ProfileError::Value {
                place: place.to_owned(),
                key: key.to_owned(),
                reason: "the path is empty".to_owned(),
            });
        }
        let is_command = key == "pg_probackup" && written.components().count() == 1;
        if is_command && written.is_relative() {
            continue;
        }
        let joined = base.join(&written);
        *value =
            Some(
                path::absolute(&joined).map_err(|source| ProfileError::WorkingDirectory {
                    path: joined,
                    source,
                })?,
            );
    }
    Ok(())
}

/// One key set by text: an environment variable, a `--set`, a default.
struct Assignment {
    place: String,
    key: String,
    text: String,
}

impl Assignment {
    fn into_profile(self) -> Result<Profile, ProfileError> {
        if !may_be_set(&self.key) {
            return Err(unknown(self.place, self.key));
        }
        let mut profile =
            Profile::deserialize(self.to_table()).map_err(|error| ProfileError::Value {
                place: self.place.clone(),
                key: self.key.clone(),
                reason: error.message().to_owned(),
            })?;
        make_absolute(&mut profile, &PathBuf::new(), &self.place)?;
        Ok(profile)
    }

    fn to_table(&self) -> toml::Table {
        // The rest of a PostgreSQL setting's name is one key, dots and all.
        let (sections, name) = match self.key.strip_prefix(SETTINGS) {
            Some(rest) => (SETTINGS, rest.trim_start_matches('.')),
            None => self.key.rsplit_once('.').unwrap_or(("", &self.key)),
        };
        let mut table = toml::Table::from_iter([(name.to_owned(), self.value())]);
        for section in sections.rsplit('.').filter(|section| !section.is_empty()) {
            table = toml::Table::from_iter([(section.to_owned(), toml::Value::Table(table))]);
        }
        table
    }

    fn value(&self) -> toml::Value {
        let text = || toml::Value::String(self.text.clone());
        match keys::find(&self.key).map(|key| key.kind) {
            Some(Kind::Integer) => self
                .text
                .parse()
                .map_or_else(|_| text(), toml::Value::Integer),
            Some(Kind::Flag) => self
                .text
                .parse()
                .map_or_else(|_| text(), toml::Value::Boolean),
            Some(Kind::Number) => {
                let integer = self.text.parse().map(toml::Value::Integer);
                let float = || self.text.parse().map(toml::Value::Float);
                integer.or_else(|_| float()).unwrap_or_else(|_| text())
            }
            Some(Kind::List) => match self.text.parse() {
                Ok(flag) => toml::Value::Boolean(flag),
                Err(_) => names(&self.text),
            },
            Some(Kind::Text | Kind::Path | Kind::Table | Kind::Tables) | None => text(),
        }
    }
}

fn names(text: &str) -> toml::Value {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    toml::Value::Array(
        names
            .map(|name| toml::Value::String(name.to_owned()))
            .collect(),
    )
}

/// What is to be said of the environment's variables that look like ours and set
/// no key. They are somebody else's more often than mistyped: Kubernetes gives a
/// service called pbkfs a `PBKFS_SERVICE_HOST`.
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
            (!may_be_set(&key)).then(|| format!("{}; it is ignored", unknown(place, key)))
        })
        .collect();
    found.sort();
    found
}

fn key_of_variable(rest: &str) -> String {
    rest.to_ascii_lowercase().replace("__", ".")
}

/// Whether text can set the key.
fn may_be_set(key: &str) -> bool {
    keys::find(key).is_some() && key != SETTINGS
}

/// `PBKFS_POSTGRES__PORT=5433` sets `postgres.port`. What sets no key is left out.
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
        if !may_be_set(&key) {
            continue;
        }
        match (name.to_str(), value.into_string()) {
            (Some(_), Ok(text)) => assignments.push(Assignment {
                place: format!("environment variable {lossy}"),
                key,
                text,
            }),
            _ => {
                return Err(ProfileError::NotUtf8 {
                    name: lossy.into_owned(),
                });
            }
        }
    }
    // The environment has no order of its own; errors should.
    assignments.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(assignments)
}

fn from_sets(sets: &[String]) -> Result<Vec<Assignment>, ProfileError> {
    sets.iter()
        .map(|argument| {
            let (key, text) = argument
                .split_once('=')
                .ok_or_else(|| ProfileError::NoEquals {
                    argument: argument.clone(),
                })?;
            Ok(Assignment {
                place: format!("--set {argument}"),
                key: key.trim().to_owned(),
                text: text.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use std::fs;

    use super::*;
    use crate::profile::values::{BackupChoice, ByteSize, LockBackups, Passthrough, Port};

    fn load_text(profile: &str, env: &[(&str, &str)], sets: &[&str]) -> Result<Profile, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.toml");
        fs::write(&path, profile).unwrap();
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let given = load_with(Some(&path), &sets, &dir.path().join("config.toml"), env);
        given.and_then(Profile::over_defaults).map_err(|error| {
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
             [postgres.settings]\nwork_mem = '1MB'\njit = 'off'\n",
        )
        .unwrap();
        let env = [
            ("PBKFS_POSTGRES__PORT", "3"),
            ("PBKFS_LOG__LEVEL", "debug"),
            ("PATH", "/bin"),
        ];
        let sets = ["postgres.port=4", "postgres.settings.Work_Mem=64MB"].map(str::to_owned);
        let merged = load_with(
            Some(&profile),
            &sets,
            &system,
            env.into_iter()
                .map(|(name, value)| (name.into(), value.into())),
        )
        .unwrap();
        assert_eq!(merged.backup, None, "nobody set it");
        let merged = merged.over_defaults().unwrap();
        assert_eq!(merged.instance.as_deref(), Some("profile"));
        assert_eq!(merged.cache_size, Some(ByteSize(1 << 20)));
        assert_eq!(merged.postgres.port, Port::new(4));
        assert_eq!(merged.postgres.role.as_deref(), Some("p"));
        assert_eq!(
            merged.backup,
            Some(BackupChoice::Latest),
            "a default shines through"
        );
        let settings: Vec<_> = merged.postgres.settings.as_map().iter().collect();
        assert_eq!(
            format!("{settings:?}"),
            r#"[("jit", "off"), ("work_mem", "64MB")]"#
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
        // The environment is not the user's alone.
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
            ("backup = 'abc'", None, None, &["line 1", "capital letters"]),
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
        let profile = parse(
            "catalog = 'cat'\ntarget = '/abs'\ndiff_dir = '~/d'\npg_probackup = 'pg_probackup-15'",
            Path::new("/etc/clones/p.toml"),
        )
        .unwrap();
        assert_eq!(
            profile.catalog.as_deref(),
            Some(Path::new("/etc/clones/cat"))
        );
        assert_eq!(profile.target.as_deref(), Some(Path::new("/abs")));
        assert_eq!(
            profile.diff_dir.as_deref(),
            Some(Path::new("/etc/clones/~/d"))
        );
        assert_eq!(
            profile.pg_probackup.as_deref(),
            Some(Path::new("pg_probackup-15"))
        );
        let set = load_text("", &[], &["target=here"]).unwrap();
        assert_eq!(set.target, Some(env::current_dir().unwrap().join("here")));
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
        assert_eq!(profile.backup, Some(BackupChoice::Id("123456".into())));
        assert_eq!(profile.instance.as_deref(), Some("true"));
        assert_eq!(profile.lock_backups, Some(LockBackups::Never));
        assert_eq!(profile.fuse.passthrough, Some(Passthrough::Off));
        assert_eq!(profile.cache_size, Some(ByteSize(1024)));
    }

    #[test]
    fn a_missing_profile_is_an_error_and_a_missing_system_file_is_not() {
        let nowhere = Path::new("/nonexistent/p.toml");
        let none = || std::iter::empty();
        assert!(load_with(None, &[], nowhere, none()).is_ok());
        let error = load_with(Some(nowhere), &[], nowhere, none()).unwrap_err();
        assert!(matches!(error, ProfileError::Read { .. }));
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
            let profile = load_with(
                Some(&path),
                &[],
                Path::new("/nonexistent"),
                std::iter::empty(),
            );
            let plan = crate::profile::Plan::check(&profile.unwrap().over_defaults().unwrap());
            assert!(plan.is_ok(), "{}: {}", path.display(), plan.unwrap_err());
        }
    }

    /// The dotted keys of a table, down to `postgres.settings`.
    fn key_paths(table: &toml::Table, prefix: &str, into: &mut BTreeSet<String>) {
        for (name, value) in table {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                toml::Value::Table(table) if path != SETTINGS => key_paths(table, &path, into),
                _ => {
                    into.insert(path);
                }
            }
        }
    }

    #[test]
    fn full_sample_names_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/full.toml");
        let text = fs::read_to_string(&path).unwrap();
        // Keys without a fixed default stand in it as `#key = example`.
        let all: String = text
            .lines()
            .map(|line| {
                format!(
                    "{}\n",
                    line.strip_prefix('#')
                        .filter(|l| !l.starts_with(' '))
                        .unwrap_or(line)
                )
            })
            .collect();
        parse(&all, &path).unwrap();
        let mut named = BTreeSet::new();
        key_paths(&all.parse().unwrap(), "", &mut named);
        let known: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(named, known);

        let mut written = parse(&text, &path).unwrap();
        (written.catalog, written.instance, written.target) = (None, None, None);
        assert_eq!(written, Profile::defaults().unwrap());
    }
}
