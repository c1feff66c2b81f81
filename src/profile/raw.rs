//! A profile as it was written: every key optional, nothing checked against
//! anything else.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fence::FenceProfile;
use super::logging::{LogDestination, LogFormat, LogLevel};
use super::recovery::{Action, LsnText, MomentText, NamedTarget, TimelineChoice};
use super::values::{
    BackupChoice, ByteSize, LockBackups, MetadataSource, Passthrough, Port, Seconds, Settings,
};
use super::verify::VerifyProfile;

/// One layer of settings, or all of them merged. [`super::keys::KEYS`] says
/// what each key means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pg_probackup: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_backups: Option<LockBackups>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_checksums: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_size: Option<ByteSize>,
    pub fuse: FuseProfile,
    pub postgres: PostgresProfile,
    pub recovery: RecoveryProfile,
    pub fence: FenceProfile,
    pub verify: VerifyProfile,
    pub log: LogProfile,
}

/// The section `[fuse]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct FuseProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<std::num::NonZeroUsize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passthrough: Option<Passthrough>,
}

/// The section `[postgres]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct PostgresProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bin_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Settings::is_empty")]
    pub settings: Settings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_dir: Option<PathBuf>,
}

/// The section `[recovery]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct RecoveryProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<NamedTarget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<MomentText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<LsnText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inclusive: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<ByteSize>,
}

/// The section `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct LogProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<LogDestination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<std::num::NonZeroUsize>,
}

impl Profile {
    /// Every path of the profile with its key, for making them absolute.
    pub(super) fn paths_mut(&mut self) -> [(&'static str, &mut Option<PathBuf>); 11] {
        [
            ("catalog", &mut self.catalog),
            ("target", &mut self.target),
            ("diff_dir", &mut self.diff_dir),
            ("pg_probackup", &mut self.pg_probackup),
            ("postgres.bin_dir", &mut self.postgres.bin_dir),
            ("postgres.socket_dir", &mut self.postgres.socket_dir),
            ("verify.dump_dir", &mut self.verify.dump_dir),
            ("verify.state_dir", &mut self.verify.state_dir),
            ("verify.prometheus", &mut self.verify.prometheus),
            ("verify.html", &mut self.verify.html),
            ("log.file", &mut self.log.file),
        ]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::profile::fence::{Cpus, IoNice, Level, Network, Nice, Processes, Require};
    use crate::profile::verify::{
        CommandCheck, Databases, KnownBadPolicy, RestoreBy, SqlCheck, VerifyChoice,
    };

    /// A profile that sets every key. Written without `..`, so that a new
    /// field does not compile until it stands here too.
    pub fn every_key() -> Profile {
        let path = || Some(PathBuf::from("/x"));
        Profile {
            catalog: path(),
            instance: Some("main".into()),
            backup: Some(BackupChoice::Latest),
            target: path(),
            diff_dir: path(),
            pg_probackup: path(),
            metadata: Some(MetadataSource::Auto),
            metadata_timeout: Some(Seconds(1)),
            lock_backups: Some(LockBackups::Auto),
            verify_checksums: Some(true),
            cache_size: Some(ByteSize(1)),
            fuse: FuseProfile {
                threads: std::num::NonZeroUsize::new(1),
                passthrough: Some(Passthrough::Auto),
            },
            postgres: PostgresProfile {
                launch: Some(true),
                bin_dir: path(),
                port: Some(Port::new(5433).unwrap()),
                user: Some("postgres".into()),
                role: Some("postgres".into()),
                settings: [("work_mem".to_owned(), "1MB".to_owned())]
                    .into_iter()
                    .collect(),
                start_timeout: Some(Seconds(1)),
                stop_timeout: Some(Seconds(1)),
                socket_dir: path(),
            },
            recovery: RecoveryProfile {
                target: Some(NamedTarget::Latest),
                time: Some("2026-11-22 14:32:00+00".parse().unwrap()),
                lsn: Some("0/4C037C8".parse().unwrap()),
                xid: Some(1271),
                name: Some("before".into()),
                inclusive: Some(true),
                timeline: Some(TimelineChoice::Number(2)),
                action: Some(Action::Pause),
                restore_command: Some("cp /a/%f %p".into()),
                prefetch: Some(ByteSize(1)),
            },
            fence: FenceProfile {
                level: Some(Level::Auto),
                require: Some(Require::Settings),
                network: Some(Network::None),
                allow: Some(vec!["listen_addresses".into()]),
                expose: path().map(|path| vec![path]),
                memory: Some(ByteSize(1)),
                cpus: Some(Cpus(1.5)),
                processes: Some(Processes(512)),
                tmp_size: Some(ByteSize(1 << 20)),
                shm_size: Some(ByteSize(1 << 20)),
                nice: Some(Nice(10)),
                ionice: Some(IoNice::Idle),
            },
            verify: VerifyProfile {
                known_bad: Some(KnownBadPolicy::Report),
                backup: Some(VerifyChoice::All),
                pages: Some(true),
                start: Some(true),
                restore: Some(RestoreBy::PgProbackup),
                amcheck: Some(Databases::Every(true)),
                dump: Some(Databases::Named(vec!["shop".into()])),
                dump_dir: path(),
                sql: Some(vec![SqlCheck {
                    name: "orders".into(),
                    database: "shop".into(),
                    query: "select 1".into(),
                    expect: Some("> 0".parse().unwrap()),
                    timeout: Some(Seconds(1)),
                }]),
                command: Some(vec![CommandCheck {
                    name: "own".into(),
                    run: "true".into(),
                    timeout: Some(Seconds(1)),
                }]),
                check_timeout: Some(Seconds(1)),
                timeout: Some(Seconds(1)),
                state_dir: path(),
                prometheus: path(),
                html: path(),
                ping: Some("https://x".into()),
            },
            log: LogProfile {
                level: Some(LogLevel::Info),
                format: Some(LogFormat::Json),
                destination: Some(LogDestination::File),
                file: path(),
                keep: std::num::NonZeroUsize::new(1),
            },
        }
    }
}
