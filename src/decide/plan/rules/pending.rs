//! Rules about a rotation that was begun and may or may not be done.

use super::obstacles::said_before;
use super::step::{fresh, rotate};
use crate::api::{Cause, Pending};
use crate::decide::evidence::{Drift, Live, Observed, Work, compare};
use crate::decide::plan::Plan;
use crate::decide::plan::belief::in_doubt;
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

pub(super) fn settle(seen: &Observed) -> Option<Plan> {
    // Not `held()`: a value is proven stored even when the spec has come to mean another token, or another target, to
    // which it is moved next.
    let (pending, held) = (seen.pending()?, seen.stored.value()?);
    let proven = held.stamp.rotation_id.as_ref() == Some(&pending.id)
        || held.stamp.token_id == pending.token_id
            && compare(&pending.replaces, &held.stamp.version) == Drift::LiveNewer;
    proven.then_some(Plan::Settle)
}

pub(super) fn in_flight(seen: &Observed) -> Option<Plan> {
    if let Some(work) = &seen.work {
        let doubt = match work {
            Work::Calling => None,
            Work::Storing { error } => Some(Blocked::new(
                Reason::ValueNotStored,
                format!(
                    "the new value cannot be stored in Secret {}, and the old one is no longer valid: {error}; \
                     it is kept in memory and storing it is retried, so do not restart the operator",
                    seen.resource.spec.target.name
                ),
            )),
        };
        return Some(Plan::Wait {
            until: seen.now + seen.pace().in_flight(),
            doubt,
        });
    }
    let pending = seen.pending()?;
    let until = in_flight_until(seen, pending);
    // A clock that was far ahead must not keep it in flight for ever.
    let from_future = pending.started_at.0.duration_since(seen.now) > seen.pace().in_flight();
    (seen.now < until && !from_future).then(|| Plan::Wait {
        until,
        doubt: Some(in_doubt(pending, "waiting until it can no longer land")),
    })
}

/// What was known of the token before is not known any more.
pub(super) fn after_rival(seen: &Observed) -> Option<Plan> {
    let said = said_before(seen).filter(|said| said.reason == Reason::TokenConflict)?;
    seen.held()?;
    match seen.live {
        Live::Refused { fresh: true, .. } => None,
        _ => fresh(seen, |why| {
            Blocked::new(
                said.reason,
                format!("another resource may have rotated the token: {why}"),
            )
        })
        .err(),
    }
}

/// If the live version is still the one to be replaced, the call never took effect. If it is another one, a value was
/// issued and lost, and since that has invalidated the stored one, rotating again loses nothing.
pub(super) fn resolve_pending(seen: &Observed) -> Option<Plan> {
    let pending = seen.pending()?;
    let token = match fresh(seen, |why| in_doubt(pending, why)) {
        Ok(token) => token,
        Err(plan) => return Some(plan),
    };
    let cause = match compare(&pending.replaces, &token.version) {
        // The spec has come to mean another token since, and where that one's value is here, nothing is in doubt.
        _ if token.id != pending.token_id => return seen.held().map(|_| Plan::Settle),
        Drift::Same => pending.reason,
        Drift::LiveNewer => Cause::Lost,
        Drift::StoredNewer => {
            return Some(Plan::Wait {
                until: seen.now + seen.pace().stale_retry,
                doubt: Some(in_doubt(pending, "the vendor answers with an old record")),
            });
        }
    };
    Some(rotate(
        seen,
        token,
        cause,
        pending.attempt.saturating_add(1),
    ))
}

/// Until when a holder, or a call it made, may still be at work; longer with each attempt.
fn in_flight_until(seen: &Observed, pending: &Pending) -> Timestamp {
    let holder = if seen.holder_is_done {
        seen.pace().landing
    } else {
        seen.pace().in_flight()
    };
    let pause = match pending.attempt {
        ..=1 => SignedDuration::ZERO,
        more => seen.pace().after_failures(more.unsigned_abs() - 1),
    };
    let started = pending.started_at.0;
    started.saturating_add(holder.max(pause)).unwrap_or(started)
}
