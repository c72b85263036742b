//! Rules about a rotation that was begun and may or may not be done.

use super::causes::stale_pause;
use super::obstacles::said_before;
use super::step::{fresh, rotate};
use crate::api::{Cause, Pending};
use crate::decide::evidence::{Held, Live, Observed, Work};
use crate::decide::plan::Plan;
use crate::decide::plan::belief::in_doubt;
use crate::decide::version::{Drift, compare_records};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

pub(super) fn settle(seen: &Observed) -> Option<Plan> {
    // Not `held()`: a value is proven stored even when the spec has come to mean another token, or another target, to
    // which it is moved next.
    let (pending, held) = (seen.pending()?, seen.stored.value()?);
    let proven = held.stamp.rotation_id.as_ref() == Some(&pending.id)
        || held.stamp.token_id == pending.token_id
            && match held.stamp.compare(&pending.replaces) {
                Drift::StoredNewer => true,
                // Another one of the same second may be a later or an earlier one: only the record tells.
                Drift::LiveNewer => {
                    let replaced = compare_records(&pending.replaces, &held.stamp.version);
                    replaced == Drift::LiveNewer && is_recorded(seen, held)
                }
                Drift::Same | Drift::Unknown => false,
            };
    (proven || is_without_effect(seen)).then_some(Plan::Settle)
}

/// Whether the vendor's record, read just now, is of the stored value.
fn is_recorded(seen: &Observed, held: &Held) -> bool {
    let Live::Token { token, fresh: true } = &seen.live else {
        return false;
    };
    token.id == held.stamp.token_id && held.stamp.compare(&token.version) == Drift::Same
}

/// Whether so long after an intent was recorded everything is as it was before: the vendor's record, as read since then,
/// and the Secret. No doubt is left then, and what the intent was for may ask again.
pub fn is_without_effect(seen: &Observed) -> bool {
    let (Some(pending), Some(held)) = (seen.pending(), seen.stored.value()) else {
        return false;
    };
    let Live::Token { token, fresh } = &seen.live else {
        return false;
    };
    let in_flight = in_flight_until(seen, pending);
    let rest = match pending.is_unreadable() {
        true => in_flight,
        false => {
            let rest = pending.started_at.0.saturating_add(seen.pace().rest);
            rest.map_or(in_flight, |at| at.max(in_flight))
        }
    };
    let read_at = if *fresh {
        Some(seen.now)
    } else {
        seen.asked_at
    };
    seen.work.is_none()
        && read_at.is_some_and(|at| at >= rest)
        && token.id == pending.token_id
        && held.stamp.token_id == token.id
        && compare_records(&pending.replaces, &token.version) == Drift::Same
        && held.stamp.compare(&token.version) == Drift::Same
}

/// A value that is only in memory is reported before anything else, even when the spec has become invalid.
pub(super) fn storing(seen: &Observed) -> Option<Plan> {
    let Some(Work::Storing { error }) = &seen.work else {
        return None;
    };
    let doubt = Blocked::new(
        Reason::ValueNotStored,
        format!(
            "the new value cannot be stored in Secret {}, and the old one is no longer valid: {error}; \
             it is kept in memory and storing it is retried, so do not restart the operator",
            seen.resource.spec.target.name
        ),
    );
    Some(Plan::Wait {
        until: seen.now + seen.pace().in_flight(),
        doubt: Some(doubt),
    })
}

pub(super) fn in_flight(seen: &Observed) -> Option<Plan> {
    if seen.work.is_some() {
        return Some(Plan::Wait {
            until: seen.now + seen.pace().in_flight(),
            doubt: None,
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
    let cause = match compare_records(&pending.replaces, &token.version) {
        // The spec has come to mean another token since, and where that one's value is here, nothing is in doubt.
        _ if token.id != pending.token_id => return seen.held().map(|_| Plan::Settle),
        Drift::Same => pending.reason,
        Drift::LiveNewer => Cause::Lost,
        Drift::StoredNewer | Drift::Unknown => {
            return Some(Plan::Retry {
                until: seen.now + stale_pause(seen),
                blocked: in_doubt(pending, "the vendor answers with an old record"),
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
    let pause = match pending.attempt {
        ..=1 => SignedDuration::ZERO,
        more => seen.pace().after_failures(more.unsigned_abs() - 1),
    };
    let started = pending.started_at.0;
    let after = |from: Timestamp, wait| from.saturating_add(wait).unwrap_or(from);
    let holder = match seen.holder_done_at {
        Some(at) => after(at.max(started), seen.pace().landing),
        None => after(started, seen.pace().in_flight()),
    };
    holder.max(after(started, pause))
}
