//! What was fetched, in pieces, and what is on its way.
//!
//! A **Part** is what one request fetches: a run of pieces, up to the size that the
//! options allow. A **piece** is what is kept: 64 KiB at a multiple of that, or what a
//! file has left at its end. A reader of a few pages does not wait for a whole Part, and
//! a reader of everything does not make thousands of requests.

mod ahead;
mod flight;
mod run;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(super) use ahead::Readers;
pub(super) use flight::{Flight, Pilot};
use run::{Held, Key, Run, piece_of};

use super::counters::Counters;
use super::disk::{Disk, PIECE};
use super::fault::Fault;
use super::object::Object;
use super::options::RemoteOptions;
use super::requests::Requests;
use super::source::{Fetched, Wish};
use crate::cache::Cache;

/// What is on its way, by piece.
type Flights = HashMap<Key, Arc<Flight<Arc<Run>>>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Parts {
    requests: Arc<Requests>,
    counters: Arc<Counters>,
    runtime: Handle,
    pieces: Cache<Key, [u8]>,
    disk: Option<Arc<Disk>>,
    flights: Mutex<Flights>,
    /// How many requests for what nobody waits for yet may be made at a time.
    ahead: Arc<Semaphore>,
    /// The number of pieces in a Part.
    part: u32,
    /// The largest number of pieces fetched ahead of a reader.
    most_ahead: u32,
}

impl Parts {
    pub(super) fn new(
        requests: Arc<Requests>,
        counters: Arc<Counters>,
        runtime: Handle,
        disk: Option<Arc<Disk>>,
        options: &RemoteOptions,
    ) -> Self {
        let in_pieces = |bytes: u64| u32::try_from(bytes / PIECE).unwrap_or(u32::MAX).max(1);
        let part = in_pieces(options.part_size);
        // Some are left for those who wait.
        let ahead = (options.connections * 3 / 4).max(1);
        let flying = part.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
        Self {
            requests,
            counters,
            runtime,
            pieces: Cache::new(usize::try_from(options.memory).unwrap_or(usize::MAX)),
            disk,
            flights: Mutex::default(),
            ahead: Arc::new(Semaphore::new(ahead)),
            part,
            most_ahead: flying.min(in_pieces(options.memory / 4)),
        }
    }

    /// Reads from an object as much as fits and exists, and waits for what has to be
    /// fetched.
    pub(super) fn read(
        self: &Arc<Self>,
        object: &Arc<Object>,
        readers: &Readers,
        is_sequential: &AtomicBool,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, Fault> {
        let end = offset.saturating_add(buf.len() as u64).min(object.length);
        if offset >= end {
            return Ok(0);
        }
        let wanted = piece_of(offset)..piece_of(end - 1) + 1;
        let held = self.hold(object, wanted.clone(), None);
        let ahead = readers.note(
            wanted.clone(),
            object.pieces(),
            is_sequential.load(Ordering::Relaxed),
            (self.part, self.most_ahead),
        );
        self.fetch_ahead(object, ahead);
        let started = (held.iter().any(|held| !held.is_ready())).then(Instant::now);
        let mut filled = 0;
        for (piece, held) in wanted.zip(held) {
            let bytes = held.wait(piece)?;
            let start = u64::from(piece) * PIECE;
            let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let from = bytes.get(skip..).unwrap_or_default();
            let (_, rest) = buf.split_at_mut(filled);
            let count = from.len().min(rest.len());
            rest[..count].copy_from_slice(&from[..count]);
            filled += count;
        }
        if let Some(started) = started {
            self.counters.waited(started.elapsed());
        }
        Ok(filled)
    }

    /// Keeps what a request has brought from the beginning of a piece on.
    pub(super) async fn keep(&self, object: &Arc<Object>, offset: u64, bytes: &Bytes) {
        let run = Arc::new(Run::new(object, piece_of(offset), bytes));
        self.keep_run(object, &run);
        self.store(object, &run).await;
    }

    /// Forgets what there is of a range, so that it is fetched again.
    pub(super) fn forget(&self, object: &Object, range: Range<u64>) {
        let end = range.end.min(object.length);
        if range.start >= end {
            return;
        }
        let pieces = piece_of(range.start)..piece_of(end - 1) + 1;
        if let Some(disk) = &self.disk {
            disk.forget(object.on_disk(), pieces.clone());
        }
        for piece in pieces {
            self.pieces.remove(&object.key(piece));
        }
    }

    fn keep_run(&self, object: &Object, run: &Run) {
        for (piece, bytes) in (run.first..).zip(&run.pieces) {
            let key = object.key(piece);
            self.pieces.insert(key, Arc::clone(bytes), bytes.len());
        }
    }

    fn fetch_ahead(self: &Arc<Self>, object: &Arc<Object>, ahead: Range<u32>) {
        for first in ahead.clone().step_by(self.part as usize) {
            let Ok(permit) = Arc::clone(&self.ahead).try_acquire_owned() else {
                return;
            };
            let run = first..first.saturating_add(self.part).min(ahead.end);
            self.hold(object, run, Some(permit));
        }
    }

    /// Returns what there is of these pieces, after asking for those that are neither
    /// here nor on their way.
    fn hold(
        self: &Arc<Self>,
        object: &Arc<Object>,
        wanted: Range<u32>,
        mut permit: Option<OwnedSemaphorePermit>,
    ) -> Vec<Held> {
        let mut flights = self.lock();
        let mut held = Vec::with_capacity(wanted.len());
        let mut at = wanted.start;
        while at < wanted.end {
            match self.find(&flights, object, at) {
                Some(found) => {
                    held.push(found);
                    at += 1;
                }
                None => {
                    let is_missing = |piece: &u32| self.find(&flights, object, *piece).is_none();
                    let most = at.saturating_add(self.part).min(wanted.end);
                    let count = 1 + (at + 1..most).take_while(is_missing).count() as u32;
                    let (flight, pilot) = Flight::start();
                    for piece in at..at + count {
                        flights.insert(object.key(piece), Arc::clone(&flight));
                        held.push(Held::Flying(Arc::clone(&flight)));
                    }
                    self.launch(object, at..at + count, pilot, permit.take());
                    at += count;
                }
            }
        }
        held
    }

    /// Looks for a piece. What is under way is removed from the flights after it has come
    /// into the cache, so it is always in one of them.
    fn find(&self, flights: &Flights, object: &Object, piece: u32) -> Option<Held> {
        let key = object.key(piece);
        if let Some(flight) = flights.get(&key) {
            return Some(Held::Flying(Arc::clone(flight)));
        }
        self.pieces.get(&key).map(Held::Ready)
    }

    fn launch(
        self: &Arc<Self>,
        object: &Arc<Object>,
        run: Range<u32>,
        pilot: Pilot<Arc<Run>>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let (parts, object) = (Arc::clone(self), Arc::clone(object));
        self.runtime.spawn(async move {
            let landing = Landing {
                parts: &parts,
                object: &object,
                run: run.clone(),
            };
            let fetched = parts.fetch(&object, run).await.map(Arc::new);
            if let Ok(run) = &fetched {
                parts.keep_run(&object, run);
            }
            drop(landing);
            pilot.land(fetched);
            drop(permit);
        });
    }

    /// Brings pieces from the cache on disk or else over the network.
    async fn fetch(&self, object: &Arc<Object>, run: Range<u32>) -> Result<Run, Fault> {
        let Some(disk) = &self.disk else {
            return self.download(object, run).await;
        };
        if let Some(found) = self.look(disk, object, run.clone()).await {
            return Ok(found);
        }
        // Another process may be fetching the same. Whoever comes second finds it on disk.
        let _turn = disk.turn_of_piece(object.on_disk(), run.start).await;
        if let Some(found) = self.look(disk, object, run.clone()).await {
            return Ok(found);
        }
        let fetched = Arc::new(self.download(object, run).await?);
        self.store(object, &fetched).await;
        Ok(Arc::unwrap_or_clone(fetched))
    }

    /// Looks for pieces in the cache on disk; finds all of them, or none.
    async fn look(&self, disk: &Arc<Disk>, object: &Arc<Object>, run: Range<u32>) -> Option<Run> {
        let (disk, object) = (Arc::clone(disk), Arc::clone(object));
        let first = run.start;
        let read = move || disk.read(object.on_disk(), run);
        let found = self.runtime.spawn_blocking(read).await.ok()?;
        let pieces: Vec<Arc<[u8]>> = found
            .into_iter()
            .map(|piece| piece.map(Arc::from))
            .collect::<Option<_>>()?;
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.counters.found_on_disk(bytes);
        Some(Run { first, pieces })
    }

    /// Puts pieces into the cache on disk, if there is one.
    async fn store(&self, object: &Arc<Object>, run: &Arc<Run>) {
        let Some(disk) = self.disk.clone() else {
            return;
        };
        let (object, run) = (Arc::clone(object), Arc::clone(run));
        let write = move || {
            disk.write(object.on_disk(), run.first, &run.pieces);
            disk.tidy();
        };
        // It cannot fail in a way that matters.
        let _ = self.runtime.spawn_blocking(write).await;
    }

    async fn download(&self, object: &Object, run: Range<u32>) -> Result<Run, Fault> {
        let start = u64::from(run.start) * PIECE;
        let end = (u64::from(run.end) * PIECE).min(object.length);
        let wish = Wish::Only(object.version.clone());
        match self.requests.fetch(&object.path, start..end, &wish).await? {
            // Not every server heeds the condition.
            Fetched::Bytes {
                bytes,
                length,
                version,
            } if length == object.length && version == object.version => {
                Ok(Run::new(object, run.start, &bytes))
            }
            Fetched::Bytes { .. } | Fetched::Unchanged => Err(Fault::Changed),
        }
    }

    /// Locks the flights. Nothing panics half-way while they are locked.
    fn lock(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a run from the flights, however its task ends.
struct Landing<'a> {
    parts: &'a Parts,
    object: &'a Object,
    run: Range<u32>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.parts.lock();
        for piece in self.run.clone() {
            flights.remove(&self.object.key(piece));
        }
    }
}
