//! Content lists with wrong contents and a corrected checksum, and stored files with
//! different bytes.

use std::fs;
use std::path::PathBuf;

use crate::case::{Case, IDS, replace};
use crate::mutation::{Mutation, Random};

/// Fields of a line, and values they should not have.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "size",
        &[
            "-1",
            "-2",
            "0",
            "1",
            "1099511627776",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551616",
            "",
            "1e3",
        ],
    ),
    (
        "mode",
        &[
            "0",
            "16832",
            "40960",
            "4480",
            "8576",
            "36863",
            "4294967295",
            "-1",
            "35309",
        ],
    ),
    ("is_datafile", &["0", "1", "2", "true"]),
    ("is_cfs", &["1"]),
    ("crc", &["0", "1", "4294967295", "4294967296"]),
    (
        "compress_alg",
        &["zlib", "pglz", "lz4", "zstd", "bogus", "", "\u{fd}"],
    ),
    ("external_dir_num", &["1", "7", "4294967295", "-1"]),
    ("dbOid", &["0", "4294967295", "-1"]),
    ("full_size", &["0", "-1", "9223372036854775807"]),
    ("segno", &["1", "131071", "131072", "32767", "4294967295"]),
    (
        "n_blocks",
        &[
            "0",
            "1",
            "131072",
            "131073",
            "2147483647",
            "4294967295",
            "-1",
        ],
    ),
    ("n_headers", &["0", "1", "131072", "131073", "4294967295"]),
    ("hdr_crc", &["0", "4294967295"]),
    (
        "hdr_off",
        &["0", "7", "9223372036854775807", "18446744073709551615"],
    ),
    ("hdr_size", &["0", "1", "1073741824", "4294967295"]),
    (
        "path",
        &[
            "",
            ".",
            "..",
            "../../outside/secret",
            "/etc/passwd",
            "base//1",
            "base/1",
            "base/1/1255/below",
            "base/1/2619",
            "a\\b",
            "\u{1b}[31mred",
            "tab\there",
            ".pbkfs/tblspc/1",
            "pg_tblspc/1/../../x",
            "tablespace_map",
            ".pbkfs-recovery.json",
            "postgresql.auto.conf",
            "pg_wal/x/../../y",
        ],
    ),
];

/// The lines that are changed: those of a relation, a map and a directory.
const LINES: [&str; 4] = [
    "base/1/1255",
    "base/1/pg_filenode.map",
    "base/1",
    "PG_VERSION",
];

pub fn all() -> Vec<Mutation> {
    let [full, _] = IDS;
    let mut mutations = Vec::new();
    for path in LINES {
        for (field, values) in FIELDS {
            for value in *values {
                let name = format!("{field} of {path} is {}", value.escape_default());
                mutations.push(Mutation::new(name, move |case| {
                    change(case, full, |text| {
                        of_line(text, path, |line| set(line, field, value))
                    });
                }));
            }
        }
    }
    mutations.extend(of_the_whole(full));
    mutations
}

type Change = fn(Vec<u8>) -> Vec<u8>;

/// Mutations of a list as a whole.
fn of_the_whole(id: &'static str) -> Vec<Mutation> {
    let changes: [(&str, Change); 12] = [
        ("list is empty", |_| Vec::new()),
        ("list is cut", |mut text| {
            text.truncate(text.len() / 2);
            text
        }),
        ("list says all twice", |text| text.repeat(2)),
        (
            "list says one line twice, the second time otherwise",
            |mut text| {
                let line = of_line(text.clone(), "PG_VERSION", |line| set(line, "size", "77"));
                text.extend(line);
                text
            },
        ),
        ("list has a line of 8 MB", |mut text| {
            text.extend(vec![b'x'; 8 << 20]);
            text
        }),
        ("list has a path of 100 kB", |text| {
            let path = "a/".repeat(50_000) + "a";
            of_line(text, "PG_VERSION", |line| set(line, "path", &path))
        }),
        ("list has a path of 2000 directories", |text| {
            let path = "a/".repeat(2000) + "a";
            of_line(text, "PG_VERSION", |line| set(line, "path", &path))
        }),
        ("list has 100000 empty lines", |mut text| {
            text.extend(vec![b'\n'; 100_000]);
            text
        }),
        ("list has NUL in a path", |text| {
            of_line(text, "PG_VERSION", |line| set(line, "path", "PG\0VERSION"))
        }),
        ("list has no line of a directory", |text| {
            of_line(text, "base/1", |_| String::new())
        }),
        ("list has 200000 files", |mut text| {
            for number in 0..200_000 {
                let line = format!(
                    "{{\"path\":\"x/{number}\", \"size\":\"0\", \"mode\":\"33152\", \"is_datafile\":\"0\", \"is_cfs\":\"0\", \"crc\":\"0\"}}\n"
                );
                text.extend(line.into_bytes());
            }
            text
        }),
        ("list is no text", |text| {
            text.iter().map(|byte| !byte).collect()
        }),
    ];
    let whole = changes.into_iter();
    whole
        .map(|(name, edit)| Mutation::new(name, move |case| change(case, id, edit)))
        .collect()
}

/// Rewrites a backup's list, and its checksum in the control file.
fn change(case: &Case, id: &str, edit: impl Fn(Vec<u8>) -> Vec<u8>) {
    let list = case.backup(id, "backup_content.control");
    let text = edit(fs::read(&list).unwrap());
    replace(&list, &text);
    let control = case.backup(id, "backup.control");
    let lines = fs::read_to_string(&control).unwrap();
    let lines = lines
        .lines()
        .map(|line| match line.starts_with("content-crc") {
            true => format!("content-crc = {}\n", crc32c::crc32c(&text)),
            false => format!("{line}\n"),
        });
    replace(&control, lines.collect::<String>().as_bytes());
}

/// Changes the line of one path, and leaves the others unchanged.
fn of_line(text: Vec<u8>, path: &str, edit: impl Fn(&str) -> String) -> Vec<u8> {
    let text = String::from_utf8(text).unwrap();
    let begin = format!("{{\"path\":\"{path}\"");
    let lines = text.lines().map(|line| match line.starts_with(&begin) {
        true => edit(line) + "\n",
        false => line.to_owned() + "\n",
    });
    let changed = lines.collect::<String>();
    assert!(text.contains(&begin), "no line of {path}");
    changed.into_bytes()
}

/// Returns the line with another value for a field, which it may not contain yet.
fn set(line: &str, field: &str, value: &str) -> String {
    let key = format!("\"{field}\":\"");
    match line.split_once(&key) {
        Some((before, after)) => {
            let (_, rest) = after.split_once('"').unwrap();
            format!("{before}{key}{value}!\"{rest}").replacen("!\"", "\"", 1)
        }
        None => line.replacen('}', &format!(",{key}{value}\"}}"), 1),
    }
}

/// Mutations of the bytes of stored files.
pub fn stored() -> Vec<Mutation> {
    let [full, delta] = IDS;
    let mut random = Random::new(7);
    let files = [
        (full, "database/base/1/1255"),
        (full, "database/base/1/pg_filenode.map"),
        (full, "database/PG_VERSION"),
        (delta, "database/global/pg_control"),
        (full, "page_header_map"),
        (delta, "page_header_map"),
        (delta, "database/backup_label"),
    ];
    let mut mutations = Vec::new();
    for (id, name) in files {
        for how in ["flipped", "cut", "longer", "zeros"] {
            let at = random.number();
            let name = name.to_owned();
            let title = format!("{name} of {id} is {how}");
            mutations.push(Mutation::new(title, move |case| {
                let path: PathBuf = case.backup(id, &name);
                replace(&path, &damaged(fs::read(&path).unwrap(), how, at));
            }));
        }
    }
    mutations
}

/// Returns the bytes, damaged in this way at a position determined by `at`.
pub fn damaged(mut bytes: Vec<u8>, how: &str, at: u64) -> Vec<u8> {
    let place = (at % bytes.len().max(1) as u64) as usize;
    match how {
        "flipped" => {
            let byte = bytes.get_mut(place).expect("it is not empty");
            *byte ^= 1 << (at >> 61);
        }
        "cut" => bytes.truncate(place),
        "longer" => bytes.extend_from_within(place / 2..),
        "zeros" => {
            let end = (place + 4096).min(bytes.len());
            bytes[place..end].fill(0);
        }
        other => panic!("no way {other}"),
    }
    bytes
}
