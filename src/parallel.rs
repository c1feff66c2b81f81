//! Work on many things by several threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Calls `work` for each item, by at most `threads` threads, and returns the results in
/// the order of the items.
pub fn map<T: Sync, R: Send + Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let results: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        items.get(at).zip(results.get(at))
    };
    let run = || {
        while let Some((item, result)) = take() {
            result.get_or_init(|| work(item));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    let results = items.iter().zip(results);
    // Each item was done, or else the scope has passed on a panic.
    let result =
        |(item, result): (_, OnceLock<R>)| result.into_inner().unwrap_or_else(|| work(item));
    results.map(result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [0, 1, 3, 2000] {
            let doubled = map(&items, threads, |item| item * 2);
            assert!(doubled.iter().zip(&items).all(|(a, b)| *a == b * 2));
        }
        assert!(map(&[0; 0], 4, |item| *item).is_empty());
    }

    #[test]
    fn several_work_at_a_time() {
        let all = Barrier::new(4);
        map(&[(); 4], 4, |()| all.wait().is_leader());
    }
}
