//! The settings with fixed values, grouped by purpose, and those that a profile must
//! not set. [`FENCE`] keeps a clone from production.

use std::ops::RangeInclusive;

/// A setting whose value does not depend on the clone.
pub(super) struct Fixed {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    /// The major versions that have the setting.
    pub(super) majors: RangeInclusive<u32>,
    pub(super) reason: &'static str,
}

pub(super) const ALL: RangeInclusive<u32> = 0..=u32::MAX;

pub(super) const fn fixed(name: &'static str, value: &'static str, reason: &'static str) -> Fixed {
    fixed_in(ALL, name, value, reason)
}

/// Does the same for a setting that only these major versions have.
pub(super) const fn fixed_in(
    majors: RangeInclusive<u32>,
    name: &'static str,
    value: &'static str,
    reason: &'static str,
) -> Fixed {
    Fixed {
        name,
        value,
        majors,
        reason,
    }
}

pub(super) const ARCHIVE: &str = "the clone must not write WAL into production's archive";
pub(super) const ARCHIVE_COMMANDS: &str =
    "the backup's own command could change production's archive";
pub(super) const STALE_TARGET: &str = "a recovery target left in the backup is not meant for the \
                                       clone";
pub(super) const REPLICATION: &str =
    "the clone must not connect to production's servers, nor wait for them";
pub(super) const ELSEWHERE: &str = "the backup's value may be a path outside the clone";
pub(super) const LOG: &str = "the log goes to a file that pbkfs watches";
pub(super) const LANGUAGE: &str = "pbkfs understands the server's messages in English only";
pub(super) const SIZE: &str = "production's size does not fit a clone";
pub(super) const GROWTH: &str = "its writes would only make the diff grow";

pub(super) const FENCE: &[Fixed] = &[
    fixed("archive_mode", "off", ARCHIVE),
    fixed("archive_command", "", ARCHIVE),
    fixed_in(15..=u32::MAX, "archive_library", "", ARCHIVE),
    fixed("archive_cleanup_command", "", ARCHIVE_COMMANDS),
    fixed("recovery_end_command", "", ARCHIVE_COMMANDS),
    fixed("recovery_target", "", STALE_TARGET),
    fixed("recovery_target_name", "", STALE_TARGET),
    fixed("recovery_target_time", "", STALE_TARGET),
    fixed("recovery_target_xid", "", STALE_TARGET),
    fixed("recovery_target_lsn", "", STALE_TARGET),
    fixed("recovery_min_apply_delay", "0", STALE_TARGET),
    fixed("primary_conninfo", "", REPLICATION),
    fixed("primary_slot_name", "", REPLICATION),
    fixed("synchronous_standby_names", "", REPLICATION),
    fixed_in(17..=u32::MAX, "sync_replication_slots", "off", REPLICATION),
    fixed(
        "max_logical_replication_workers",
        "0",
        "subscriptions would connect to their publishers",
    ),
    fixed(
        "cron.launch_active_jobs",
        "off",
        "pg_cron's jobs could run, even on production",
    ),
    // PostgreSQL takes even an empty value for a file name. The contents of this
    // directory are in no base backup.
    fixed("external_pid_file", "pg_stat_tmp/postmaster.pid", ELSEWHERE),
    fixed_in(0..=14, "stats_temp_directory", "pg_stat_tmp", ELSEWHERE),
    fixed_in(0..=15, "promote_trigger_file", "", ELSEWHERE),
    fixed_in(
        18..=u32::MAX,
        "io_method",
        "worker",
        "io_uring would bypass the namespaces' filter of system calls, and is not \
         available in them",
    ),
    fixed("logging_collector", "off", LOG),
    fixed("log_destination", "stderr", LOG),
    fixed("log_error_verbosity", "default", LOG),
    fixed("lc_messages", "C", LANGUAGE),
    fixed(
        "listen_addresses",
        "",
        "the clone is reachable through its socket only",
    ),
];

pub(super) const CLONE: &[Fixed] = &[
    fixed("ssl", "off", "the backup has no certificates"),
    fixed(
        "unix_socket_group",
        "",
        "the backup's group may not exist on this host",
    ),
    fixed_in(14..=u32::MAX, "min_dynamic_shared_memory", "0", SIZE),
    fixed("shared_buffers", "128MB", SIZE),
    fixed("huge_pages", "off", SIZE),
    fixed("autovacuum", "off", GROWTH),
    fixed("autovacuum_freeze_max_age", "2000000000", GROWTH),
    fixed(
        "log_min_messages",
        "warning",
        "the log must show where recovery ended",
    ),
];

/// A commit's fsync is a request to pbkfs, but its write of the WAL is not: for a
/// file opened with `O_DSYNC`, the kernel does both by itself. PostgreSQL 15 and
/// older then also open the WAL with `O_DIRECT` if `wal_level` is minimal, which the
/// file systems that passthrough supports allow. Every write then waits for the disk.
/// Backends that find the buffers full write page by page; with more buffers the WAL
/// writer gets there first, and writes megabytes at once. With 4 MB, CREATE INDEX
/// took three times as long.
pub(super) const PASSTHROUGH: &[Fixed] = &[
    fixed(
        "wal_sync_method",
        "open_datasync",
        "the kernel then syncs the WAL without involving pbkfs",
    ),
    fixed(
        "wal_buffers",
        "64MB",
        "WAL that is synced as it is written is best written in large chunks",
    ),
];

/// If the kernel buffers writes, only a caller of fsync learns that the disk is full.
/// If the server does not call it, the session ends as soon as a write fails.
pub(super) const THROW_AWAY: &[Fixed] = &[fixed(
    "fsync",
    "off",
    "a throw-away clone does not outlive a crash of the host",
)];

pub(super) const OWN_KEY: &str = "the profile has its own key for it (postgres.port)";
pub(super) const SOCKET_KEY: &str = "the profile has its own key for it (postgres.socket_dir)";
pub(super) const LOCATION: &str = "pbkfs determines where the clone's files are";
pub(super) const RECOVERY: &str = "pbkfs controls recovery";

/// Names that are refused whatever the profile allows.
pub(super) const RESERVED: &[(&str, &str)] = &[
    ("port", OWN_KEY),
    ("unix_socket_directories", SOCKET_KEY),
    ("data_directory", LOCATION),
    ("config_file", LOCATION),
    ("hba_file", LOCATION),
    ("ident_file", LOCATION),
    ("restore_command", RECOVERY),
    ("recovery_target_timeline", RECOVERY),
    ("recovery_target_action", RECOVERY),
    ("recovery_target_inclusive", RECOVERY),
    ("cluster_name", "it distinguishes the clone from production"),
];
