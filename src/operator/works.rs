//! What this process is doing for which resource and token right now, and what it remembers of what it did.

use crate::clock::now;
use crate::decide::evidence::{Held, Work};
use crate::decide::tries::Tries;
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rotations of a token that are remembered: as many as are counted within an interval.
const REMEMBERED: usize = 3;

/// What is being done.
#[derive(Clone, Default)]
pub struct Works(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    /// By the uid of the resource.
    works: HashMap<String, Work>,
    /// The tokens that are worked on: a resource may be deleted and created again meanwhile.
    tokens: HashSet<String>,
    /// When the last rotation ended that was not stored, by the uid of the resource.
    ended: HashMap<String, Timestamp>,
    /// When the last rotations of a token were begun, newest first.
    begun: HashMap<String, Vec<Timestamp>>,
    /// What was tried for a resource, by its uid.
    tries: HashMap<String, Tries>,
    /// What a look has found to be live in a Secret whose metadata does not show it, and when, by the uid of the resource.
    proven: HashMap<String, (Held, Timestamp)>,
    /// How many passes in a row had no evidence, and when the last of them was, by the uid of the resource.
    errors: HashMap<String, (u32, Timestamp)>,
}

/// Work that ends when this is dropped.
pub struct WorkGuard {
    works: Works,
    uid: String,
    token: String,
    is_stored: bool,
}

impl Works {
    /// What is being done for a resource.
    pub fn get(&self, uid: &str) -> Option<Work> {
        self.lock().works.get(uid).cloned()
    }

    /// When the last rotation for a resource ended, if it was not stored.
    pub fn ended(&self, uid: &str) -> Option<Timestamp> {
        self.lock().ended.get(uid).copied()
    }

    /// When the last rotations of a token were begun, newest first.
    pub fn begun(&self, token: &str) -> Vec<Timestamp> {
        self.lock().begun.get(token).cloned().unwrap_or_default()
    }

    /// What was tried for a resource.
    pub fn tries(&self, uid: &str) -> Tries {
        self.lock().tries.get(uid).cloned().unwrap_or_default()
    }

    /// Remembers a try for a resource; returns what was tried for it by now, and what `note` says.
    pub fn note<T>(&self, uid: &str, note: impl FnOnce(&mut Tries) -> T) -> (Tries, T) {
        let mut all = self.lock();
        let tries = all.tries.entry(uid.to_owned()).or_default();
        let said = note(tries);
        let after = tries.clone();
        if after == Tries::default() {
            all.tries.remove(uid);
        }
        (after, said)
    }

    /// Remembers what a look has found to be live in a Secret whose metadata does not show it, or that nothing is known of
    /// that any more.
    pub fn prove(&self, uid: &str, held: Option<Held>) {
        let mut all = self.lock();
        match held {
            Some(held) => drop(all.proven.insert(uid.to_owned(), (held, now()))),
            None => drop(all.proven.remove(uid)),
        }
    }

    /// What was found so, if that was not before `time`.
    pub fn proven(&self, uid: &str, time: Timestamp) -> Option<Held> {
        let all = self.lock();
        let found = all.proven.get(uid).filter(|(_, at)| *at >= time);
        found.map(|(held, _)| held.clone())
    }

    /// Remembers a pass that the API server gave no evidence for; returns how many there were in a row.
    pub fn pass_failed(&self, uid: &str) -> u32 {
        let mut all = self.lock();
        let (errors, at) = all.errors.entry(uid.to_owned()).or_insert((0, now()));
        (*errors, *at) = (errors.saturating_add(1), now());
        *errors
    }

    /// Remembers that a pass had evidence.
    pub fn pass_done(&self, uid: &str) {
        self.lock().errors.remove(uid);
    }

    /// Forgets what is from before `time`: nothing depends on it any more.
    pub fn forget_before(&self, time: Timestamp) {
        let mut all = self.lock();
        all.ended.retain(|_, ended| *ended >= time);
        all.begun.retain(|_, begun| begun.first() >= Some(&time));
        all.tries.retain(|_, tries| tries.last() >= Some(time));
        all.proven.retain(|_, (_, at)| *at >= time);
        all.errors.retain(|_, (_, at)| *at >= time);
    }

    /// Begins work on a token for a resource; `None` while there is some for either.
    pub fn begin(&self, uid: &str, token: &str) -> Option<WorkGuard> {
        let mut all = self.lock();
        if all.works.contains_key(uid) || !all.tokens.insert(token.to_owned()) {
            return None;
        }
        all.works.insert(uid.to_owned(), Work::Calling);
        all.ended.remove(uid);
        let begun = all.begun.entry(token.to_owned()).or_default();
        begun.insert(0, now());
        begun.truncate(REMEMBERED);
        Some(WorkGuard {
            works: self.clone(),
            uid: uid.to_owned(),
            token: token.to_owned(),
            is_stored: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // Each change is whole, even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkGuard {
    /// The value is in hand, and storing it failed; returns whether that is new.
    pub fn storing(&self, error: String) -> bool {
        let storing = Work::Storing { error };
        let before = self.works.lock().works.insert(self.uid.clone(), storing);
        before == Some(Work::Calling)
    }

    /// The value was stored.
    pub fn stored(&mut self) {
        self.is_stored = true;
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        let mut all = self.works.lock();
        all.works.remove(&self.uid);
        all.tokens.remove(&self.token);
        if !self.is_stored {
            all.ended.insert(self.uid.clone(), now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_look_has_proven_counts_for_a_while_and_until_it_is_taken_back() {
        let works = Works::default();
        let before = now();
        works.prove("uid", Some(Held::default()));
        assert_eq!(works.proven("uid", before), Some(Held::default()));
        let later = now() + jiff::SignedDuration::from_secs(9);
        assert_eq!(works.proven("uid", later), None);
        works.prove("uid", None);
        assert_eq!(works.proven("uid", before), None);
    }

    #[test]
    fn passes_without_evidence_are_counted_until_one_has_some() {
        let works = Works::default();
        assert_eq!([works.pass_failed("a"), works.pass_failed("a")], [1, 2]);
        assert_eq!(works.pass_failed("b"), 1);
        works.pass_done("a");
        assert_eq!([works.pass_failed("a"), works.pass_failed("b")], [1, 2]);
    }

    #[test]
    fn a_token_is_worked_on_once_for_whatever_resource() {
        let works = Works::default();
        let mut first = works.begin("uid", "token").unwrap();
        assert!(works.begin("uid", "other").is_none());
        assert!(works.begin("created again", "token").is_none());
        assert_eq!(works.get("uid"), Some(Work::Calling));
        assert!(first.storing("no".into()) && !first.storing("still no".into()));
        first.stored();
        drop(first);
        assert_eq!((works.get("uid"), works.ended("uid")), (None, None));
        drop(works.begin("created again", "token").unwrap());
        assert!(works.ended("created again").is_some());
    }
}
