//! A result that is on its way, and those who wait for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::catalog::store::remote::fault::Fault;

/// A result that is on its way.
#[derive(Debug)]
pub struct Flight<T> {
    landed: Mutex<Option<Result<T, Fault>>>,
    signal: Condvar,
}

impl<T: Clone> Flight<T> {
    /// Starts one. It lands with [`Pilot::land`], or with an error when the pilot is
    /// dropped, so nobody waits for ever.
    pub fn start() -> (Arc<Self>, Pilot<T>) {
        let flight = Arc::new(Self {
            landed: Mutex::new(None),
            signal: Condvar::new(),
        });
        let pilot = Pilot(Some(Arc::clone(&flight)));
        (flight, pilot)
    }

    /// Whether its result is known.
    pub fn has_landed(&self) -> bool {
        self.lock().is_some()
    }

    /// Waits for its result.
    pub fn wait(&self) -> Result<T, Fault> {
        let mut landed = self.lock();
        loop {
            if let Some(result) = &*landed {
                return result.clone();
            }
            landed = (self.signal.wait(landed)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Locks the result. It is set by one assignment, so a poisoned lock is harmless.
    fn lock(&self) -> MutexGuard<'_, Option<Result<T, Fault>>> {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, result: Result<T, Fault>) {
        *self.lock() = Some(result);
        self.signal.notify_all();
    }
}

/// Whoever brings the result.
#[derive(Debug)]
pub struct Pilot<T: Clone>(Option<Arc<Flight<T>>>);

impl<T: Clone> Pilot<T> {
    /// Hands over the result.
    pub fn land(mut self, result: Result<T, Fault>) {
        if let Some(flight) = self.0.take() {
            flight.set(result);
        }
    }
}

impl<T: Clone> Drop for Pilot<T> {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take() {
            flight.set(Err(Fault::Unreachable(
                "the request was given up".to_owned(),
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn all_who_wait_get_the_result() {
        let (flight, pilot) = Flight::start();
        assert!(!flight.has_landed());
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| flight.wait())).collect();
            pilot.land(Ok(7));
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), Ok(7));
            }
        });
        assert!(flight.has_landed());
    }

    #[test]
    fn a_pilot_that_is_gone_leaves_nobody_waiting() {
        let (flight, pilot) = Flight::<u32>::start();
        drop(pilot);
        assert!(matches!(flight.wait(), Err(Fault::Unreachable(_))));
    }
}
