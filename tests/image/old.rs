//! Backups of pg_probackup 2.2.7 and older below newer ones: a truncation marker
//! truncates older layers, and nothing newer.

use std::fs;

use pbkfs::catalog::BackupId;
use pbkfs::chain::RestoreRisk;
use pbkfs::image::Image;
use pbkfs::pg::page::{self, PageVerdict};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

use crate::fixture::{Fixture, content, node};

/// The backup with one file that ends with a marker.
const MARKED: &str = "TP44E8";
/// The backups based on it.
const NEWER: [&str; 3] = ["TP44EL", "TP44EW", "TP44F7"];

/// Returns the stored data files of a backup that end with a marker, and the marker's
/// block.
fn markers(fixture: &Fixture, id: &str) -> Vec<(String, u32)> {
    let database = fixture.backup_dir(id).join("database");
    let list = fs::read_to_string(fixture.backup_dir(id).join("backup_content.control"));
    let list = list.unwrap();
    let datafiles = list
        .lines()
        .filter(|line| line.contains(r#""is_datafile":"1""#));
    let marker = |line: &str| {
        let path = crate::fixture::field(line, "path").to_owned();
        let bytes = fs::read(database.join(&path)).ok()?;
        let (block, size) = bytes.last_chunk::<8>()?.split_at(4);
        let block = u32::from_le_bytes(block.try_into().unwrap());
        (size == (-2_i32).to_le_bytes()).then_some((path, block))
    };
    datafiles.filter_map(marker).collect()
}

#[test]
fn the_versions_tell_where_restore_may_lose() {
    let fixture = Fixture::unpack_without_relations("pg15-old");
    for (id, _) in fixture.backups() {
        let risk = NEWER.contains(&&*id).then(|| RestoreRisk {
            target: BackupId(id.clone()),
            marked: vec![BackupId(MARKED.to_owned())],
        });
        assert_eq!(fixture.chain(&id).restore_risk(), risk, "{id}");
    }
    // DELTA backups never wrote markers.
    fixture.edit_control(MARKED, "backup-mode", Some("backup-mode = DELTA"));
    assert_eq!(fixture.chain("TP44F7").restore_risk(), None);
    fixture.edit_control(MARKED, "backup-mode", Some("backup-mode = PTRACK"));
    assert!(fixture.chain("TP44F7").restore_risk().is_some());
    fixture.edit_control(MARKED, "program-version", Some("program-version = 2.3.0"));
    assert_eq!(fixture.chain("TP44F7").restore_risk(), None);
}

#[test]
fn the_file_and_the_block_that_restore_loses_are_named() {
    let fixture = Fixture::unpack("pg15-old");
    let marked = markers(&fixture, MARKED);
    let [(path, cut)] = &marked[..] else {
        panic!("{marked:?}");
    };
    for id in NEWER {
        let image = fixture.image(id);
        let losses = image.restore_losses();
        assert!(losses.untold.is_empty(), "{:?}", losses.untold);
        let [loss] = &losses.files[..] else {
            panic!("{id}: {losses:?}");
        };
        assert_eq!(loss.path.to_str(), Some(&**path));
        assert_eq!(loss.first_block, BlockNumber(*cut));
        assert_eq!((&*loss.target.0, &*loss.marked_in.0), (id, MARKED));
        let blocks = image.len(node(&image, path)).unwrap() / BLOCK_SIZE as u64;
        assert_eq!(u64::from(cut + loss.blocks), blocks);
        every_page_is_sound(&image, path);
    }
    for id in ["TP44E6", MARKED] {
        let losses = fixture.image(id).restore_losses();
        assert!(losses.files.is_empty() && losses.untold.is_empty());
    }
}

#[track_caller]
fn every_page_is_sound(image: &Image, path: &str) {
    let bytes = content(image, node(image, path));
    let (pages, rest) = bytes.as_chunks::<BLOCK_SIZE>();
    assert!(rest.is_empty());
    for (block, bytes) in (0..).map(BlockNumber).zip(pages) {
        assert!(bytes.iter().any(|&byte| byte != 0), "{block} is empty");
        let verdict = page::verify(bytes, block.absolute(0));
        assert!(!matches!(verdict, PageVerdict::Mismatch { .. }), "{block}");
    }
}

#[test]
fn a_stored_file_that_is_gone_leaves_its_loss_untold() {
    let fixture = Fixture::unpack("pg15-old");
    let (path, _) = markers(&fixture, MARKED).remove(0);
    let stored = fixture.backup_dir(MARKED).join("database").join(path);
    fs::remove_file(stored).unwrap();
    let losses = fixture.image("TP44F7").restore_losses();
    assert!(losses.files.is_empty());
    assert_eq!(losses.untold.len(), 1);
    assert_eq!(losses.untold[0].backup().unwrap().0, MARKED);
}
