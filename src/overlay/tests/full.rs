//! A full disk: the caller gets an error, nothing is lost, and everything works again
//! once there is space.

use std::path::Path;
use std::process::Command;

use super::disk::{Disk, Rng};
use super::support::{BS, MemLower, open_in, options, pattern};
use crate::overlay::{Ino, Overlay, OverlayError};

fn errno(error: &OverlayError) -> Option<i32> {
    match error {
        OverlayError::Io(e) => e.raw_os_error(),
        OverlayError::Diff(e) => e.os_error(),
        _ => None,
    }
}

fn assert_full(result: Result<(), OverlayError>) {
    let error = result.unwrap_err();
    assert_eq!(errno(&error), Some(nix::libc::ENOSPC), "{error:?}");
}

fn image() -> MemLower {
    MemLower::new().file("f", pattern(1, 0, 40 * BS))
}

#[test]
fn a_commit_that_meets_a_full_disk_can_be_repeated() {
    let disk = Disk::default();
    let mount =
        |disk: &Disk| Overlay::new(image(), Some(disk.open().unwrap()), options(false)).unwrap();
    let overlay = mount(&disk);
    let f = overlay.at("f").unwrap();
    overlay.write(f, 0, &pattern(2, 0, BS)).unwrap();
    overlay.sync_file(f).unwrap();
    // The store grows by whole regions: create enough names to require a new one.
    for i in 0..6_000 {
        let name = format!("a-name-that-takes-space-in-the-store-{i:04}");
        overlay
            .make_dir(Ino::ROOT, name.as_ref(), 0o700, 0, 0)
            .unwrap();
    }
    overlay.write(f, 8 * BS as u64, &pattern(3, 0, BS)).unwrap();
    disk.set_room(Some(0));
    assert_full(overlay.sync_file(f));
    assert_full(overlay.sync_names());
    assert_full(overlay.sync_all());
    assert_full(overlay.write(f, 30 * BS as u64, &pattern(4, 0, BS)));
    assert_full(overlay.make(Ino::ROOT, "new").map(|_| ()));
    let mut expected = pattern(1, 0, 40 * BS);
    expected[..BS].copy_from_slice(&pattern(2, 0, BS));
    expected[8 * BS..9 * BS].copy_from_slice(&pattern(3, 0, BS));
    assert!(overlay.bytes(f).unwrap() == expected, "lost in memory");

    disk.set_room(None);
    overlay.sync_file(f).unwrap();
    disk.lose_power(&mut Rng(7));
    drop(overlay);
    let overlay = mount(&disk);
    assert!(overlay.contents("f").unwrap() == expected);
    overlay
        .at("a-name-that-takes-space-in-the-store-5999")
        .unwrap();
}

/// A separate file system, unmounted at the end.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_file_system_is_survived() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root, to mount a small tmpfs: use tests/run.sh"
    );
    let tmpfs = Tmpfs::mount("6m");
    let overlay = open_in(image(), tmpfs.path(), false);
    let f = overlay.at("f").unwrap();
    overlay.write(f, 0, &pattern(2, 0, BS)).unwrap();
    overlay.sync_file(f).unwrap();
    let filler = tmpfs.path().join("filler");
    let _ = std::fs::write(&filler, vec![1; 16 << 20]);
    let mut made = 0;
    let failed = loop {
        let name = format!("a-name-that-takes-space-in-the-store-{made:06}");
        overlay
            .make_dir(Ino::ROOT, name.as_ref(), 0o700, 0, 0)
            .unwrap();
        made += 1;
        if made % 500 == 0
            && let Err(e) = overlay.sync_names()
        {
            break e;
        }
        assert!(made < 100_000, "the file system never fills up");
    };
    assert_eq!(errno(&failed), Some(nix::libc::ENOSPC), "{failed:?}");
    assert_full(overlay.sync_names());
    assert_full(overlay.write(f, 20 * BS as u64, &pattern(3, 0, BS)));
    assert!(overlay.bytes(f).unwrap()[..BS] == pattern(2, 0, BS));

    std::fs::remove_file(&filler).unwrap();
    overlay
        .write(f, 20 * BS as u64, &pattern(3, 0, BS))
        .unwrap();
    overlay.sync_file(f).unwrap();
    overlay.sync_names().unwrap();
    drop(overlay);
    let overlay = open_in(image(), tmpfs.path(), false);
    let bytes = overlay.contents("f").unwrap();
    assert!(bytes[..BS] == pattern(2, 0, BS));
    assert!(bytes[20 * BS..21 * BS] == pattern(3, 0, BS));
    // `.` and `..` and the file are also listed.
    assert_eq!(overlay.read_dir(Ino::ROOT).unwrap().len(), made + 3);
}
