//! Times, link counts and the disk space of files.

use std::time::{Duration, SystemTime};

use super::support::*;
use crate::diff::InodeKind;
use crate::overlay::{Attr, AttrChange, Ino, Overlay, RenameMode, TimeChange};
use crate::pg::BLOCK_SIZE;

fn image() -> MemLower {
    MemLower::new()
        .dir("base")
        .dir("base/1")
        .dir("base/5")
        .file("base/5/1259", pattern(1, 0, 3 * BLOCK_SIZE))
        .symlink("link", "base")
        .dir(".pbkfs")
}

fn year(year: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600)
}

fn change(overlay: &Overlay<MemLower>, ino: Ino, change: &AttrChange) -> Attr {
    let answer = overlay.set_attr(ino, change).unwrap();
    assert_eq!(answer, overlay.attr(ino).unwrap());
    answer
}

#[test]
fn access_and_modification_times_are_apart() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let own = overlay.make(Ino::ROOT, "own").unwrap();
    let directory = overlay.at("base/5").unwrap();
    let inos = [
        own,
        overlay.at("base/5/1259").unwrap(),
        directory,
        overlay.at("link").unwrap(),
    ];
    for ino in inos {
        let before = overlay.attr(ino).unwrap();
        let accessed = AttrChange {
            atime: Some(TimeChange::At(year(1999))),
            ..AttrChange::default()
        };
        let after = change(&overlay, ino, &accessed);
        assert_eq!((after.atime, after.mtime), (year(1999), before.mtime));
        let modified = AttrChange {
            mtime: Some(TimeChange::At(year(2001))),
            ..AttrChange::default()
        };
        let after = change(&overlay, ino, &modified);
        assert_eq!((after.atime, after.mtime), (year(1999), year(2001)));
    }
    overlay.write(own, 0, b"bytes").unwrap();
    overlay.make(directory, "new").unwrap();
    for ino in [own, directory] {
        let attr = overlay.attr(ino).unwrap();
        assert_eq!(attr.atime, year(1999));
        assert!(attr.mtime > year(2001));
    }
    let before = inos.map(|ino| overlay.attr(ino).unwrap());
    overlay.sync_all().unwrap();
    drop(overlay);
    let overlay = open_in(image(), dir.path(), false);
    assert_eq!(inos.map(|ino| overlay.attr(ino).unwrap()), before);
}

#[test]
fn a_file_was_accessed_when_it_was_made_not_when_it_was_written() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let ino = overlay.make(Ino::ROOT, "own").unwrap();
    let made = overlay.attr(ino).unwrap().atime;
    std::thread::sleep(Duration::from_millis(20));
    overlay.write(ino, 0, b"bytes").unwrap();
    let attr = overlay.attr(ino).unwrap();
    assert_eq!(attr.atime, made);
    assert!(attr.mtime > made);
}

#[test]
fn a_time_that_was_set_ahead_is_not_when_it_was_set() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let own = overlay.make(Ino::ROOT, "own").unwrap();
    let inos = [own, overlay.at("base/5/1259").unwrap()];
    for ino in inos {
        let ahead = AttrChange {
            mtime: Some(TimeChange::At(year(2100))),
            ..AttrChange::default()
        };
        let set = change(&overlay, ino, &ahead);
        assert_eq!(set.mtime, year(2100));
        assert!(set.ctime < year(2100), "{set:?}");
        std::thread::sleep(Duration::from_millis(20));
        let mode = AttrChange {
            mode: Some(0o640),
            ..AttrChange::default()
        };
        let moved = change(&overlay, ino, &mode);
        assert!(moved.ctime > set.ctime, "{moved:?}");
        assert!(moved.ctime < year(2100), "{moved:?}");
    }
    let before = inos.map(|ino| overlay.attr(ino).unwrap());
    overlay.sync_all().unwrap();
    drop(overlay);
    let overlay = open_in(image(), dir.path(), false);
    assert_eq!(inos.map(|ino| overlay.attr(ino).unwrap()), before);
}

#[test]
fn a_directory_counts_those_in_it() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let links = |overlay: &Overlay<MemLower>, ino| overlay.attr(ino).unwrap().nlink;
    let base = overlay.at("base").unwrap();
    let five = overlay.at("base/5").unwrap();
    // The root's listing leaves out the hidden directory, and so does its link count.
    assert_eq!(
        [Ino::ROOT, base, five].map(|ino| links(&overlay, ino)),
        [3, 4, 2]
    );
    let mkdir = |parent, at| {
        let made = overlay.make_dir(parent, name(at), 0o700, 26, 26).unwrap();
        assert_eq!(made.nlink, 2);
        made.ino
    };
    let new = mkdir(five, "new");
    mkdir(new, "inner");
    overlay.make(five, "file").unwrap();
    assert_eq!([base, five, new].map(|ino| links(&overlay, ino)), [4, 3, 3]);
    let rename = |from, at, to, called, mode| {
        let renamed = overlay.rename(from, name(at), to, name(called), mode);
        renamed.unwrap();
    };
    // Move a directory in place of an empty one of the image.
    rename(new, "inner", base, "1", RenameMode::Replace);
    assert_eq!([base, five, new].map(|ino| links(&overlay, ino)), [4, 3, 2]);
    // Exchange a directory and a file, then rename within one directory.
    rename(five, "1259", base, "1", RenameMode::Exchange);
    assert_eq!([base, five].map(|ino| links(&overlay, ino)), [3, 4]);
    rename(five, "new", five, "renamed", RenameMode::NoReplace);
    rename(five, "renamed", five, "new", RenameMode::Replace);
    assert_eq!([base, five].map(|ino| links(&overlay, ino)), [3, 4]);
    overlay.remove_dir(five, name("new")).unwrap();
    assert_eq!([base, five].map(|ino| links(&overlay, ino)), [3, 3]);

    let symlink = overlay.symlink(base, name("s"), "x".as_ref(), 26, 26);
    assert_eq!(symlink.unwrap().kind, InodeKind::Symlink);
    overlay.sync_all().unwrap();
    drop(overlay);
    let overlay = open_in(image(), dir.path(), false);
    assert_eq!(
        [Ino::ROOT, base, five].map(|ino| links(&overlay, ino)),
        [3, 3, 3]
    );
}

#[test]
fn a_hole_takes_no_space() {
    const LEN: u64 = 10 << 20;
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    let own = overlay.make(Ino::ROOT, "own").unwrap();
    let changed = overlay.at("base/5/1259").unwrap();
    let blocks = |ino| overlay.attr(ino).unwrap().blocks;
    assert_eq!((blocks(own), blocks(changed)), (0, 3 * 16));
    for ino in [own, changed] {
        overlay.write(ino, LEN, b"x").unwrap();
        overlay.sync_file(ino).unwrap();
        assert_eq!(overlay.attr(ino).unwrap().size, LEN + 1);
    }
    assert!(blocks(own) <= 128, "{}", blocks(own));
    assert_eq!(blocks(changed), 4 * 16);
    let page = vec![1; BLOCK_SIZE];
    for at in (0..LEN).step_by(BLOCK_SIZE) {
        overlay.write(changed, at, &page).unwrap();
    }
    // Without a hole, the space is no more than the file's size.
    assert_eq!(blocks(changed), (LEN + 1).div_ceil(512));
}
