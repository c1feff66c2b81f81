//! The section `[fence]`: how a clone is isolated from production.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Value;

use crate::profile::error::ProfileError;
use crate::profile::values::{ByteSize, FromValue, from_value, whole};

section! {
    /// The keys of the section `[fence]`.
    pub struct FencePlan {
        /// Components of the fence. "auto": settings, and namespaces around the server if
        /// the host permits them (a root directory, processes and a network of its own);
        /// "settings": settings only.
        #[schemars(example = Level::Settings)]
        pub level: Level = Level::Auto,

        /// Components that the fence must have. "namespace" makes it an error if the host
        /// does not permit namespaces.
        #[schemars(example = Require::Namespace)]
        pub require: Require = Require::Settings,

        /// Network of the server. "none": only a private loopback device (the Unix socket
        /// still works); "host": the host's network.
        #[schemars(example = Network::Host)]
        pub network: Network = Network::None,

        /// Settings of the fence that postgres.settings may change.
        #[serde(deserialize_with = "lower_case")]
        #[schemars(title = "list of names of settings", example = ["listen_addresses"])]
        pub allow: Vec<String> = Vec::new(),

        /// Files and directories of the host that the server may read, besides programs,
        /// libraries and /etc.
        #[schemars(title = "list of absolute paths", example = ["/opt"])]
        pub expose: Vec<PathBuf> = Vec::new(),

        /// Memory limit of the server, including its page cache (cgroup v2).
        ///
        /// Default: no limit
        #[schemars(example = &"4GB")]
        pub memory: Option<ByteSize>,

        /// Processor limit of the server: the number of processors whose time it may use
        /// (cgroup v2).
        ///
        /// Default: no limit
        #[schemars(example = 1.5)]
        pub cpus: Option<Cpus>,

        /// Maximum number of processes and threads of the server, including all that it
        /// starts (cgroup v2; in the namespaces of an unprivileged user, Linux 5.14).
        ///
        /// Default: 2048, if the host can limit them
        #[schemars(example = 512)]
        pub processes: Option<Processes>,

        /// Size of the clone's own /tmp, and of its /var/tmp. Both are in memory. Raise it if
        /// the server reports "No space left on device" for a file there.
        #[schemars(example = &"1GB")]
        pub tmp_size: ByteSize = ByteSize::megabytes(256),

        /// Size of the clone's own /dev/shm, where its parallel workers share memory: a hash
        /// join uses up to work_mem times hash_mem_multiplier for each of them. Raise it if
        /// the server reports "No space left on device" for a shared memory segment.
        #[schemars(example = &"4GB")]
        pub shm_size: ByteSize = ByteSize::megabytes(1024),

        /// Niceness of the server's processes, see nice(1).
        #[schemars(example = 10)]
        pub nice: Nice = Nice(0),

        /// I/O priority of the server: "normal", or "idle" to use the disk only when it is
        /// otherwise unused.
        #[schemars(example = IoNice::Idle)]
        pub ionice: IoNice = IoNice::Normal,
    }
}

/// Converts names of settings to lower case, because PostgreSQL ignores their case.
fn lower_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().map(|name| name.to_ascii_lowercase()).collect())
}

/// The components of the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Settings, and namespaces if the host permits them.
    Auto,
    /// Settings only.
    Settings,
}

/// The components that the fence must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// Settings.
    Settings,
    /// Namespaces, including a network namespace.
    Namespace,
}

/// The network of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network of its own, with only a loopback device.
    None,
    /// The host's.
    Host,
}

/// The I/O priority of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IoNice {
    /// Like every other process.
    Normal,
    /// Only when the disk is otherwise unused.
    Idle,
}

from_value!(Cpus, Processes, Nice);

/// A number of processors, 0.01 to 4096.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpus(pub f64);

impl FromValue for Cpus {
    const EXPECTED: &'static str = "a number of processors from 0.01 to 4096";

    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 0.01, "maximum": 4096 })
    }

    fn from_value(value: &Value) -> Option<Self> {
        let cpus = match value {
            Value::Integer(number) => f64::from(i32::try_from(*number).ok()?),
            Value::Float(number) => *number,
            _ => return None,
        };
        (0.01..=4096.0).contains(&cpus).then_some(Self(cpus))
    }
}

/// A number of processes, 32 to 4194304: with fewer, PostgreSQL does not start; Linux
/// has no more process ids (`PID_MAX_LIMIT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes(pub u32);

impl Processes {
    /// The limit unless the profile sets one: enough for hundreds of connections with
    /// their workers, and a small load for this host.
    pub const USUAL: Self = Self(2048);
}

impl FromValue for Processes {
    const EXPECTED: &'static str = "a number of processes from 32 to 4194304";

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 32, "maximum": 4_194_304 })
    }

    fn from_value(value: &Value) -> Option<Self> {
        whole(value, 32..=4_194_304).map(Self)
    }
}

/// Niceness, 0 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Nice(pub u8);

impl FromValue for Nice {
    const EXPECTED: &'static str = "a number from 0 to 19";

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 19 })
    }

    fn from_value(value: &Value) -> Option<Self> {
        whole(value, 0..=19).map(Self)
    }
}

/// The minimum size of a directory in memory, in bytes. To the kernel, 0 would mean
/// no limit.
pub const LEAST: u64 = 1 << 20;

impl FencePlan {
    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        let open = match (self.level, self.network) {
            (Level::Settings, _) => Some("fence.level = \"settings\" asks for less"),
            (_, Network::Host) => Some("fence.network = \"host\" leaves the network open"),
            _ => None,
        };
        if let (Require::Namespace, Some(open)) = (self.require, open) {
            return Err(ProfileError::wrong("fence.require", open));
        }
        for (key, size) in [
            ("fence.tmp_size", self.tmp_size.0),
            ("fence.shm_size", self.shm_size.0),
        ] {
            if size < LEAST {
                let reason = format!("{size} bytes are too few; the minimum is 1MB");
                return Err(ProfileError::wrong(key, reason));
            }
        }
        for path in &self.expose {
            let is_root = path.parent().is_none();
            if !path.is_absolute() || !path.exists() || is_root {
                let reason = format!(
                    "{} is not the absolute path of a file or directory below / on this host",
                    path.display()
                );
                return Err(ProfileError::wrong("fence.expose", reason));
            }
        }
        Ok(())
    }

    /// Returns the maximum number of processes of the server, counting itself and its
    /// threads.
    #[must_use]
    pub fn processes(&self) -> u32 {
        self.processes.unwrap_or(Processes::USUAL).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<FencePlan, String> {
        let plan: FencePlan = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        plan.check().map_err(|e| e.to_string())?;
        Ok(plan)
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
            assert!(toml::from_str::<FencePlan>(text).is_err(), "{text}");
        }
        let plan: FencePlan = toml::from_str("cpus = 2\nnice = 19").unwrap();
        assert_eq!((plan.cpus, plan.nice), (Some(Cpus(2.0)), Nice(19)));
        let usual = check("").unwrap();
        assert_eq!((usual.processes, usual.processes()), (None, 2048));
        for key in ["tmp_size", "shm_size"] {
            let error = check(&format!("{key} = 0")).unwrap_err();
            assert!(error.contains(&format!("fence.{key}")), "{error}");
            assert!(check(&format!("{key} = '1MB'")).is_ok());
        }
    }
}
