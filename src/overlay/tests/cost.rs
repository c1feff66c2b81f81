//! Limits on the cost of frequent requests: commits, and copies.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::disk::Disk;
use super::support::*;
use crate::diff::{InodeKind, Namespace};
use crate::overlay::tree::{Inode, Tree};
use crate::overlay::{AttrChange, Ino, Overlay, OverlayError, TimeChange};
use crate::pg::BLOCK_SIZE;

fn image() -> MemLower {
    MemLower::new()
        .dir("base")
        .dir("base/5")
        .file("base/5/1259", pattern(1, 0, 3 * BLOCK_SIZE))
}

fn set_time(overlay: &Overlay<MemLower>, ino: Ino, time: SystemTime) {
    let change = AttrChange {
        mtime: Some(TimeChange::At(time)),
        ctime: Some(time.max(SystemTime::now())),
        ..AttrChange::default()
    };
    overlay.set_attr(ino, &change).unwrap();
}

#[test]
fn an_fsync_commits_only_what_is_new() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let changed = overlay.at("base/5/1259").unwrap();
    let own = overlay.make(Ino::ROOT, "wal").unwrap();
    let page = [7; BLOCK_SIZE];
    let commits = || overlay.counters().commits.get();
    for ino in [changed, own] {
        overlay.write(ino, 0, &page).unwrap();
        overlay.sync_file(ino).unwrap();
        let before = commits();
        // Like a kernel that caches writes: first the bytes, then their time.
        for second in 1..5 {
            overlay.write(ino, 0, &page).unwrap();
            let time = SystemTime::now() + Duration::from_secs(second);
            set_time(&overlay, ino, time);
            overlay.sync_file(ino).unwrap();
            assert_eq!(overlay.attr(ino).unwrap().mtime, time);
            assert_eq!(overlay.attr(ino).unwrap().ctime, time);
        }
        assert_eq!(commits(), before);
        // Setting a time back is a change of its own.
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        set_time(&overlay, ino, past);
        overlay.sync_file(ino).unwrap();
        assert_eq!(commits(), before + 1);
    }
    drop(overlay);
    let overlay = open_in(image(), dir.path(), false);
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for ino in [changed, own] {
        assert_eq!(overlay.attr(ino).unwrap().mtime, past);
    }
}

#[test]
fn a_new_file_is_not_opened_again() {
    let disk = Disk::default();
    let diff = disk.open().unwrap();
    let overlay = Overlay::new(image(), Some(diff), options(false)).unwrap();
    let ino = overlay.make(Ino::ROOT, "new").unwrap();
    overlay.write(ino, 0, b"bytes").unwrap();
    overlay.sync_file(ino).unwrap();
    overlay.attr(ino).unwrap();
    assert_eq!(disk.opens(), 0);
}

#[test]
fn the_times_of_a_removed_file_cost_nothing() {
    let disk = Disk::default();
    let diff = disk.open().unwrap();
    let overlay = Overlay::new(image(), Some(diff), options(false)).unwrap();
    let ino = overlay.make(Ino::ROOT, "new").unwrap();
    overlay.sync_names().unwrap();
    overlay.unlink(Ino::ROOT, name("new")).unwrap();
    // An open file can still be changed.
    set_time(&overlay, ino, SystemTime::UNIX_EPOCH);
    assert_eq!(overlay.attr(ino).unwrap().mtime, SystemTime::UNIX_EPOCH);
    overlay.release(ino);
    let before = disk.opens();
    let change = AttrChange {
        mtime: Some(TimeChange::Now),
        ctime: Some(SystemTime::now()),
        ..AttrChange::default()
    };
    let answer = overlay.set_attr(ino, &change);
    assert!(matches!(answer, Err(OverlayError::NotFound)), "{answer:?}");
    assert_eq!(disk.opens(), before);
}

#[test]
fn removing_a_file_takes_as_long_whatever_waits_for_a_commit() {
    const BATCH: usize = 1_000;
    let mut tree = Tree::load(Namespace::default(), HashMap::new());
    let inos: Vec<Ino> = (0..50 * BATCH)
        .map(|_| tree.add(Inode::new(InodeKind::File, 0o600, 0, 0, 0)))
        .collect();
    let (_, in_flight) = tree.take_pending();
    tree.commit_done(&in_flight);
    let took: Vec<Duration> = inos
        .chunks(BATCH)
        .map(|batch| {
            let begin = Instant::now();
            for ino in batch {
                tree.bury(*ino, false);
                assert_eq!(tree.take_reclaimable(), Vec::new());
            }
            begin.elapsed()
        })
        .collect();
    let first = took[..5].iter().min().unwrap();
    let last = took[took.len() - 5..].iter().min().unwrap();
    // Scanning all that wait for a commit would take a hundred times as long.
    assert!(*last < 15 * *first, "{first:?}, then {last:?}");

    let (_, in_flight) = tree.take_pending();
    tree.commit_done(&in_flight);
    assert_eq!(tree.take_reclaimable().len(), 50 * BATCH);
}

#[test]
fn who_only_reads_has_nothing_copied() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), true);
    let ino = overlay.at("base/5/1259").unwrap();
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, false).unwrap().is_none());
    // Its pages may be in the kernel's cache now, so it is not passed through.
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, true).unwrap().is_none());
    overlay.release(ino);
    overlay.release(ino);
    assert_eq!(overlay.counters().copy_ups.get(), 0);

    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, true).unwrap().is_some());
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, false).unwrap().is_some());
    overlay.release(ino);
    overlay.release(ino);
    assert_eq!(overlay.counters().copy_ups.get(), 1);

    // The copy is parked, and may have been written to through a mapping.
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, false).unwrap().is_some());
    overlay.release(ino);
}

/// Changes a page as a hint bit does: a few bytes, and the checksum.
fn touch(page: &mut [u8], stamp: u8) {
    page[8] = stamp;
    page[100..110].fill(stamp);
    page[BLOCK_SIZE - 1] = stamp;
}

#[test]
fn a_few_changed_bytes_of_each_block_cost_few() {
    const BLOCKS: usize = 1500;
    let dir = memory_dir();
    let image = MemLower::new().file("table", pattern(1, 0, BLOCKS * BLOCK_SIZE));
    let mut expected = image.file_bytes("table").to_vec();
    let overlay = open_in(image.clone(), dir.path(), false);
    let ino = overlay.at("table").unwrap();
    let write = |overlay: &Overlay<MemLower>, block: usize, page: &[u8]| {
        let at = (block * BLOCK_SIZE) as u64;
        overlay.write(ino, at, page).unwrap();
    };
    overlay.open(ino).unwrap();
    for (block, page) in expected.chunks_mut(BLOCK_SIZE).enumerate() {
        touch(page, 2);
        write(&overlay, block, page);
    }
    // A block that changed entirely stays whole.
    let whole = pattern(9, 0, BLOCK_SIZE);
    expected[..BLOCK_SIZE].copy_from_slice(&whole);
    write(&overlay, 0, &whole);
    overlay.release(ino);

    // A block does not shrink before it is on disk, nor right after a write.
    let data = overlay.diff().unwrap().storage().open(ino.0).unwrap();
    let stored = || data.stat().unwrap().blocks * 512 / BLOCK_SIZE as u64;
    overlay.sync_periodically().unwrap();
    assert_eq!(stored(), BLOCKS as u64);
    overlay.sync_file(ino).unwrap();
    overlay.sync_periodically().unwrap();
    assert_eq!(stored(), BLOCKS as u64);
    while stored() > 1 {
        overlay.sync_periodically().unwrap();
    }
    let change = &overlay.changes().unwrap()[0];
    assert_eq!(change.blocks, BLOCKS as u64);
    let small = BLOCK_SIZE as u64 + 40 * BLOCKS as u64;
    assert!(change.bytes < small, "{} bytes", change.bytes);
    assert!(overlay.bytes(ino).unwrap() == expected);

    drop(overlay);
    let overlay = open_in(image.clone(), dir.path(), false);
    assert!(overlay.bytes(ino).unwrap() == expected);
    // Write part of a block, write a whole block, and truncate in the middle of one.
    overlay
        .write(ino, 3 * BLOCK_SIZE as u64 + 50, b"part")
        .unwrap();
    expected[3 * BLOCK_SIZE + 50..][..4].copy_from_slice(b"part");
    write(&overlay, 5, &whole);
    expected[5 * BLOCK_SIZE..6 * BLOCK_SIZE].copy_from_slice(&whole);
    expected.truncate(1000 * BLOCK_SIZE + 105);
    overlay.set_len(ino, expected.len() as u64).unwrap();
    expected.resize(BLOCKS * BLOCK_SIZE, 0);
    overlay.set_len(ino, expected.len() as u64).unwrap();
    assert!(overlay.bytes(ino).unwrap() == expected);
    overlay.sync_file(ino).unwrap();
    drop(overlay);
    let overlay = open_in(image, dir.path(), false);
    assert!(overlay.bytes(ino).unwrap() == expected);
    // The differences of truncated and overwritten blocks are gone.
    let store = overlay.diff().unwrap().store();
    for (block, is_small) in [
        (2, true),
        (999, true),
        (3, false),
        (5, false),
        (1000, false),
    ] {
        assert_eq!(
            store.delta(ino.0, block).unwrap().is_some(),
            is_small,
            "{block}"
        );
    }
    assert_eq!(store.delta(ino.0, 1200).unwrap(), None);
}
