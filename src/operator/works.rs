//! What this process is doing for which resource right now.

use crate::decide::evidence::Work;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is being done, by the uid of the resource.
#[derive(Clone, Default)]
pub struct Works(Arc<Mutex<HashMap<String, Work>>>);

/// Work that ends when this is dropped.
pub struct WorkGuard {
    works: Works,
    uid: String,
}

impl Works {
    /// What is being done for a resource.
    pub fn get(&self, uid: &str) -> Option<Work> {
        self.lock().get(uid).cloned()
    }

    /// Begins work; `None` while there is some already.
    pub fn begin(&self, uid: &str) -> Option<WorkGuard> {
        let mut all = self.lock();
        if all.contains_key(uid) {
            return None;
        }
        all.insert(uid.to_owned(), Work::Calling);
        Some(WorkGuard {
            works: self.clone(),
            uid: uid.to_owned(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Work>> {
        // Each change is one insert or remove, so the map is whole even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkGuard {
    /// The value is in hand, and storing it failed; returns whether that is new.
    pub fn storing(&self, error: String) -> bool {
        let storing = Work::Storing { error };
        let before = self.works.lock().insert(self.uid.clone(), storing);
        before == Some(Work::Calling)
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.works.lock().remove(&self.uid);
    }
}
