//! When a resource is looked at again, and how old a reading of the vendor may be. Pure.

use super::brake::tries::racing;
use super::{Plan, Setback};
use crate::api::{Cause, Status};
use crate::decide::evidence::Observed;
use jiff::{SignedDuration, Timestamp};

/// When to look at the resource again; `seen` holds the status after this pass.
pub fn wake(seen: &Observed, plan: &Plan, setback: Option<&Setback>) -> Timestamp {
    let audit = next_audit(seen);
    let retry_at = || Some(seen.resource.status.as_ref()?.retry_at.as_ref()?.0);
    let at = match (setback, plan) {
        (Some(Setback::Raced), _) => after_race(seen),
        (Some(Setback::Refused(_)), _) => match retry_at().filter(|at| *at > seen.now) {
            Some(at) => at,
            None => seen.now + blocked_retry(seen),
        },
        (None, Plan::Block(_)) => seen.now + blocked_retry(seen),
        (Some(Setback::Definite { .. } | Setback::InDoubt(_) | Setback::Unavailable { .. }), _) => {
            retry_at().unwrap_or(audit)
        }
        (None, Plan::Idle { next }) => next.as_ref().map_or(audit, |due| due.at.min(audit)),
        (None, Plan::Wait { until, .. } | Plan::Retry { until, .. }) => *until,
        (None, Plan::Look | Plan::Settle | Plan::Rotate(_) | Plan::Rewrite { .. }) => seen.now,
    };
    // A rival that does not show in time that it can work keeps nobody any more.
    let rivals = seen
        .rival
        .iter()
        .chain(seen.taken.iter().map(|(_, rival)| rival));
    let let_go = rivals.filter_map(|rival| rival.until);
    let sooner = recovery_audit(seen).into_iter().chain(let_go);
    sooner
        .filter(|at| *at > seen.now)
        .fold(at, |at, sooner| at.min(sooner))
}

/// When it is tried again after something was changed while the operator worked on it. What is to be told of that is told
/// first.
pub fn after_race(seen: &Observed) -> Timestamp {
    match racing(seen) {
        Some((until, None)) => until,
        None | Some((_, Some(_))) => seen.now + seen.pace().raced_retry,
    }
}

/// When the vendor's record is too old to count as known; a second later, because times have no fractions.
fn next_audit(seen: &Observed) -> Timestamp {
    let second = SignedDuration::from_secs(1);
    let audit = seen.pace().audit;
    let next = match seen.asked_at {
        Some(at) => at + audit + second,
        None => seen.now + audit.min(seen.pace().unanswered_retry),
    };
    next.max(seen.now + second)
}

/// The oldest reading of the vendor that still counts as known.
pub fn reading_not_before(seen: &Observed) -> Timestamp {
    let audit = seen.now - seen.pace().audit;
    recovery_audit(seen)
        .filter(|at| *at <= seen.now)
        .map_or(audit, |at| at.max(audit))
}

/// After a recovery the vendor is looked at once more: a call that landed late would show.
fn recovery_audit(seen: &Observed) -> Option<Timestamp> {
    let last = seen.resource.status.as_ref()?.last_rotation.as_ref()?;
    let recovered =
        matches!(last.reason, Cause::Lost | Cause::Reclaimed) || last.attempts.is_some();
    // Saturating: status is ours, and still others may be able to write it.
    recovered.then(|| {
        last.at
            .0
            .saturating_add(seen.pace().recovery_audit)
            .unwrap_or(last.at.0)
    })
}

/// As long again as it has been blocked: soon at first, rarely later, without a counter.
fn blocked_retry(seen: &Observed) -> SignedDuration {
    age_of_obstacle(seen).clamp(seen.pace().blocked_retry, seen.pace().blocked_longest_retry)
}

/// For how long something has stood in the way, by the status.
pub fn age_of_obstacle(seen: &Observed) -> SignedDuration {
    let since = seen
        .resource
        .status
        .iter()
        .flat_map(Status::obstacles)
        .next()
        .map_or(seen.now, |condition| condition.last_transition_time.0);
    seen.now.duration_since(since)
}
