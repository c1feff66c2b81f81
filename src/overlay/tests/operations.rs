//! Each operation by itself: its results and its errors.

use std::path::Path;

use super::support::{
    BS, IMAGE_TIME_NS, MemLower, memory_dir, name, open_in, open_with, options, pattern,
};
use crate::diff::system_time;
use crate::overlay::{
    AttrChange, FallocateMode, HIDDEN_DIR, Ino, Overlay, OverlayError, OverlayOptions, RenameMode,
    SeekKind, TimeChange,
};

const LEN: usize = 4 * BS + 100;

fn image() -> MemLower {
    MemLower::new()
        .dir("base")
        .dir("base/5")
        .file("base/5/1259", pattern(1, 0, LEN))
        .file("base/5/1260", pattern(2, 0, BS))
        .dir("empty")
        .dir("pg_tblspc")
        .symlink("pg_tblspc/16384", "../.pbkfs/tblspc/16384")
        .dir(".pbkfs")
        .dir(".pbkfs/tblspc")
        .dir(".pbkfs/tblspc/16384")
        .file("PG_VERSION", b"15\n".to_vec())
}

struct Fixture {
    dir: tempfile::TempDir,
    overlay: Option<Overlay<MemLower>>,
}

impl std::ops::Deref for Fixture {
    type Target = Overlay<MemLower>;
    fn deref(&self) -> &Self::Target {
        self.overlay.as_ref().unwrap()
    }
}

impl Fixture {
    fn new() -> Self {
        let dir = memory_dir();
        let overlay = Some(open_in(image(), dir.path(), false));
        Self { dir, overlay }
    }

    fn remount(&mut self) {
        self.sync_all().unwrap();
        self.overlay = None;
        self.overlay = Some(open_in(image(), self.dir.path(), false));
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = self.read_dir(self.at(path).unwrap()).unwrap();
        assert_eq!(entries[0].name, ".");
        assert_eq!(entries[1].name, "..");
        let names = entries[2..].iter().map(|e| e.name.to_str().unwrap());
        names.map(str::to_owned).collect()
    }

    fn rename_paths(&self, from: &str, to: &str, mode: RenameMode) -> Result<(), OverlayError> {
        let (from, to) = (Path::new(from), Path::new(to));
        let dir = |path: &Path| self.at(path.parent().unwrap().to_str().unwrap()).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_owned();
        self.rename(dir(from), &name(from), dir(to), &name(to), mode)
    }
}

#[test]
fn an_untouched_tree_is_the_image() {
    let f = Fixture::new();
    assert_eq!(f.names(""), ["PG_VERSION", "base", "empty", "pg_tblspc"]);
    let attr = f.attr(f.at("base/5/1259").unwrap()).unwrap();
    assert_eq!((attr.size, attr.mode, attr.uid), (LEN as u64, 0o600, 26));
    assert_eq!(attr.mtime, system_time(IMAGE_TIME_NS));
    assert!(f.contents("base/5/1259").unwrap() == pattern(1, 0, LEN));
    assert!(f.diff().unwrap().storage().list().unwrap().is_empty());
}

#[test]
fn create_refuses_what_is_there_and_survives_a_remount() {
    let mut f = Fixture::new();
    let base = f.at("base").unwrap();
    let new = f.make(base, "new").unwrap();
    f.write(new, 3, b"hello").unwrap();
    f.release(new);
    assert!(matches!(f.make(base, "new"), Err(OverlayError::Exists)));
    assert!(matches!(f.make(base, "5"), Err(OverlayError::Exists)));
    let file = f.at("PG_VERSION").unwrap();
    assert!(matches!(
        f.make(file, "x"),
        Err(OverlayError::NotADirectory)
    ));
    let long = "x".repeat(256);
    assert!(matches!(
        f.make(base, &long),
        Err(OverlayError::NameTooLong)
    ));
    f.remount();
    assert_eq!(f.contents("base/new").unwrap(), b"\0\0\0hello");
    assert_eq!(f.names("base"), ["5", "new"]);
}

#[test]
fn unlink_hides_the_image_and_its_name_can_be_used_again() {
    let mut f = Fixture::new();
    let dir = f.at("base/5").unwrap();
    f.unlink(dir, name("1259")).unwrap();
    assert!(matches!(
        f.unlink(dir, name("1259")),
        Err(OverlayError::NotFound)
    ));
    assert!(matches!(
        f.unlink(f.at("base").unwrap(), name("5")),
        Err(OverlayError::IsADirectory)
    ));
    f.remount();
    assert_eq!(f.names("base/5"), ["1260"]);
    let dir = f.at("base/5").unwrap();
    let new = f.make(dir, "1259").unwrap();
    f.release(new);
    assert_eq!(f.contents("base/5/1259").unwrap(), b"");
    f.unlink(dir, name("1259")).unwrap();
    f.remount();
    assert_eq!(f.names("base/5"), ["1260"], "the image shines through");
}

#[test]
fn an_open_file_outlives_its_name() {
    let f = Fixture::new();
    let dir = f.at("base/5").unwrap();
    let (old, new) = (f.at("base/5/1259").unwrap(), f.make(dir, "new").unwrap());
    f.open(old).unwrap();
    f.write(old, 0, b"changed").unwrap();
    f.write(new, 0, b"new").unwrap();
    f.unlink(dir, name("1259")).unwrap();
    f.unlink(dir, name("new")).unwrap();
    f.sync_names().unwrap();
    f.sync_file(old).unwrap();
    assert_eq!(&f.bytes(old).unwrap()[..7], b"changed");
    assert_eq!(f.bytes(new).unwrap(), b"new");
    assert_eq!(f.attr(new).unwrap().nlink, 0);
    f.release(old);
    f.release(new);
    f.sync_names().unwrap();
    assert!(f.diff().unwrap().storage().list().unwrap().is_empty());
    assert!(matches!(f.open(new), Err(OverlayError::NotFound)));
    assert!(matches!(f.open(old), Err(OverlayError::NotFound)));
}

#[test]
fn remove_dir_wants_it_empty() {
    let mut f = Fixture::new();
    let (root, base) = (Ino::ROOT, f.at("base").unwrap());
    assert!(matches!(
        f.remove_dir(base, name("5")),
        Err(OverlayError::NotEmpty)
    ));
    assert!(matches!(
        f.remove_dir(root, name("PG_VERSION")),
        Err(OverlayError::NotADirectory)
    ));
    let dir = f.at("base/5").unwrap();
    f.unlink(dir, name("1259")).unwrap();
    f.unlink(dir, name("1260")).unwrap();
    f.remove_dir(base, name("5")).unwrap();
    assert!(matches!(f.make(dir, "x"), Err(OverlayError::NotFound)));
    f.make_dir(base, name("5"), 0o700, 0, 0).unwrap();
    f.remount();
    assert!(f.names("base/5").is_empty(), "the old directory's files");
    assert!(matches!(
        f.remove_dir(root, name(HIDDEN_DIR)),
        Err(OverlayError::NotPermitted(_))
    ));
}

#[test]
fn a_directory_of_the_image_moves_with_all_that_is_in_it() {
    let mut f = Fixture::new();
    let file = f.at("base/5/1259").unwrap();
    f.write(file, 0, b"changed").unwrap();
    f.rename_paths("base/5", "empty/6", RenameMode::Replace)
        .unwrap();
    f.remount();
    assert_eq!(f.names("empty/6"), ["1259", "1260"]);
    assert!(f.names("base").is_empty());
    assert_eq!(&f.contents("empty/6/1259").unwrap()[..7], b"changed");
    let entries = f.read_dir(f.at("empty/6").unwrap()).unwrap();
    assert_eq!(entries[1].ino, f.at("empty").unwrap());
}

#[test]
fn rename_answers_like_the_system_call() {
    let f = Fixture::new();
    let rename = |from, to, mode| f.rename_paths(from, to, mode);
    use RenameMode::{Exchange, NoReplace, Replace};
    assert!(matches!(
        rename("nothing", "x", Replace),
        Err(OverlayError::NotFound)
    ));
    assert!(matches!(
        rename("PG_VERSION", "nothing", Exchange),
        Err(OverlayError::NotFound)
    ));
    assert!(matches!(
        rename("PG_VERSION", "empty", NoReplace),
        Err(OverlayError::Exists)
    ));
    assert!(matches!(
        rename("PG_VERSION", "empty", Replace),
        Err(OverlayError::IsADirectory)
    ));
    assert!(matches!(
        rename("empty", "PG_VERSION", Replace),
        Err(OverlayError::NotADirectory)
    ));
    assert!(matches!(
        rename("empty", "base", Replace),
        Err(OverlayError::NotEmpty)
    ));
    assert!(matches!(
        rename("base", "base/5/x", Replace),
        Err(OverlayError::Invalid(_))
    ));
    assert!(matches!(
        rename("base", HIDDEN_DIR, Replace),
        Err(OverlayError::NotPermitted(_))
    ));
}

#[test]
fn rename_replaces_and_exchanges() {
    let mut f = Fixture::new();
    f.rename_paths("base/5/1260", "base/5/1259", RenameMode::Replace)
        .unwrap();
    f.rename_paths("PG_VERSION", "empty", RenameMode::Exchange)
        .unwrap();
    f.remount();
    assert_eq!(f.names("base/5"), ["1259"]);
    assert!(f.contents("base/5/1259").unwrap() == pattern(2, 0, BS));
    assert_eq!(f.contents("empty").unwrap(), b"15\n");
    assert!(f.names("PG_VERSION").is_empty());
}

#[test]
fn a_directory_that_was_replaced_leaves_no_record() {
    let f = Fixture::new();
    let new = f.make_dir(Ino::ROOT, name("new"), 0o700, 0, 0).unwrap();
    f.sync_names().unwrap();
    f.rename_paths("empty", "new", RenameMode::Replace).unwrap();
    f.sync_names().unwrap();
    let stored = f.diff().unwrap().store().namespace().unwrap().inodes;
    assert!(stored.iter().all(|(ino, _)| *ino != new.ino.0));
}

#[test]
fn a_hard_link_shares_everything() {
    let mut f = Fixture::new();
    let (ino, dir) = (f.at("PG_VERSION").unwrap(), f.at("empty").unwrap());
    assert_eq!(f.link(ino, dir, name("v")).unwrap().nlink, 2);
    f.write(ino, 0, b"16").unwrap();
    f.unlink(Ino::ROOT, name("PG_VERSION")).unwrap();
    f.remount();
    assert_eq!(f.contents("empty/v").unwrap(), b"16\n");
    assert_eq!(f.lookup(dir, name("v")).unwrap().nlink, 1);
    assert!(matches!(
        f.link(dir, dir, name("d")),
        Err(OverlayError::NotPermitted(_))
    ));
}

#[test]
fn a_tablespace_made_by_the_clone_stays_in_the_mount() {
    let mut f = Fixture::new();
    let tblspc = f.at("pg_tblspc").unwrap();
    let live = Path::new("/srv/fast_disk");
    let link = f.symlink(tblspc, name("24576"), live, 26, 26).unwrap();
    assert_eq!(f.read_link(link.ino).unwrap(), "../.pbkfs/tblspc/24576");
    f.remount();
    assert_eq!(f.names(".pbkfs/tblspc/24576"), ["PG_15_202209061"]);
    assert!(matches!(
        f.symlink(tblspc, name("16384"), live, 0, 0),
        Err(OverlayError::Exists)
    ));
    // Any other link keeps the target it was given.
    let other = f.symlink(Ino::ROOT, name("24576"), live, 0, 0).unwrap();
    assert_eq!(f.read_link(other.ino).unwrap(), "/srv/fast_disk");
    assert!(!f.names("").contains(&HIDDEN_DIR.to_owned()));

    // A server that sends a base backup resolves a link's text as a path.
    f.sync_all().unwrap();
    f.overlay = None;
    let options = OverlayOptions {
        data_dir: Some("/srv/clone".into()),
        ..options(false)
    };
    f.overlay = Some(open_with(image(), f.dir.path(), options));
    for oid in ["16384", "24576"] {
        let link = f.lookup(f.at("pg_tblspc").unwrap(), name(oid)).unwrap();
        let shown = format!("/srv/clone/.pbkfs/tblspc/{oid}");
        assert_eq!(link.size, shown.len() as u64);
        assert_eq!(f.read_link(link.ino).unwrap(), shown.as_str());
    }
}

#[test]
fn attributes_change_and_survive() {
    let mut f = Fixture::new();
    let ino = f.at("base/5/1259").unwrap();
    let then = system_time(1_234_567_890_123_456_789);
    let change = AttrChange {
        mode: Some(0o100_640),
        uid: Some(1),
        gid: Some(2),
        mtime: Some(TimeChange::At(then)),
        ..AttrChange::default()
    };
    f.set_attr(ino, &change).unwrap();
    f.remount();
    let attr = f.attr(ino).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o640, 1, 2));
    assert_eq!(attr.mtime, then);
    assert!(f.bytes(ino).unwrap() == pattern(1, 0, LEN));
    assert!(matches!(
        f.set_len(Ino::ROOT, 0),
        Err(OverlayError::IsADirectory)
    ));
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let sizes = [0, 1, BS - 1, BS, BS + 1, 3 * BS + 7, LEN];
    for written in [false, true] {
        for size in sizes {
            let mut f = Fixture::new();
            let ino = f.at("base/5/1259").unwrap();
            let mut expected = pattern(1, 0, LEN);
            if written {
                expected = pattern(9, 0, LEN);
                f.write(ino, 0, &expected).unwrap();
                f.sync_file(ino).unwrap();
            }
            f.set_len(ino, size as u64).unwrap();
            expected.truncate(size);
            assert!(f.bytes(ino).unwrap() == expected);
            f.set_len(ino, 6 * BS as u64).unwrap();
            expected.resize(6 * BS, 0);
            assert!(f.bytes(ino).unwrap() == expected, "cut at {size}");
            f.remount();
            assert!(f.bytes(ino).unwrap() == expected, "cut at {size}");
        }
    }
}

#[test]
fn writing_a_part_of_a_block_keeps_the_rest_of_it() {
    for (offset, len) in [
        (0, 1),
        (BS - 1, 2),
        (10, 3 * BS),
        (LEN - 1, 1),
        (LEN - 1, 2),
        (LEN + 3, 5),
        (7 * BS + 1, 2 * BS),
    ] {
        let mut f = Fixture::new();
        let ino = f.at("base/5/1259").unwrap();
        let bytes = pattern(5, offset as u64, len);
        f.write(ino, offset as u64, &bytes).unwrap();
        let mut expected = pattern(1, 0, LEN);
        expected.resize(LEN.max(offset + len), 0);
        expected[offset..offset + len].copy_from_slice(&bytes);
        assert!(f.bytes(ino).unwrap() == expected, "{len} at {offset}");
        f.remount();
        assert!(f.bytes(ino).unwrap() == expected, "{len} at {offset}");
    }
}

#[test]
fn one_page_of_a_large_file_stores_one_page() {
    let f = Fixture::new();
    let ino = f.at("base/5/1259").unwrap();
    f.write(ino, 2 * BS as u64, &pattern(5, 0, BS)).unwrap();
    let data = f.diff().unwrap().storage().open(ino.0).unwrap();
    assert_eq!(data.stat().unwrap().blocks * 512, BS as u64);
}

#[test]
fn cutting_gives_the_space_back_once_it_is_durable() {
    let f = Fixture::new();
    let ino = f.at("base/5/1259").unwrap();
    f.write(ino, 0, &pattern(5, 0, LEN)).unwrap();
    f.sync_file(ino).unwrap();
    f.set_len(ino, BS as u64).unwrap();
    let data = f.diff().unwrap().storage().open(ino.0).unwrap();
    assert!(data.stat().unwrap().len > BS as u64, "a crash needs these");
    f.sync_periodically().unwrap();
    assert_eq!(data.stat().unwrap().len, BS as u64);
    let other = f.at("base/5/1260").unwrap();
    f.set_len(other, 0).unwrap();
    f.sync_file(other).unwrap();
    assert_eq!(f.diff().unwrap().storage().list().unwrap(), [ino.0]);
}

#[test]
fn fallocate_reserves_extends_and_zeroes() {
    let f = Fixture::new();
    let ino = f.at("base/5/1259").unwrap();
    let mut expected = pattern(1, 0, LEN);
    let (at, len) = (BS as u64 + 10, 2 * BS as u64);
    let size = || f.attr(ino).unwrap().size;
    f.fallocate(ino, 0, 9 * BS as u64, FallocateMode::KeepSize)
        .unwrap();
    assert_eq!(size(), LEN as u64);
    f.fallocate(ino, at, len, FallocateMode::PunchHole).unwrap();
    expected[at as usize..(at + len) as usize].fill(0);
    assert!(f.bytes(ino).unwrap() == expected);
    f.fallocate(ino, LEN as u64 - 5, 10, FallocateMode::Extend)
        .unwrap();
    expected.resize(LEN + 5, 0);
    assert!(f.bytes(ino).unwrap() == expected);
    let zero = |keep_size| FallocateMode::ZeroRange { keep_size };
    f.fallocate(ino, LEN as u64 - 20, 100, zero(true)).unwrap();
    expected[LEN - 20..].fill(0);
    assert!(f.bytes(ino).unwrap() == expected);
    f.fallocate(ino, LEN as u64, 100, zero(false)).unwrap();
    expected.resize(LEN + 100, 0);
    assert!(f.bytes(ino).unwrap() == expected);
    assert!(matches!(
        f.fallocate(ino, 0, 0, FallocateMode::Extend),
        Err(OverlayError::Invalid(_))
    ));
}

#[test]
fn seek_finds_the_hole_of_a_file_that_grew() {
    let f = Fixture::new();
    let ino = f.at("base/5/1260").unwrap();
    let bs = BS as u64;
    assert_eq!(f.seek(ino, 5, SeekKind::Data).unwrap(), 5);
    assert_eq!(f.seek(ino, 5, SeekKind::Hole).unwrap(), bs);
    f.set_len(ino, 10 * bs).unwrap();
    f.write(ino, 5 * bs, &pattern(3, 0, BS)).unwrap();
    assert_eq!(f.seek(ino, 0, SeekKind::Hole).unwrap(), bs);
    assert_eq!(f.seek(ino, bs, SeekKind::Data).unwrap(), 5 * bs);
    assert_eq!(f.seek(ino, 5 * bs, SeekKind::Hole).unwrap(), 6 * bs);
    assert!(matches!(
        f.seek(ino, 6 * bs, SeekKind::Data),
        Err(OverlayError::NoSuchOffset)
    ));
    assert!(matches!(
        f.seek(ino, 10 * bs, SeekKind::Hole),
        Err(OverlayError::NoSuchOffset)
    ));
}

#[test]
fn copy_range_stops_at_the_end_of_the_source() {
    let f = Fixture::new();
    let from = f.at("base/5/1259").unwrap();
    let to = f.make(Ino::ROOT, "copy").unwrap();
    let copied = f.copy_range((from, 100), (to, 0), u64::MAX).unwrap();
    assert_eq!(copied, LEN as u64 - 100);
    assert!(f.bytes(to).unwrap() == pattern(1, 0, LEN)[100..]);
}

#[test]
fn offsets_at_the_end_of_numbers_are_refused_not_wrapped() {
    let f = Fixture::new();
    let ino = f.at("base/5/1259").unwrap();
    let mut buf = [7; 8];
    assert_eq!(f.read(ino, u64::MAX - 3, &mut buf).unwrap_or(0), 0);
    f.write(ino, 0, b"x").unwrap();
    assert_eq!(f.read(ino, u64::MAX - 3, &mut buf).unwrap(), 0);
    for at in [u64::MAX - 3, u64::MAX, 1 << 45, (1 << 45) - 1] {
        assert!(matches!(
            f.write(ino, at, b"four"),
            Err(OverlayError::TooLarge)
        ));
    }
    for size in [u64::MAX, (1 << 45) + 1] {
        assert!(matches!(f.set_len(ino, size), Err(OverlayError::TooLarge)));
        let mode = FallocateMode::ZeroRange { keep_size: false };
        assert!(matches!(
            f.fallocate(ino, 1, size - 1, mode),
            Err(OverlayError::TooLarge)
        ));
    }
    // Beyond 16 TiB, where a block number no longer fits an i32.
    f.write(ino, 20 << 40, b"far").unwrap();
    let mut far = [1; 4];
    assert_eq!(f.read(ino, (20 << 40) - 1, &mut far).unwrap(), 4);
    assert_eq!(&far, b"\0far");
    f.sync_file(ino).unwrap();
}

#[test]
fn without_a_diff_nothing_can_change() {
    let overlay = Overlay::new(image(), None, options(true)).unwrap();
    let ino = overlay.at("base/5/1259").unwrap();
    overlay.open(ino).unwrap();
    assert!(overlay.passthrough(ino, true).unwrap().is_none());
    assert!(overlay.bytes(ino).unwrap() == pattern(1, 0, LEN));
    let chmod = AttrChange {
        mode: Some(0o777),
        ..AttrChange::default()
    };
    let (root, x) = (Ino::ROOT, name("x"));
    let refused = [
        overlay.write(ino, 0, b"x"),
        overlay.set_len(ino, 0),
        overlay.set_attr(ino, &chmod).map(|_| ()),
        overlay.make(root, "x").map(|_| ()),
        overlay.make_dir(root, x, 0o700, 0, 0).map(|_| ()),
        overlay.symlink(root, x, Path::new("y"), 0, 0).map(|_| ()),
        overlay.link(ino, root, x).map(|_| ()),
        overlay.unlink(root, name("PG_VERSION")),
        overlay.remove_dir(root, name("empty")),
        overlay.rename(root, name("empty"), root, x, RenameMode::Replace),
        overlay.fallocate(ino, 0, 1, FallocateMode::Extend),
        overlay.copy_range((ino, 0), (ino, 9), 1).map(|_| ()),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(OverlayError::ReadOnly)), "{i}");
    }
    overlay.sync_file(ino).unwrap();
    overlay.sync_names().unwrap();
    overlay.sync_all().unwrap();
    overlay.release(ino);
}

#[test]
fn a_copy_that_was_not_written_is_dropped_but_never_from_an_open_file() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), true);
    let ino = overlay.at("base/5/1259").unwrap();
    overlay.open(ino).unwrap();
    let data = overlay.passthrough(ino, true).unwrap().unwrap();
    overlay.sync_all().unwrap();
    data.write_all_at(b"past the overlay", 0).unwrap();
    assert_eq!(&overlay.bytes(ino).unwrap()[..16], b"past the overlay");
    overlay.release(ino);
    let other = overlay.at("base/5/1260").unwrap();
    overlay.open(other).unwrap();
    overlay.passthrough(other, true).unwrap().unwrap();
    overlay.release(other);
    overlay.sync_all().unwrap();
    drop(overlay);

    let overlay = open_in(image(), dir.path(), true);
    assert_eq!(&overlay.bytes(ino).unwrap()[..16], b"past the overlay");
    let stored = overlay.diff().unwrap().storage().list().unwrap();
    assert_eq!(stored, [ino.0]);
}

/// Counts the descriptors of this process that are open below `dir`.
fn descriptors(dir: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}

#[test]
fn closed_files_hold_no_descriptors_whatever_became_of_them() {
    for passthrough in [false, true] {
        let dir = memory_dir();
        let overlay = open_in(image(), dir.path(), passthrough);
        let before = descriptors(dir.path());
        let (changed, copied) = (overlay.at("base/5/1259"), overlay.at("base/5/1260"));
        let (changed, copied) = (changed.unwrap(), copied.unwrap());
        // Truncate by path first, so that it is served by blocks on either mount.
        overlay.set_len(changed, 3 * BS as u64).unwrap();
        overlay.open(changed).unwrap();
        overlay.write(changed, 5, b"changed").unwrap();
        overlay.open(copied).unwrap();
        let copy = overlay.passthrough(copied, true).unwrap();
        assert_eq!(copy.is_some(), passthrough);
        assert!(descriptors(dir.path()) > before);
        drop(copy);
        overlay.release(changed);
        overlay.release(copied);
        assert_eq!(descriptors(dir.path()), before);
        assert_eq!(&overlay.bytes(changed).unwrap()[5..12], b"changed");
        assert!(overlay.bytes(copied).unwrap() == pattern(2, 0, BS));
        // The next open uses the copy that still exists.
        overlay.open(copied).unwrap();
        if let Some(copy) = overlay.passthrough(copied, true).unwrap() {
            assert_eq!(overlay.pristine_bytes(), 0);
            copy.write_all_at(b"new", 0).unwrap();
            assert_eq!(&overlay.bytes(copied).unwrap()[..3], b"new");
        }
        overlay.release(copied);
    }
}
