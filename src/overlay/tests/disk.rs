//! A disk that simulates power losses.
//!
//! Everything written is volatile until it is synced: sectors, sizes, directory
//! entries, and the pages of the metadata store. A power loss keeps or drops each
//! volatile item independently, in no order. Afterwards, handles opened before it fail,
//! and nothing more reaches the disk through them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::FallocateFlags;
use nix::libc::{EIO, ENOENT, ENOSPC, ENXIO};

use crate::diff::{DataFile, DataStat, Diff, Storage, StoreBackend, time_ns};

const SECTOR: u64 = 512;
type Sector = Box<[u8; SECTOR as usize]>;

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// A small random number generator: a seed must reproduce a test exactly.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[derive(Debug, Default)]
struct Object {
    len: u64,
    sectors: HashMap<u64, Sector>,
    /// Sizes that the file may have after a power loss, besides `len`.
    old_lens: Vec<u64>,
    /// Possible contents of an unsynced sector after a power loss; `None` is zeros.
    old_sectors: BTreeMap<u64, Vec<Option<Sector>>>,
    mtime_ns: i64,
}

impl Object {
    fn set_sector(&mut self, index: u64, sector: Option<Sector>) {
        let old = match sector {
            Some(sector) => self.sectors.insert(index, sector),
            None => self.sectors.remove(&index),
        };
        self.old_sectors.entry(index).or_default().push(old);
    }

    fn touch(&mut self) {
        self.mtime_ns = time_ns(std::time::SystemTime::now());
    }

    fn set_len(&mut self, len: u64) {
        self.touch();
        if len == self.len {
            return;
        }
        self.old_lens.push(self.len);
        if len < self.len {
            self.zero(len, self.len);
        }
        self.len = len;
    }

    fn zero(&mut self, from: u64, to: u64) {
        let first = from / SECTOR;
        let beyond: Vec<u64> = self
            .sectors
            .keys()
            .copied()
            .filter(|s| *s >= first && s * SECTOR < to)
            .collect();
        for index in beyond {
            let start = index * SECTOR;
            let mut sector = self.sectors[&index].clone();
            for (i, byte) in sector.iter_mut().enumerate() {
                if (from..to).contains(&(start + i as u64)) {
                    *byte = 0;
                }
            }
            self.set_sector(index, sector.iter().any(|b| *b != 0).then_some(sector));
        }
    }

    fn write(&mut self, offset: u64, buf: &[u8]) {
        let end = offset + buf.len() as u64;
        if end > self.len {
            self.old_lens.push(self.len);
            self.len = end;
        }
        for index in offset / SECTOR..end.div_ceil(SECTOR) {
            let start = index * SECTOR;
            let from = start.max(offset);
            let to = (start + SECTOR).min(end);
            let mut sector = self
                .sectors
                .get(&index)
                .cloned()
                .unwrap_or_else(|| Box::new([0; SECTOR as usize]));
            sector[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&buf[(from - offset) as usize..(to - offset) as usize]);
            self.set_sector(index, Some(sector));
        }
        self.touch();
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (i, byte) in buf[..n].iter_mut().enumerate() {
            let at = offset + i as u64;
            let sector = self.sectors.get(&(at / SECTOR));
            *byte = sector.map_or(0, |s| s[(at % SECTOR) as usize]);
        }
        n
    }

    fn sync(&mut self) {
        self.old_lens.clear();
        self.old_sectors.clear();
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        for (index, mut versions) in std::mem::take(&mut self.old_sectors) {
            versions.push(self.sectors.get(&index).cloned());
            match rng.pick(&versions).clone() {
                Some(sector) => self.sectors.insert(index, sector),
                None => self.sectors.remove(&index),
            };
        }
        let mut lens = std::mem::take(&mut self.old_lens);
        lens.push(self.len);
        self.len = *rng.pick(&lens);
        self.zero(self.len, u64::MAX);
        self.sync();
    }
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<u64, Object>,
    next_object: u64,
    names: BTreeMap<u64, u64>,
    /// What an unsynced name may refer to after a power loss.
    old_names: BTreeMap<u64, Vec<Option<u64>>>,
    meta: Object,
    boot: u64,
    off: bool,
    /// Number of calls that still reach the disk before power is lost.
    calls_left: Option<u64>,
    /// Number of bytes by which files may still grow.
    room: Option<u64>,
    /// How often a data file was opened by name.
    opens: u64,
}

impl State {
    /// Counts a change. The change at which power fails is not made.
    fn change(&mut self, boot: u64) -> io::Result<()> {
        if self.off || boot != self.boot {
            return Err(os(EIO));
        }
        match &mut self.calls_left {
            Some(0) => {
                self.off = true;
                Err(os(EIO))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.room {
            Some(room) if *room < bytes => Err(os(ENOSPC)),
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The disk. Clones share its state.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a diff on this disk.
    pub fn open(&self) -> Result<Diff, crate::diff::DiffError> {
        let boot = self.state().boot;
        let disk = self.clone();
        let make = move || -> Box<dyn redb::StorageBackend> {
            Box::new(Meta {
                disk: disk.clone(),
                boot,
            })
        };
        let storage = Arc::new(Directory {
            disk: self.clone(),
            boot,
        });
        Diff::from_parts(StoreBackend::Custom(Box::new(make)), storage)
    }

    /// Makes power fail after this many more changes.
    pub fn cut_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Restores power, after a random part of what was volatile has reached the disk.
    pub fn lose_power(&self, rng: &mut Rng) {
        let mut state = self.state();
        let state = &mut *state;
        state.boot += 1;
        state.off = false;
        state.calls_left = None;
        for (ino, mut versions) in std::mem::take(&mut state.old_names) {
            versions.push(state.names.get(&ino).copied());
            match *rng.pick(&versions) {
                Some(object) => state.names.insert(ino, object),
                None => state.names.remove(&ino),
            };
        }
        let mut objects: Vec<_> = state.objects.iter_mut().collect();
        objects.sort_by_key(|(number, _)| **number);
        for (_, object) in objects {
            object.lose_power(rng);
        }
        state.meta.lose_power(rng);
        let named: Vec<u64> = state.names.values().copied().collect();
        state.objects.retain(|number, _| named.contains(number));
    }

    /// Limits how much files may still grow; `None` lifts the limit.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// Returns how often a data file was opened by name.
    pub fn opens(&self) -> u64 {
        self.state().opens
    }

    /// Returns the inodes that have a data file.
    pub fn data_files(&self) -> Vec<u64> {
        self.state().names.keys().copied().collect()
    }
}

struct Directory {
    disk: Disk,
    boot: u64,
}

impl Directory {
    fn file(&self, object: u64) -> Arc<dyn DataFile> {
        Arc::new(Data {
            disk: self.disk.clone(),
            boot: self.boot,
            object,
        })
    }
}

impl Storage for Directory {
    fn create(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        state.take_room(1)?;
        state.next_object += 1;
        let object = state.next_object;
        state.objects.insert(object, Object::default());
        let old = state.names.insert(ino, object);
        state.old_names.entry(ino).or_default().push(old);
        Ok(self.file(object))
    }

    fn open(&self, ino: u64) -> io::Result<Arc<dyn DataFile>> {
        let mut state = self.disk.state();
        state.opens += 1;
        let object = *state.names.get(&ino).ok_or_else(|| os(ENOENT))?;
        Ok(self.file(object))
    }

    fn remove(&self, ino: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        if let Some(old) = state.names.remove(&ino) {
            state.old_names.entry(ino).or_default().push(Some(old));
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.disk.data_files())
    }

    /// Makes existing names durable. Removals stay volatile, because nothing depends on
    /// their being durable.
    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        let state = &mut *state;
        state
            .old_names
            .retain(|ino, _| !state.names.contains_key(ino));
        Ok(())
    }

    fn sync_bytes(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        state.objects.values_mut().for_each(Object::sync);
        Ok(())
    }

    fn statvfs(&self) -> io::Result<nix::sys::statvfs::Statvfs> {
        Ok(nix::sys::statvfs::statvfs("/")?)
    }
}

struct Data {
    disk: Disk,
    boot: u64,
    object: u64,
}

impl Data {
    fn change<T>(&self, grows_to: u64, work: impl FnOnce(&mut Object) -> T) -> io::Result<T> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        let len = state.objects.get(&self.object).ok_or_else(|| os(EIO))?.len;
        state.take_room(grows_to.saturating_sub(len))?;
        Ok(work(
            state.objects.get_mut(&self.object).ok_or_else(|| os(EIO))?,
        ))
    }

    fn look<T>(&self, work: impl FnOnce(&Object) -> T) -> io::Result<T> {
        let state = self.disk.state();
        if state.boot != self.boot {
            return Err(os(EIO));
        }
        Ok(work(
            state.objects.get(&self.object).ok_or_else(|| os(EIO))?,
        ))
    }
}

impl DataFile for Data {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.look(|object| object.read(offset, buf))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset + buf.len() as u64, |object| {
            object.write(offset, buf)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(0, Object::sync)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(0, |object| object.set_len(len))
    }

    fn stat(&self) -> io::Result<DataStat> {
        self.look(|object| DataStat {
            len: object.len,
            mtime_ns: object.mtime_ns,
            blocks: object.sectors.len() as u64,
        })
    }

    fn set_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        self.change(0, |object| object.mtime_ns = mtime_ns)
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let keep = flags.contains(FallocateFlags::FALLOC_FL_KEEP_SIZE);
        let zeroes = flags.intersects(
            FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_ZERO_RANGE,
        );
        let end = offset + len;
        self.change(end, |object| {
            if zeroes {
                object.zero(offset, end.min(object.len));
                object.touch();
            }
            if !keep && end > object.len {
                object.set_len(end);
            }
        })
    }

    fn seek(&self, offset: u64, _: nix::unistd::Whence) -> io::Result<u64> {
        let len = self.stat()?.len;
        if offset < len {
            Ok(offset)
        } else {
            Err(os(ENXIO))
        }
    }

    fn opened(&self) -> io::Result<Option<Arc<std::fs::File>>> {
        Ok(None)
    }
}

#[derive(Debug)]
struct Meta {
    disk: Disk,
    boot: u64,
}

impl Meta {
    fn change(&self, grows_to: u64, work: impl FnOnce(&mut Object)) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.boot)?;
        let len = state.meta.len;
        state.take_room(grows_to.saturating_sub(len))?;
        work(&mut state.meta);
        Ok(())
    }
}

impl redb::StorageBackend for Meta {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().meta.len)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        if state.boot != self.boot || state.meta.read(offset, out) < out.len() {
            return Err(os(EIO));
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(len, |meta| meta.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.change(0, Object::sync)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(0, |meta| meta.write(offset, data))
    }
}
