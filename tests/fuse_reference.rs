//! Long random sequences of system calls on a mounted backup and on a plain copy of
//! it give the same results and leave the same tree.
//!
//! Each sequence is determined by its seed, which every failure names.
//! `PBKFS_REFERENCE_SEEDS=N` runs N additional seeds, taken from the clock.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use common::session::LIMIT;
use common::syscalls::{become_user, copy_range, map_and_write, sync_range};
use common::{OsUser, Sandbox};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, RenameFlags};
use nix::sys::stat::{Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, LinkatFlags, Whence};

const FIXTURE: &str = "pg15-chain";
const STEPS: usize = 1500;
/// Open files in each sequence.
const SLOTS: usize = 10;
/// Offsets and lengths stay below this.
const FARTHEST: u64 = 3 << 20;
/// Tolerance in seconds for times after writing to two file systems one after the
/// other. Neither PostgreSQL nor any other program compares times more closely.
const TIME_SLACK: i64 = 5;

#[test]
fn as_root() {
    sequences(&OsUser::root(), &[1, 2]);
}

#[test]
fn as_postgres() {
    sequences(&OsUser::postgres(), &[4, 5]);
}

fn sequences(user: &OsUser, fixed: &[u64]) {
    common::require_everything();
    let further: u64 = std::env::var("PBKFS_REFERENCE_SEEDS")
        .map_or(0, |count| count.parse().expect("a number of seeds"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let from_clock = (0..further).map(|i| (now.as_secs() << 20) + i);
    for seed in fixed.iter().copied().chain(from_clock) {
        println!("seed {seed} as {}", user.name);
        sequence(user, seed);
    }
}

/// Runs one sequence in two halves, with `down` and `up` after each.
fn sequence(user: &OsUser, seed: u64) {
    let sandbox = Sandbox::new(FIXTURE, user.clone());
    let clone = sandbox.profile("latest").mount_only().write();
    let plain = sandbox.path("plain");
    clone.up();
    // One database is enough, because it is walked repeatedly.
    let mut prune = user.command("find");
    prune.arg(clone.target.join("base"));
    prune.args("-mindepth 1 -maxdepth 1 ! -name 16385 -exec rm -r {} +".split(' '));
    common::run(&mut prune, LIMIT).expect_ok();
    let mut copy = user.command("cp");
    copy.arg("-a").arg(&clone.target).arg(&plain);
    common::run(&mut copy, LIMIT).expect_ok();
    let mut rng = Rng(seed);
    for _ in 0..2 {
        // A mount made by that user is closed even to root.
        rng = thread::scope(|scope| {
            let work = || {
                become_user(user);
                let mut pair = Pair::new(&clone.target, &plain, rng, seed);
                for _ in 0..STEPS / 2 {
                    pair.step();
                }
                pair.compare_trees();
                pair.rng
            };
            match scope.spawn(work).join() {
                Ok(rng) => rng,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        clone.down();
        clone.up();
        thread::scope(|scope| {
            scope.spawn(|| {
                become_user(user);
                Pair::new(&clone.target, &plain, Rng(0), seed).compare_trees();
            });
        });
    }
    clone.down();
}

/// splitmix64: small, and the same on every platform.
#[derive(Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.next();
        (0..len as u64)
            .map(|i| (seed.wrapping_mul(i / 7 + 1) >> 32) as u8)
            .collect()
    }
}

/// One of the two trees.
struct Side {
    root: PathBuf,
    files: Vec<Option<File>>,
}

impl Side {
    fn file(&self, slot: usize) -> Result<&File, Errno> {
        self.files[slot].as_ref().ok_or(Errno::EBADF)
    }
}

/// Both trees, and the operations performed on them.
struct Pair {
    mount: Side,
    plain: Side,
    rng: Rng,
    seed: u64,
    /// Names that are used repeatedly.
    hot: Vec<PathBuf>,
    /// Slots opened with `O_DIRECT`, which requires aligned ranges.
    direct: BTreeSet<usize>,
    history: Vec<String>,
}

impl Pair {
    fn new(mount: &Path, plain: &Path, mut rng: Rng, seed: u64) -> Pair {
        let side = |root: &Path| Side {
            root: root.to_owned(),
            files: (0..SLOTS).map(|_| None).collect(),
        };
        let all = files_below(plain, Path::new(""));
        let large =
            |path: &&PathBuf| fs::symlink_metadata(plain.join(path)).unwrap().len() > 1 << 20;
        let mut hot: Vec<PathBuf> = all.iter().filter(large).take(4).cloned().collect();
        hot.extend((0..8).map(|_| rng.pick(&all)));
        for dir in ["", "base/16385", "global", "d0", "d1", "d1/sub"] {
            hot.extend((0..2).map(|i| Path::new(dir).join(format!("new{i}"))));
        }
        hot.extend(["d0", "d1", "d1/sub", "pg_xact", "base/16385"].map(PathBuf::from));
        Pair {
            mount: side(mount),
            plain: side(plain),
            rng,
            seed,
            hot,
            direct: BTreeSet::new(),
            history: Vec::new(),
        }
    }

    fn fail(&self, why: &str) -> ! {
        let from = self.history.len().saturating_sub(60);
        panic!(
            "seed {}, step {}: {why}\nthe last steps:\n{}",
            self.seed,
            self.history.len(),
            self.history[from..].join("\n")
        );
    }

    /// Performs the same operation on both sides, whose results must be equal.
    fn both<T: Debug + PartialEq>(
        &mut self,
        what: String,
        work: impl Fn(&mut Side) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let plain = work(&mut self.plain);
        let mount = work(&mut self.mount);
        let outcome = plain
            .as_ref()
            .map_or_else(|e| format!("{e}"), |_| "ok".into());
        self.history.push(format!("{what} -> {outcome}"));
        if mount != plain {
            let short = |answer: &Result<T, Errno>| {
                let mut text = format!("{answer:?}");
                text.truncate(300);
                text
            };
            let (mount, plain) = (short(&mount), short(&plain));
            self.fail(&format!(
                "{what} returned {mount} on the mount, {plain} on the copy"
            ));
        }
        plain
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=15 => self.open(),
            16..=31 => self.write(),
            32..=43 => self.read(),
            44..=48 => self.truncate(),
            49..=52 => self.fallocate(),
            53..=54 => self.seek(),
            55..=58 => self.copy_range(),
            59..=62 => self.map(),
            63..=65 => self.sync(),
            66..=67 => self.close(),
            68..=75 => self.attributes(),
            76..=80 => self.rename(),
            81..=84 => self.remove(),
            85..=89 => self.make(),
            90..=94 => self.change_attributes(),
            95..=96 => self.truncate_path(),
            _ => self.list(),
        }
    }

    /// Returns a name, mostly of something that exists.
    fn path(&mut self) -> PathBuf {
        let there = |path: &&PathBuf| self.plain.root.join(path).symlink_metadata().is_ok();
        let there: Vec<PathBuf> = self.hot.iter().filter(there).cloned().collect();
        let from = if self.rng.one_in(4) {
            &self.hot
        } else {
            &there
        };
        self.rng.pick(from)
    }

    fn any_slot(&mut self) -> usize {
        self.rng.below(SLOTS as u64) as usize
    }

    /// Returns a slot, nearly always an open one.
    fn slot(&mut self) -> usize {
        let open: Vec<usize> = (0..SLOTS)
            .filter(|slot| self.plain.files[*slot].is_some())
            .collect();
        if open.is_empty() || self.rng.one_in(50) {
            return self.any_slot();
        }
        self.rng.pick(&open)
    }

    /// Returns the size of a slot's file, for choosing offsets.
    fn len(&self, slot: usize) -> u64 {
        let file = self.plain.files[slot].as_ref();
        file.map_or(0, |file| file.metadata().unwrap().len())
    }

    /// Returns a range in or near the file: around its end, aligned to blocks or not.
    fn range(&mut self, slot: usize) -> (u64, usize) {
        const SIZES: [usize; 14] = [
            1, 3, 100, 511, 4095, 4096, 4097, 8191, 8192, 8193, 20_000, 65_536, 200_001, 1_100_000,
        ];
        let len = self.len(slot);
        let mut at = match self.rng.below(4) {
            0 => len,
            1 => self.rng.below(len + 30_000),
            2 => self.rng.below(len + 1) / 8192 * 8192,
            _ => self.rng.below(40_000),
        };
        at = at.min(FARTHEST);
        let mut size = self.rng.pick(&SIZES);
        if self.direct.contains(&slot) {
            at = at / 4096 * 4096;
            size = size.next_multiple_of(4096);
        }
        (at, size)
    }

    fn open(&mut self) {
        let (path, slot) = (self.path(), self.any_slot());
        let mut flags = self.rng.pick(&[
            OFlag::O_RDONLY,
            OFlag::O_RDWR,
            OFlag::O_RDWR,
            OFlag::O_WRONLY,
        ]);
        for (flag, odds) in [
            (OFlag::O_CREAT, 2),
            (OFlag::O_APPEND, 6),
            (OFlag::O_TRUNC, 8),
            (OFlag::O_EXCL | OFlag::O_CREAT, 8),
            (OFlag::O_DSYNC, 12),
            (OFlag::O_DIRECT, 10),
        ] {
            if self.rng.one_in(odds) {
                flags |= flag;
            }
        }
        if self.rng.one_in(20) {
            flags |= OFlag::O_DIRECTORY;
        }
        // A direct write at the end of the file is seldom aligned.
        if flags.contains(OFlag::O_APPEND) {
            flags -= OFlag::O_DIRECT;
        }
        // The effect of this combination depends on the file system.
        if flags.contains(OFlag::O_DIRECTORY) || flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            flags -= OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC;
        }
        let opened = self.both(format!("{slot} = open {path:?} {flags:?}"), |side| {
            let mode = Mode::from_bits_truncate(0o640);
            let file = nix::fcntl::open(&side.root.join(&path), flags, mode);
            side.files[slot] = None;
            side.files[slot] = Some(File::from(file?));
            Ok(())
        });
        self.direct.remove(&slot);
        if opened.is_ok() && flags.contains(OFlag::O_DIRECT) {
            self.direct.insert(slot);
        }
    }

    fn write(&mut self) {
        let slot = self.slot();
        let (at, size) = self.range(slot);
        let bytes = Aligned::new(&self.rng.bytes(size));
        let _ = self.both(format!("pwrite {slot} at {at}, {size} bytes"), |side| {
            side.file(slot)?.write_at(bytes.get(), at).map_err(errno)
        });
    }

    fn read(&mut self) {
        let slot = self.slot();
        let (at, size) = self.range(slot);
        let _ = self.both(format!("pread {slot} at {at}, {size} bytes"), |side| {
            let mut bytes = Aligned::new(&vec![0; size]);
            let n = side
                .file(slot)?
                .read_at(bytes.get_mut(), at)
                .map_err(errno)?;
            Ok(bytes.get()[..n].to_vec())
        });
    }

    fn truncate(&mut self) {
        let slot = self.slot();
        let (to, _) = self.range(slot);
        let _ = self.both(format!("ftruncate {slot} to {to}"), |side| {
            let file = side.file(slot)?;
            nix::unistd::ftruncate(file, to as i64)
        });
    }

    fn truncate_path(&mut self) {
        let path = self.path();
        let to = self.rng.below(30_000) as i64;
        let _ = self.both(format!("truncate {path:?} to {to}"), |side| {
            nix::unistd::truncate(&side.root.join(&path), to)
        });
    }

    fn fallocate(&mut self) {
        use FallocateFlags as F;
        let slot = self.slot();
        let (at, size) = self.range(slot);
        let keep = F::FALLOC_FL_KEEP_SIZE;
        let flags = self.rng.pick(&[
            F::empty(),
            keep,
            F::FALLOC_FL_PUNCH_HOLE | keep,
            F::FALLOC_FL_ZERO_RANGE,
            F::FALLOC_FL_ZERO_RANGE | keep,
        ]);
        let what = format!("fallocate {slot} {flags:?} at {at}, {size} bytes");
        let _ = self.both(what, |side| {
            nix::fcntl::fallocate(side.file(slot)?, flags, at as i64, size as i64)
        });
    }

    /// The file system may choose what it reports as a hole. But a hole must contain
    /// only zeros, and the end of the file must count as one.
    fn seek(&mut self) {
        let slot = self.slot();
        let (Some(mount), Some(plain)) = (&self.mount.files[slot], &self.plain.files[slot]) else {
            return;
        };
        let meta = plain.metadata().unwrap();
        if !meta.is_file() {
            return;
        }
        let at = self.rng.below(meta.len() + 5000) as i64;
        let path = format!("/proc/thread-self/fd/{}", plain.as_raw_fd());
        let mut bytes = fs::read(path).unwrap_or_default();
        let data = nix::unistd::lseek(mount, at, Whence::SeekData);
        let hole = nix::unistd::lseek(mount, at, Whence::SeekHole);
        self.history
            .push(format!("seek {slot} from {at}: {data:?} {hole:?}"));
        let len = meta.len() as i64;
        bytes.resize(len as usize, 0);
        let sound = if at >= len {
            data == Err(Errno::ENXIO) && hole == Err(Errno::ENXIO)
        } else {
            let next = data.unwrap_or(len);
            (at..=len).contains(&next)
                && bytes[at as usize..next as usize]
                    .iter()
                    .all(|byte| *byte == 0)
                && hole.is_ok_and(|hole| (at..=len).contains(&hole))
        };
        if !sound {
            self.fail(&format!(
                "of {len} bytes, from {at}: data {data:?}, hole {hole:?}"
            ));
        }
    }

    fn copy_range(&mut self) {
        let (from, to) = (self.slot(), self.slot());
        // Whether a copy is aligned depends on the file system.
        if self.direct.contains(&from) || self.direct.contains(&to) {
            return;
        }
        let ((start, size), (at, _)) = (self.range(from), self.range(to));
        let what = format!("copy {size} bytes from {from} at {start} to {to} at {at}");
        let _ = self.both(what, |side| {
            copy_range((side.file(from)?, start), (side.file(to)?, at), size)
        });
    }

    fn map(&mut self) {
        let slot = self.slot();
        let len = self.len(slot);
        if len == 0 {
            return;
        }
        let at = self.rng.below(len) / 4096 * 4096;
        let size = (1 + self.rng.below(20_000)).min(len - at) as usize;
        let bytes = self.rng.bytes(size);
        let sync = self.rng.one_in(2);
        let _ = self.both(
            format!("map {slot} at {at}, {size} bytes, sync {sync}"),
            |side| map_and_write(side.file(slot)?, at, &bytes, sync),
        );
    }

    fn sync(&mut self) {
        let slot = self.slot();
        let how = self.rng.below(3);
        let _ = self.both(format!("sync {slot} {how}"), |side| match how {
            0 => side.file(slot)?.sync_all().map_err(errno),
            1 => side.file(slot)?.sync_data().map_err(errno),
            _ => sync_range(side.file(slot)?),
        });
    }

    fn close(&mut self) {
        let slot = self.slot();
        let _ = self.both(format!("close {slot}"), |side| {
            side.files[slot] = None;
            Ok(())
        });
    }

    fn attributes(&mut self) {
        let (path, slot) = (self.path(), self.slot());
        let _ = self.both(format!("stat {path:?}"), |side| {
            let meta = fs::symlink_metadata(side.root.join(&path)).map_err(errno)?;
            let may = nix::unistd::access(&side.root.join(&path), AccessFlags::W_OK);
            Ok((facts(&meta), may))
        });
        let _ = self.both(format!("fstat {slot}"), |side| {
            Ok(facts(&side.file(slot)?.metadata().map_err(errno)?))
        });
        let _ = self.both("statfs".into(), |side| {
            let stat = nix::sys::statvfs::statvfs(&side.root)?;
            Ok((stat.block_size(), stat.name_max(), stat.blocks()))
        });
    }

    fn rename(&mut self) {
        let (from, to) = (self.path(), self.path());
        let flags = self.rng.pick(&[
            RenameFlags::empty(),
            RenameFlags::empty(),
            RenameFlags::RENAME_NOREPLACE,
            RenameFlags::RENAME_EXCHANGE,
        ]);
        let _ = self.both(format!("rename {from:?} {to:?} {flags:?}"), |side| {
            let (from, to) = (side.root.join(&from), side.root.join(&to));
            nix::fcntl::renameat2(
                nix::fcntl::AT_FDCWD,
                &from,
                nix::fcntl::AT_FDCWD,
                &to,
                flags,
            )
        });
    }

    fn remove(&mut self) {
        let path = self.path();
        let dir = self.rng.one_in(3);
        let _ = self.both(format!("remove {path:?}, dir {dir}"), |side| {
            let path = side.root.join(&path);
            if dir {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            }
            .map_err(errno)
        });
    }

    fn make(&mut self) {
        let (path, other) = (self.path(), self.path());
        let what = self.rng.below(4);
        let _ = self.both(format!("make {what} {path:?} {other:?}"), |side| {
            let (path, other) = (side.root.join(&path), side.root.join(&other));
            match what {
                0 | 1 => nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o750)),
                2 => nix::unistd::linkat(
                    nix::fcntl::AT_FDCWD,
                    &other,
                    nix::fcntl::AT_FDCWD,
                    &path,
                    LinkatFlags::empty(),
                ),
                _ => std::os::unix::fs::symlink("somewhere", path).map_err(errno),
            }
        });
    }

    fn change_attributes(&mut self) {
        let path = self.path();
        let what = self.rng.below(3);
        let number = self.rng.below(1 << 31);
        let _ = self.both(format!("change {what} of {path:?} by {number}"), |side| {
            let path = side.root.join(&path);
            match what {
                0 => {
                    let mode = 0o700 | (number as u32 & 0o077);
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(errno)
                }
                1 => nix::unistd::fchownat(
                    nix::fcntl::AT_FDCWD,
                    &path,
                    None,
                    Some((number as u32 % 3).into()),
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                ),
                _ => nix::sys::stat::utimensat(
                    nix::fcntl::AT_FDCWD,
                    &path,
                    &TimeSpec::UTIME_OMIT,
                    &TimeSpec::new(number as i64, 123_456_789),
                    UtimensatFlags::NoFollowSymlink,
                ),
            }
        });
    }

    fn list(&mut self) {
        let path = self.path();
        let _ = self.both(format!("list {path:?}"), |side| {
            let mut names = Vec::new();
            for entry in fs::read_dir(side.root.join(&path)).map_err(errno)? {
                let entry = entry.map_err(errno)?;
                names.push((
                    entry.file_name(),
                    entry.file_type().map_err(errno)?.is_dir(),
                ));
            }
            names.sort();
            Ok(names)
        });
    }

    /// Compares everything: names, attributes, contents.
    fn compare_trees(&mut self) {
        let tree = |root: &Path| {
            let mut all = Vec::new();
            walk(root, Path::new(""), &mut all);
            all
        };
        let (plain, mount) = (tree(&self.plain.root), tree(&self.mount.root));
        let (plain_names, mount_names): (BTreeSet<_>, BTreeSet<_>) =
            (plain.iter().collect(), mount.iter().collect());
        let odd: Vec<_> = plain_names.symmetric_difference(&mount_names).collect();
        if !odd.is_empty() {
            self.fail(&format!("only on one side: {odd:?}"));
        }
        for path in plain {
            let _ = self.both(format!("compare {path:?}"), |side| {
                let path = side.root.join(&path);
                let meta = fs::symlink_metadata(&path).map_err(errno)?;
                let content = meta.is_file().then(|| fs::read(&path).map_err(errno));
                Ok((facts(&meta), content, fs::read_link(&path).ok()))
            });
            self.history.pop();
        }
    }
}

/// The results of `stat` that must be the same.
#[derive(Debug)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    mtime: i64,
}

impl PartialEq for Facts {
    fn eq(&self, other: &Facts) -> bool {
        let exact = |f: &Facts| (f.mode, f.owner, f.links, f.size);
        exact(self) == exact(other) && (self.mtime - other.mtime).abs() <= TIME_SLACK
    }
}

fn facts(meta: &fs::Metadata) -> Facts {
    Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        // A directory's size and link count depend on the file system.
        links: if meta.is_dir() { 0 } else { meta.nlink() },
        size: if meta.is_dir() { 0 } else { meta.size() },
        mtime: meta.mtime(),
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(
        error
            .raw_os_error()
            .expect("an error from the operating system"),
    )
}

/// Page-aligned bytes, as `O_DIRECT` requires.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(content: &[u8]) -> Aligned {
        let mut bytes = vec![0; content.len() + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        bytes[start..start + content.len()].copy_from_slice(content);
        Aligned {
            bytes,
            start,
            len: content.len(),
        }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Lists everything below `inside`, without the tablespaces' links: they point into a
/// directory that a mount does not list, so a copy lacks it.
fn walk(root: &Path, inside: &Path, all: &mut Vec<PathBuf>) {
    let mut names: Vec<_> = fs::read_dir(root.join(inside))
        .unwrap_or_else(|e| panic!("{}: {e}", inside.display()))
        .map(|entry| inside.join(entry.unwrap().file_name()))
        .filter(|path| path != Path::new("pg_tblspc"))
        .collect();
    names.sort();
    for path in names {
        let is_dir = fs::symlink_metadata(root.join(&path)).unwrap().is_dir();
        all.push(path.clone());
        if is_dir {
            walk(root, &path, all);
        }
    }
}

fn files_below(root: &Path, inside: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    walk(root, inside, &mut all);
    all.retain(|path| fs::symlink_metadata(root.join(path)).unwrap().is_file());
    all
}
