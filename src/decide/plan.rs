//! What to do: the plan for a resource, and what kept it from being carried out.

pub mod belief;
pub mod brake;
pub mod clocks;
pub mod rules;
pub mod wake;

#[cfg(test)]
mod tests;

use crate::api::Cause;
use crate::decide::evidence::{Held, Token};
use crate::decide::requests::Requests;
use crate::decide::schedule::Due;
use crate::reason::Blocked;
use jiff::{SignedDuration, Timestamp};

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing is to be done before `next`.
    Idle {
        /// The next due rotation.
        next: Option<Due>,
    },
    /// Look again at `until`.
    Wait {
        /// When.
        until: Timestamp,
        /// Why the Secret's value is in doubt; `None`: `Ready` keeps its truth.
        doubt: Option<Blocked>,
    },
    /// The vendor could not be asked: count a failure, come back at `until`.
    Retry {
        /// When.
        until: Timestamp,
        /// What stays undone.
        blocked: Blocked,
    },
    /// A person has to act first; it is looked at again all the same.
    Block(Blocked),
    /// Read Secret and vendor now, and plan again: only fresh evidence may rotate.
    Look,
    /// The Secret proves that the pending rotation is done: finish the bookkeeping.
    Settle,
    /// Rotate.
    Rotate(Box<Rotation>),
    /// Write the Secret anew from the value it (or its predecessor) holds.
    Rewrite {
        /// Where the value is, and the evidence to write.
        from: Box<Held>,
    },
}

/// What kept a planned step from being done.
#[derive(Clone, Debug, PartialEq)]
pub enum Setback {
    /// The resource changed under us: look again. Nothing was done.
    Raced,
    /// The API server gave no verdict: nothing was begun as far as is known, and evidence will tell.
    Unavailable {
        /// What it said, or why it said nothing.
        blocked: Blocked,
        /// Its own word on when to come back.
        retry_after: Option<SignedDuration>,
    },
    /// Nothing was begun, and a person has to fix it.
    Refused(Blocked),
    /// The vendor said no: nothing happened.
    Definite {
        /// The vendor's answer.
        blocked: Blocked,
        /// The vendor's own word on when to come back.
        retry_after: Option<SignedDuration>,
    },
    /// The vendor may have rotated: the intent stays.
    InDoubt(Blocked),
}

/// A rotation to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Why.
    pub cause: Cause,
    /// 1, or one more than the attempt it follows.
    pub attempt: i32,
    /// The token, as just read.
    pub token: Token,
    /// The requests it answers.
    pub requests: Requests,
    /// The target Secret's resourceVersion as just read; `None`: there is no Secret.
    pub secret_version: Option<String>,
}
