//! Who waits for which list of tokens.

use crate::api::Key;
use crate::astro::listing::Key as ListKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Lists that are read at once: each connection takes half a megabyte while it reads one.
const LISTS: usize = 16;
/// How long a list has its place. One that the vendor does not answer must not keep others waiting for long.
const ANSWERED: Duration = Duration::from_secs(1);

/// Since when a resource waits, or waited.
type Since = HashMap<Arc<Key>, Instant>;

/// Those who wait, by the list.
pub(super) struct Waiting {
    all: Mutex<HashMap<ListKey, Since>>,
    /// Those whose list has come. It is good enough for them, however long its reading took: otherwise who needs a fresh one
    /// would wait for ever where lists take long.
    served: Mutex<Since>,
    places: Semaphore,
}

impl Waiting {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self {
            all: Mutex::default(),
            served: Mutex::default(),
            places: Semaphore::new(LISTS),
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
        // It is never closed.
        let place = self.places.acquire().await;
        let mut list = Box::pin(list);
        if tokio::time::timeout(ANSWERED, &mut list).await.is_err() {
            drop(place);
            list.await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn lists_are_read_a_few_at_a_time_and_those_without_an_answer_keep_nobody_waiting() {
        let waiting = Waiting::new();
        let asked = Instant::now();
        let unanswered = (0..LISTS).map(|_| waiting.read(pending()));
        let unanswered = futures::future::join_all(unanswered);
        let next = async {
            let mut begun = asked;
            waiting.read(async { begun = Instant::now() }).await;
            begun - asked
        };
        let waited = tokio::select! {
            biased;
            _ = unanswered => unreachable!("they are never answered"),
            waited = tokio::time::timeout(ANSWERED * 10, next) => waited.unwrap(),
        };
        assert!(waited >= ANSWERED, "{waited:?}");
    }
}
