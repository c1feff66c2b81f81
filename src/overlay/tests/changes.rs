//! A clone's changes are reported alike while it is mounted, afterwards, and as far as
//! possible without the image.

use std::ffi::OsStr;

use super::support::{BS, MemLower, memory_dir, open_in, pattern};
use crate::diff::{LockHolder, inspect};
use crate::overlay::{
    AttrChange, Change, ChangeKind, Ino, Overlay, OverlayError, RenameMode, changes,
};

fn image() -> MemLower {
    MemLower::new()
        .dir("base")
        .dir("base/5")
        .file("base/5/100", pattern(1, 0, 4 * BS))
        .file("base/5/101", pattern(2, 0, 2 * BS))
        .file("base/5/102", pattern(3, 0, BS))
        .dir("base/6")
        .file("base/6/100", pattern(4, 0, BS))
        .dir(".pbkfs")
        .dir(".pbkfs/tblspc")
        .dir(".pbkfs/tblspc/9")
        .file(".pbkfs/tblspc/9/200", pattern(5, 0, BS))
        .file("conf", pattern(6, 0, 100))
        .file("untouched", pattern(7, 0, 100))
}

/// Lines of (kind, path, blocks), with the old name of a renamed file.
fn told(changes: &[Change]) -> Vec<String> {
    let tell = |change: &Change| {
        let from = change.from.as_deref().map(|from| format!(" was {from}"));
        let from = from.unwrap_or_default();
        format!("{:?} {} {}{from}", change.kind, change.path, change.blocks)
    };
    changes.iter().map(tell).collect()
}

fn change_much(overlay: &Overlay<MemLower>) -> Result<(), OverlayError> {
    let name = OsStr::new;
    let base = overlay.at("base/5")?;
    let ino = overlay.at("base/5/100")?;
    overlay.open(ino)?;
    overlay.write(ino, 3 * BS as u64, &[9; BS])?;
    overlay.write(ino, 5, b"x")?;
    overlay.release(ino);
    let cut = AttrChange {
        size: Some(BS as u64),
        ..AttrChange::default()
    };
    overlay.set_attr(overlay.at("base/5/101")?, &cut)?;
    overlay.unlink(base, name("102"))?;
    overlay.unlink(overlay.at("base/6")?, name("100"))?;
    overlay.remove_dir(overlay.at("base")?, name("6"))?;
    let space = overlay.at(".pbkfs/tblspc/9/200")?;
    overlay.write(space, 0, &[9; 10])?;
    let made = overlay.create(base, name("103"), 0o600, 26, 26)?.ino;
    overlay.write(made, 0, &[9; 2 * BS])?;
    overlay.release(made);
    // Replaced like a configuration file, and renamed with a change in it.
    let conf = overlay
        .create(Ino::ROOT, name("conf.tmp"), 0o600, 26, 26)?
        .ino;
    overlay.write(conf, 0, b"new")?;
    overlay.release(conf);
    let replace = RenameMode::Replace;
    overlay.rename(
        Ino::ROOT,
        name("conf.tmp"),
        Ino::ROOT,
        name("conf"),
        replace,
    )?;
    overlay.rename(base, name("101"), base, name("104"), replace)?;
    // Created and removed again: no change to report.
    let gone = overlay.create(base, name("105"), 0o600, 26, 26)?.ino;
    overlay.unlink(base, name("105"))?;
    overlay.release(gone);
    Ok(())
}

#[test]
fn what_changed_is_told_mounted_and_not() {
    let dir = memory_dir();
    let overlay = open_in(image(), dir.path(), false);
    assert_eq!(overlay.changes().unwrap(), []);
    change_much(&overlay).unwrap();
    let expected = [
        "Changed base/5/100 2",
        "New base/5/103 2",
        "Renamed base/5/104 0 was base/5/101",
        "Deleted base/5/102 0",
        "Deleted base/6/ 0",
        "Changed conf 1",
        "Changed pg_tblspc/9/200 1",
    ];
    let mut expected: Vec<_> = expected.map(str::to_owned).into();
    let path = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
    expected.sort_by_key(path);
    let mounted = overlay.changes().unwrap();
    assert_eq!(told(&mounted), expected);
    assert_eq!(overlay.diff_blocks().unwrap(), 3);
    overlay.sync_all().unwrap();
    assert_eq!(overlay.changes().unwrap(), mounted);
    drop(overlay);

    let root = dir.path().join("diff");
    let (_, records) = inspect(&root, &LockHolder::default()).unwrap();
    assert_eq!(changes(&records, Some(&image()), &root), mounted);

    let blind = told(&changes::<MemLower>(&records, None, &root));
    for known in ["Changed base/5/100 2", "Changed pg_tblspc/9/200 1"] {
        assert!(blind.iter().any(|line| line == known), "{blind:?}");
    }
    let deleted = changes::<MemLower>(&records, None, &root)
        .into_iter()
        .filter(|change| change.kind == ChangeKind::Deleted)
        .map(|change| change.path);
    let deleted: Vec<_> = deleted.collect();
    assert!(
        deleted.contains(&"(image node 2)/102".to_owned()),
        "{deleted:?}"
    );
}
