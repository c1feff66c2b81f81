//! The real catalogs under `postgres/fixtures`, each with its oracle.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;

use super::process::OsUser;
use super::tree::Manifest;

/// All bundled catalogs.
pub const FIXTURES: [&str; 7] = [
    "pg15-chain",
    "pg15-debian",
    "pg15-hazards",
    "pg15-old",
    "pg15-ptrack",
    "pg17-chain",
    "pg18-chain",
];

/// One unpacked catalog.
pub struct Fixture {
    pub name: String,
    /// The value of pg_probackup's `-B`.
    pub catalog: PathBuf,
    pub owner: OsUser,
}

/// One line of `oracle/backups.txt`.
#[derive(Debug, Clone)]
pub struct BackupLine {
    pub id: String,
    /// FULL, DELTA, PAGE or PTRACK.
    pub mode: String,
    /// Whether the backup contains the WAL that it needs.
    pub stream: bool,
}

/// A query, and the live cluster's answer just before the backup.
#[derive(Debug, Deserialize)]
pub struct Expectation {
    pub db: String,
    pub sql: String,
    pub answer: String,
}

/// A point in the WAL, identified in four ways, and the answer to a query at that
/// point.
#[derive(Debug, Deserialize)]
pub struct RestorePoint {
    pub name: String,
    pub lsn: String,
    pub time: String,
    pub xid: String,
    pub db: String,
    pub sql: String,
    pub answer: String,
}

/// A relation's stored file that is large enough to be damaged in the middle.
pub struct StoredFile {
    /// Path in the data directory: `base/16385/16397`.
    pub name: String,
    /// Path in the catalog.
    pub path: PathBuf,
    /// Offset of its page headers in the backup's `page_header_map`.
    pub header_offset: u64,
    pub header_size: u64,
}

impl Fixture {
    /// Unpacks `catalog/` into `dir`, owned by `owner`. `name` may name a case
    /// (`cases/limits`), which has no oracle.
    pub fn unpack(name: &str, dir: &Path, owner: &OsUser) -> Fixture {
        let archive = match name.starts_with("cases/") {
            true => bundled(&format!("{name}.tar.zst")),
            false => bundled(name).join("catalog.tar.zst"),
        };
        let archive = File::open(&archive)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", archive.display()));
        // Run by the owner, so that the owner owns the files.
        let mut tar = owner
            .command("tar")
            .args([
                "--extract",
                "--preserve-permissions",
                "--no-same-owner",
                "--directory",
            ])
            .arg(dir)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = tar.stdin.take().unwrap();
        let mut unpacked = zstd::Decoder::new(archive).unwrap();
        io::copy(&mut unpacked, &mut input).unwrap();
        input.flush().unwrap();
        drop(input);
        assert!(tar.wait().unwrap().success(), "tar could not unpack {name}");
        Fixture {
            name: name.to_owned(),
            catalog: dir.join("catalog"),
            owner: owner.clone(),
        }
    }

    /// Returns the backups, oldest first.
    pub fn backups(&self) -> Vec<BackupLine> {
        let text = fs::read_to_string(bundled(&self.name).join("oracle/backups.txt")).unwrap();
        let parse = |line: &str| {
            let mut words = line.split(' ');
            BackupLine {
                id: words.next().unwrap().to_owned(),
                mode: words.next().unwrap().to_owned(),
                stream: words.any(|word| word == "--stream"),
            }
        };
        text.lines().map(parse).collect()
    }

    pub fn newest(&self) -> String {
        self.backups().pop().unwrap().id
    }

    /// Returns the IDs from the FULL backup to `id`, following the parents that
    /// pg_probackup recorded.
    pub fn chain(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(recorded(&self.name).join("show.json")).unwrap();
        let show: serde_json::Value = serde_json::from_str(&text).unwrap();
        let backups = show[0]["backups"].as_array().unwrap();
        let parent = |id: &str| {
            let backup = backups.iter().find(|backup| backup["id"] == id).unwrap();
            backup["parent-backup-id"].as_str().map(str::to_owned)
        };
        let mut chain = vec![id.to_owned()];
        while let Some(parent) = parent(chain.last().unwrap()) {
            chain.push(parent);
        }
        chain.reverse();
        chain
    }

    /// Returns whether the real restore reproduced the backup. For pg15-old it loses
    /// rows, so the only comparison is with what the live cluster answered.
    pub fn is_restored_whole(&self, id: &str) -> bool {
        self.name != "pg15-old" || ["TP44E6", "TP44E8"].contains(&id)
    }

    /// Returns what restore writes for the backup, without what restore adds itself:
    /// it edits one file, and writes another that makes an ARCHIVE backup recover.
    pub fn manifest(&self, id: &str) -> Manifest {
        Manifest::read(&bundled(&self.name).join(format!("oracle/{id}.manifest")))
            .without("postgresql.auto.conf")
            .without("recovery.signal")
    }

    pub fn expectations(&self, id: &str) -> Vec<Expectation> {
        let path = bundled(&self.name).join(format!("oracle/{id}.expect.jsonl"));
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Returns the restore points of the live cluster, oldest first.
    pub fn restore_points(&self) -> Vec<RestorePoint> {
        let path = bundled(&self.name).join("oracle/pitr.jsonl");
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Returns the path of a file of the WAL archive.
    pub fn wal(&self, name: &str) -> PathBuf {
        self.catalog.join("wal/main").join(name)
    }

    pub fn backup_dir(&self, id: &str) -> PathBuf {
        self.catalog.join("backups/main").join(id)
    }

    /// Returns the largest main fork that backup `id` stores under `base/`.
    pub fn largest_data_file(&self, id: &str) -> StoredFile {
        let list = fs::read_to_string(self.backup_dir(id).join("backup_content.control")).unwrap();
        let number = |line: &str, key| field(line, key).and_then(|value| value.parse::<i64>().ok());
        let line = list
            .lines()
            .filter(|line| field(line, "is_datafile") == Some("1"))
            .filter(|line| field(line, "path").is_some_and(|path| path.starts_with("base/")))
            .max_by_key(|line| number(line, "size"))
            .expect("a data file");
        let name = field(line, "path").unwrap().to_owned();
        StoredFile {
            path: self.backup_dir(id).join("database").join(&name),
            name,
            header_offset: number(line, "hdr_off").unwrap().try_into().unwrap(),
            header_size: number(line, "hdr_size").unwrap().try_into().unwrap(),
        }
    }
}

/// Returns the folder of one fixture in the repository.
fn bundled(name: &str) -> PathBuf {
    let place = include!("bundled.rs");
    place(name)
}

/// Returns the directory with the real pg_probackup's output for the fixture.
pub fn recorded(name: &str) -> PathBuf {
    bundled(name).join("recorded")
}

/// Returns the value of `"key":"value"` in one line of a content list.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{key}\":\""))?;
    rest.split('"').next()
}

/// Inverts every bit of the byte at `offset`.
pub fn flip_byte(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}
