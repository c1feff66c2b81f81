//! WAL archives: names, kinds, headers, histories, streams.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::case::{Case, replace, sparse};
use crate::content::damaged;
use crate::kinds::put;
use crate::mutation::{Mutation, Named, Random};

const DIR: &str = "catalog/wal/main";

/// The requested segment.
const SEGMENT: &str = "000000010000000000000048.gz";

/// What can be in place of a file that is read.
const KINDS: [&str; 7] = [
    "a link to a secret",
    "a link to /dev/zero",
    "a FIFO",
    "a device",
    "a directory",
    "an empty file",
    "a file of 1 TB",
];

pub fn all() -> Vec<Mutation> {
    let mut mutations = Vec::new();
    for (place, kinds) in [
        (SEGMENT, &KINDS[..]),
        (SEGMENT, &["a socket"]),
        ("000000010000000000000048", &KINDS),
        ("00000002.history", &KINDS),
        (
            "000000010000000000000048.partial",
            &["a link to a secret", "a FIFO", "a file of 1 TB"],
        ),
        (
            "stranger",
            &["a link to /dev/zero", "a FIFO", "a file of 1 TB"],
        ),
    ] {
        for kind in kinds {
            mutations.push(Mutation::new(format!("{kind} at {place}"), move |case| {
                put(case, kind, &case.path(DIR).join(place));
            }));
        }
    }
    mutations.extend(names());
    mutations.extend(histories());
    mutations.extend(streams());
    mutations
}

/// Segments whose names are at the limits, which create the largest gaps.
fn names() -> Vec<Mutation> {
    let names = [
        "0000000100000000FFFFFFFF",
        "00000001FFFFFFFFFFFFFFFF",
        "00000001FFFFFFFF00000FFF",
        "00000000000000000000004F",
        "FFFFFFFF0000000000000001",
        "FFFFFFFFFFFFFFFF00000FFF.gz",
        "FFFFFFFF.history",
        "00000000.history",
        "00000001.history",
        "000000010000000000000048.00000028.backup",
        "00000001000000000000004\u{fd}",
        "\u{1b}[31m.history",
        "two\nlines",
    ];
    let mutation = |name: &'static str| {
        Mutation::new(format!("there is {}", name.escape_default()), move |case| {
            let text = b"1\t0/4800000\tno recovery target specified\n";
            replace(&case.path(DIR).join(name), text);
        })
    };
    names.into_iter().map(mutation).collect()
}

fn histories() -> Vec<Mutation> {
    let texts: [Named; 9] = [
        ("itself as parent", || b"2\t0/4800000\tx\n".to_vec()),
        ("a later parent", || b"9\t0/4800000\tx\n".to_vec()),
        ("a parent twice", || b"1\t0/1\tx\n1\t0/2\tx\n".to_vec()),
        ("the last position", || {
            b"1\tFFFFFFFF/FFFFFFFF\tx\n".to_vec()
        }),
        ("no position", || b"1\n".to_vec()),
        ("a reason with escapes", || {
            b"1\t0/1\t\x1b[31mred\x07\n".to_vec()
        }),
        ("no text", || vec![0xFF; 5000]),
        ("64 MB of comments", || b"# c\n".repeat(16 << 20)),
        ("a line of 64 MB", || vec![b'1'; 64 << 20]),
    ];
    let mutation = |(what, text): Named| {
        Mutation::new(format!("a history with {what}"), move |case| {
            replace(&case.path(DIR).join("00000002.history"), &text());
        })
    };
    texts.into_iter().map(mutation).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns the segment's contents, decompressed.
fn segment(case: &Case) -> Vec<u8> {
    let packed = fs::File::open(case.path(DIR).join(SEGMENT)).unwrap();
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(packed);
    std::io::copy(&mut decoder, &mut bytes).unwrap();
    bytes
}

fn streams() -> Vec<Mutation> {
    let mut mutations = Vec::new();
    let mut random = Random::new(11);
    for how in ["flipped", "cut", "longer", "zeros"] {
        for round in 0..3 {
            let at = random.number();
            mutations.push(Mutation::new(
                format!("the stream is {how}, {round}"),
                move |case| {
                    let path = case.path(DIR).join(SEGMENT);
                    replace(&path, &damaged(fs::read(&path).unwrap(), how, at));
                },
            ));
        }
    }
    // The fields of the first page that identify it.
    for (what, at, bytes) in [
        ("magic", 0, &[0xFF, 0xFF][..]),
        ("flags", 2, &[0xFF, 0xFF]),
        ("timeline", 4, &[0xFF; 4]),
        ("address", 8, &[0xFF; 8]),
        ("system identifier", 24, &[0xFF; 8]),
        ("segment size", 32, &[0; 4]),
        ("page size", 36, &[0; 4]),
    ] {
        mutations.push(Mutation::new(format!("its {what} is wrong"), move |case| {
            let mut segment = segment(case);
            segment[at..at + bytes.len()].copy_from_slice(bytes);
            replace(&case.path(DIR).join(SEGMENT), &gz(&segment));
        }));
    }
    mutations.push(Mutation::new("the stream has 1 GB", |case| {
        let bomb = gz(&vec![0; 64 << 20]).repeat(16);
        replace(&case.path(DIR).join(SEGMENT), &bomb);
    }));
    mutations.push(Mutation::new("a segment is too long", |case| {
        sparse(&case.path(DIR).join("000000010000000000000049"), 3 << 30);
    }));
    mutations
}
