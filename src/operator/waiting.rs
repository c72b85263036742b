//! Who waits for which list of tokens.

use super::observe::list_key;
use crate::api::{Key, WorkspaceTokenRotation};
use crate::astro::listing::Key as ListKey;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Lists that are read at once. One that the vendor does not answer must not keep others waiting for long.
const LISTS: usize = 128;

/// Those who wait, by the list.
pub(super) struct Waiting {
    all: Mutex<HashMap<ListKey, HashSet<Arc<Key>>>>,
    places: Semaphore,
}

impl Waiting {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            places: Semaphore::new(LISTS),
        }
    }

    /// Has a resource wait for its list; returns whether it is the first, so that the list has to be read.
    pub(super) fn join(&self, resource: &WorkspaceTokenRotation, key: &Arc<Key>) -> bool {
        let mut all = self.all();
        let waiting = all.entry(list_key(resource)).or_default();
        let is_first = waiting.is_empty();
        waiting.insert(key.clone());
        is_first
    }

    /// Waits until one more list may be read.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.places.acquire().await.ok()
    }

    /// Who waited for the list of this resource, now that its reading has ended.
    pub(super) fn end(&self, resource: &WorkspaceTokenRotation) -> HashSet<Arc<Key>> {
        let mut all = self.all();
        let waited = all.remove(&list_key(resource)).unwrap_or_default();
        if all.is_empty() {
            all.shrink_to_fit();
        }
        waited
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ListKey, HashSet<Arc<Key>>>> {
        // Each change is whole, even after a panic.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
