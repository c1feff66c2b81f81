//! Verification of an image: it finds nothing wrong with what pg_probackup wrote, and
//! locates all later damage.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pbkfs::catalog::CompressAlg;
use pbkfs::catalog::encode::PageEncoder;
use pbkfs::image::{CheckSink, Checked, Image, ImageError, PageFault};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

use crate::fixture::{Fixture, content, field, files, largest_data_file, node};

/// Returns what is wrong with an image, and what was read.
fn check(image: &Image) -> (Vec<ImageError>, Checked) {
    let damage = RefCell::new(Vec::new());
    let mut sum = Checked::default();
    for item in image.check_items() {
        let checked = image.check(
            &item,
            &mut CheckSink {
                damage: &mut |error| damage.borrow_mut().push(error),
                goes_on: &|_| true,
                content: None,
            },
        );
        sum.pages += checked.pages;
        sum.image_bytes += checked.image_bytes;
        sum.stored_bytes += checked.stored_bytes;
    }
    (damage.into_inner(), sum)
}

#[track_caller]
fn only(image: &Image) -> ImageError {
    let (mut damage, _) = check(image);
    assert_eq!(damage.len(), 1, "{damage:#?}");
    damage.pop().unwrap()
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[test]
fn nothing_is_wrong_with_any_backup() {
    for name in [
        "pg15-chain",
        "pg15-debian",
        "pg15-hazards",
        "pg15-old",
        "pg15-ptrack",
        "pg17-chain",
        "pg18-chain",
    ] {
        let fixture = Fixture::unpack(name);
        for (id, _) in fixture.backups() {
            let image = fixture.image(&id);
            let (damage, checked) = check(&image);
            assert!(damage.is_empty(), "{name} {id}: {damage:#?}");
            let lengths = files(&image).into_iter().map(|n| image.len(n).unwrap());
            let hidden = checked.image_bytes - lengths.sum::<u64>();
            // The tablespace and database maps, and external directories.
            assert!(hidden < 100_000, "{name} {id}: {hidden}");
            assert!(checked.pages > 1000 && checked.stored_bytes > 1_000_000);
        }
    }
}

const FULL: &str = "TOW7FV";

/// Stores a page of the largest data file again after `change`, with correct
/// checksums of the stored file and of the content list.
fn doctored(fixture: &Fixture, block: usize, change: impl Fn(&mut [u8; BLOCK_SIZE])) -> String {
    let (path, _) = largest_data_file(fixture, FULL);
    let image = fixture.image(FULL);
    let mut bytes = content(&image, node(&image, &path));
    let (pages, _) = bytes.as_chunks_mut::<BLOCK_SIZE>();
    change(&mut pages[block]);
    let mut stored = Vec::new();
    for (number, page) in (0_i32..).zip(&*pages) {
        let payload = PageEncoder::new(CompressAlg::Zlib, 1).encode(page).to_vec();
        stored.extend(number.to_le_bytes());
        stored.extend((payload.len() as i32).to_le_bytes());
        stored.extend(payload);
    }
    fs::write(
        fixture.backup_dir(FULL).join("database").join(&path),
        &stored,
    )
    .unwrap();
    let (size, crc) = (stored.len(), crc32c::crc32c(&stored));
    fixture.edit_list(FULL, |line| {
        Some(match field(line, "path") == path {
            // Without page headers, because their offsets would be wrong.
            true => format!(
                r#"{{"path":"{path}", "size":"{size}", "mode":"33152", "is_datafile":"1", "crc":"{crc}", "compress_alg":"zlib"}}"#
            ),
            false => line.to_owned(),
        })
    });
    path
}

#[test]
fn a_wrong_page_under_a_right_crc_fails_by_its_own_checksum() {
    let fixture = Fixture::unpack("pg15-hazards");
    let path = doctored(&fixture, 5, |page| page[4000] ^= 1);
    let error = only(&fixture.image(FULL));
    let ImageError::Page(page) = &error else {
        panic!("{error}");
    };
    assert_eq!(
        (page.path.to_str().unwrap(), page.block),
        (&*path, BlockNumber(5))
    );
    assert!(matches!(page.fault, PageFault::Checksum { .. }));
}

#[test]
fn a_page_of_a_cluster_without_checksums_fails_by_its_header() {
    // pg17-chain has no checksums; TOW80A stores raw pages or zlib ones.
    let fixture = Fixture::unpack("pg17-chain");
    let id = fixture.backups()[0].0.clone();
    let (path, line) = largest_data_file(&fixture, &id);
    let stored = fixture.backup_dir(&id).join("database").join(&path);
    let bytes = fs::read(&stored).unwrap();
    let size = i32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let image = fixture.image(&id);
    let page: [u8; BLOCK_SIZE] = content(&image, node(&image, &path))[..BLOCK_SIZE]
        .try_into()
        .unwrap();
    // Another page that compresses to exactly the same size, so that no record moves.
    let payload = (1..=12)
        .flat_map(|level| (1..400).map(move |changes| (level, changes)))
        .find_map(|(level, changes)| {
            let mut changed = page;
            for at in 0..changes {
                changed[24 + at * 97 % 8000] ^= 0x55;
            }
            let payload = PageEncoder::new(CompressAlg::Zlib, level)
                .encode(&changed)
                .to_vec();
            (payload.len() == size).then_some(payload)
        })
        .expect("a change that compresses as well");
    let file = File::options().write(true).open(&stored).unwrap();
    file.write_all_at(&payload, 8).unwrap();
    let crc = crc32c::crc32c(&fs::read(&stored).unwrap());
    let before = format!("\"crc\":\"{}\"", field(&line, "crc"));
    fixture.edit_list(&id, |line| {
        Some(match field(line, "path") == path {
            true => line.replacen(&before, &format!("\"crc\":\"{crc}\""), 1),
            false => line.to_owned(),
        })
    });
    let error = only(&fixture.image(&id));
    assert!(
        matches!(&error, ImageError::Page(page) if matches!(page.fault, PageFault::Stamp { .. })
            && page.block == BlockNumber(0)),
        "{error}"
    );
}

#[test]
fn stored_files_fail_by_length_and_checksum() {
    let fixture = Fixture::unpack("pg15-hazards");
    let whole = fixture.backup_dir(FULL).join("database/PG_VERSION");
    let version = fs::read(&whole).unwrap();
    flip(&whole, 0);
    assert!(matches!(
        only(&fixture.image(FULL)),
        ImageError::Checksum { path, backup, .. } if path == Path::new("PG_VERSION") && backup.0 == FULL
    ));
    fs::write(&whole, [&*version, b"x"].concat()).unwrap();
    assert!(matches!(
        only(&fixture.image(FULL)),
        ImageError::Long { .. }
    ));
    fs::write(&whole, b"").unwrap();
    assert!(matches!(
        only(&fixture.image(FULL)),
        ImageError::Short { .. }
    ));
    fs::write(&whole, version).unwrap();

    let control = fixture.backup_dir(FULL).join("database/global/pg_control");
    flip(&control, 100);
    assert!(matches!(
        only(&fixture.image(FULL)),
        ImageError::Control { .. }
    ));
}

#[test]
fn wal_that_a_backup_brings_is_checked() {
    let fixture = Fixture::unpack("pg15-chain");
    let (id, _) = fixture
        .backups()
        .into_iter()
        .find(|(_, stream)| *stream)
        .unwrap();
    let wal = fixture.backup_dir(&id).join("database/pg_wal");
    let segment = fs::read_dir(&wal)
        .unwrap()
        .flatten()
        .find(|e| e.file_name().len() == 24);
    flip(&segment.unwrap().path(), 300_000);
    let error = only(&fixture.image(&id));
    assert!(
        matches!(&error, ImageError::Checksum { path, .. } if path.starts_with("pg_wal")),
        "{error}"
    );
}

#[test]
fn external_directories_are_checked() {
    let fixture = Fixture::unpack("pg17-chain");
    let id = fixture.backups()[0].0.clone();
    let dir = fixture
        .backup_dir(&id)
        .join("external_directories/externaldir1");
    let file = walk(&dir).expect("an external file");
    flip(&file, 0);
    assert!(matches!(
        only(&fixture.image(&id)),
        ImageError::Checksum { .. }
    ));
}

/// Returns some non-empty file below a directory.
fn walk(dir: &Path) -> Option<std::path::PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => walk(&path),
            false => (path.metadata().ok()?.len() > 0).then_some(path),
        }
    })
}

#[test]
fn damage_in_an_old_layer_is_found_where_it_is_shown() {
    let fixture = Fixture::unpack("pg15-hazards");
    let (path, _) = largest_data_file(&fixture, FULL);
    let stored = fixture.backup_dir(FULL).join("database").join(&path);
    flip(&stored, 8 + 20);
    let (damage, _) = check(&fixture.image("TOW7GA"));
    // The page, if the newest backup still shows it, and the file in any case.
    assert!(damage.iter().any(|e| matches!(
        e, ImageError::Checksum { backup, .. } if backup.0 == FULL
    )));
    assert!(damage.iter().all(|e| e.to_string().contains(&path)));
}
