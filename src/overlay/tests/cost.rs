//! What requests that come often may cost: commits, and copies.

use std::time::{Duration, SystemTime};

use super::support::*;
use crate::overlay::{AttrChange, Ino, TimeChange};
use crate::pg::BLOCK_SIZE;

fn image() -> MemLower {
    MemLower::new()
        .dir("base")
        .dir("base/5")
        .file("base/5/1259", pattern(1, 0, 3 * BLOCK_SIZE))
}

fn set_time(overlay: &crate::overlay::Overlay<MemLower>, ino: Ino, time: SystemTime) {
    let change = AttrChange {
        mtime: Some(TimeChange::At(time)),
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
        // As a kernel does that gathers writes: the bytes, then their time.
        for second in 1..5 {
            overlay.write(ino, 0, &page).unwrap();
            let time = SystemTime::now() + Duration::from_secs(second);
            set_time(&overlay, ino, time);
            overlay.sync_file(ino).unwrap();
            assert_eq!(overlay.attr(ino).unwrap().mtime, time);
            assert_eq!(overlay.attr(ino).unwrap().ctime, time);
        }
        assert_eq!(commits(), before);
        // A time that was set back is a change of its own.
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
fn who_only_reads_has_nothing_copied() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), true);
    let ino = overlay.at("base/5/1259").unwrap();
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, false).unwrap().is_none());
    // Its pages may be in the kernel's cache now, so it stays this way.
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

    // The copy is put aside, and may have been written to by a mapping.
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, false).unwrap().is_some());
    overlay.release(ino);
}
