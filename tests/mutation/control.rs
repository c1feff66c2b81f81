//! `backup.control` and `pg_probackup.conf` with values at their limits.

use std::fs;

use crate::case::{IDS, replace};
use crate::mutation::{Mutation, Named};

const TIMES: &[&str] = &[
    "'9999-12-31 23:59:59-23'",
    "'0000-01-01 00:00:00+23'",
    "'-9999-01-01 00:00:00+00'",
    "'1969-12-31 23:59:59+00'",
    "'2026-13-40 25:61:61+99'",
    "'2026-11-22 07:34:12'",
    "'292277026596-12-04 15:30:07+00'",
    "''",
];

const NUMBERS: &[&str] = &[
    "-1",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "4294967295",
    "1e9",
    "''",
];

const KEYS: &[(&str, &[&str])] = &[
    ("start-time", TIMES),
    ("end-time", TIMES),
    ("recovery-time", TIMES),
    ("block-size", NUMBERS),
    ("xlog-block-size", NUMBERS),
    ("checksum-version", NUMBERS),
    ("timelineid", NUMBERS),
    ("recovery-xid", NUMBERS),
    ("data-bytes", NUMBERS),
    ("wal-bytes", NUMBERS),
    ("uncompressed-bytes", NUMBERS),
    ("pgdata-bytes", NUMBERS),
    ("content-crc", NUMBERS),
    ("compress-level", NUMBERS),
    (
        "program-version",
        &[
            "0.0.0",
            "2.5",
            "999.99.99",
            "4294967295.99.99",
            "2.5.16.9",
            "''",
            "x",
        ],
    ),
    (
        "server-version",
        &[
            "''",
            "15.x",
            "9.6",
            "4294967296",
            "99999999999999999999",
            "-15",
        ],
    ),
    (
        "start-lsn",
        &["FFFFFFFF/FFFFFFFF", "0/0", "x", "123456789/0", "''"],
    ),
    (
        "stop-lsn",
        &["FFFFFFFF/FFFFFFFF", "0/0", "x", "123456789/0", "''"],
    ),
    (
        "status",
        &[
            "RUNNING", "ERROR", "MERGING", "DELETING", "ORPHAN", "CORRUPT", "ok", "''",
        ],
    ),
    ("backup-mode", &["FULL", "PAGE", "PTRACK", "full", "''"]),
    ("compress-alg", &["zlib", "zstd", "x", "''"]),
    ("stream", &["false", "maybe", "''"]),
    (
        "parent-backup-id",
        &[
            "'TOW7P0'",
            "'../../../outside/directory'",
            "'/'",
            "''",
            "'TOW7ZZ'",
            "'\x1b[31m'",
        ],
    ),
    (
        "note",
        &[
            "'\x1b[31mred\x07'",
            "'two\rlines\x0b'",
            "'\0'",
            "'open",
            "'\u{202e}turned'",
        ],
    ),
    ("primary_conninfo", &["'password=x'", "''"]),
];

pub fn all() -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for id in IDS {
        for (key, values) in KEYS {
            for value in *values {
                let name = format!("{key} of {id} is {}", value.escape_default());
                mutations.push(Mutation::new(name, move |case| {
                    let path = case.backup(id, "backup.control");
                    let text = fs::read_to_string(&path).unwrap();
                    replace(&path, with(&text, key, value).as_bytes());
                }));
            }
            mutations.push(Mutation::new(format!("{id} has no {key}"), move |case| {
                let path = case.backup(id, "backup.control");
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines().filter(|line| !is_of(line, key));
                let kept: Vec<_> = lines.collect();
                replace(&path, kept.join("\n").as_bytes());
            }));
        }
    }
    mutations.extend(large());
    for (key, value) in [
        ("system-identifier", "18446744073709551616"),
        ("system-identifier", "-1"),
        ("xlog-seg-size", "0"),
        ("xlog-seg-size", "1"),
        ("xlog-seg-size", "18446744073709551615"),
        ("xlog-seg-size", "16777217"),
        ("pgdata", "'\x1b[31m'"),
    ] {
        mutations.push(Mutation::new(
            format!("{key} of the instance is {value}"),
            move |case| {
                let path = case.path("catalog/backups/main/pg_probackup.conf");
                let text = fs::read_to_string(&path).unwrap();
                replace(&path, with(&text, key, value).as_bytes());
            },
        ));
    }
    mutations
}

/// Files larger than any that pg_probackup writes.
fn large() -> Vec<Mutation> {
    let [full, _] = IDS;
    let texts: [Named; 4] = [
        ("a line of 64 MB", || vec![b'x'; 64 << 20]),
        ("64 MB of lines", || b"a = 1\n".repeat((64 << 20) / 6)),
        ("a value of 16 MB", || {
            [b"note = '", &vec![b'x'; 16 << 20][..], b"'\n"].concat()
        }),
        ("16 MB of zeros", || vec![0; 16 << 20]),
    ];
    let mut mutations = Vec::new();
    for name in [
        "backup.control",
        "database/tablespace_map",
        "../pg_probackup.conf",
    ] {
        for (what, text) in texts {
            mutations.push(Mutation::new(
                format!("{name} has {what} more"),
                move |case| {
                    let path = case.backup(full, name);
                    let mut bytes = fs::read(&path).unwrap_or_default();
                    bytes.extend(text());
                    replace(&path, &bytes);
                },
            ));
        }
    }
    mutations
}

fn is_of(line: &str, key: &str) -> bool {
    line.split(['=', ' ']).next() == Some(key)
}

/// Returns the text with another value for a key, which it may not contain yet.
fn with(text: &str, key: &str, value: &str) -> String {
    let kept = text.lines().filter(|line| !is_of(line, key));
    let mut lines: Vec<_> = kept.map(str::to_owned).collect();
    lines.push(format!("{key} = {value}\n"));
    lines.join("\n")
}
