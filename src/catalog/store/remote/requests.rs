//! Requests with a limit to their number at a time, repeated while they may still succeed.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::counters::Counters;
use super::fault::Fault;
use super::source::{Answer, Fetched, Source, Wish};
use crate::catalog::store::Entry;

/// The pause before the first repetition; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A request that hangs gets this part of the time limit, so that it can be repeated.
const ATTEMPTS: u32 = 3;
/// During an outage, whether it is over is found out so many times in the time limit.
const PROBES: u32 = 30;

/// A source, and how it is asked.
#[derive(Debug)]
pub(super) struct Requests {
    source: Box<dyn Source>,
    permits: Semaphore,
    limit: Duration,
    counters: Arc<Counters>,
    outage: Mutex<Option<Outage>>,
}

/// A request has failed until its time limit, and none has succeeded since. Others would
/// fail in the same way, and each of them only after the same time.
#[derive(Debug)]
struct Outage {
    fault: Fault,
    /// When somebody may find out whether it is over.
    probe: Instant,
}

impl Requests {
    /// At most `connections` requests are made at a time, and each is repeated until
    /// `limit` is over.
    pub(super) fn new(
        source: Box<dyn Source>,
        connections: usize,
        limit: Duration,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            source,
            permits: Semaphore::new(connections),
            limit,
            counters,
            outage: Mutex::new(None),
        }
    }

    /// Lists a directory.
    pub(super) async fn list(&self, dir: &str) -> Result<Vec<Entry>, Fault> {
        self.ask(dir, || self.source.list(dir)).await
    }

    /// Fetches a range of a file.
    pub(super) async fn fetch(
        &self,
        file: &str,
        range: Range<u64>,
        wish: &Wish,
    ) -> Result<Fetched, Fault> {
        let ask = || -> Answer<'_, Fetched> {
            let (asked, range) = (self.source.fetch(file, range.clone(), wish.clone()), &range);
            Box::pin(async move { complete(asked.await?, range) })
        };
        let fetched = self.ask(file, ask).await?;
        if let Fetched::Bytes { bytes, .. } = &fetched {
            self.counters.received(bytes.len());
        }
        Ok(fetched)
    }

    async fn ask<'a, T>(
        &self,
        path: &str,
        request: impl Fn() -> Answer<'a, T>,
    ) -> Result<T, Fault> {
        let is_probe = self.enter()?;
        let deadline = Instant::now() + self.limit;
        let mut pause = FIRST_PAUSE;
        loop {
            let fault = match self.attempt(request()).await {
                Err(fault) if fault.may_pass() => fault,
                ended => {
                    *self.outage() = None;
                    return ended;
                }
            };
            if is_probe || Instant::now() + pause >= deadline {
                *self.outage() = Some(Outage {
                    fault: fault.clone(),
                    probe: Instant::now() + self.limit / PROBES,
                });
                return Err(fault);
            }
            tracing::debug!(path, "a request is repeated: {fault}");
            sleep(pause).await;
            self.counters.retried();
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Fails at once during an outage, unless it is time to find out whether it is over.
    /// Returns whether this is what the request is for.
    fn enter(&self) -> Result<bool, Fault> {
        let mut outage = self.outage();
        let Some(outage) = &mut *outage else {
            return Ok(false);
        };
        let now = Instant::now();
        if now < outage.probe {
            return Err(outage.fault.clone());
        }
        outage.probe = now + self.limit / ATTEMPTS;
        Ok(true)
    }

    /// Locks what is known of an outage; it is set by one assignment.
    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt<T>(&self, request: Answer<'_, T>) -> Result<T, Fault> {
        // Nobody closes it.
        let _permit = self.permits.acquire().await.ok();
        self.counters.requested();
        let limit = self.limit / ATTEMPTS;
        match timeout(limit, request).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Unreachable(format!(
                "no answer within {} s",
                limit.as_secs()
            ))),
        }
    }
}

/// Refuses an answer that has fewer bytes, or more, than the range and the file have.
fn complete(fetched: Fetched, range: &Range<u64>) -> Result<Fetched, Fault> {
    if let Fetched::Bytes { bytes, length, .. } = &fetched {
        let expected = range.end.min(*length).saturating_sub(range.start);
        if bytes.len() as u64 != expected {
            let found = bytes.len();
            return Err(Fault::Unreachable(format!(
                "an answer of {expected} bytes had {found}"
            )));
        }
    }
    Ok(fetched)
}
