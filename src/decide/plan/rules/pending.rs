//! Rules about a rotation that was begun and may or may not be done.

use super::causes::stale_pause;
use super::obstacles::said_before;
use super::step::{fresh, rotate};
use crate::api::{Cause, Pending};
use crate::decide::evidence::{Held, Live, Observed, Work};
use crate::decide::plan::Plan;
use crate::decide::plan::belief::in_doubt;
use crate::decide::turn::{is_dead, subject};
use crate::decide::version::{Drift, compare_records};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

pub(super) fn settle(seen: &Observed) -> Option<Plan> {
    // Not `held()`: a value is proven stored even when the spec has come to mean another token, or another target, to
    // which it is moved next.
    let is_settled = is_stored(seen) || is_dropped(seen) || is_without_effect(seen);
    is_settled.then_some(Plan::Settle)
}

/// Whether the pending rotation was only to end a value, and the vendor's record proves that it did.
pub fn is_dropped(seen: &Observed) -> bool {
    let revoked = seen.pending().filter(|it| it.reason == Cause::Revoked);
    let record = revoked.and_then(|pending| Some((pending, seen.record(&pending.token_id)?)));
    record.is_some_and(|(pending, (token, _))| {
        compare_records(&pending.replaces, &token.version) == Drift::LiveNewer
    })
}

/// Whether the Secret proves that the pending rotation was stored: it holds its value, or one that came later.
pub fn is_stored(seen: &Observed) -> bool {
    let (Some(pending), Some(held)) = (seen.pending(), seen.stored.value()) else {
        return false;
    };
    let stamp = &held.stamp;
    // The value before it may be the one, where two tokens take turns.
    let before = stamp.previous.as_ref();
    let was_stored = stamp.other.as_ref() == Some(&pending.token_id)
        && before.is_some_and(|it| compare_records(&pending.replaces, it) == Drift::LiveNewer);
    let is_newer = || match stamp.compare(&pending.replaces) {
        Drift::StoredNewer => true,
        // Another one of the same second may be a later or an earlier one: only the record tells.
        Drift::LiveNewer => {
            let replaced = compare_records(&pending.replaces, &stamp.version);
            replaced == Drift::LiveNewer && is_recorded(seen, held)
        }
        Drift::Same | Drift::Unknown => false,
    };
    stamp.rotation_id.as_ref() == Some(&pending.id)
        || was_stored
        || stamp.token_id == pending.token_id && is_newer()
}

/// Whether the vendor's record, read just now, is of the stored value.
fn is_recorded(seen: &Observed, held: &Held) -> bool {
    let record = seen.record(&held.stamp.token_id);
    record.is_some_and(|(token, fresh)| fresh && held.stamp.compare(&token.version) == Drift::Same)
}

/// Whether so long after an intent was recorded everything is as it was before: the vendor's record, as read since then,
/// and the Secret, where that holds a value of the same token. No doubt is left then, and what the intent was for may ask
/// again.
pub fn is_without_effect(seen: &Observed) -> bool {
    let (Some(pending), Some(held)) = (seen.pending(), seen.stored.value()) else {
        return false;
    };
    let Some((token, fresh)) = seen.record(&pending.token_id) else {
        return false;
    };
    let rest = rest_until(seen, pending);
    let read_at = if fresh { Some(seen.now) } else { seen.asked_at };
    seen.work.is_none()
        && read_at.is_some_and(|at| at >= rest)
        && compare_records(&pending.replaces, &token.version) == Drift::Same
        && match held.stamp.token_id == token.id {
            true => held.stamp.compare(&token.version) == Drift::Same,
            false => seen.takes_turns(),
        }
}

/// A value that is only in memory is reported before anything else, even when the spec has become invalid.
pub(super) fn storing(seen: &Observed) -> Option<Plan> {
    let Some(Work::Storing { error }) = &seen.work else {
        return None;
    };
    let is_spared = seen
        .pending()
        .zip(seen.held())
        .is_some_and(|(pending, held)| {
            seen.takes_turns() && pending.token_id != held.stamp.token_id
        });
    let old = match is_spared {
        true => "while the one that it holds stays valid",
        false => "and the old one is no longer valid",
    };
    let doubt = Blocked::new(
        Reason::ValueNotStored,
        format!(
            "the new value cannot be stored in Secret {}, {old}: {error}; \
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
    seen.held().filter(|_| seen.taken.is_empty())?;
    match subject(seen)? {
        Live::Refused { fresh: true, .. } => None,
        live => fresh(seen, live, |why| {
            Blocked::new(
                said.reason,
                format!("another resource may have rotated the token: {why}"),
            )
        })
        .err(),
    }
}

/// If the live version is still the one to be replaced, the call never took effect. If it is another one, a value was
/// issued and lost; the stored one is dead then, or of another token, so rotating again loses nothing.
pub(super) fn resolve_pending(seen: &Observed) -> Option<Plan> {
    let pending = seen.pending()?;
    let Some(of_pending) = record_of(seen, &pending.token_id) else {
        // The spec has come to mean other tokens since, or this one is gone; where a value is here, nothing is in doubt.
        return seen.held().map(|_| Plan::Settle);
    };
    let doubt = |why: &str| in_doubt(pending, why);
    let token = match fresh(seen, of_pending, doubt) {
        Ok(token) => token,
        Err(plan) => return Some(plan),
    };
    let is_spared = seen
        .held()
        .is_some_and(|held| held.stamp.token_id != token.id);
    let cause = match compare_records(&pending.replaces, &token.version) {
        Drift::LiveNewer => Cause::Lost,
        Drift::Same if is_spared && is_dead(seen) => Cause::Reclaimed,
        // Should the call land once the Secret holds a value of this token, that one would be dead.
        Drift::Same if is_spared && pending.reason != Cause::Revoked => {
            return Some(Plan::Wait {
                until: rest_until(seen, pending),
                doubt: Some(doubt(
                    "waiting until it can no longer land; the value in the Secret stays valid",
                )),
            });
        }
        Drift::Same => pending.reason,
        Drift::StoredNewer | Drift::Unknown => {
            return Some(Plan::Retry {
                until: seen.now + stale_pause(seen),
                blocked: doubt("the vendor answers with an old record"),
            });
        }
    };
    let next = match seen.held() {
        Some(_) => subject(seen),
        None => Some(of_pending),
    };
    let Some(next) = next.or((!is_spared).then_some(of_pending)) else {
        return Some(Plan::Settle);
    };
    let attempt = match next == of_pending {
        true => pending.attempt.saturating_add(1),
        false => 1,
    };
    Some(match fresh(seen, next, doubt) {
        Ok(token) => rotate(seen, token, cause, attempt),
        Err(plan) => plan,
    })
}

/// The record of the token of this id, or one of which it is not known yet whether it is of that token; `None`: there is none.
fn record_of<'a>(seen: &'a Observed, id: &str) -> Option<&'a Live> {
    let is_it = |live: &&Live| matches!(live, Live::Token { token, .. } if token.id == id);
    let references = seen.resource.spec.references();
    let mut of_spec = references.map(|(role, _)| seen.records.of(role));
    let is_open = |live: &&Live| {
        !matches!(
            live,
            Live::Token { fresh: true, .. } | Live::Refused { fresh: true, .. }
        )
    };
    let known = seen.records.all().into_iter().find(is_it);
    known.or_else(|| of_spec.find(is_open))
}

/// So long after an intent was recorded its call takes effect no more.
fn rest_until(seen: &Observed, pending: &Pending) -> Timestamp {
    let in_flight = in_flight_until(seen, pending);
    match pending.is_unreadable() {
        true => in_flight,
        false => {
            let rest = pending.started_at.0.saturating_add(seen.pace().rest);
            rest.map_or(in_flight, |at| at.max(in_flight))
        }
    }
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
