//! The profile's section `[fence]`: how far a clone is kept from production.

use std::path::PathBuf;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::error::ProfileError;
use super::plan::need;
use super::values::{ByteSize, Node, read};

/// The fence as it was written. [`super::keys::KEYS`] says what each key
/// means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct FenceProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Require>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expose: Option<Vec<PathBuf>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_size: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<Nice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ionice: Option<IoNice>,
}

/// What the fence is to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Settings, and namespaces where the host permits them.
    Auto,
    /// Settings only.
    Settings,
}

/// The least that the fence has to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Settings.
    Settings,
    /// Namespaces, that of the network among them.
    Namespace,
}

/// Which network the server is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// One of its own, with a loopback device alone.
    None,
    /// The host's.
    Host,
}

/// How the disks serve the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoNice {
    /// Like every other process.
    Normal,
    /// When nobody else wants them.
    Idle,
}

/// Processors' worth of time, 0.01 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cpus(pub f64);

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a number of processors from 0.01 to 4096";
        read(deserializer, expected, |node| {
            let cpus = match node {
                Node::Integer(number) => f64::from(i32::try_from(*number).ok()?),
                Node::Float(number) => *number,
                _ => return None,
            };
            (0.01..=4096.0).contains(&cpus).then_some(Self(cpus))
        })
    }
}

/// A number of processes, 32 to 4194304: with fewer, PostgreSQL does not start;
/// more of them Linux does not give numbers to (`PID_MAX_LIMIT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Processes(pub u32);

impl Processes {
    /// What a clone gets unless the profile says otherwise: room for hundreds of
    /// connections with their workers, and little for this host to carry.
    pub const USUAL: Self = Self(2048);
}

impl<'de> Deserialize<'de> for Processes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a number of processes from 32 to 4194304";
        read(deserializer, expected, |node| match node {
            Node::Integer(number @ 32..=4_194_304) => u32::try_from(*number).ok().map(Self),
            _ => None,
        })
    }
}

/// How far the server steps back, 0 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Nice(pub u8);

impl<'de> Deserialize<'de> for Nice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a number from 0 to 19", |node| match node {
            Node::Integer(number @ 0..=19) => u8::try_from(*number).ok().map(Self),
            _ => None,
        })
    }
}

/// The least that a directory in memory gets, in bytes. To the kernel, none at
/// all would be no limit.
pub const LEAST: u64 = 1 << 20;

/// A section `[fence]` that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct FencePlan {
    /// What it is to be made of.
    pub level: Level,
    /// The least that it has to be made of.
    pub require: Require,
    /// Which network the server is in.
    pub network: Network,
    /// The fence's settings that `[postgres.settings]` may change.
    pub allow: Vec<String>,
    /// What of the host the server may read besides; absolute.
    pub expose: Vec<PathBuf>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processors' worth of time.
    pub cpus: Option<f64>,
    /// How many processes, if the profile says so; see [`Self::processes`].
    pub asked_processes: Option<u32>,
    /// Bytes of `/tmp`, and of `/var/tmp`, at least [`LEAST`].
    pub tmp_size: u64,
    /// Bytes of `/dev/shm`, at least [`LEAST`].
    pub shm_size: u64,
    /// How far it steps back, 0 to 19.
    pub nice: u8,
    /// How the disks serve it.
    pub ionice: IoNice,
}

impl FencePlan {
    pub(super) fn check(profile: &FenceProfile) -> Result<Self, ProfileError> {
        let allow = need("fence.allow", &profile.allow)?;
        let plan = Self {
            level: need("fence.level", &profile.level)?,
            require: need("fence.require", &profile.require)?,
            network: need("fence.network", &profile.network)?,
            allow: allow.iter().map(|name| name.to_ascii_lowercase()).collect(),
            expose: need("fence.expose", &profile.expose)?,
            memory: profile.memory.map(|memory| memory.0),
            cpus: profile.cpus.map(|cpus| cpus.0),
            asked_processes: profile.processes.map(|processes| processes.0),
            tmp_size: need("fence.tmp_size", &profile.tmp_size)?.0,
            shm_size: need("fence.shm_size", &profile.shm_size)?.0,
            nice: need("fence.nice", &profile.nice)?.0,
            ionice: need("fence.ionice", &profile.ionice)?,
        };
        let open = match (plan.level, plan.network) {
            (Level::Settings, _) => Some("fence.level = \"settings\" asks for less"),
            (_, Network::Host) => Some("fence.network = \"host\" leaves the network open"),
            _ => None,
        };
        if let (Require::Namespace, Some(open)) = (plan.require, open) {
            return Err(value("fence.require", open.to_owned()));
        }
        for (key, size) in [
            ("fence.tmp_size", plan.tmp_size),
            ("fence.shm_size", plan.shm_size),
        ] {
            if size < LEAST {
                let reason = format!("{size} bytes are too few; it takes 1MB at least");
                return Err(value(key, reason));
            }
        }
        for path in &plan.expose {
            let is_root = path.parent().is_none();
            if !path.is_absolute() || !path.exists() || is_root {
                let reason = format!(
                    "{} is not the absolute path of something on this host",
                    path.display()
                );
                return Err(value("fence.expose", reason));
            }
        }
        Ok(plan)
    }

    /// How many processes the server may have, itself and its threads counted.
    #[must_use]
    pub fn processes(&self) -> u32 {
        self.asked_processes.unwrap_or(Processes::USUAL.0)
    }
}

fn value(key: &str, reason: String) -> ProfileError {
    ProfileError::Value {
        place: "profile".to_owned(),
        key: key.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn check(text: &str) -> Result<FencePlan, String> {
        let mut profile = Profile::defaults().unwrap().fence;
        let given: FenceProfile = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        profile.level = given.level.or(profile.level);
        profile.require = given.require.or(profile.require);
        profile.network = given.network.or(profile.network);
        profile.expose = given.expose.or(profile.expose);
        profile.tmp_size = given.tmp_size.or(profile.tmp_size);
        profile.shm_size = given.shm_size.or(profile.shm_size);
        FencePlan::check(&profile).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_required_is_not_left_open() {
        assert_eq!(check("").unwrap().network, Network::None);
        assert!(check("require = 'namespace'").is_ok());
        for open in ["level = 'settings'", "network = 'host'"] {
            let error = check(&format!("require = 'namespace'\n{open}")).unwrap_err();
            assert!(error.contains("fence.require"), "{error}");
            assert!(check(open).is_ok());
        }
        for path in ["relative", "/nonexistent/x", "/"] {
            let error = check(&format!("expose = ['{path}']")).unwrap_err();
            assert!(error.contains(path), "{error}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        for text in [
            "cpus = 0",
            "cpus = 5000",
            "cpus = nan",
            "nice = 20",
            "nice = -1",
            "processes = 31",
            "processes = 4194305",
        ] {
            assert!(toml::from_str::<FenceProfile>(text).is_err(), "{text}");
        }
        let profile: FenceProfile = toml::from_str("cpus = 2\nnice = 19").unwrap();
        assert_eq!(
            (profile.cpus, profile.nice),
            (Some(Cpus(2.0)), Some(Nice(19)))
        );
        let usual = check("").unwrap();
        assert_eq!((usual.asked_processes, usual.processes()), (None, 2048));
        for key in ["tmp_size", "shm_size"] {
            let error = check(&format!("{key} = 0")).unwrap_err();
            assert!(error.contains(&format!("fence.{key}")), "{error}");
            assert!(check(&format!("{key} = '1MB'")).is_ok());
        }
    }
}
