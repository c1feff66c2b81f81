//! Power loss at any moment: what was fsynced is there, nothing is invented, and the
//! next mount needs no repair.
//!
//! The guarantee is the one that PostgreSQL relies on. A sector written since the last
//! fsync may hold any state that the file has had since then; all others are exactly as
//! at the fsync. Names are as they were at one moment, at or after they were last made
//! durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;

use proptest::prelude::*;

use super::disk::{Disk, Rng};
use super::support::{BS, MemLower, options, pattern};
use crate::overlay::{FallocateMode, Ino, Lower, Overlay, OverlayError, RenameMode};

const NAMES: [&str; 7] = ["f0", "f1", "f2", "f3", "n0", "n1", "n2"];
const BASE_LENS: [usize; 4] = [3 * BS + 700, 2 * BS, 0, 12 * BS];

#[derive(Debug, Clone)]
enum Op {
    Write {
        name: usize,
        offset: u64,
        len: usize,
    },
    Truncate {
        name: usize,
        size: u64,
    },
    Zero {
        name: usize,
        offset: u64,
        len: u64,
    },
    /// A write by the kernel to a file that is open with `O_DSYNC`.
    WriteThrough {
        name: usize,
        offset: u64,
        len: usize,
    },
    Fsync(usize),
    SyncNames,
    Periodically,
    /// An fsync, then a pause until blocks are shrunk.
    Rest(usize),
    Create(usize),
    Unlink(usize),
    Rename {
        from: usize,
        to: usize,
    },
    /// Bring some blocks of the image into the diff.
    Hydrate {
        name: usize,
        from: u32,
    },
    /// The same, with bytes that were read from the image elsewhere.
    HydrateWith {
        name: usize,
        from: u64,
        len: usize,
    },
    /// Record what was brought in so far.
    Record,
    /// Save everything, unmount, and mount again.
    Remount,
    /// Power fails after this many more changes to the disk.
    CutAfter(u64),
    /// Power fails now.
    Cut,
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    // Mistakes are likely at the ends of blocks and in the sectors around them.
    let offset = prop_oneof![
        (0..14_u64).prop_map(|b| b * BS as u64),
        0..14 * BS as u64,
        (1..14_u64, 0..1024_u64).prop_map(|(b, d)| b * BS as u64 + d - 512),
    ];
    let len = prop_oneof![Just(BS), 1..3 * BS, Just(512)];
    prop_oneof![
        8 => (name.clone(), offset.clone(), len.clone())
            .prop_map(|(name, offset, len)| Op::Write { name, offset, len }),
        2 => (name.clone(), offset.clone(), len.clone())
            .prop_map(|(name, offset, len)| Op::WriteThrough { name, offset, len }),
        3 => (name.clone(), offset.clone()).prop_map(|(name, size)| Op::Truncate { name, size }),
        1 => (name.clone(), offset, len.clone())
            .prop_map(|(name, offset, len)| Op::Zero { name, offset, len: len as u64 }),
        4 => name.clone().prop_map(Op::Fsync),
        1 => Just(Op::SyncNames),
        1 => Just(Op::Periodically),
        4 => name.clone().prop_map(Op::Rest),
        2 => name.clone().prop_map(Op::Create),
        1 => name.clone().prop_map(Op::Unlink),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Op::Rename { from, to }),
        4 => (name.clone(), 0..13_u32).prop_map(|(name, from)| Op::Hydrate { name, from }),
        2 => (name.clone(), 0..13_u64, len.clone()).prop_map(|(name, block, len)| {
            Op::HydrateWith { name, from: block * BS as u64, len }
        }),
        2 => Just(Op::Record),
        1 => Just(Op::Remount),
        1 => (0..40_u64).prop_map(Op::CutAfter),
        1 => Just(Op::Cut),
    ]
}

type Names = BTreeMap<&'static str, usize>;

/// The states that are allowed after a power loss.
struct Model {
    /// Each file's contents since its last fsync, the current one last.
    files: HashMap<usize, Vec<Vec<u8>>>,
    /// The names since they were last made durable, the current ones last.
    names: Vec<Names>,
    /// Number of moments before `names` that are forgotten.
    forgotten: usize,
    /// The moment at which a file was last given a name.
    renamed: BTreeMap<usize, usize>,
    next_file: usize,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            files: HashMap::new(),
            names: vec![Names::new()],
            forgotten: 0,
            renamed: BTreeMap::new(),
            next_file: 0,
        };
        for (i, len) in BASE_LENS.into_iter().enumerate() {
            model.files.insert(i, vec![base(i, len)]);
            model.names[0].insert(NAMES[i], i);
            model.next_file = i + 1;
        }
        model
    }

    fn now(&self) -> &Names {
        self.names.last().unwrap()
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names)) {
        let mut names = self.now().clone();
        change(&mut names);
        self.names.push(names);
    }

    fn change_file(&mut self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let states = self.files.get_mut(&file).unwrap();
        let mut bytes = states.last().unwrap().clone();
        change(&mut bytes);
        states.push(bytes);
    }

    fn moment(&self) -> usize {
        self.forgotten + self.names.len() - 1
    }

    fn names_are_durable(&mut self) {
        self.names_are_durable_since(self.moment());
    }

    fn names_are_durable_since(&mut self, moment: usize) {
        let past = moment.saturating_sub(self.forgotten);
        self.names.drain(..past);
        self.forgotten += past;
    }

    fn file_is_durable(&mut self, file: usize) {
        let states = self.files.get_mut(&file).unwrap();
        states.drain(..states.len() - 1);
        if let Some(moment) = self.renamed.get(&file) {
            self.names_are_durable_since(*moment);
        }
    }

    /// Adopts the state after a power loss, if it is allowed.
    fn recover(&mut self, found: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        let mut reasons = Vec::new();
        for names in self.names.iter().rev() {
            match self.explain(names, found) {
                Ok(()) => {
                    for (name, file) in names {
                        self.files.insert(*file, vec![found[*name].clone()]);
                    }
                    self.forgotten = self.moment();
                    self.names = vec![names.clone()];
                    return Ok(());
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("\n"))
    }

    fn explain(&self, names: &Names, found: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        if !names.keys().copied().eq(found.keys().map(String::as_str)) {
            let found: Vec<_> = found.keys().collect();
            return Err(format!("names {found:?}, not {names:?}"));
        }
        for (name, file) in names {
            explain_bytes(&self.files[file], &found[*name]).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }
}

/// Checks that each sector is one that the file has had.
fn explain_bytes(states: &[Vec<u8>], found: &[u8]) -> Result<(), String> {
    if !states.iter().any(|state| state.len() == found.len()) {
        let lens: Vec<usize> = states.iter().map(Vec::len).collect();
        return Err(format!("length {}, never among {lens:?}", found.len()));
    }
    for (index, sector) in found.chunks(512).enumerate() {
        let at = index * 512;
        // After the end of a state come the zeros of a file that grew.
        let fits = |state: &Vec<u8>| {
            let had = state.get(at..).unwrap_or_default();
            let had = &had[..had.len().min(sector.len())];
            sector.starts_with(had) && sector[had.len()..].iter().all(|b| *b == 0)
        };
        if !states.iter().any(fits) {
            let zeros = sector.iter().all(|b| *b == 0);
            return Err(format!(
                "the sector at {at} (block {}, zeros: {zeros}) is none of {} states",
                at / BS,
                states.len()
            ));
        }
    }
    Ok(())
}

fn base(index: usize, len: usize) -> Vec<u8> {
    pattern(1_000_000 + index as u32, 0, len)
}

fn image() -> MemLower {
    let mut image = MemLower::new();
    for (i, len) in BASE_LENS.into_iter().enumerate() {
        image = image.file(NAMES[i], base(i, len));
    }
    image
}

struct Run {
    disk: Disk,
    overlay: Overlay<MemLower>,
    model: Model,
    rng: Rng,
    passthrough: bool,
    stamp: u32,
}

impl Run {
    fn new(seed: u64, passthrough: bool) -> Self {
        let disk = Disk::default();
        Self {
            overlay: mount(&disk, passthrough),
            disk,
            model: Model::new(),
            rng: Rng(seed),
            passthrough,
            stamp: 0,
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match self.apply(op) {
            Ok(()) if self.disk.is_off() => self.power_loss(),
            Ok(()) => Ok(()),
            Err(_) if self.disk.is_off() => self.power_loss(),
            Err(e) => Err(format!("{op:?}: {e}")),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), OverlayError> {
        match *op {
            Op::Write { name, offset, len } => self.with_file(name, |run, ino, file| {
                let data = run.overlay.passthrough(ino, true)?;
                let bytes = run.new_bytes(file, offset, len);
                match data {
                    Some(data) => Ok(data.write_all_at(&bytes, offset)?),
                    None => run.overlay.write(ino, offset, &bytes),
                }
            }),
            Op::WriteThrough { name, offset, len } => self.with_file(name, |run, ino, file| {
                let Some(data) = run.overlay.passthrough(ino, true)? else {
                    return Ok(());
                };
                run.overlay.keep_copy(ino)?;
                run.model.file_is_durable(file);
                let bytes = run.new_bytes(file, offset, len);
                data.write_all_at(&bytes, offset)?;
                data.sync_data()?;
                run.model.file_is_durable(file);
                Ok(())
            }),
            Op::Truncate { name, size } => self.with_file(name, |run, ino, file| {
                run.model
                    .change_file(file, |content| content.resize(size as usize, 0));
                run.overlay.set_len(ino, size)
            }),
            Op::Zero { name, offset, len } => self.with_file(name, |run, ino, file| {
                run.model.change_file(file, |content| {
                    let end = content.len().min((offset + len) as usize);
                    let from = end.min(offset as usize);
                    content[from..end].fill(0);
                });
                run.overlay
                    .fallocate(ino, offset, len, FallocateMode::PunchHole)
            }),
            Op::Fsync(name) => self.with_file(name, |run, ino, file| {
                run.overlay.sync_file(ino)?;
                run.model.file_is_durable(file);
                Ok(())
            }),
            Op::SyncNames => {
                self.overlay.sync_names()?;
                self.model.names_are_durable();
                Ok(())
            }
            Op::Periodically => {
                self.overlay.sync_periodically()?;
                self.model.names_are_durable();
                Ok(())
            }
            Op::Rest(name) => {
                self.apply(&Op::Fsync(name))?;
                for _ in 0..3 {
                    self.apply(&Op::Periodically)?;
                }
                Ok(())
            }
            Op::Create(name) => self.create(NAMES[name]),
            Op::Unlink(name) => self.unlink(NAMES[name]),
            Op::Rename { from, to } => self.rename(NAMES[from], NAMES[to]),
            // Neither changes what the tree shows.
            Op::Hydrate { name, from } => self.with_file(name, |run, ino, _| {
                run.overlay.hydrate(ino, from)?;
                Ok(())
            }),
            Op::HydrateWith { name, from, len } => self.with_file(name, |run, ino, _| {
                let Some(node) = ino.node() else {
                    return Ok(());
                };
                let mut bytes = vec![0; len];
                let count = run.overlay.lower().read_at(node, from, &mut bytes)?;
                run.overlay.hydrate_with(ino, from, &bytes[..count])?;
                Ok(())
            }),
            Op::Record => {
                let names = self.model.now().keys();
                let inos = names.map(|name| self.overlay.at(name));
                let inos = inos.collect::<Result<Vec<_>, _>>()?;
                self.overlay.record_hydrated(&inos)?;
                Ok(())
            }
            Op::Remount => self.remount(),
            Op::CutAfter(calls) => {
                self.disk.cut_after(calls);
                Ok(())
            }
            Op::Cut => {
                self.disk.cut_after(0);
                // The first change fails because power is off.
                let _ = self.disk.open();
                Ok(())
            }
        }
    }

    /// Generates bytes to write, and adds them to the model.
    fn new_bytes(&mut self, file: usize, offset: u64, len: usize) -> Vec<u8> {
        self.stamp += 1;
        let bytes = pattern(self.stamp, offset, len);
        self.model.change_file(file, |content| {
            let end = offset as usize + len;
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(&bytes);
        });
        bytes
    }

    fn with_file(
        &mut self,
        name: usize,
        work: impl FnOnce(&mut Self, Ino, usize) -> Result<(), OverlayError>,
    ) -> Result<(), OverlayError> {
        let Some(file) = self.model.now().get(NAMES[name]).copied() else {
            return Ok(());
        };
        let ino = self.overlay.at(NAMES[name])?;
        self.overlay.open(ino)?;
        let result = work(self, ino, file);
        self.overlay.release(ino);
        result
    }

    fn create(&mut self, name: &'static str) -> Result<(), OverlayError> {
        if self.model.now().contains_key(name) {
            return Ok(());
        }
        let file = self.model.next_file;
        self.model.next_file += 1;
        self.model.files.insert(file, vec![Vec::new()]);
        self.model.change_names(|names| {
            names.insert(name, file);
        });
        self.model.renamed.insert(file, self.model.moment());
        let ino = self.overlay.make(Ino::ROOT, name)?;
        self.overlay.release(ino);
        Ok(())
    }

    fn unlink(&mut self, name: &'static str) -> Result<(), OverlayError> {
        if !self.model.now().contains_key(name) {
            return Ok(());
        }
        self.model.change_names(|names| {
            names.remove(name);
        });
        self.overlay.unlink(Ino::ROOT, OsStr::new(name))
    }

    fn rename(&mut self, from: &'static str, to: &'static str) -> Result<(), OverlayError> {
        let Some(file) = self.model.now().get(from).copied().filter(|_| from != to) else {
            return Ok(());
        };
        self.model.change_names(|names| {
            names.remove(from);
            names.insert(to, file);
        });
        self.model.renamed.insert(file, self.model.moment());
        let (from, to) = (OsStr::new(from), OsStr::new(to));
        self.overlay
            .rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::Replace)
    }

    fn remount(&mut self) -> Result<(), OverlayError> {
        self.overlay.sync_all()?;
        self.model.names_are_durable();
        let files: Vec<usize> = self.model.files.keys().copied().collect();
        for file in files {
            self.model.file_is_durable(file);
        }
        // Drop the old one first: it holds the store.
        self.overlay = Overlay::new(image(), None, options(false))?;
        self.overlay = Overlay::new(image(), Some(self.disk.open()?), options(self.passthrough))?;
        Ok(())
    }

    fn power_loss(&mut self) -> Result<(), String> {
        self.disk.lose_power(&mut self.rng);
        self.overlay = mount(&self.disk, self.passthrough);
        let found = self.found()?;
        self.model.recover(&found)
    }

    fn found(&self) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let entries = self.overlay.read_dir(Ino::ROOT).unwrap();
        let files = entries
            .iter()
            .filter(|e| !matches!(e.name.to_str(), Some("." | "..")));
        files
            .map(|entry| {
                let name = entry.name.to_str().unwrap().to_owned();
                let bytes = self.overlay.bytes(entry.ino);
                let bytes = bytes.map_err(|e| format!("reading {name}: {e}"))?;
                Ok((name, bytes))
            })
            .collect()
    }

    /// Checks that the state in memory is the model's, and that the disk holds nothing
    /// without a name.
    fn finish(&mut self) -> Result<(), String> {
        let found = self.found()?;
        let names = self.model.now().clone();
        for (name, file) in &names {
            let now = self.model.files[file].last().unwrap();
            if found.get(*name) != Some(now) {
                return Err(format!("{name} is not what was written"));
            }
        }
        self.remount().map_err(|e| e.to_string())?;
        let inodes: BTreeSet<u64> = names
            .keys()
            .map(|name| self.overlay.at(name).unwrap().0)
            .collect();
        let stored = self.overlay.diff().unwrap().store().inodes_with_content();
        let stored: BTreeSet<u64> = stored.unwrap().into_iter().collect();
        if !stored.is_subset(&inodes) {
            return Err(format!("orphaned records: {stored:?} of {inodes:?}"));
        }
        // Lose power once more: nothing is volatile now.
        self.power_loss()
    }
}

fn mount(disk: &Disk, passthrough: bool) -> Overlay<MemLower> {
    Overlay::new(image(), Some(disk.open().unwrap()), options(passthrough)).unwrap()
}

fn run(ops: &[Op], seed: u64, passthrough: bool) -> Result<(), String> {
    let mut run = Run::new(seed, passthrough);
    for op in ops {
        run.step(op)?;
    }
    run.disk.cut_after(u64::MAX);
    run.finish()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_synced_is_lost_and_nothing_is_invented(
        ops in proptest::collection::vec(op(), 1..60),
        seed: u64,
        passthrough: bool,
    ) {
        if let Err(reason) = run(&ops, seed, passthrough) {
            return Err(TestCaseError::fail(reason));
        }
    }
}
