//! The store of a remote catalog: what its callers see, who wait in their own threads.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::{Builder, Handle, Runtime};

use super::counters::{Counters, Traffic};
use super::disk::{Disk, PIECE, Pieces};
use super::fault::Fault;
use super::file::RemoteFile;
use super::object::{Object, Objects, is_pinned};
use super::options::RemoteOptions;
use super::parts::{Flight, Parts, Pilot};
use super::requests::Requests;
use super::source::{Bucket, Fetched, Source, Version, Wish};
use crate::catalog::location::Address;
use crate::catalog::store::{Entry, Store, StoreFile, below, check_leads_down};
use crate::untrusted::Refused;

/// Threads of the runtime. They only pass on what arrives.
const THREADS: usize = 2;

/// How much of a file is fetched when it is opened and nothing is known about what will be
/// read: many files are not longer.
const FIRST: u64 = 4 * PIECE;

/// A catalog that is read over the network.
#[derive(Debug)]
pub struct RemoteStore {
    address: Address,
    options: RemoteOptions,
    shared: Arc<Shared>,
    /// Kept for as long as anybody reads; `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// What the tasks of the runtime use, too.
#[derive(Debug)]
struct Shared {
    requests: Arc<Requests>,
    counters: Arc<Counters>,
    objects: Objects,
    parts: Arc<Parts>,
    disk: Option<Arc<Disk>>,
    part_size: u64,
    /// Files that are being opened.
    opening: Mutex<HashMap<String, Opening>>,
}

type Opening = Arc<Flight<Arc<Object>>>;

impl RemoteStore {
    /// Prepares access to a catalog; nothing is sent yet.
    ///
    /// # Errors
    /// If the settings or the environment are contradictory, or the system refuses
    /// threads.
    pub fn new(address: &Address, options: &RemoteOptions) -> io::Result<Self> {
        let source: Box<dyn Source> = Box::new(Bucket::new(address, options)?);
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("catalog")
            .enable_all()
            .build()?;
        let counters = Arc::new(Counters::default());
        let requests = Arc::new(Requests::new(
            source,
            options.connections,
            options.timeout,
            Arc::clone(&counters),
        ));
        let disk = options.cache.as_ref();
        let disk = disk.map(|cache| Disk::open(cache, &address.to_string()));
        let disk = disk.transpose()?.map(Arc::new);
        let parts = Parts::new(
            Arc::clone(&requests),
            Arc::clone(&counters),
            runtime.handle().clone(),
            disk.clone(),
            options,
        );
        Ok(Self {
            address: address.clone(),
            options: options.clone(),
            shared: Arc::new(Shared {
                requests,
                counters,
                objects: Objects::new(),
                parts: Arc::new(parts),
                disk,
                part_size: options.part_size,
                opening: Mutex::default(),
            }),
            runtime: Some(runtime),
        })
    }

    /// Returns the store for a catalog: the one that this process already has, if it was
    /// opened with the same options and is in use.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn shared(address: &Address, options: &RemoteOptions) -> io::Result<Arc<Self>> {
        static STORES: Mutex<Vec<Weak<RemoteStore>>> = Mutex::new(Vec::new());
        // Nothing panics while it is locked.
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        let is_same = |store: &Arc<Self>| store.address == *address && store.options == *options;
        if let Some(store) = stores.iter().filter_map(Weak::upgrade).find(is_same) {
            return Ok(store);
        }
        let store = Arc::new(Self::new(address, options)?);
        stores.push(Arc::downgrade(&store));
        Ok(store)
    }

    /// Returns what was asked for since it was opened.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.traffic()
    }

    fn handle(&self) -> io::Result<&Handle> {
        let runtime = self.runtime.as_ref().map(Runtime::handle);
        runtime.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Makes a request, and waits for the answer.
    fn wait<T>(&self, request: impl Future<Output = Result<T, Fault>>) -> io::Result<T> {
        Ok(self.handle()?.block_on(request)?)
    }

    /// Finds out the version of a file, of which `wanted` is going to be read first. Who
    /// opens it at the same time waits for the same request.
    fn object(&self, path: &str, wanted: Range<u64>) -> io::Result<Arc<Object>> {
        if let Some(object) = self.shared.objects.find(path) {
            return Ok(object);
        }
        let handle = self.handle()?;
        let mut opening = self.shared.opening();
        if let Some(flight) = opening.get(path) {
            let flight = Arc::clone(flight);
            drop(opening);
            return Ok(flight.wait()?);
        }
        let (flight, pilot) = Flight::start();
        opening.insert(path.to_owned(), Arc::clone(&flight));
        drop(opening);
        handle.spawn(Arc::clone(&self.shared).open(path.to_owned(), wanted, pilot));
        Ok(flight.wait()?)
    }
}

impl Shared {
    async fn open(self: Arc<Self>, path: String, wanted: Range<u64>, pilot: Pilot<Arc<Object>>) {
        let opened = self.find_out(&path, wanted).await;
        self.opening().remove(&path);
        pilot.land(opened);
    }

    async fn find_out(&self, path: &str, wanted: Range<u64>) -> Result<Arc<Object>, Fault> {
        let start = wanted.start / PIECE * PIECE;
        let most = start.saturating_add(self.part_size.max(PIECE));
        let end = wanted.end.max(start + 1).min(most);
        let end = end.checked_next_multiple_of(PIECE).unwrap_or(end);
        let mut known = self.known(path, start).await;
        let mut _turn = None;
        if let (None, Some(disk)) = (&known, &self.disk) {
            // Another process may be about to find out the same.
            _turn = Some(disk.turn_of_file(path).await);
            known = self.known(path, start).await;
        }
        let wish = match &known {
            Some((version, _)) => Wish::Unless(version.clone()),
            None => Wish::Any,
        };
        let fetched = match self.requests.fetch(path, start..end, &wish).await {
            Err(Fault::Missing) => return Err(self.missing(path).await),
            fetched => fetched?,
        };
        match (fetched, known) {
            (
                Fetched::Bytes {
                    bytes,
                    length,
                    version,
                },
                _,
            ) => {
                let object = self.objects.note(path, length, version)?;
                self.parts.keep(&object, start, &bytes).await;
                self.remember(&object).await;
                Ok(object)
            }
            (Fetched::Unchanged, Some((version, length))) => {
                self.objects.note(path, length, version)
            }
            (Fetched::Unchanged, None) => Err(Fault::Changed),
        }
    }

    /// Tells what it means that a file of a backup does not exist: damage, unless the list
    /// of its directory has it. Then the server contradicts itself.
    async fn missing(&self, path: &str) -> Fault {
        let Some((dir, name)) = path.rsplit_once('/').filter(|_| is_pinned(path)) else {
            return Fault::Missing;
        };
        match self.requests.list(dir).await {
            Ok(entries) if entries.iter().any(|entry| entry.name == name) => {
                Fault::Refused("it does not exist, but is listed".to_owned())
            }
            Ok(_) | Err(Fault::Missing) => Fault::Missing,
            Err(fault) => fault,
        }
    }

    /// Returns what is known of a file that was in use before, if the cache on disk still
    /// has what is wanted of it first: then it only has to be found out whether that is
    /// still true.
    async fn known(&self, path: &str, offset: u64) -> Option<(Version, u64)> {
        let (disk, path) = (self.disk.clone()?, path.to_owned());
        let look = move || {
            let (version, length) = disk.version_of(&path)?;
            let pieces = Pieces {
                path: &path,
                version: &version,
            };
            let piece = u32::try_from(offset / PIECE).ok()?;
            let found = disk.read(pieces, piece..piece + 1);
            let has_it = found.iter().all(Option::is_some);
            has_it.then_some((version, length))
        };
        Handle::current().spawn_blocking(look).await.ok()?
    }

    async fn remember(&self, object: &Arc<Object>) {
        let Some(disk) = self.disk.clone() else {
            return;
        };
        let object = Arc::clone(object);
        let note = move || disk.note_version(&object.path, &object.version, object.length);
        let _ = Handle::current().spawn_blocking(note).await;
    }

    /// Locks the files that are being opened. Nothing panics half-way meanwhile.
    fn opening(&self) -> MutexGuard<'_, HashMap<String, Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for RemoteStore {
    fn name(&self, path: &Path) -> PathBuf {
        below(Path::new(&self.address.to_string()), path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let dir = text(dir)?;
        self.wait(self.shared.requests.list(dir))
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn StoreFile>> {
        self.open_at(file, 0..FIRST)
    }

    fn open_at(&self, file: &Path, wanted: Range<u64>) -> io::Result<Box<dyn StoreFile>> {
        let object = self.object(text(file)?, wanted)?;
        let parts = Arc::clone(&self.shared.parts);
        Ok(Box::new(RemoteFile::new(parts, object)))
    }

    /// Neither pinned nor kept: what is read as a whole are records that pg_probackup
    /// rewrites.
    fn read(&self, file: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let range = 0..limit.saturating_add(1);
        let request = self.shared.requests.fetch(text(file)?, range, &Wish::Any);
        match self.wait(request)? {
            Fetched::Bytes { length, .. } if length > limit => {
                Err(Refused::TooLarge { limit }.into())
            }
            Fetched::Bytes { bytes, .. } => Ok(bytes.into()),
            Fetched::Unchanged => Err(Fault::Changed.into()),
        }
    }

    fn keeps_copies(&self) -> bool {
        true
    }

    fn parallel(&self) -> usize {
        self.options.connections
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Nobody waits for what is still on its way.
            runtime.shutdown_background();
        }
    }
}

/// Returns a path that leads down from the root as text.
fn text(path: &Path) -> io::Result<&str> {
    check_leads_down(path)?;
    let unknown = || Fault::Refused("the name is not UTF-8".to_owned()).into();
    path.to_str().ok_or_else(unknown)
}
