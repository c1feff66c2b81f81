//! Anything damaged, missing or unexpected in a catalog is an error that names the
//! location, and does not affect anything else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pbkfs::catalog::content::ContentError;
use pbkfs::catalog::pages::PageIndexError;
use pbkfs::catalog::store::{Kind, Refused};
use pbkfs::image::{Image, ImageError, ImageOptions, PageFault};
use pbkfs::pg::BlockNumber;

use crate::fixture::{Fixture, chain_of, content, field, largest_data_file, node};

const FULL: &str = "TOW7FV";
const DELTA: &str = "TOW7G5";
const LAST: &str = "TOW7GA";

fn hazards() -> Fixture {
    Fixture::unpack("pg15-hazards")
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

/// Reads one block of a file.
fn read_block(image: &Image, path: &str, block: u32) -> Result<usize, ImageError> {
    let mut page = [0; 8192];
    image.read_at(node(image, path), u64::from(block) * 8192, &mut page)
}

/// Returns the largest data file of the FULL, and the location of its stored bytes.
fn victim(fixture: &Fixture) -> (String, std::path::PathBuf, String) {
    let (path, line) = largest_data_file(fixture, FULL);
    let stored = fixture.backup_dir(FULL).join("database").join(&path);
    (path, stored, line)
}

/// Returns the offset of the record of a block, by scanning the stored file's
/// records.
fn record_offset(stored: &Path, wanted: u32) -> u64 {
    let bytes = fs::read(stored).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut at = 0;
    while number(at) != wanted {
        at += 8 + number(at + 4) as usize;
    }
    at as u64
}

#[test]
fn a_damaged_page_fails_alone() {
    let fixture = hazards();
    let (path, stored, _) = victim(&fixture);
    let offset = record_offset(&stored, 3);
    let healthy = content(&fixture.image(FULL), node(&fixture.image(FULL), &path));
    flip(&stored, offset + 8 + 20);

    let image = fixture.image(FULL);
    let error = read_block(&image, &path, 3).unwrap_err();
    let ImageError::Page(page) = &error else {
        panic!("{error}");
    };
    assert_eq!(page.path, Path::new(&path));
    assert_eq!(page.backup.0, FULL);
    assert_eq!(page.block, BlockNumber(3));
    assert_eq!(page.offset, offset);
    assert!(error.to_string().contains(&format!("block 3 of {path}")));

    // A read that touches only its edge fails, too; reads of its neighbours do not.
    let file = node(&image, &path);
    assert!(image.read_at(file, 3 * 8192 - 1, &mut [0; 2]).is_err());
    for block in [2, 4] {
        let mut page = [0; 8192];
        let at = block * 8192;
        image.read_at(file, at as u64, &mut page).unwrap();
        assert_eq!(page, healthy[at..at + 8192]);
    }
    assert_eq!(image.counters().errors.get(), 2);
}

#[test]
fn a_wrong_checksum_is_noticed_where_the_codec_sees_nothing() {
    // Uncompressed pages: any bytes decode.
    let fixture = Fixture::unpack("pg15-chain");
    let id = "TOW7KG";
    let (path, _) = largest_data_file(&fixture, id);
    let stored = fixture.backup_dir(id).join("database").join(&path);
    flip(&stored, record_offset(&stored, 2) + 8 + 5000);

    let error = read_block(&fixture.image(id), &path, 2).unwrap_err();
    let ImageError::Page(page) = &error else {
        panic!("{error}");
    };
    assert!(matches!(page.fault, PageFault::Checksum { .. }));

    let options = ImageOptions {
        verify_checksums: false,
        ..ImageOptions::default()
    };
    let trusting = Image::open(&fixture.chain(id), &options).unwrap();
    assert_eq!(read_block(&trusting, &path, 2).unwrap(), 8192);
}

#[test]
fn a_record_must_be_the_one_its_index_promises() {
    let fixture = hazards();
    let (path, stored, _) = victim(&fixture);
    flip(&stored, record_offset(&stored, 1));
    let error = read_block(&fixture.image(FULL), &path, 1).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::Page(page) if matches!(page.fault, PageFault::Record(_))
    ));
    assert!(read_block(&fixture.image(FULL), &path, 0).is_ok());
}

#[test]
fn a_stored_file_that_is_cut_off() {
    let fixture = hazards();
    let (path, stored, line) = victim(&fixture);
    let size: u64 = field(&line, "size").parse().unwrap();
    let file = File::options().write(true).open(&stored).unwrap();
    file.set_len(size - 1).unwrap();
    let error = read_block(&fixture.image(FULL), &path, 0).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::Short { expected, found, .. } if *expected == size && *found == size - 1
    ));
    assert!(error.to_string().contains(&path));
}

#[test]
fn a_stored_file_that_is_missing() {
    let fixture = hazards();
    let (path, stored, _) = victim(&fixture);
    fs::remove_file(&stored).unwrap();
    let error = read_block(&fixture.image(LAST), &path, 0).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::Stored { file, backup, .. } if *file == stored && backup.0 == FULL
    ));
    // Also a file that is stored whole.
    let whole = fixture.backup_dir(FULL).join("database/PG_VERSION");
    fs::remove_file(whole).unwrap();
    let image = fixture.image(LAST);
    assert!(matches!(
        image.len(node(&image, "PG_VERSION")),
        Err(ImageError::Stored { .. })
    ));
}

#[test]
fn a_damaged_header_map() {
    let fixture = hazards();
    let (path, _, line) = victim(&fixture);
    let map = fixture.backup_dir(FULL).join("page_header_map");
    let offset: u64 = field(&line, "hdr_off").parse().unwrap();
    flip(&map, offset + 30);
    let error = read_block(&fixture.image(FULL), &path, 0).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::Index {
            source: PageIndexError::Deflate { .. } | PageIndexError::MapChecksum { .. },
            ..
        }
    ));
    assert!(error.to_string().contains(&path));
    fs::remove_file(&map).unwrap();
    let error = read_block(&fixture.image(FULL), &path, 0).unwrap_err();
    assert!(matches!(&error, ImageError::Stored { file, .. } if *file == map));
}

#[test]
fn another_checksum_for_the_header_map() {
    let fixture = hazards();
    let (path, _, line) = victim(&fixture);
    let crc = field(&line, "hdr_crc").to_owned();
    fixture.edit_list(FULL, |line| {
        Some(line.replace(&format!("\"hdr_crc\":\"{crc}\""), "\"hdr_crc\":\"1\""))
    });
    let error = read_block(&fixture.image(FULL), &path, 0).unwrap_err();
    assert!(matches!(
        error,
        ImageError::Index {
            source: PageIndexError::MapChecksum { recorded: 1, .. },
            ..
        }
    ));
}

#[test]
fn without_a_header_map_the_records_are_scanned() {
    let fixture = hazards();
    let (path, _, _) = victim(&fixture);
    let image = fixture.image(LAST);
    let expected = content(&image, node(&image, &path));
    for id in [FULL, DELTA] {
        fixture.edit_list(id, |line| {
            let (kept, _) = line.split_once(",\"n_headers\"").unwrap_or((line, ""));
            Some(format!("{}}}", kept.trim_end_matches('}')))
        });
    }
    let image = fixture.image(LAST);
    assert!(content(&image, node(&image, &path)) == expected);
}

#[test]
fn a_content_list_that_is_not_the_one_written() {
    let fixture = hazards();
    let list = fixture.backup_dir(FULL).join("backup_content.control");
    flip(&list, 1000);
    let error = fixture.try_image(LAST).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::Content { backup, source: ContentError::Checksum { path, .. } }
            if backup.0 == FULL && *path == list
    ));
    fs::remove_file(&list).unwrap();
    assert!(matches!(
        fixture.try_image(LAST).unwrap_err(),
        ImageError::Content {
            source: ContentError::Read { .. },
            ..
        }
    ));
}

#[test]
fn cfs_is_refused_by_name() {
    let fixture = hazards();
    fixture.edit_list(FULL, |line| {
        Some(match field(line, "path") {
            "base/1/1249" => line.replace("\"is_cfs\":\"0\"", "\"is_cfs\":\"1\""),
            _ => line.to_owned(),
        })
    });
    let error = fixture.try_image(FULL).unwrap_err();
    assert!(matches!(&error, ImageError::Cfs { path, .. } if path == Path::new("base/1/1249")));
}

#[test]
fn an_unchanged_file_must_be_in_every_parent() {
    let fixture = hazards();
    let without = |line: &str| (field(line, "path") != "PG_VERSION").then(|| line.to_owned());
    fixture.edit_list(FULL, without);
    let image = fixture.image(DELTA);
    let error = image.len(node(&image, "PG_VERSION")).unwrap_err();
    assert!(matches!(
        &error,
        ImageError::NotInParent { path, backup }
            if path == Path::new("PG_VERSION") && backup.0 == FULL
    ));
}

#[test]
fn a_directory_that_no_line_describes_is_there_all_the_same() {
    let fixture = hazards();
    let without = |line: &str| (field(line, "path") != "base/1").then(|| line.to_owned());
    fixture.edit_list(FULL, without);
    let image = fixture.image(FULL);
    assert_eq!(image.mode(node(&image, "base/1")), 0o700);
    assert!(content(&image, node(&image, "base/1/PG_VERSION")).starts_with(b"15"));
}

#[test]
fn directories_that_nothing_accounts_for_are_refused() {
    let fixture = hazards();
    // A few may have no line, however deep they are.
    let deep = |line: &str, depth: usize, name: &str| {
        let path = format!("{}/{name}", vec!["d"; depth].join("/"));
        line.replace("\"path\":\"PG_VERSION\"", &format!("\"path\":\"{path}\""))
    };
    fixture.edit_list(FULL, |line| Some(deep(line, 2000, "file")));
    let image = fixture.image(FULL);
    assert!(image.node_count() > 2000);
    drop(image);
    // Each line could name a thousand: this list has ten more lines.
    let list = fixture.backup_dir(FULL).join("backup_content.control");
    let text = fs::read_to_string(&list).unwrap();
    let line = text.lines().find(|line| line.contains("d/file")).unwrap();
    let many: String = (0..10)
        .map(|n| line.replace("\"path\":\"d/", &format!("\"path\":\"{n}/")) + "\n")
        .collect();
    fs::write(&list, text.clone() + &many).unwrap();
    let error = fixture.try_image(FULL).unwrap_err();
    assert!(
        matches!(&error, ImageError::Misplaced { why, .. } if why.contains("directories")),
        "{error}"
    );
}

#[test]
fn a_link_or_a_fifo_in_place_of_a_stored_file() {
    let fixture = hazards();
    let (path, stored, _) = victim(&fixture);
    let aside = stored.with_extension("aside");
    fs::rename(&stored, &aside).unwrap();
    let is_refused = |kind| {
        let error = read_block(&fixture.image(LAST), &path, 0).unwrap_err();
        let expected = Refused::Is(kind);
        assert!(
            matches!(&error, ImageError::Refused { file, reason, backup, .. }
                if *file == stored && *reason == expected && backup.0 == FULL),
            "{error}"
        );
        fs::remove_file(&stored).unwrap();
    };
    // Even a link that points to the file itself.
    std::os::unix::fs::symlink(&aside, &stored).unwrap();
    is_refused(Kind::Symlink);
    nix::unistd::mkfifo(&stored, nix::sys::stat::Mode::S_IRWXU).unwrap();
    is_refused(Kind::Fifo);
    // The same for a directory above it.
    let above = stored.parent().unwrap();
    let moved = above.with_extension("moved");
    fs::rename(&aside, &stored).unwrap();
    fs::rename(above, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, above).unwrap();
    let error = read_block(&fixture.image(LAST), &path, 0).unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. }), "{error}");
}

#[test]
fn names_that_are_in_each_others_way() {
    let fixture = hazards();
    let file =
        r#"{"path":"PG_VERSION/x", "size":"0", "mode":"33152", "is_datafile":"0", "crc":"0"}"#;
    fixture.edit_list(FULL, |line| {
        Some(match field(line, "path") {
            "PG_VERSION" => format!("{line}\n{file}"),
            _ => line.to_owned(),
        })
    });
    let error = fixture.try_image(FULL).unwrap_err();
    assert!(matches!(error, ImageError::Misplaced { .. }), "{error}");
}

/// A PAGE backup of 2.2.7 or older ends a truncated file with a marker, which
/// truncates only older layers, whichever version took the backups based on it.
#[test]
fn a_truncation_marker_cuts_what_is_older() {
    let fixture = hazards();
    let (path, _, _) = victim(&fixture);
    let before = content(&fixture.image(FULL), node(&fixture.image(FULL), &path));
    let marker = [7_i32.to_le_bytes(), (-2_i32).to_le_bytes()].concat();
    fs::write(
        fixture.backup_dir(DELTA).join("database").join(&path),
        marker,
    )
    .unwrap();
    fixture.edit_list(DELTA, |line| {
        let start = format!(r#"{{"path":"{path}", "size":""#);
        Some(match line.strip_prefix(&start) {
            Some(_) => format!(r#"{start}8","mode":"33152","is_datafile":"1","crc":"0"}}"#),
            None => line.to_owned(),
        })
    });
    for version in ["2.5.16", "2.2.7"] {
        let mut backups = fixture.metadata();
        for backup in backups.iter_mut().filter(|backup| backup.id.0 == DELTA) {
            backup.program_version = version.parse().unwrap();
        }
        let chain = chain_of(&backups, DELTA);
        let image = Image::open(&chain, &ImageOptions::default()).unwrap();
        assert!(content(&image, node(&image, &path)) == before[..7 * 8192]);
        let losses = image.restore_losses();
        assert!(losses.files.is_empty() && losses.untold.is_empty());
    }
}
