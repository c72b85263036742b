//! Objects that are there and cannot be read: each is named once, and all are counted.

use crate::api::Key;
use std::collections::HashMap;
use std::sync::Arc;
use tracing::{info, warn};

/// Is told how many objects of a kind cannot be read.
pub type Count = Arc<dyn Fn(&'static str, usize) + Send + Sync>;

/// Those of one kind, with the resourceVersion that was reported.
pub(super) struct Unreadable {
    kind: &'static str,
    known: HashMap<Key, Option<String>>,
    count: Count,
}

impl Unreadable {
    /// None yet.
    pub(super) fn of(kind: &'static str, count: Count) -> Self {
        count(kind, 0);
        Self {
            kind,
            known: HashMap::new(),
            count,
        }
    }

    /// This version cannot be read, and `why`.
    pub(super) fn add(&mut self, key: &Key, version: Option<String>, why: &str) {
        if self.known.get(key) == Some(&version) {
            return;
        }
        let (kind, Key { namespace, name }) = (self.kind, key);
        warn!(
            kind,
            namespace, name, why, "cannot be read, and is left out until it can"
        );
        self.known.insert(key.clone(), version);
        (self.count)(kind, self.known.len());
    }

    /// It can be read now, or it is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        if self.known.remove(key).is_some() {
            let (kind, Key { namespace, name }) = (self.kind, key);
            info!(kind, namespace, name, "no longer left out");
            (self.count)(kind, self.known.len());
        }
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Key) -> bool) {
        self.known.retain(|key, _| stays(key));
        (self.count)(self.kind, self.known.len());
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }
}
