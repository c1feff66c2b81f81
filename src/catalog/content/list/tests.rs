use std::io::Read;

use super::*;
use crate::catalog::CompressAlg;
use crate::catalog::content::LINE_MAX;

const DATA: &str = r#"{"path":"base/5/2619.1", "size":"1740", "mode":"33152", "is_datafile":"1", "is_cfs":"0", "crc":"4294967295", "compress_alg":"zlib", "external_dir_num":"0", "dbOid":"5","full_size":"16384","segno":"1","n_blocks":"34","n_headers":"2","hdr_crc":"7","hdr_off":"5000000000","hdr_size":"61"}"#;

fn parse(text: &str) -> Result<ContentList, ContentError> {
    parse_cut(text, Cut::default())
}

fn parse_cut(text: &str, cut: Cut) -> Result<ContentList, ContentError> {
    let read = |buf: &mut [u8], offset: u64| {
        let mut rest = &text.as_bytes()[offset as usize..];
        rest.read(buf)
    };
    let parsed = reader::parse(&read, text.len() as u64, cut).unwrap();
    assert_eq!(parsed.crc, crc32c::crc32c(text.as_bytes()));
    ContentList::from_parsed(parsed, Path::new("list"))
}

fn line(path: &str, size: &str) -> String {
    format!(r#"{{"path":"{path}","size":"{size}","mode":"33152","is_datafile":"0","crc":"0"}}"#)
}

fn what_is_wrong_with(text: &str) -> LineError {
    match parse(text) {
        Err(ContentError::Line { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_data_file_with_every_key() {
    let list = parse(DATA).unwrap();
    let expected = FileEntry {
        path: b"base/5/2619.1",
        size: 1740,
        mode: 0o100_600,
        is_datafile: true,
        is_cfs: false,
        crc: u32::MAX,
        compress_alg: CompressAlg::Zlib,
        external_dir_num: 0,
        db_oid: 5,
        full_size: 16384,
        segno: 1,
        n_blocks: 34,
        n_headers: 2,
        hdr_crc: 7,
        hdr_off: 5_000_000_000,
        hdr_size: 61,
    };
    assert_eq!(list.iter().collect::<Vec<_>>(), [expected]);
    assert!(list.memory_bytes() > 0);
}

#[test]
fn only_the_mandatory_keys() {
    let list = parse(&line("PG_VERSION", "-1")).unwrap();
    let entry = list.entry(0);
    assert_eq!((entry.size, entry.compress_alg), (-1, CompressAlg::None));
    assert!(!entry.is_directory());
}

#[test]
fn it_is_not_json() {
    let list = parse(&line(r"odd\name,{and: more}", "1")).unwrap();
    assert_eq!(list.entry(0).path, br"odd\name,{and: more}");
    assert_eq!(what_is_wrong_with(&line("a\"b", "1")), LineError::Form);
}

#[test]
fn entries_are_found_by_path_and_directory() {
    let mut external = line("a", "3");
    external.insert_str(1, r#""external_dir_num":"1","#);
    let text = [line("b", "1"), external, line("a", "2"), String::new()].join("\n");
    let list = parse(&text).unwrap();
    let size = |path: &[u8], dir| list.find(path, dir).map(|at| list.entry(at).size);
    assert_eq!(size(b"a", 0), Some(2));
    assert_eq!(size(b"a", 1), Some(3));
    assert_eq!(size(b"b", 0), Some(1));
    assert_eq!(size(b"b", 1), None);
    assert_eq!(size(b"ab", 0), None);
}

#[test]
fn the_same_line_again_is_dropped_another_refused() {
    let (one, other) = (line("a", "1"), line("a", "2"));
    assert_eq!(parse(&format!("{one}\n{one}")).unwrap().len(), 1);
    let error = parse(&format!("{one}\n{other}")).unwrap_err();
    assert!(matches!(error, ContentError::Duplicate { name, .. } if name == "a"));
}

#[test]
fn lines_that_make_no_sense() {
    let good = line("a", "1");
    let bad = [
        good.replace('{', ""),
        good.replace('}', ""),
        good.replace("\"size\":", "\"size\""),
        good.replace("\",\"size", "\" \"size"),
    ];
    for text in bad {
        assert_eq!(what_is_wrong_with(&text), LineError::Form, "{text}");
    }
    assert_eq!(
        what_is_wrong_with(&good.replace("crc", "crd")),
        LineError::Missing("crc")
    );
    let number = |key, value: &str| LineError::Number {
        key,
        value: value.to_owned(),
    };
    assert_eq!(
        what_is_wrong_with(&line("a", "99999999999999999999")),
        number("size", "99999999999999999999")
    );
    assert_eq!(
        what_is_wrong_with(&DATA.replace("34", "x")),
        number("n_blocks", "x")
    );
    assert_eq!(
        what_is_wrong_with(&DATA.replace("zlib", "brotli")),
        LineError::Codec("brotli".to_owned())
    );
    // A symbolic link.
    assert_eq!(
        what_is_wrong_with(&good.replace("33152", "41471")),
        LineError::Mode(0o120_777)
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in [
        "",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\0b",
    ] {
        assert_eq!(
            what_is_wrong_with(&line(path, "1")),
            LineError::Path(path.to_owned())
        );
    }
}

#[test]
fn errors_name_the_line() {
    let text = format!("{}\n\n{}", line("a", "1"), line("b", "x"));
    let error = parse(&text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 3 of the content list list has \"x\" as size, which is not a valid number"
    );
}

#[test]
fn a_list_may_be_cut_anywhere() {
    let lines: Vec<_> = (0..9).map(|n| line(&"x".repeat(1 + n % 5), "1")).collect();
    let lines: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(n, line)| line.replace("\"x", &format!("\"{n}")))
        .collect();
    let paths = |list: &ContentList| list.iter().map(|e| e.path.to_vec()).collect::<Vec<_>>();
    for text in [
        lines.join("\n"),
        lines.join("\n\n") + "\n",
        lines[0].clone() + "\n",
    ] {
        let whole = paths(&parse(&text).unwrap());
        let bad = text.replacen("\"8", "\"../8", 1);
        let complaint = parse(&bad).err().map(|error| error.to_string());
        for threads in 1..=5 {
            for piece in [1, 2, 7, 50, 90, 400] {
                let cut = Cut { threads, piece };
                let list = parse_cut(&text, cut).unwrap();
                assert_eq!(paths(&list), whole, "{cut:?}");
                assert_eq!(list.find(&whole[0], 0), Some(0));
                let found = parse_cut(&bad, cut).err().map(|error| error.to_string());
                assert_eq!(found, complaint, "{cut:?}");
            }
        }
    }
}

#[test]
fn names_are_no_longer_than_the_kernel_takes() {
    let longest = "n".repeat(255);
    assert!(parse(&line(&format!("a/{longest}/b"), "1")).is_ok());
    let path = format!("a/{longest}n");
    assert_eq!(what_is_wrong_with(&line(&path, "1")), LineError::Path(path));
}

#[test]
fn a_line_without_end_is_given_up() {
    let long = line("a", &"0".repeat(LINE_MAX));
    assert_eq!(what_is_wrong_with(&long), LineError::TooLong);
    let text = format!("{}\n{long}\n{}", line("b", "1"), line("c", "1"));
    match parse(&text) {
        Err(ContentError::Line { line, what, .. }) => {
            assert_eq!((line, what), (2, LineError::TooLong));
        }
        other => panic!("{other:?}"),
    }
    // A terabyte without a line feed, as in a sparse file: only its beginning is read,
    // however many threads read in parallel.
    let read_bytes = std::sync::atomic::AtomicU64::new(0);
    let read = |buf: &mut [u8], _| {
        buf.fill(0);
        read_bytes.fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(buf.len())
    };
    for threads in [1, 8] {
        let cut = Cut {
            threads,
            ..Cut::default()
        };
        let parsed = reader::parse(&read, 1 << 40, cut).unwrap();
        assert!(parsed.given_up);
        assert_eq!(parsed.wrong, Some((0, LineError::TooLong)));
    }
    assert_eq!(reader::checksum(&read).unwrap(), None);
    assert!(read_bytes.into_inner() <= 10 << 20);
}
