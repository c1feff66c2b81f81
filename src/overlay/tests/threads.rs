//! Many threads at once: no deadlock, no lost write.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::disk::Rng;
use super::support::{BS, MemLower, open_in, pattern};
use crate::overlay::{Ino, Overlay, OverlayError, RenameMode};

const RUN: Duration = Duration::from_millis(1200);
const WATCHDOG: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;
const BLOCKS: usize = 40;

fn image() -> MemLower {
    let mut image = MemLower::new().dir("d");
    for worker in 0..WORKERS {
        image = image
            .file(&format!("own{worker}"), pattern(1, 0, BLOCKS * BS))
            .file(&format!("small{worker}"), pattern(2, 0, 2 * BS));
    }
    image.file("shared", pattern(3, 0, BLOCKS * BS))
}

/// Fails the test, instead of hanging, if `work` never ends.
fn watched(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let worker = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match ended.recv_timeout(WATCHDOG) {
        Err(RecvTimeoutError::Timeout) => panic!("deadlock: still running after {WATCHDOG:?}"),
        _ => worker.join().unwrap(),
    }
}

fn expect_race(result: Result<(), OverlayError>) {
    match result {
        Ok(()) | Err(OverlayError::NotFound | OverlayError::Exists) => {}
        Err(OverlayError::Io(e)) if e.raw_os_error() == Some(nix::libc::ENOENT) => {}
        Err(e) => panic!("{e}"),
    }
}

/// Writes to its own files, checking them, and modifies the shared ones.
struct Worker<'a> {
    overlay: &'a Overlay<MemLower>,
    number: usize,
    rng: Rng,
    own: Vec<u8>,
    small: Vec<u8>,
    stamp: u32,
}

impl Worker<'_> {
    fn write_own(&mut self) {
        let block = self.rng.below(BLOCKS as u64) as usize;
        self.stamp += 1;
        let bytes = pattern(self.stamp, (block * BS) as u64, BS);
        self.own[block * BS..(block + 1) * BS].copy_from_slice(&bytes);
        let ino = self.overlay.at(&format!("own{}", self.number)).unwrap();
        self.overlay.open(ino).unwrap();
        let before = self.overlay.bytes(ino).unwrap();
        self.overlay
            .write(ino, (block * BS) as u64, &bytes)
            .unwrap();
        if self.rng.below(4) == 0 {
            self.overlay.sync_file(ino).unwrap();
        }
        let after = self.overlay.bytes(ino).unwrap();
        self.overlay.release(ino);
        assert_eq!(before.len(), after.len());
        assert!(after == self.own, "a write of this thread is lost");
    }

    fn write_small(&mut self) {
        let ino = self.overlay.at(&format!("small{}", self.number)).unwrap();
        self.overlay.open(ino).unwrap();
        let data = self.overlay.passthrough(ino, true).unwrap();
        if self.rng.below(3) == 0 {
            self.stamp += 1;
            self.small = pattern(self.stamp, 0, 2 * BS);
            match data {
                Some(data) => data.write_all_at(&self.small, 0).unwrap(),
                None => self.overlay.write(ino, 0, &self.small).unwrap(),
            }
        }
        assert!(self.overlay.bytes(ino).unwrap() == self.small);
        self.overlay.release(ino);
    }

    fn cut_and_grow_own(&mut self) {
        let size = self.rng.below((BLOCKS * BS) as u64);
        let path = format!("own{}", self.number);
        // By path, as truncate(2) does, without opening it.
        let ino = self.overlay.at(&path).unwrap();
        self.overlay.set_len(ino, size).unwrap();
        self.overlay.set_len(ino, (BLOCKS * BS) as u64).unwrap();
        self.own[size as usize..].fill(0);
        assert!(self.overlay.bytes(ino).unwrap() == self.own);
    }

    fn stir(&mut self) {
        let names = ["a", "b", "c"];
        let name = OsStr::new(names[self.rng.below(3) as usize]);
        let other = OsStr::new(names[self.rng.below(3) as usize]);
        let dir = self.overlay.at("d").unwrap();
        match self.rng.below(5) {
            0 => expect_race(self.overlay.make(dir, name.to_str().unwrap()).map(|ino| {
                self.overlay.write(ino, 0, b"hello").unwrap();
                self.overlay.release(ino);
            })),
            1 => expect_race(self.overlay.unlink(dir, name)),
            2 => expect_race(
                self.overlay
                    .rename(dir, name, dir, other, RenameMode::Replace),
            ),
            3 => self.overlay.sync_names().unwrap(),
            _ => {
                let shared = self.overlay.at("shared").unwrap();
                let mut buf = vec![0; 3 * BS];
                let at = self.rng.below((BLOCKS * BS) as u64);
                self.overlay.read(shared, at, &mut buf).unwrap();
                self.overlay.write(shared, at, b"stirred").unwrap();
                self.overlay.sync_file(shared).unwrap();
            }
        }
    }

    fn run(mut self, until: Instant, rounds: &AtomicUsize) -> (Vec<u8>, Vec<u8>) {
        while Instant::now() < until {
            match self.rng.below(10) {
                0..4 => self.write_own(),
                4..6 => self.write_small(),
                6 => self.cut_and_grow_own(),
                _ => self.stir(),
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
        (self.own, self.small)
    }
}

fn everything_at_once(passthrough: bool, hydrated: bool) {
    let dir = tempfile::tempdir().unwrap();
    let overlay = open_in(image(), dir.path(), passthrough);
    let until = Instant::now() + RUN;
    let stop = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    let expected: Vec<(Vec<u8>, Vec<u8>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let worker = Worker {
                    overlay: &overlay,
                    number,
                    rng: Rng(number as u64),
                    own: pattern(1, 0, BLOCKS * BS),
                    small: pattern(2, 0, 2 * BS),
                    stamp: 1_000_000 * (number as u32 + 1),
                };
                let rounds = &rounds;
                scope.spawn(move || worker.run(until, rounds))
            })
            .collect();
        // The background work of a mount, only more often.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                overlay.sync_periodically().unwrap();
                overlay.sync_all().unwrap();
            }
        });
        scope.spawn(|| {
            while hydrated && !stop.load(Ordering::Relaxed) {
                hydrate(&overlay);
            }
        });
        let results = workers.into_iter().map(|w| w.join()).collect::<Vec<_>>();
        stop.store(true, Ordering::Relaxed);
        results.into_iter().map(Result::unwrap).collect()
    });
    assert!(rounds.into_inner() > 20, "the threads were hardly run");
    overlay.sync_all().unwrap();
    let names: Vec<_> = overlay
        .read_dir(overlay.at("d").unwrap())
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    drop(overlay);

    let overlay = open_in(image(), dir.path(), passthrough);
    for (number, (own, small)) in expected.iter().enumerate() {
        assert!(&overlay.contents(&format!("own{number}")).unwrap() == own);
        assert!(&overlay.contents(&format!("small{number}")).unwrap() == small);
    }
    let found = overlay.read_dir(overlay.at("d").unwrap()).unwrap();
    assert!(found.iter().map(|e| &e.name).eq(&names));
    let reachable: Vec<u64> = overlay
        .read_dir(Ino::ROOT)
        .unwrap()
        .iter()
        .chain(&found)
        .map(|e| e.ino.0)
        .collect();
    for ino in overlay
        .diff()
        .unwrap()
        .store()
        .inodes_with_content()
        .unwrap()
    {
        assert!(reachable.contains(&ino), "orphaned record of {ino}");
    }
}

/// Brings the image's files into the diff as a session does, one step of each at a time.
fn hydrate(overlay: &Overlay<MemLower>) {
    let left = overlay.unhydrated().unwrap();
    let inos: Vec<Ino> = left.iter().map(|file| file.ino).collect();
    for ino in &inos {
        overlay.hydrate(*ino, 0).unwrap();
    }
    overlay.record_hydrated(&inos).unwrap();
}

#[test]
fn everything_at_once_through_the_overlay() {
    watched(|| everything_at_once(false, false));
}

#[test]
fn everything_at_once_with_passthrough() {
    watched(|| everything_at_once(true, false));
}

#[test]
fn everything_at_once_while_it_is_hydrated() {
    watched(|| everything_at_once(false, true));
}

#[test]
fn everything_at_once_with_passthrough_while_it_is_hydrated() {
    watched(|| everything_at_once(true, true));
}
