//! Backups read from their own `backup.control`, without pg_probackup.
//!
//! The result is that of `pg_probackup show`. One bad backup never spoils the list:
//! [`Instance::backups`] marks it [`BackupStatus::Unknown`] and logs the reason. Only
//! [`Instance::backup`] for that backup returns the error itself.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use time::OffsetDateTime;

use super::control::{ControlFile, parse_bool, parse_time};
use super::instance::visible_directories;
use super::{
    Backup, BackupId, BackupMode, BackupStatus, CompressAlg, Instance, ProgramVersion,
    TablespaceMapping,
};
use crate::catalog::error::{CatalogError, ControlError};
use crate::catalog::store::{self, StorePath};
use crate::parallel;
use crate::pg::{BLOCK_SIZE, Lsn};

/// Maximum number of bytes read from a `tablespace_map`: ten thousand tablespaces with
/// paths of a hundred bytes each.
const TABLESPACE_MAP_LIMIT: u64 = 1 << 20;

/// Every key of `backup.control` as of pg_probackup 2.5.16.
const KNOWN_KEYS: [&str; 30] = [
    "backup-mode",
    "stream",
    "from-replica",
    "compress-alg",
    "compress-level",
    "block-size",
    "xlog-block-size",
    "checksum-version",
    "program-version",
    "server-version",
    "timelineid",
    "recovery-xid",
    "start-lsn",
    "stop-lsn",
    "start-time",
    "merge-time",
    "end-time",
    "recovery-time",
    "expire-time",
    "data-bytes",
    "wal-bytes",
    "uncompressed-bytes",
    "pgdata-bytes",
    "status",
    "parent-backup-id",
    "merge-dest-id",
    "primary-conninfo",
    "note",
    "external-dirs",
    "content-crc",
];

impl Instance {
    /// Returns all backups, newest first. A directory without a readable `backup.control`
    /// is listed as [`BackupStatus::Unknown`].
    ///
    /// # Errors
    /// If the instance's directory cannot be listed, or a network fails.
    pub fn backups(&self) -> Result<Vec<Backup>, CatalogError> {
        let places = visible_directories(&self.place)?;
        let read = parallel::map(
            &places,
            self.place.parallel(),
            |place| match read_directory(place) {
                Err(error) if !is_out_of_reach(&error) => {
                    tracing::warn!(
                        backup = %place.name().display(),
                        error = &error as &dyn std::error::Error,
                        "this backup's metadata is unusable"
                    );
                    Ok(unknown_backup(place.clone(), id_of_directory(place)))
                }
                read => read,
            },
        );
        let mut backups: Vec<Backup> = read.into_iter().collect::<Result<_, _>>()?;
        sort_newest_first(&mut backups);
        Ok(backups)
    }

    /// Returns one backup, whose metadata must be valid.
    ///
    /// # Errors
    /// If there is no such backup, or if its `backup.control` or `tablespace_map` is
    /// missing or malformed; the error names the file, line and key.
    pub fn backup(&self, id: &BackupId) -> Result<Backup, CatalogError> {
        read_directory(&backup_directory(self, id)?)
    }
}

/// Returns the directory of a backup. It is named after the id unless it was renamed;
/// then the start time in `backup.control` identifies the backup.
fn backup_directory(instance: &Instance, id: &BackupId) -> Result<StorePath, CatalogError> {
    for place in visible_directories(&instance.place)? {
        if place.file_name().is_some_and(|name| name == id.0.as_str()) {
            return Ok(place);
        }
    }
    let renamed = |backup: &Backup| backup.id == *id;
    match instance.backups()?.into_iter().find(renamed) {
        Some(backup) => Ok(backup.place),
        None => Err(CatalogError::NoSuchBackup {
            instance: instance.name.clone(),
            id: id.clone(),
            dir: instance.dir.clone(),
        }),
    }
}

pub(in crate::catalog) fn sort_newest_first(backups: &mut [Backup]) {
    backups.sort_by(|a, b| {
        b.start_time
            .cmp(&a.start_time)
            .then_with(|| b.id.cmp(&a.id))
    });
}

/// Describes a backup whose metadata is missing or unusable: its place, its id, and the
/// start time that the id encodes. [`BackupStatus::Unknown`] marks all other values as
/// invalid.
pub(in crate::catalog) fn unknown_backup(place: StorePath, id: BackupId) -> Backup {
    Backup {
        dir: place.name(),
        place,
        start_time: id.start_time().unwrap_or(OffsetDateTime::UNIX_EPOCH),
        id,
        parent: None,
        mode: BackupMode::Full,
        status: BackupStatus::Unknown,
        stream: false,
        compress_alg: CompressAlg::None,
        compress_level: 1,
        from_replica: false,
        block_size: BLOCK_SIZE as u32,
        xlog_block_size: BLOCK_SIZE as u32,
        checksums: false,
        program_version: ProgramVersion::new(0, 0, 0),
        server_version: String::new(),
        timeline: 0,
        start_lsn: Lsn(0),
        stop_lsn: Lsn(0),
        end_time: None,
        recovery_time: None,
        recovery_xid: 0,
        data_bytes: None,
        wal_bytes: None,
        uncompressed_bytes: None,
        pgdata_bytes: None,
        content_crc: None,
        note: None,
        tablespaces: Vec::new(),
    }
}

/// Whether an error says nothing about a backup, but that the network to it failed.
fn is_out_of_reach(error: &CatalogError) -> bool {
    match error {
        CatalogError::Read { source, .. }
        | CatalogError::Control(ControlError::Read { source, .. }) => {
            store::is_out_of_reach(source)
        }
        _ => false,
    }
}

fn id_of_directory(place: &StorePath) -> BackupId {
    let name = place.file_name().unwrap_or_default();
    BackupId(name.to_string_lossy().into_owned())
}

fn read_directory(place: &StorePath) -> Result<Backup, CatalogError> {
    let file = ControlFile::read(&place.join("backup.control"))?;
    file.note_unknown_keys(&KNOWN_KEYS);
    let mut backup = from_control(place, &file)?;
    backup.tablespaces = read_tablespace_map(&backup.file("tablespace_map"))?;
    let named = id_of_directory(place);
    if backup.id != named {
        tracing::warn!(
            directory = %named, id = %backup.id,
            "a backup's directory is not named after its start time"
        );
    }
    Ok(backup)
}

/// Builds a backup from its control file. A missing key has the value that pg_probackup's
/// reader would give it (`pgBackupInit`), except for keys without which nothing can be
/// restored.
#[doc(hidden)]
pub fn from_control(place: &StorePath, file: &ControlFile) -> Result<Backup, ControlError> {
    let start_time = file.require("start-time", file.get_with("start-time", parse_time)?)?;
    let block_size = BLOCK_SIZE as u32;
    Ok(Backup {
        dir: place.name(),
        place: place.clone(),
        id: BackupId::from_start_time(start_time),
        parent: file.get::<String>("parent-backup-id")?.map(BackupId),
        mode: file.require("backup-mode", file.get("backup-mode")?)?,
        status: file.require("status", file.get("status")?)?,
        stream: file.get_with("stream", parse_bool)?.unwrap_or(false),
        compress_alg: file.get("compress-alg")?.unwrap_or(CompressAlg::None),
        compress_level: file.get("compress-level")?.unwrap_or(1),
        from_replica: file.get_with("from-replica", parse_bool)?.unwrap_or(false),
        block_size: file.get("block-size")?.unwrap_or(block_size),
        xlog_block_size: file.get("xlog-block-size")?.unwrap_or(block_size),
        checksums: file.get::<u32>("checksum-version")?.unwrap_or(0) != 0,
        program_version: file.require("program-version", file.get("program-version")?)?,
        server_version: file.require("server-version", file.get("server-version")?)?,
        timeline: file.require("timelineid", file.get("timelineid")?)?,
        start_lsn: file.require("start-lsn", file.get("start-lsn")?)?,
        stop_lsn: file.require("stop-lsn", file.get("stop-lsn")?)?,
        start_time,
        end_time: file.get_with("end-time", parse_time)?,
        recovery_time: file.get_with("recovery-time", parse_time)?,
        recovery_xid: file.get("recovery-xid")?.unwrap_or(0),
        data_bytes: byte_count(file, "data-bytes")?,
        wal_bytes: byte_count(file, "wal-bytes")?,
        uncompressed_bytes: byte_count(file, "uncompressed-bytes")?,
        pgdata_bytes: byte_count(file, "pgdata-bytes")?,
        content_crc: file.get("content-crc")?.filter(|&crc| crc != 0),
        note: file.get("note")?,
        tablespaces: Vec::new(),
    })
}

/// Reads a byte count; a negative one is pg_probackup's "not known".
fn byte_count(file: &ControlFile, key: &str) -> Result<Option<u64>, ControlError> {
    let count: Option<i64> = file.get(key)?;
    Ok(count.and_then(|n| u64::try_from(n).ok()))
}

/// Reads lines of the form `OID PATH` and sorts them by OID; a backup without tablespaces
/// has no such file. The path is taken literally, as pg_probackup does.
fn read_tablespace_map(place: &StorePath) -> Result<Vec<TablespaceMapping>, CatalogError> {
    let path = place.name();
    let bytes = match place.read(TABLESPACE_MAP_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CatalogError::Read { path, source }),
    };
    let mut found = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mapping = parse_tablespace(line).ok_or_else(|| ControlError::Syntax {
            path: path.clone(),
            line: index + 1,
            problem: "it is not a tablespace's OID followed by a space and a path",
        })?;
        found.push(mapping);
    }
    found.sort_by_key(|mapping| mapping.oid);
    Ok(found)
}

fn parse_tablespace(line: &[u8]) -> Option<TablespaceMapping> {
    let space = line.iter().position(|&b| b == b' ')?;
    let (oid, path) = line.split_at(space);
    let path = path.trim_ascii_start();
    if path.is_empty() {
        return None;
    }
    Some(TablespaceMapping {
        oid: str::from_utf8(oid).ok()?.parse().ok()?,
        path: PathBuf::from(OsString::from_vec(path.to_vec())),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::catalog::fixtures;

    #[test]
    fn backups_come_newest_first_with_all_they_have() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let backups = instance.backups().unwrap();
        let ids: Vec<&str> = backups.iter().map(|b| b.id.0.as_str()).collect();
        assert_eq!(ids, ["TOW7GA", "TOW7G5", "TOW7FV"]);

        let newest = &backups[0];
        assert_eq!(newest.parent, Some(BackupId("TOW7G5".to_owned())));
        assert_eq!(newest.content_crc, Some(2_023_981_984));
        assert_eq!(newest.tablespaces[0].oid, 16384);
        assert_eq!(instance.backup(&newest.id).unwrap(), *newest);
    }

    #[test]
    fn one_bad_backup_leaves_the_list_readable() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let bad = instance.dir.join("TOW7G5/backup.control");
        let text = fs::read_to_string(&bad).unwrap();
        fs::write(&bad, text.replace("status = OK", "status = FINE")).unwrap();
        fs::create_dir(instance.dir.join("TOW7ZZ")).unwrap();
        fs::create_dir(instance.dir.join(".snapshot")).unwrap();
        fs::create_dir(instance.dir.join("lost+found")).unwrap();

        let backups = instance.backups().unwrap();
        let seen: Vec<(&str, BackupStatus)> = backups
            .iter()
            .map(|b| (b.id.0.as_str(), b.status))
            .collect();
        assert_eq!(
            seen,
            [
                ("TOW7ZZ", BackupStatus::Unknown),
                ("TOW7GA", BackupStatus::Ok),
                ("TOW7G5", BackupStatus::Unknown),
                ("TOW7FV", BackupStatus::Ok),
                ("lost+found", BackupStatus::Unknown),
            ]
        );
        let message = instance.backup(&backups[2].id).unwrap_err().to_string();
        let line = 1 + text.lines().position(|l| l == "status = OK").unwrap();
        let wanted = format!("backup.control, line {line}: status cannot be \"FINE\"");
        assert!(message.ends_with(&wanted), "{message}");

        let error = instance.backup(&backups[0].id).unwrap_err();
        assert!(matches!(
            error,
            CatalogError::Control(ControlError::Read { .. })
        ));
        let error = instance.backup(&BackupId("NOPE".to_owned())).unwrap_err();
        assert!(matches!(error, CatalogError::NoSuchBackup { .. }));
    }

    #[test]
    fn a_status_has_the_spaces_before_a_comment() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let control = instance.dir.join("TOW7GA/backup.control");
        let text = fs::read_to_string(&control).unwrap();
        for (line, status) in [
            ("status = OK # said so", BackupStatus::Unknown),
            ("status = OK# said so", BackupStatus::Ok),
            ("status = OK \t", BackupStatus::Ok),
            ("status = 'OK' # said so", BackupStatus::Ok),
            ("status = ok", BackupStatus::Unknown),
        ] {
            fs::write(&control, text.replace("status = OK", line)).unwrap();
            let newest = instance.backups().unwrap().remove(0);
            assert_eq!(newest.status, status, "{line}");
        }
    }

    #[test]
    fn what_is_no_control_file_spoils_one_backup_only() {
        use nix::sys::stat::Mode;
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let control = instance.dir.join("TOW7G5/backup.control");
        let text = fs::read_to_string(&control).unwrap();
        let elsewhere = unpacked.path().join("elsewhere");
        fs::write(&elsewhere, &text).unwrap();
        let far = text.replacen("start-time = '2026-11-22", "start-time = '9999-12-31", 1);
        let far = far.replacen("+00'", "-23'", 1);
        let far = far.replacen("07:28:", "23:59:", 1);
        assert!(far.contains("'9999-12-31 23:59:"), "{far}");
        let ways: [(&str, &dyn Fn()); 5] = [
            ("a symbolic link", &|| {
                std::os::unix::fs::symlink(&elsewhere, &control).unwrap();
            }),
            ("a named pipe", &|| {
                nix::unistd::mkfifo(&control, Mode::S_IRWXU).unwrap();
            }),
            ("a directory", &|| fs::create_dir(&control).unwrap()),
            ("larger than 256 KiB", &|| {
                let file = fs::File::create(&control).unwrap();
                file.set_len(100 << 20).unwrap();
            }),
            ("beyond the year 9999", &|| {
                fs::write(&control, &far).unwrap()
            }),
        ];
        for (reason, put) in ways {
            let _ = fs::remove_file(&control);
            let _ = fs::remove_dir(&control);
            put();
            let backups = instance.backups().unwrap();
            let statuses: Vec<_> = backups
                .iter()
                .map(|b| (b.id.0.as_str(), b.status))
                .collect();
            assert_eq!(
                statuses,
                [
                    ("TOW7GA", BackupStatus::Ok),
                    ("TOW7G5", BackupStatus::Unknown),
                    ("TOW7FV", BackupStatus::Ok),
                ]
            );
            let error = instance.backup(&BackupId("TOW7G5".to_owned())).unwrap_err();
            let message = crate::causes::sentence(&error);
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_backup_may_be_moved_elsewhere_and_linked() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let before = instance.backups().unwrap();
        let disk = tempfile::tempdir().unwrap();
        let moved = disk.path().join("moved");
        let here = instance.dir.join("TOW7G5");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&here, &moved])
            .status();
        assert!(copied.unwrap().success());
        fs::remove_dir_all(&here).unwrap();
        std::os::unix::fs::symlink(&moved, &here).unwrap();
        assert_eq!(instance.backups().unwrap(), before);
    }

    #[test]
    fn a_key_that_restoring_needs_may_not_be_missing() {
        let text = "backup-mode = FULL\nstatus = OK\nstart-time = '2026-11-22 07:28:43+00'\n";
        let file = ControlFile::parse(Path::new("/c/x"), text.as_bytes()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = from_control(&fixtures::place(dir.path()), &file).unwrap_err();
        assert_eq!(error.to_string(), "/c/x has no \"program-version\"");
    }

    #[test]
    fn a_renamed_directory_is_found_by_its_start_time() {
        let unpacked = fixtures::unpack_metadata("pg15-hazards");
        let instance = fixtures::main_instance(&unpacked);
        let moved = instance.dir.join("moved");
        fs::rename(instance.dir.join("TOW7GA"), &moved).unwrap();
        let backup = instance.backup(&BackupId("TOW7GA".to_owned())).unwrap();
        assert_eq!(backup.dir, moved);
        assert_eq!(backup.id.0, "TOW7GA");
    }

    #[test]
    fn tablespace_paths_may_hold_spaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tablespace_map");
        fs::write(&path, "16390 /srv/b c\n16384 /srv/a\n").unwrap();
        let place = fixtures::place(dir.path()).join("tablespace_map");
        let map = read_tablespace_map(&place).unwrap();
        assert_eq!(map[0].path, Path::new("/srv/a"));
        assert_eq!(map[1].path, Path::new("/srv/b c"));
        for bad in ["x /srv/a", "16384", "16384 \n", "99999999999 /a"] {
            fs::write(&path, bad).unwrap();
            let message = read_tablespace_map(&place).unwrap_err().to_string();
            assert!(message.contains("tablespace_map, line 1"), "{message}");
        }
    }
}
