//! The section `[fuse]`: how the mount is served.

use std::num::NonZeroUsize;
use std::thread;

use schemars::{Schema, json_schema};
use serde::{Serialize, Serializer};
use toml::Value;

use crate::profile::values::{FromValue, from_value};

section! {
    /// The keys of the section `[fuse]`.
    pub struct FusePlan {
        /// Number of threads that answer the kernel's requests.
        ///
        /// Default: the number of processors
        #[schemars(title = "1 or more", example = 4)]
        threads: Option<NonZeroUsize>,

        /// Whether the kernel may read and write new files directly, bypassing pbkfs (FUSE
        /// passthrough); requires root and Linux 6.9. "auto" permits it if it is faster:
        /// without a server, or if the server writes its WAL through the mount.
        #[schemars(example = false)]
        pub passthrough: Passthrough = Passthrough::Auto,
    }
}

impl FusePlan {
    /// Returns the number of threads that answer the kernel's requests.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        let processors = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(processors)
    }
}

/// Whether the kernel may serve files without asking pbkfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passthrough {
    /// If the kernel and the user's privileges permit it.
    Auto,
    /// Never.
    Off,
}

from_value!(Passthrough);

impl FromValue for Passthrough {
    const EXPECTED: &'static str = "\"auto\" or false";

    fn schema() -> Schema {
        json_schema!({ "type": ["boolean", "string"], "enum": ["auto", false] })
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(false) => Some(Self::Off),
            Value::String(text) if text == "auto" => Some(Self::Auto),
            _ => None,
        }
    }
}

impl Serialize for Passthrough {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}
