//! What is read once for all who ask for it at the same time, and shared for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Readings by key. May hold values, so it has no `Debug`.
pub struct Shared<K, V>(Mutex<HashMap<K, Place<V>>>);

/// One reading, locked while it is being made.
type Place<V> = Arc<tokio::sync::Mutex<Option<Reading<V>>>>;

/// What was read, and when its reading began.
#[derive(Clone)]
pub struct Reading<V> {
    /// What was read.
    pub value: V,
    began: Instant,
    took: Duration,
}

impl<V> Reading<V> {
    /// When its reading began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// How long the reading took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Since its reading ended.
    pub fn rested(&self) -> Duration {
        self.age().saturating_sub(self.took)
    }

    /// Since its reading began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Shared<K, V> {
    /// The reading of `key` if it `serves`; otherwise it is read anew. Of callers that come together one reads and the others
    /// share.
    pub async fn get(
        &self,
        key: &K,
        serves: impl FnOnce(&Reading<V>) -> bool,
        read: impl AsyncFnOnce() -> V,
    ) -> Reading<V> {
        let place = self.all().entry(key.clone()).or_default().clone();
        let mut place = place.lock().await;
        if let Some(reading) = place.as_ref().filter(|reading| serves(reading)) {
            return reading.clone();
        }
        let began = Instant::now();
        let value = read().await;
        let took = began.elapsed();
        place.insert(Reading { value, began, took }).clone()
    }

    /// The reading of `key` as far as there is one and it is not being read anew.
    pub fn known(&self, key: &K) -> Option<Reading<V>> {
        let place = self.all().get(key)?.clone();
        place.try_lock().ok()?.clone()
    }

    /// Forgets the readings that are not to stay; one that is being made does.
    pub fn retain(&self, stays: impl Fn(&K, &Reading<V>) -> bool) {
        let mut all = self.all();
        all.retain(|key, place| match place.try_lock() {
            Ok(reading) => reading.as_ref().is_some_and(|it| stays(key, it)),
            Err(_) => true,
        });
        all.shrink_to_fit();
    }

    fn all(&self) -> MutexGuard<'_, HashMap<K, Place<V>>> {
        // Each change is whole, even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
