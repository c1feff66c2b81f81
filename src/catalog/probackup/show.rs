//! The JSON printed by `pg_probackup show --format=json`.
//!
//! It is an array of `{instance, backups[]}`, newest backup first. It is first parsed
//! without checks ([`RawBackup`]), then each word is checked and converted into a
//! [`Backup`]. Source: pg_probackup's `src/show.c` (`show_instance_json`).

use std::cell::OnceCell;
use std::collections::HashMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::str::FromStr;

use serde::Deserialize;

use crate::catalog::metadata::{
    parse_bool, parse_time, sort_newest_first, unknown_backup, visible_directories,
};
use crate::catalog::store::StorePath;
use crate::catalog::{Backup, BackupId, BackupStatus, Instance, TablespaceMapping};

#[derive(Deserialize)]
struct RawInstance {
    instance: String,
    backups: Vec<RawBackup>,
}

/// A backup as printed. Omitted fields are not needed, least of all the connection
/// string.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawBackup {
    id: String,
    parent_backup_id: Option<String>,
    backup_mode: String,
    wal: String,
    compress_alg: String,
    compress_level: i32,
    from_replica: String,
    block_size: u32,
    xlog_block_size: u32,
    checksum_version: u32,
    program_version: String,
    server_version: String,
    current_tli: u32,
    start_lsn: String,
    stop_lsn: String,
    start_time: String,
    end_time: Option<String>,
    recovery_time: Option<String>,
    #[serde(default)]
    recovery_xid: u64,
    data_bytes: Option<i64>,
    wal_bytes: Option<i64>,
    uncompressed_bytes: Option<i64>,
    pgdata_bytes: Option<i64>,
    status: String,
    content_crc: Option<u32>,
    note: Option<String>,
    #[serde(rename = "tablespace_map", default)]
    tablespace_map: Vec<RawTablespace>,
}

#[derive(Deserialize)]
struct RawTablespace {
    oid: String,
    path: String,
}

/// A value in the JSON that is not valid for its key.
#[derive(Debug, thiserror::Error)]
#[error("{key} cannot be \"{value}\"")]
struct BadValue {
    key: &'static str,
    value: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

/// Returns the backups of `instance` in the output of `show`, newest first; those of
/// other instances are skipped. As when read natively, a backup with invalid values is
/// marked UNKNOWN and logged.
///
/// # Errors
/// If the text is not JSON of the expected shape.
pub(super) fn parse(instance: &Instance, json: &str) -> Result<Vec<Backup>, serde_json::Error> {
    let shown: Vec<RawInstance> = serde_json::from_str(json)?;
    let places = Places::of(instance);
    let mut backups: Vec<Backup> = shown
        .into_iter()
        .filter(|raw| raw.instance == instance.name)
        .flat_map(|raw| raw.backups)
        .map(|raw| validate_or_mark(&places, raw))
        .collect();
    sort_newest_first(&mut backups);
    Ok(backups)
}

/// The locations of an instance's backups. `show` prints ids, not directories; they
/// differ only if a directory was renamed.
struct Places<'a> {
    instance: &'a Instance,
    named: HashMap<OsString, StorePath>,
    /// By the ids in their control files; read only if the names are not sufficient.
    renamed: OnceCell<HashMap<String, StorePath>>,
}

impl<'a> Places<'a> {
    fn of(instance: &'a Instance) -> Self {
        // A failure to list is reported when the directory is read.
        let listed = visible_directories(&instance.place).unwrap_or_default();
        let named = listed
            .into_iter()
            .filter_map(|place| Some((place.file_name()?.to_owned(), place)));
        Self {
            instance,
            named: named.collect(),
            renamed: OnceCell::new(),
        }
    }

    fn find(&self, id: &str) -> Option<StorePath> {
        let by_control = || {
            let backups = self.instance.backups().unwrap_or_default();
            let by_id = backups.into_iter().map(|b| (b.id.0, b.place));
            by_id.collect()
        };
        let named = self.named.get(OsStr::new(id));
        let found = named.or_else(|| self.renamed.get_or_init(by_control).get(id));
        found.cloned()
    }
}

fn validate_or_mark(places: &Places<'_>, raw: RawBackup) -> Backup {
    let id = BackupId(raw.id.clone());
    let Some(place) = places.find(&id.0) else {
        tracing::warn!(
            backup = %id,
            "pg_probackup shows a backup that has no directory in the catalog"
        );
        return unknown_backup(places.instance.place.clone(), id);
    };
    let mut backup = unknown_backup(place, id);
    // For a directory without metadata, `show` prints empty words instead of values.
    if raw.status == BackupStatus::Unknown.to_string() {
        return backup;
    }
    match fill(&mut backup, raw) {
        Ok(()) => backup,
        Err(error) => {
            tracing::warn!(
                backup = %backup.dir.display(),
                error = &error as &dyn Error,
                "pg_probackup shows invalid values for this backup"
            );
            unknown_backup(backup.place, backup.id)
        }
    }
}

fn fill(backup: &mut Backup, raw: RawBackup) -> Result<(), BadValue> {
    backup.parent = raw.parent_backup_id.map(BackupId);
    backup.mode = word("backup-mode", &raw.backup_mode)?;
    backup.status = word("status", &raw.status)?;
    backup.stream = check("wal", &raw.wal, is_stream)?;
    backup.compress_alg = word("compress-alg", &raw.compress_alg)?;
    backup.compress_level = raw.compress_level;
    backup.from_replica = check("from-replica", &raw.from_replica, parse_bool)?;
    backup.block_size = raw.block_size;
    backup.xlog_block_size = raw.xlog_block_size;
    backup.checksums = raw.checksum_version != 0;
    backup.program_version = word("program-version", &raw.program_version)?;
    backup.server_version = raw.server_version;
    backup.timeline = raw.current_tli;
    backup.start_lsn = word("start-lsn", &raw.start_lsn)?;
    backup.stop_lsn = word("stop-lsn", &raw.stop_lsn)?;
    backup.start_time = check("start-time", &raw.start_time, parse_time)?;
    backup.end_time = check_some("end-time", raw.end_time, parse_time)?;
    backup.recovery_time = check_some("recovery-time", raw.recovery_time, parse_time)?;
    backup.recovery_xid = raw.recovery_xid;
    // A negative count is pg_probackup's "not known".
    backup.data_bytes = raw.data_bytes.and_then(|n| n.try_into().ok());
    backup.wal_bytes = raw.wal_bytes.and_then(|n| n.try_into().ok());
    backup.uncompressed_bytes = raw.uncompressed_bytes.and_then(|n| n.try_into().ok());
    backup.pgdata_bytes = raw.pgdata_bytes.and_then(|n| n.try_into().ok());
    backup.content_crc = raw.content_crc.filter(|&crc| crc != 0);
    backup.note = raw.note;
    for tablespace in raw.tablespace_map {
        backup.tablespaces.push(TablespaceMapping {
            oid: word("tablespace_map", &tablespace.oid)?,
            path: tablespace.path.into(),
        });
    }
    backup.tablespaces.sort_by_key(|mapping| mapping.oid);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("it must be STREAM or ARCHIVE")]
struct NotAWalMode;

fn is_stream(text: &str) -> Result<bool, NotAWalMode> {
    match text {
        "STREAM" => Ok(true),
        "ARCHIVE" => Ok(false),
        _ => Err(NotAWalMode),
    }
}

fn word<T>(key: &'static str, text: &str) -> Result<T, BadValue>
where
    T: FromStr,
    T::Err: Display + Into<Box<dyn Error + Send + Sync>>,
{
    check(key, text, str::parse)
}

fn check<T, E: Into<Box<dyn Error + Send + Sync>>>(
    key: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, BadValue> {
    parse(text).map_err(|source| BadValue {
        key,
        value: text.to_owned(),
        source: source.into(),
    })
}

fn check_some<T, E: Into<Box<dyn Error + Send + Sync>>>(
    key: &'static str,
    text: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, BadValue> {
    text.map(|text| check(key, &text, parse)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{BackupStatus, fixtures};

    #[test]
    fn show_and_the_control_files_say_the_same() {
        for name in fixtures::ALL {
            let unpacked = fixtures::unpack_metadata(name);
            let instance = fixtures::main_instance(&unpacked);
            let shown = parse(&instance, &fixtures::recorded(name, "show.json")).unwrap();
            assert!(!shown.is_empty(), "{name}");
            assert_eq!(shown, instance.backups().unwrap(), "{name}");
        }
    }

    #[test]
    fn local_times_are_the_same_moments() {
        let unpacked = fixtures::unpack_metadata("pg15-debian");
        let instance = fixtures::main_instance(&unpacked);
        let json = fixtures::recorded("pg15-debian", "show.json");
        let plain = parse(&instance, &json).unwrap();
        let local = json.replace("2026-11-22 07:33:", "2026-11-22 13:03:");
        let local = local.replace("2026-11-22 07:34:", "2026-11-22 13:04:");
        let local = local.replace("+00\"", "+05:30\"");
        assert_ne!(local, json);
        assert_eq!(parse(&instance, &local).unwrap(), plain);
    }

    /// Converts a text to JSON as pg_probackup's `json_add_escaped` does.
    fn as_json(text: &[u8]) -> Vec<u8> {
        let mut json = vec![b'"'];
        for &byte in text {
            match byte {
                b'"' | b'\\' => json.extend([b'\\', byte]),
                0..b' ' => json.extend(format!("\\u{byte:04x}").as_bytes()),
                _ => json.push(byte),
            }
        }
        json.push(b'"');
        json
    }

    #[test]
    fn a_note_of_any_bytes_is_the_same_both_ways() {
        let unpacked = fixtures::unpack_metadata("pg15-debian");
        let instance = fixtures::main_instance(&unpacked);
        let json = fixtures::recorded("pg15-debian", "show.json");
        let control = instance.dir.join("TOW7P0/backup.control");
        let metadata = std::fs::read(&control).unwrap();
        let every: Vec<u8> = (1..=255).filter(|byte| !b"\n'".contains(byte)).collect();
        let notes = [
            &b"ends with a backslash\\"[..],
            br"a\nb\101\\c",
            b"so called '",
            b"# no comment ",
            &every,
        ];
        for note in notes {
            let line = [b"note = '", note, b"'\n"].concat();
            std::fs::write(&control, [&metadata[..], &line].concat()).unwrap();
            let id = b"\"id\": \"TOW7P0\",";
            let at = json
                .as_bytes()
                .windows(id.len())
                .position(|part| part == id);
            let (before, after) = json.as_bytes().split_at(at.unwrap());
            let shown = [before, b"\"note\": ", &as_json(note), b",", after].concat();
            let shown = parse(&instance, &String::from_utf8_lossy(&shown)).unwrap();
            assert_eq!(
                shown[0].note.as_deref(),
                Some(&*String::from_utf8_lossy(note))
            );
            assert_eq!(shown, instance.backups().unwrap());
        }
    }

    #[test]
    fn a_backup_without_metadata_is_unknown_both_ways() {
        let unpacked = fixtures::unpack_metadata("pg15-debian");
        let instance = fixtures::main_instance(&unpacked);
        let json = fixtures::recorded("pg15-debian", "show.json");
        let broken = json.replacen("\"OK\"", "\"UNKNOWN\"", 1);
        let broken = broken.replacen("\"DELTA\"", "\"\"", 1);
        std::fs::remove_file(instance.dir.join("TOW7P0/backup.control")).unwrap();

        let shown = parse(&instance, &broken).unwrap();
        assert_eq!(shown[0].status, BackupStatus::Unknown);
        assert_eq!(shown, instance.backups().unwrap());
    }

    #[test]
    fn a_word_that_makes_no_sense_marks_that_backup_only() {
        let unpacked = fixtures::unpack_metadata("pg15-debian");
        let instance = fixtures::main_instance(&unpacked);
        let json = fixtures::recorded("pg15-debian", "show.json");
        let odd = json.replacen("\"DELTA\"", "\"GAMMA\"", 1);
        let statuses: Vec<BackupStatus> = parse(&instance, &odd)
            .unwrap()
            .iter()
            .map(|backup| backup.status)
            .collect();
        assert_eq!(statuses, [BackupStatus::Unknown, BackupStatus::Ok]);
    }

    #[test]
    fn other_instances_are_left_out_and_other_shapes_refused() {
        let unpacked = fixtures::unpack_metadata("pg15-debian");
        let instance = fixtures::main_instance(&unpacked);
        let other = r#"[{"instance": "other", "backups": []}]"#;
        assert_eq!(parse(&instance, other).unwrap(), []);
        assert!(parse(&instance, r#"{"backups": []}"#).is_err());
        assert!(parse(&instance, "").is_err());
    }
}
