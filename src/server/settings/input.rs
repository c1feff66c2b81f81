//! The input for the settings, and the type of a setting.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::files::ConfigFiles;
use super::preload::Preload;

/// Who decides on a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// pbkfs, unless the profile allows it to be changed: production or the
    /// clone's supervision depends on it.
    Fence,
    /// pbkfs, unless the profile says otherwise.
    Clone,
    /// The profile.
    User,
}

/// One `-c name=value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Setting {
    /// The setting's name, in lower case.
    pub name: String,
    /// Its value, as text.
    pub value: String,
    /// Why it is set.
    pub reason: &'static str,
    /// Who decided.
    pub owner: DecidedBy,
}

/// The input for the settings.
#[derive(Debug, Clone, Copy)]
pub struct SettingsInput<'a> {
    /// The server's major version: unknown names are fatal to it.
    pub major: u32,
    /// The clone's data directory.
    pub data_directory: &'a Path,
    /// The configuration files that we wrote.
    pub files: &'a ConfigFiles,
    /// The directory of the socket.
    pub socket_dir: &'a Path,
    /// The port.
    pub port: u16,
    /// The clone's name, for `cluster_name`.
    pub name: &'a str,
    /// Our command to fetch WAL from the archive, if recovery needs one.
    pub restore_command: Option<&'a str>,
    /// The wanted recovery target: `recovery_target*` names and values.
    pub recovery_target: &'a [(String, String)],
    /// Settings with the minimum value that recovery needs.
    pub limits: &'a [(&'static str, i32)],
    /// Lists of libraries that have to be changed.
    pub preload: &'a [Preload],
    /// Whether the kernel serves files of the diff by itself, and does not buffer
    /// writes to others.
    pub passthrough: bool,
    /// Whether the clone's writes are discarded with it.
    pub throw_away: bool,
    /// The profile's `[postgres.settings]`, by lower-case name.
    pub user: &'a BTreeMap<String, String>,
    /// The profile's `fence.allow`: which of the fence's settings it may
    /// change.
    pub allow: &'a [String],
}
