//! What this process remembers of its own tries for a resource: a new process begins with none. Pure.

use crate::decide::requests::Requests;
use crate::reason::Blocked;
use jiff::{SignedDuration, Timestamp};

/// Rewrites that are remembered: from so many on the pauses between them are the longest.
const REMEMBERED: usize = 10;

/// The tries for one resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tries {
    /// Rewrites of its Secret, newest first.
    pub rewrites: Vec<Rewritten>,
    /// How often in a row something was changed while the operator worked on it.
    pub races: u32,
    /// When that was last.
    pub raced_at: Option<Timestamp>,
    /// What the last try that failed was to answer, and when that was.
    pub failed: Option<(Requests, Timestamp)>,
}

/// A rewrite of the Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewritten {
    /// When.
    pub at: Timestamp,
    /// What it was for: an edit of the spec or a new value is a reason to write anew, and no sign that the last write was
    /// undone.
    pub purpose: Purpose,
    /// What came of it.
    pub came: Came,
}

/// The generation of the spec, the rotation that the value is from, and the one that is kept out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Purpose {
    /// Of the resource.
    pub generation: Option<i64>,
    /// By the Secret's stamp.
    pub rotation_id: Option<String>,
    /// The rotation whose value must not be written any more.
    pub fence: Option<String>,
}

/// What came of a rewrite.
#[derive(Clone, Debug, PartialEq)]
pub enum Came {
    /// It was written.
    Written,
    /// It was written, and the API server's answer shows something else.
    Changed(Blocked),
    /// It was refused.
    Refused(Blocked),
    /// There was no value where it should be.
    NoValue,
}

impl Tries {
    /// Remembers a rewrite; returns whether it shows that a write of ours was undone.
    pub fn rewrote(&mut self, rewritten: Rewritten, quiet: SignedDuration) -> bool {
        let is_again = {
            let before = self.row(&rewritten.purpose, rewritten.at, quiet).next();
            before.is_some_and(|before| before.came == Came::Written)
        };
        let is_undone = is_again || matches!(rewritten.came, Came::Changed(_));
        self.rewrites.insert(0, rewritten);
        self.rewrites.truncate(REMEMBERED);
        is_undone
    }

    /// The rewrites for this purpose that followed one another without a long time of `quiet`, newest first.
    pub fn row(
        &self,
        purpose: &Purpose,
        now: Timestamp,
        quiet: SignedDuration,
    ) -> impl Iterator<Item = &Rewritten> {
        let mut later = now;
        self.rewrites.iter().take_while(move |it| {
            let gap = std::mem::replace(&mut later, it.at).duration_since(it.at);
            // A time that is to come was read from a clock that was wrong.
            it.purpose == *purpose && gap <= quiet && !gap.is_negative()
        })
    }

    /// Remembers that something was changed while the operator worked on it.
    pub fn raced(&mut self, at: Timestamp) {
        self.races = self.races.saturating_add(1);
        self.raced_at = Some(at);
    }

    /// Remembers that nothing was.
    pub fn went_well(&mut self) {
        (self.races, self.raced_at) = (0, None);
    }

    /// Remembers that a try failed, and which requests it was to answer: a new one is a reason to try again at once, and one
    /// that is only not answered yet is none.
    pub fn failed(&mut self, requests: Requests, at: Timestamp) {
        self.failed = Some((requests, at));
    }

    /// Whether these requests were there already when the last try failed.
    pub fn has_failed(&self, requests: &Requests) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|(failed, _)| failed == requests)
    }

    /// The time of the last one.
    pub fn last(&self) -> Option<Timestamp> {
        let rewrite = self.rewrites.first().map(|it| it.at);
        let failed = self.failed.as_ref().map(|(_, at)| *at);
        rewrite.max(self.raced_at).max(failed)
    }
}
