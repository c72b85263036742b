//! What the operator would do with a resource now, and by which rules: from the evidence, by the operator's own plan. Pure.

use crate::api::Cause;
use crate::decide::evidence::{Observed, Stored, said};
use crate::decide::plan::rules::{Rule, after_look, explained};
use crate::decide::plan::{Plan, Setback};
use crate::decide::status;
use crate::reason::Blocked;
use jiff::Timestamp;

/// Rules that follow one another at most: bookkeeping, and what comes of it.
const MOST_RULES: usize = 3;

/// A plan, and how it was come to.
pub struct Decided {
    /// The evidence, after the bookkeeping that came first.
    pub seen: Observed,
    /// Rules that spoke, in their order.
    pub rules: Vec<&'static Rule>,
    /// What the last of them says.
    pub plan: Plan,
}

/// What the operator would do now, for people.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It rotates.
    Rotates {
        /// Why.
        cause: Cause,
        /// 1, or one more than the attempt it follows.
        attempt: i32,
    },
    /// It writes the Secret without a rotation.
    Writes(String),
    /// Nothing, until then.
    Idle(Timestamp),
    /// Nothing, and no rotation is due ever.
    Rests(&'static str),
    /// It looks again then.
    Waits(Timestamp, Option<Blocked>),
    /// Nothing before a person has acted, or the vendor is back.
    Blocked(Blocked),
    /// There is no evidence to judge by.
    Unknown(String),
}

/// Asks the plan, and books what it wants booked first, as the operator does.
pub fn decide(mut seen: Observed) -> Decided {
    let mut rules = Vec::new();
    loop {
        let (rule, plan) = explained(&seen);
        rules.push(rule);
        if plan != Plan::Settle || rules.len() == MOST_RULES {
            return Decided { seen, rules, plan };
        }
        seen = status::booked(&seen);
    }
}

/// The verdict on fresh evidence, with the reason that the operator would write; `refused` is what came of the rehearsal.
pub fn verdict(decided: &Decided, refused: Option<&Blocked>) -> Verdict {
    let seen = &decided.seen;
    let plan = after_look(seen, decided.plan.clone());
    let setback = refused.map(|blocked| Setback::Refused(blocked.clone()));
    let why = said(&status::next(seen, &plan, setback.as_ref()));
    match (plan, why) {
        (Plan::Rotate(_) | Plan::Rewrite { .. }, Some(why)) if refused.is_some() => {
            Verdict::Blocked(why)
        }
        (Plan::Rotate(rotation), _) => Verdict::Rotates {
            cause: rotation.cause,
            attempt: rotation.attempt,
        },
        (Plan::Rewrite { from }, _) => Verdict::Writes(write(seen, &from.secret)),
        (Plan::Wait { until, .. }, why) => Verdict::Waits(until, why),
        (Plan::Look | Plan::Settle, why) => Verdict::Waits(seen.now, why),
        (Plan::Block(_) | Plan::Retry { .. } | Plan::Idle { .. }, Some(why)) => {
            Verdict::Blocked(why)
        }
        (Plan::Block(blocked) | Plan::Retry { blocked, .. }, None) => Verdict::Blocked(blocked),
        (Plan::Idle { .. }, None) if seen.resource.metadata.deletion_timestamp.is_some() => {
            Verdict::Rests("it is being deleted")
        }
        (Plan::Idle { next: Some(due) }, None) => Verdict::Idle(due.at),
        (Plan::Idle { next: None }, None) if seen.resource.spec.suspend == Some(true) => {
            Verdict::Rests("it is suspended")
        }
        (Plan::Idle { next: None }, None) => Verdict::Rests("no rotation is due any more"),
    }
}

/// The verdict on a spec alone: what was not asked is assumed to be in order, and the Secret to be absent.
pub fn assumed(decided: &Decided) -> Verdict {
    match decided.plan {
        Plan::Look => Verdict::Rotates {
            cause: Cause::Initial,
            attempt: 1,
        },
        _ => verdict(decided, None),
    }
}

/// Which write it is.
fn write(seen: &Observed, from: &str) -> String {
    let target = &seen.resource.spec.target.name;
    match &seen.stored {
        Stored::Consented { .. } => format!(
            "takes over Secret {target} with its live value, from when on schedule.every and schedule.cron count"
        ),
        _ if from != target => format!("copies the live value from Secret {from} to {target}"),
        _ => format!("brings Secret {target} in line with the spec, with the value it holds"),
    }
}
