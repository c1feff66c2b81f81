//! A least-recently-used cache, bounded by weight, shared by threads.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by key. Once their weights add up to more than the capacity, the least recently
/// used are dropped first. The newest value is always kept, however heavy: if it were
/// dropped, the next call would only have to build it again.
#[derive(Debug)]
pub struct Cache<K, V: ?Sized> {
    capacity: usize,
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V: ?Sized> {
    slots: HashMap<K, Slot<V>>,
    /// Keys in the order of their last use.
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: usize,
}

#[derive(Debug)]
struct Slot<V: ?Sized> {
    value: Arc<V>,
    weight: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: ?Sized> Cache<K, V> {
    pub fn new(capacity: usize) -> Self {
        let inner = Inner {
            slots: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            weight: 0,
        };
        Self {
            capacity,
            inner: Mutex::new(inner),
        }
    }

    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let inner = &mut *self.lock();
        let slot = inner.slots.get_mut(key)?;
        inner.clock += 1;
        inner.order.remove(&slot.used);
        inner.order.insert(inner.clock, *key);
        slot.used = inner.clock;
        Some(Arc::clone(&slot.value))
    }

    pub fn insert(&self, key: K, value: Arc<V>, weight: usize) {
        let inner = &mut *self.lock();
        inner.clock += 1;
        let slot = Slot {
            value,
            weight,
            used: inner.clock,
        };
        inner.weight += weight;
        inner.order.insert(inner.clock, key);
        if let Some(before) = inner.slots.insert(key, slot) {
            inner.order.remove(&before.used);
            inner.weight -= before.weight;
        }
        while inner.weight > self.capacity && inner.order.len() > 1 {
            let oldest = inner.order.pop_first();
            if let Some(slot) = oldest.and_then(|(_, key)| inner.slots.remove(&key)) {
                inner.weight -= slot.weight;
            }
        }
    }

    /// Drops a value if it exists.
    pub fn remove(&self, key: &K) {
        let inner = &mut *self.lock();
        if let Some(slot) = inner.slots.remove(key) {
            inner.order.remove(&slot.used);
            inner.weight -= slot.weight;
        }
    }

    /// Drops all values.
    pub fn clear(&self) {
        let inner = &mut *self.lock();
        inner.slots.clear();
        inner.order.clear();
        inner.weight = 0;
    }

    /// Locks the cache. Nothing in here can panic half-way, so a poisoned lock is
    /// harmless.
    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(cache: &Cache<u32, u32>, keys: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let inner = cache.lock();
        keys.into_iter()
            .filter(|key| inner.slots.contains_key(key))
            .collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(30);
        for key in 1..=3 {
            cache.insert(key, Arc::new(key * 100), 10);
        }
        assert_eq!(cache.get(&1).as_deref(), Some(&100));
        cache.insert(4, Arc::new(400), 10);
        assert_eq!(held(&cache, 1..=4), [1, 3, 4]);
        assert_eq!(cache.get(&2), None);
    }

    #[test]
    fn weight_counts_and_the_newest_stays() {
        let cache = Cache::new(30);
        cache.insert(1, Arc::new(1), 10);
        cache.insert(2, Arc::new(2), 25);
        assert_eq!(held(&cache, 1..=2), [2]);
        cache.insert(3, Arc::new(3), 1000);
        assert_eq!(held(&cache, 1..=3), [3]);
        cache.insert(4, Arc::new(4), 1);
        assert_eq!(held(&cache, 1..=4), [4]);
    }

    #[test]
    fn a_key_again_replaces_its_value() {
        let cache = Cache::new(30);
        cache.insert(1, Arc::new(1), 20);
        cache.insert(1, Arc::new(2), 20);
        cache.insert(2, Arc::new(3), 10);
        assert_eq!(cache.get(&1).as_deref(), Some(&2));
        assert_eq!(held(&cache, 1..=2), [1, 2]);
    }

    #[test]
    fn what_is_dropped_weighs_nothing() {
        let cache = Cache::new(30);
        for key in [1, 2] {
            cache.insert(key, Arc::new(key), 15);
        }
        cache.remove(&1);
        cache.remove(&7);
        cache.insert(3, Arc::new(3), 15);
        assert_eq!(held(&cache, 1..=3), [2, 3]);
        cache.clear();
        assert_eq!(held(&cache, 1..=3), Vec::<u32>::new());
        cache.insert(4, Arc::new(4), 30);
        assert_eq!(cache.get(&4).as_deref(), Some(&4));
    }
}
