//! Random operations on the overlay and on a plain directory. Both must return the same
//! results and end up with the same tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::libc;
use proptest::prelude::*;

use super::support::{BS, MemLower, open_in, pattern};
use crate::diff::{DataFile, InodeKind};
use crate::overlay::{AttrChange, FallocateMode, Ino, Overlay, OverlayError, RenameMode, SeekKind};

/// A few paths only, so that operations collide: of the image, new, in moved
/// directories.
const PATHS: [&str; 14] = [
    "a", "b", "d", "e", "d/a", "d/b", "d/s", "e/a", "e/s", "d/s/a", "d/s/b", "e/s/a", "link", "big",
];

const BASE_FILES: [(&str, usize); 5] = [
    ("a", 2 * BS + 100),
    ("d/a", 5 * BS),
    ("d/s/a", 10),
    ("d/s/b", 0),
    // Too large to be copied up whole.
    ("big", (1 << 20) + 3 * BS + 1),
];

type P = usize;

#[derive(Debug, Clone)]
enum Op {
    Create(P),
    MakeDir(P),
    Symlink(P),
    Unlink(P),
    RemoveDir(P),
    Rename(P, P, RenameMode),
    Link(P, P),
    Write {
        path: P,
        offset: u64,
        len: usize,
    },
    Truncate {
        path: P,
        size: u64,
    },
    Fallocate {
        path: P,
        offset: u64,
        len: u64,
        mode: FallocateMode,
    },
    Chmod(P, u32),
    Copy {
        from: P,
        to: P,
        at: u64,
        len: u64,
    },
    Seek {
        path: P,
        offset: u64,
    },
    /// Opens a file and keeps it open, for the operations on the held file.
    Hold(P),
    WriteHeld {
        offset: u64,
        len: usize,
    },
    Drop,
    Fsync(P),
    SyncNames,
    Periodically,
    /// Brings the next blocks of this many files into the diff, and records them.
    Hydrate(usize),
    Remount,
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    let offset = prop_oneof![
        (0..6_u64).prop_map(|b| b * BS as u64),
        0..6 * BS as u64,
        (0..5 * BS as u64).prop_map(|o| (1 << 20) + o),
    ];
    let len = prop_oneof![Just(BS), 1..3 * BS];
    let mode = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        1 => Just(RenameMode::Exchange),
    ];
    let space = prop_oneof![
        Just(FallocateMode::Extend),
        Just(FallocateMode::KeepSize),
        Just(FallocateMode::PunchHole),
        any::<bool>().prop_map(|keep_size| FallocateMode::ZeroRange { keep_size }),
    ];
    prop_oneof![
        2 => path.clone().prop_map(Op::Create),
        2 => path.clone().prop_map(Op::MakeDir),
        1 => path.clone().prop_map(Op::Symlink),
        2 => path.clone().prop_map(Op::Unlink),
        2 => path.clone().prop_map(Op::RemoveDir),
        5 => (path.clone(), path.clone(), mode).prop_map(|(from, to, m)| Op::Rename(from, to, m)),
        1 => (path.clone(), path.clone()).prop_map(|(from, to)| Op::Link(from, to)),
        8 => (path.clone(), offset.clone(), len.clone())
            .prop_map(|(path, offset, len)| Op::Write { path, offset, len }),
        4 => (path.clone(), offset.clone()).prop_map(|(path, size)| Op::Truncate { path, size }),
        2 => (path.clone(), offset.clone(), len.clone(), space).prop_map(
            |(path, offset, len, mode)| Op::Fallocate { path, offset, len: len as u64, mode }
        ),
        1 => (path.clone(), 0..0o1000_u32).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        1 => (path.clone(), path.clone(), offset.clone(), len.clone())
            .prop_map(|(from, to, at, len)| Op::Copy { from, to, at, len: len as u64 }),
        1 => (path.clone(), offset.clone()).prop_map(|(path, offset)| Op::Seek { path, offset }),
        2 => path.clone().prop_map(Op::Hold),
        2 => (offset, len).prop_map(|(offset, len)| Op::WriteHeld { offset, len }),
        1 => Just(Op::Drop),
        2 => path.prop_map(Op::Fsync),
        1 => Just(Op::SyncNames),
        4 => Just(Op::Periodically),
        3 => (1..9_usize).prop_map(Op::Hydrate),
        1 => Just(Op::Remount),
    ]
}

fn image() -> MemLower {
    static IMAGE: LazyLock<MemLower> = LazyLock::new(make_image);
    IMAGE.clone()
}

fn make_image() -> MemLower {
    let mut image = MemLower::new().dir("d").dir("d/s").dir("e");
    for (i, (path, len)) in BASE_FILES.into_iter().enumerate() {
        image = image.file(path, pattern(100 + i as u32, 0, len));
    }
    // A dangling link: following links is the kernel's part.
    image.symlink("link", "nowhere")
}

fn plain(root: &Path) {
    for dir in ["d", "d/s", "e"] {
        fs::create_dir(root.join(dir)).unwrap();
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let image = image();
    for (path, _) in BASE_FILES {
        fs::write(root.join(path), image.file_bytes(path)).unwrap();
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
}

/// The result of an operation: a number of bytes or an offset, or an errno.
type Answer = Result<u64, i32>;

fn system(result: io::Result<u64>) -> Answer {
    result.map_err(|e| e.raw_os_error().unwrap_or(-1))
}

fn errno(error: &OverlayError) -> i32 {
    match error {
        OverlayError::NotFound => libc::ENOENT,
        OverlayError::Exists => libc::EEXIST,
        OverlayError::NotADirectory => libc::ENOTDIR,
        OverlayError::IsADirectory => libc::EISDIR,
        OverlayError::NotEmpty => libc::ENOTEMPTY,
        OverlayError::NotPermitted(_) => libc::EPERM,
        OverlayError::Invalid(_) => libc::EINVAL,
        OverlayError::NoSuchOffset => libc::ENXIO,
        OverlayError::Io(e) => e.raw_os_error().unwrap_or(-1),
        other => panic!("not to be expected here: {other}"),
    }
}

struct Held {
    ino: Ino,
    data: Option<Arc<dyn DataFile>>,
    plain: File,
}

struct Both {
    dir: tempfile::TempDir,
    overlay: Overlay<MemLower>,
    passthrough: bool,
    held: Vec<Held>,
    stamp: u32,
}

impl Both {
    fn new(passthrough: bool) -> Self {
        let dir = super::support::memory_dir();
        fs::create_dir(dir.path().join("plain")).unwrap();
        plain(&dir.path().join("plain"));
        Self {
            overlay: open_in(image(), dir.path(), passthrough),
            dir,
            passthrough,
            held: Vec::new(),
            stamp: 0,
        }
    }

    fn plain(&self, path: P) -> PathBuf {
        self.dir.path().join("plain").join(PATHS[path])
    }

    /// Opens a regular file in the plain directory. Anything else is skipped on both
    /// sides: the kernel takes care of that.
    fn plain_file(&self, path: P) -> Option<File> {
        let path = self.plain(path);
        let meta = fs::symlink_metadata(&path).ok()?;
        let options = OpenOptions::new().read(true).write(true).clone();
        meta.is_file().then(|| options.open(path).unwrap())
    }

    fn parent<'p>(&self, path: &'p str) -> Result<(Ino, &'p OsStr), OverlayError> {
        let path = Path::new(path);
        let parent = self.overlay.at(path.parent().unwrap().to_str().unwrap())?;
        let kind = self.overlay.attr(parent)?.kind;
        if kind != InodeKind::Directory {
            return Err(OverlayError::NotADirectory);
        }
        Ok((parent, path.file_name().unwrap()))
    }

    fn named(&self, path: P, work: impl FnOnce(Ino, &OsStr) -> Result<(), OverlayError>) -> Answer {
        self.parent(PATHS[path])
            .and_then(|(parent, name)| work(parent, name))
            .map_or_else(|e| Err(errno(&e)), |()| Ok(0))
    }

    /// Runs `op` on both and returns both results.
    fn apply(&mut self, op: &Op) -> (Answer, Answer) {
        match *op {
            Op::Create(p) => {
                let ours = self.named(p, |dir, name| {
                    let ino = self.overlay.create(dir, name, 0o600, 0, 0)?.ino;
                    self.overlay.release(ino);
                    Ok(())
                });
                let made = File::create_new(self.plain(p)).and_then(|file| {
                    file.set_permissions(fs::Permissions::from_mode(0o600))?;
                    Ok(0)
                });
                (ours, system(made))
            }
            Op::MakeDir(p) => {
                let ours = self.named(p, |dir, name| {
                    self.overlay.make_dir(dir, name, 0o755, 0, 0).map(|_| ())
                });
                let made = fs::create_dir(self.plain(p)).and_then(|()| {
                    fs::set_permissions(self.plain(p), fs::Permissions::from_mode(0o755))?;
                    Ok(0)
                });
                (ours, system(made))
            }
            Op::Symlink(p) => {
                let target = Path::new("../anywhere");
                let ours = self.named(p, |dir, name| {
                    self.overlay.symlink(dir, name, target, 0, 0).map(|_| ())
                });
                let made = std::os::unix::fs::symlink(target, self.plain(p));
                (ours, system(made.map(|()| 0)))
            }
            Op::Unlink(p) => {
                let ours = self.named(p, |dir, name| self.overlay.unlink(dir, name));
                (ours, system(fs::remove_file(self.plain(p)).map(|()| 0)))
            }
            Op::RemoveDir(p) => {
                let ours = self.named(p, |dir, name| self.overlay.remove_dir(dir, name));
                (ours, system(fs::remove_dir(self.plain(p)).map(|()| 0)))
            }
            Op::Rename(from, to, mode) => self.rename(from, to, mode),
            Op::Link(from, to) => {
                let ours = self.named(from, |_, _| {
                    let ino = self.overlay.at(PATHS[from])?;
                    let (dir, name) = self.parent(PATHS[to])?;
                    self.overlay.link(ino, dir, name).map(|_| ())
                });
                let made = fs::hard_link(self.plain(from), self.plain(to));
                (ours, system(made.map(|()| 0)))
            }
            Op::Chmod(p, mode) => self.chmod(p, mode),
            Op::SyncNames => (self.ok(self.overlay.sync_names()), Ok(0)),
            Op::Periodically => (self.ok(self.overlay.sync_periodically()), Ok(0)),
            Op::Hydrate(files) => (self.ok(self.hydrate(files)), Ok(0)),
            Op::Remount => {
                self.remount();
                (Ok(0), Ok(0))
            }
            Op::Drop => {
                if let Some(held) = self.held.pop() {
                    self.overlay.release(held.ino);
                }
                (Ok(0), Ok(0))
            }
            _ => self.apply_to_file(op),
        }
    }

    fn hydrate(&self, files: usize) -> Result<(), OverlayError> {
        let files = self.overlay.unhydrated()?.into_iter().take(files);
        let inos: Vec<Ino> = files.map(|file| file.ino).collect();
        for ino in &inos {
            self.overlay.hydrate(*ino, 0)?;
        }
        self.overlay.record_hydrated(&inos).map(|_| ())
    }

    fn ok(&self, result: Result<(), OverlayError>) -> Answer {
        result.map_or_else(|e| Err(errno(&e)), |()| Ok(0))
    }

    fn rename(&self, from: P, to: P, mode: RenameMode) -> (Answer, Answer) {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::RENAME_NOREPLACE,
            RenameMode::Exchange => RenameFlags::RENAME_EXCHANGE,
        };
        let theirs = renameat2(
            AT_FDCWD,
            &self.plain(from),
            AT_FDCWD,
            &self.plain(to),
            flags,
        );
        let ours = self.named(from, |dir, name| {
            let (new_dir, new_name) = self.parent(PATHS[to])?;
            self.overlay.rename(dir, name, new_dir, new_name, mode)
        });
        let theirs = theirs.map_or_else(|e| Err(e as i32), |()| Ok(0));
        (ours, theirs)
    }

    fn chmod(&self, p: P, mode: u32) -> (Answer, Answer) {
        // chmod(2) follows links, which is the kernel's part.
        if self.plain(p).is_symlink() {
            return (Ok(0), Ok(0));
        }
        // Without these, not even root could read the directory.
        let mode = mode | 0o700;
        let change = AttrChange {
            mode: Some(mode),
            ..AttrChange::default()
        };
        let ours = self.parent(PATHS[p]).and_then(|_| {
            let ino = self.overlay.at(PATHS[p])?;
            self.overlay.set_attr(ino, &change).map(|_| ())
        });
        let theirs = fs::set_permissions(self.plain(p), fs::Permissions::from_mode(mode));
        (self.ok(ours), system(theirs.map(|()| 0)))
    }

    fn write(&self, ino: Ino, data: Option<&dyn DataFile>, offset: u64, bytes: &[u8]) -> Answer {
        // Like the kernel: past the overlay if it was given a descriptor.
        self.ok(match data {
            Some(data) => data.write_all_at(bytes, offset).map_err(OverlayError::Io),
            None => self.overlay.write(ino, offset, bytes),
        })
    }

    fn apply_to_file(&mut self, op: &Op) -> (Answer, Answer) {
        let path = match *op {
            Op::WriteHeld { offset, len } => return self.write_held(offset, len),
            Op::Write { path, .. }
            | Op::Truncate { path, .. }
            | Op::Fallocate { path, .. }
            | Op::Seek { path, .. }
            | Op::Hold(path)
            | Op::Fsync(path)
            | Op::Copy { from: path, .. } => path,
            _ => unreachable!("{op:?} is not on a file"),
        };
        let Some(file) = self.plain_file(path) else {
            return (Ok(0), Ok(0));
        };
        let ino = self.overlay.at(PATHS[path]).unwrap();
        if let Op::Truncate { size, .. } = *op {
            let ours = self.overlay.set_len(ino, size);
            return (self.ok(ours), system(file.set_len(size).map(|()| 0)));
        }
        self.overlay.open(ino).unwrap();
        let data = self.overlay.passthrough(ino, true).unwrap();
        if matches!(op, Op::Hold(_)) {
            let plain = file;
            self.held.push(Held { ino, data, plain });
            return (Ok(0), Ok(0));
        }
        let answers = self.apply_to_open(op, ino, data.as_deref(), &file);
        self.overlay.release(ino);
        answers
    }

    fn apply_to_open(
        &mut self,
        op: &Op,
        ino: Ino,
        data: Option<&dyn DataFile>,
        file: &File,
    ) -> (Answer, Answer) {
        match *op {
            Op::Write { offset, len, .. } => {
                self.stamp += 1;
                let bytes = pattern(self.stamp, offset, len);
                let ours = self.write(ino, data, offset, &bytes);
                (
                    ours,
                    system(FileExt::write_all_at(file, &bytes, offset).map(|()| 0)),
                )
            }
            Op::Fallocate {
                offset, len, mode, ..
            } => {
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let flags = match mode {
                    FallocateMode::Extend => FallocateFlags::empty(),
                    FallocateMode::KeepSize => keep,
                    FallocateMode::PunchHole => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
                    FallocateMode::ZeroRange { keep_size } => {
                        let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
                        if keep_size { zero | keep } else { zero }
                    }
                };
                let theirs = fallocate(file, flags, offset as i64, len as i64);
                if theirs == Err(nix::errno::Errno::EOPNOTSUPP) {
                    return (Ok(0), Ok(0));
                }
                let ours = self.overlay.fallocate(ino, offset, len, mode);
                (
                    self.ok(ours),
                    theirs.map_or_else(|e| Err(e as i32), |()| Ok(0)),
                )
            }
            // The file system chooses where holes are, so only the end of the file can
            // be compared.
            Op::Seek { offset, .. } => {
                let end = file.metadata().unwrap().len();
                let ours = self.overlay.seek(ino, offset, SeekKind::Hole);
                let inside = ours.as_ref().is_ok_and(|at| (offset..=end).contains(at));
                assert_eq!(inside, offset < end, "{ours:?}");
                (Ok(0), Ok(0))
            }
            Op::Copy { to, at, len, .. } => {
                let Some(target) = self.plain_file(to) else {
                    return (Ok(0), Ok(0));
                };
                let to = self.overlay.at(PATHS[to]).unwrap();
                if to == ino {
                    return (Ok(0), Ok(0));
                }
                let mut bytes = vec![0; len as usize];
                let n = FileExt::read_at(file, &mut bytes, at).unwrap();
                FileExt::write_all_at(&target, &bytes[..n], 77).unwrap();
                let ours = self.overlay.copy_range((ino, at), (to, 77), len);
                (ours.map_err(|e| errno(&e)), Ok(n as u64))
            }
            Op::Fsync(_) => (self.ok(self.overlay.sync_file(ino)), Ok(0)),
            _ => unreachable!("{op:?} needs no open file"),
        }
    }

    fn write_held(&mut self, offset: u64, len: usize) -> (Answer, Answer) {
        self.stamp += 1;
        let bytes = pattern(self.stamp, offset, len);
        let Some(held) = self.held.last() else {
            return (Ok(0), Ok(0));
        };
        let ours = self.write(held.ino, held.data.as_deref(), offset, &bytes);
        let theirs = FileExt::write_all_at(&held.plain, &bytes, offset);
        (ours, system(theirs.map(|()| 0)))
    }

    fn remount(&mut self) {
        for held in self.held.drain(..) {
            self.overlay.release(held.ino);
        }
        self.overlay.sync_all().unwrap();
        // Drop the old one first: it holds the lock.
        self.overlay = Overlay::new(image(), None, super::support::options(false)).unwrap();
        self.overlay = open_in(image(), self.dir.path(), self.passthrough);
    }

    fn compare(&self) {
        for held in &self.held {
            let len = usize::try_from(held.plain.metadata().unwrap().len()).unwrap();
            let mut bytes = vec![0; len];
            held.plain.read_exact_at(&mut bytes, 0).unwrap();
            assert!(
                self.overlay.bytes(held.ino).unwrap() == bytes,
                "a held file"
            );
        }
        self.compare_dir(Ino::ROOT, &self.dir.path().join("plain"));
    }

    fn compare_dir(&self, dir: Ino, plain: &Path) {
        let theirs: BTreeMap<_, _> = fs::read_dir(plain)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.path()))
            .collect();
        let ours = self.overlay.read_dir(dir).unwrap();
        let names: Vec<_> = ours.iter().skip(2).map(|e| e.name.clone()).collect();
        assert_eq!(
            names,
            theirs.keys().cloned().collect::<Vec<_>>(),
            "{plain:?}"
        );
        for entry in ours.into_iter().skip(2) {
            let path = &theirs[&entry.name];
            let meta = fs::symlink_metadata(path).unwrap();
            let attr = self.overlay.attr(entry.ino).unwrap();
            assert_eq!(attr.kind, entry.kind);
            match entry.kind {
                InodeKind::Directory => {
                    assert!(meta.is_dir(), "{path:?}");
                    assert_eq!(u64::from(attr.nlink), meta.nlink(), "{path:?}");
                    self.compare_dir(entry.ino, path);
                }
                InodeKind::Symlink => assert_eq!(
                    Path::new(&self.overlay.read_link(entry.ino).unwrap()),
                    fs::read_link(path).unwrap()
                ),
                _ => {
                    assert_eq!(attr.size, meta.len(), "{path:?}");
                    let same = self.overlay.bytes(entry.ino).unwrap() == fs::read(path).unwrap();
                    assert!(same, "{path:?} differs");
                    let nlink = u64::from(attr.nlink);
                    assert_eq!(nlink, meta.nlink(), "{path:?}");
                }
            }
            if entry.kind != InodeKind::Symlink {
                assert_eq!(attr.mode, meta.permissions().mode() & 0o7777, "{path:?}");
            }
        }
    }

    fn no_orphans(&self) {
        let mut reachable = Vec::new();
        let mut todo = vec![Ino::ROOT];
        while let Some(dir) = todo.pop() {
            for entry in self.overlay.read_dir(dir).unwrap().into_iter().skip(2) {
                reachable.push(entry.ino.0);
                if entry.kind == InodeKind::Directory {
                    todo.push(entry.ino);
                }
            }
        }
        let diff = self.overlay.diff().unwrap();
        for ino in diff.store().inodes_with_content().unwrap() {
            assert!(reachable.contains(&ino), "an orphaned record of {ino}");
        }
        for (ino, _) in diff.store().namespace().unwrap().inodes {
            let known = ino == Ino::ROOT.0 || reachable.contains(&ino);
            assert!(known, "an orphaned inode {ino}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_overlay_is_like_a_plain_directory(
        ops in proptest::collection::vec(op(), 1..50),
        passthrough: bool,
    ) {
        let mut both = Both::new(passthrough);
        for op in &ops {
            let (ours, theirs) = both.apply(op);
            // If several errors apply, the kernel's order of checks is its own affair;
            // the unit tests cover each.
            if ours.is_ok() || theirs.is_ok() {
                prop_assert_eq!(ours, theirs, "{:?}", op);
            }
        }
        both.compare();
        both.remount();
        both.compare();
        both.no_orphans();
    }
}
