//! Who waits for which list of tokens.

use super::places::Places;
use crate::api::Key;
use crate::astro::listing::Key as ListKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lists that are read at once: each connection takes half a megabyte while it reads one.
const LISTS: usize = 16;

/// Since when a resource waits, or waited.
type Since = HashMap<Arc<Key>, Instant>;

/// Those who wait, by the list.
pub(super) struct Waiting {
    all: Mutex<HashMap<ListKey, Since>>,
    /// Those whose list has come. It is good enough for them, however long its reading took: otherwise who needs a fresh one
    /// would wait for ever where lists take long.
    served: Mutex<Since>,
    places: Places,
}

impl Waiting {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            served: Mutex::default(),
            places: Places::new(LISTS),
        }
    }

    /// Has a resource wait for a list; returns whether it is the first, so that the list has to be read.
    pub(super) fn join(&self, list: &ListKey, key: &Arc<Key>) -> bool {
        let mut all = lock(&self.all);
        let waiting = all.entry(list.clone()).or_default();
        let is_first = waiting.is_empty();
        waiting.entry(key.clone()).or_insert_with(Instant::now);
        is_first
    }

    /// Has a list read when there is a place for it.
    pub(super) async fn read(&self, list: impl Future<Output = ()>) {
        self.places.run(list).await;
    }

    /// Since when a resource has waited whose list has come; that is told once.
    pub(super) fn served(&self, key: &Arc<Key>) -> Option<Instant> {
        let mut served = lock(&self.served);
        let since = served.remove(key);
        if served.is_empty() {
            served.shrink_to_fit();
        }
        since
    }

    /// Who waited for this list, now that its reading has ended.
    pub(super) fn end(&self, list: &ListKey) -> Vec<Arc<Key>> {
        let mut all = lock(&self.all);
        let waited = all.remove(list).unwrap_or_default();
        if all.is_empty() {
            all.shrink_to_fit();
        }
        let keys = waited.keys().cloned().collect();
        lock(&self.served).extend(waited);
        keys
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is whole, even after a panic.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
