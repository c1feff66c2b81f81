//! The hydration of a running clone, in a thread of the session's owner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::kept;
use super::pace::Pace;
use super::report::{Destination, Hydration, HydrationState};
use super::run::{self, Progress, Run};
use crate::catalog::Instance;
use crate::causes::sentence;
use crate::chain::Chain;
use crate::figures::human_bytes;
use crate::image::Image;
use crate::overlay::{Ino, Overlay};
use crate::session::locks::HeldLocks;
use crate::session::recovery::recovered::SIGNALS;

/// The estimated time of a cut-over besides that for the files, in milliseconds.
const CUT_OVER_MS: u64 = 500;

/// How many files are linked in a millisecond.
const FILES_PER_MS: u64 = 25;

/// Where a clone's backup is from.
pub struct Source {
    /// The instance.
    pub instance: Instance,
    /// The backup's chain.
    pub chain: Chain,
    /// The locks on the chain, if they are to be let go once it is no longer needed.
    pub locks: Option<HeldLocks>,
}

/// The hydration of a session's clone.
pub struct Hydrator {
    overlay: Arc<Overlay<Image>>,
    source: Arc<Source>,
    work: Mutex<Option<Work>>,
}

struct Work {
    destination: Destination,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    begun: Instant,
    outcome: Arc<Mutex<Option<Outcome>>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Outcome {
    state: HydrationState,
    error: Option<String>,
    took: Duration,
}

impl Hydrator {
    /// Creates a hydrator that does nothing yet.
    #[must_use]
    pub fn new(overlay: Arc<Overlay<Image>>, source: Source) -> Self {
        Self {
            overlay,
            source: Arc::new(source),
            work: Mutex::default(),
        }
    }

    /// Starts hydrating, at that many bytes per second if given, for a data directory at
    /// `destination`, or at the one that is known from before. If it is running already,
    /// it goes on as it was.
    ///
    /// # Errors
    /// Returns a sentence if the clone cannot become a data directory, or if its diff
    /// has no room for the rest of the backup.
    pub fn start(
        &self,
        rate: Option<u64>,
        destination: Option<Destination>,
    ) -> Result<Hydration, String> {
        let mut work = self.work();
        let known = work.as_ref().map(|work| work.destination.clone());
        let Some(destination) = destination.or(known) else {
            return Err("no data directory is known; name it with --to DIR".to_owned());
        };
        let ended = |work: &Work| work.outcome().map(|outcome| outcome.state);
        match work.as_ref().map(ended) {
            None | Some(Some(HydrationState::Stopped | HydrationState::Failed)) => {
                self.check()?;
                *work = Some(self.begin(rate, destination)?);
            }
            Some(None | Some(HydrationState::Running | HydrationState::Complete)) => {
                if let Some(work) = work.as_mut() {
                    work.destination = destination;
                }
            }
        }
        drop(work);
        self.report().ok_or_else(|| "it did not start".to_owned())
    }

    /// Stops, and waits until it has. What it has brought in stays.
    pub fn stop(&self) {
        let thread = self.work().as_mut().and_then(|work| {
            work.stop.store(true, Ordering::Relaxed);
            work.thread.take()
        });
        if let Some(thread) = thread {
            // A panic in it has already been printed.
            let _ = thread.join();
        }
    }

    /// Returns how far it is; `None` if it was never started.
    #[must_use]
    pub fn report(&self) -> Option<Hydration> {
        let work = self.work();
        work.as_ref().map(Work::report)
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a clone that has not finished recovery, and a diff without room.
    fn check(&self) -> Result<(), String> {
        for name in SIGNALS {
            if self.overlay.lookup(Ino::ROOT, name.as_ref()).is_ok() {
                return Err(format!(
                    "the clone has not finished its recovery ({name} exists); promote it first \
                     (SELECT pg_promote()), or start it with recovery.action = \"promote\""
                ));
            }
        }
        let left = self.overlay.unhydrated().map_err(|e| sentence(&e))?;
        let needed: u64 = left.iter().map(|file| file.bytes).sum();
        let needed = needed.saturating_add(run::RESERVE);
        let free = match self.overlay.free_bytes() {
            Ok(Some(free)) => free,
            Ok(None) => return Err("it is mounted read-only".to_owned()),
            Err(error) => return Err(sentence(&error)),
        };
        match needed > free {
            true => Err(format!(
                "the rest of the backup and some room for the clone's own writes take up to {}, and \
                 the file system of the diff has {} free; make room there",
                human_bytes(needed),
                human_bytes(free)
            )),
            false => Ok(()),
        }
    }

    fn begin(&self, rate: Option<u64>, destination: Destination) -> Result<Work, String> {
        let progress = Arc::new(Progress::default());
        let stop = Arc::new(AtomicBool::new(false));
        let outcome = Arc::new(Mutex::default());
        let begun = Instant::now();
        let (overlay, shared, ended) = (self.overlay.clone(), progress.clone(), outcome.clone());
        let (stopped, source) = (stop.clone(), self.source.clone());
        let work = move || {
            let goes_on = || !stopped.load(Ordering::Relaxed);
            let (state, error) = hydrate(&overlay, &shared, rate, &goes_on);
            if state == HydrationState::Complete {
                source.let_go(&overlay);
            }
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            *ended = Some(Outcome {
                state,
                error,
                took: begun.elapsed(),
            });
        };
        let thread = thread::Builder::new()
            .name("hydrator".to_owned())
            .spawn(work);
        Ok(Work {
            destination,
            progress,
            stop,
            begun,
            outcome,
            thread: Some(thread.map_err(|e| format!("cannot start a thread: {e}"))?),
        })
    }
}

fn hydrate(
    overlay: &Overlay<Image>,
    progress: &Progress,
    rate: Option<u64>,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> (HydrationState, Option<String>) {
    let counters = overlay.counters();
    let activity = || counters.reads.get() + counters.writes.get() + counters.fsyncs.get();
    let hydration = Run::new(overlay, progress, goes_on);
    match hydration.all(1, &|| Pace::beside(&activity, rate)) {
        Ok(true) => (HydrationState::Complete, None),
        Ok(false) => (HydrationState::Stopped, None),
        Err(error) => {
            let reason = hydration.reason(&error);
            tracing::error!("the clone cannot be hydrated: {reason}");
            (HydrationState::Failed, Some(reason))
        }
    }
}

impl Source {
    /// Keeps in the diff what is still needed of the catalog, and lets the locks go.
    fn let_go(&self, overlay: &Overlay<Image>) {
        let Some(diff) = overlay.layer() else { return };
        if overlay.passes_through() {
            // No file is whole before the mount ends, and all are checked once more then.
            tracing::info!(
                "the diff has all of the backup; the cut-over needs the catalog once more"
            );
            return;
        }
        let kept = match diff.keeps_catalog() {
            Ok(true) => Ok(()),
            Ok(false) => kept::keep(diff, &self.instance, &self.chain),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = kept {
            tracing::warn!("the clone still needs the catalog: {}", sentence(&error));
            return;
        }
        tracing::info!("the diff has all of the backup; the clone no longer needs the catalog");
        if let Some(Err(error)) = self.locks.as_ref().map(HeldLocks::release) {
            tracing::warn!("cannot release the read locks: {}", sentence(&error));
        }
    }
}

impl Work {
    fn outcome(&self) -> Option<Outcome> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.clone()
    }

    fn report(&self) -> Hydration {
        let outcome = self.outcome();
        let get = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        let progress = &self.progress;
        let (files, bytes) = (get(&progress.files), get(&progress.bytes));
        let state = outcome
            .as_ref()
            .map_or(HydrationState::Running, |o| o.state);
        let left = |all: u64, done: u64| match state {
            HydrationState::Complete => 0,
            _ => all.saturating_sub(done),
        };
        let bytes_done = get(&progress.bytes_done);
        let bytes_left = left(bytes, bytes_done);
        let took = outcome
            .as_ref()
            .map_or_else(|| self.begun.elapsed(), |o| o.took);
        let rate = bytes_done as f64 / took.as_secs_f64().max(0.001);
        let seconds = (bytes_done > 0).then(|| (bytes_left as f64 / rate).ceil() as u64);
        Hydration {
            destination: self.destination.clone(),
            state,
            files,
            files_left: left(files, get(&progress.files_done)),
            bytes,
            bytes_left,
            bytes_per_second: rate as u64,
            seconds_left: seconds.filter(|_| state == HydrationState::Running),
            cut_over_milliseconds: CUT_OVER_MS.saturating_add(files / FILES_PER_MS),
            error: outcome.and_then(|outcome| outcome.error),
        }
    }
}
