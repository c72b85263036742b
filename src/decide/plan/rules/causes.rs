//! Rules about what there is to do: to keep a value, to replace it, or to write it anew.

use super::obstacles::blocked_if_fresh;
use super::step::{fresh, rewrite, rotate};
use crate::api::{Cause, ExternalRotation, Pending, RotationOutcome, Version, evidence};
use crate::decide::evidence::{Held, Live, Observed, Stored};
use crate::decide::plan::Plan;
use crate::decide::plan::belief::{in_use, next_due, rotated_elsewhere, token_expired, token_gone};
use crate::decide::plan::wake::age_of_obstacle;
use crate::decide::stamp::Stamp;
use crate::decide::turn::{is_dead, last_hour, not_before, revoking, some_trouble, subject};
use crate::decide::version::{Drift, compare_records};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

/// Also where the versions do not tell, and no answer did for now. A turn takes another token, and is not held up.
pub(super) fn stale_read(seen: &Observed) -> Option<Plan> {
    let (drift, _, _, fresh) = seen.drift().filter(|_| !seen.takes_turns())?;
    let is_undecided = matches!(drift, Drift::StoredNewer | Drift::Unknown);
    (is_undecided && fresh).then(|| undecided(seen))
}

fn undecided(seen: &Observed) -> Plan {
    let held = seen.stored.value();
    let name = held.map_or(&seen.resource.spec.target.name, |held| &held.secret);
    let message = match is_old_record(seen) {
        true => format!(
            "Astro answers with old records: Secret {name} holds a newer value of the token than its record tells of"
        ),
        false => format!(
            "Astro does not tell whether Secret {name} holds the live value: neither its record of the token nor an answer to \
             the value itself does"
        ),
    };
    Plan::Retry {
        until: seen.now + stale_pause(seen),
        blocked: Blocked::new(Reason::VendorUnavailable, message),
    }
}

/// As long again as it has been so: soon at first, and rarely later.
pub(super) fn stale_pause(seen: &Observed) -> SignedDuration {
    let pace = seen.pace();
    age_of_obstacle(seen).clamp(pace.stale_retry, pace.stale_longest_retry)
}

/// Whether the vendor's record, as just read, is older than what is known of the token.
pub fn is_old_record(seen: &Observed) -> bool {
    let fresh = |id: &str| seen.record(id).filter(|(_, fresh)| *fresh).map(|it| it.0);
    let is_newer = |held: &Held| {
        fresh(&held.stamp.token_id)
            .is_some_and(|token| held.compare(&token.version) == Drift::StoredNewer)
    };
    let is_replaced = |pending: &Pending| {
        fresh(&pending.token_id).is_some_and(|token| {
            compare_records(&pending.replaces, &token.version) == Drift::StoredNewer
        })
    };
    seen.stored.value().is_some_and(is_newer) || seen.pending().is_some_and(is_replaced)
}

/// Whether the stored value has to be asked whether it is live, because the versions do not tell: a stored one that is
/// newer than the record only means for a while that the record is old.
pub fn asks_value(seen: &Observed) -> bool {
    let value = seen.stored.value();
    value.is_some_and(|held| {
        let Some((token, _)) = seen.record(&held.stamp.token_id) else {
            return false;
        };
        match held.stamp.compare(&token.version) {
            Drift::Unknown => true,
            Drift::StoredNewer => {
                let until = |at: Timestamp| at.saturating_add(seen.pace().stale_for).unwrap_or(at);
                let obtained = held.stamp.obtained_at(seen.now);
                obtained.is_none_or(|at| until(at) <= seen.now)
            }
            Drift::Same | Drift::LiveNewer => false,
        }
    })
}

/// Whether the status knows of a newer value than the Secret holds, as after a target was renamed there and back.
fn is_behind_status(seen: &Observed, held: &Held) -> bool {
    let status = seen.resource.status.as_ref();
    let known = status.and_then(|status| status.token.as_ref());
    known.is_some_and(|known| {
        let version = Version {
            rotated_at: known.rotated_at.clone(),
            short_token: known.short_token.clone(),
        };
        known.id == held.stamp.token_id && held.stamp.compare(&version) == Drift::LiveNewer
    })
}

pub(super) fn drift(seen: &Observed) -> Option<Plan> {
    if let Some(held) = seen.held().filter(|_| seen.token_is_gone) {
        return reclaim(seen, &held.stamp.token_id, token_gone(held));
    }
    let (drift, held, token, fresh) = seen.drift()?;
    match (drift, fresh) {
        // The reading is older than a value that was stored elsewhere since.
        (_, false) if is_behind_status(seen, held) => return Some(Plan::Look),
        (Drift::Same, _) | (Drift::StoredNewer, false) => return None,
        (Drift::StoredNewer | Drift::Unknown, true) => return None,
        (_, false) => return Some(Plan::Look),
        (Drift::LiveNewer, true) => {}
    }
    // The newest evidence wins, wherever it is: the target may have been renamed there and back.
    let is_live = |other: &&Held| {
        other.stamp.token_id == token.id && other.compare(&token.version) == Drift::Same
    };
    if let Some(other) = seen.elsewhere.as_ref().filter(is_live) {
        return Some(rewrite(seen, other.clone()));
    }
    reclaim(seen, &token.id, rotated_elsewhere(held, token))
}

/// Makes the Secret's value a live one again after another party has ended it, unless the spec leaves that to a person, or it was
/// done not long ago. `None`: a person asks for a rotation, which does the same.
fn reclaim(seen: &Observed, id: &str, ended: Blocked) -> Option<Plan> {
    let asked = seen.is_requested();
    if seen.resource.spec.external_rotation == Some(ExternalRotation::Report) {
        return (!asked).then_some(Plan::Block(ended));
    }
    match last_reclaim(seen) {
        Some(_) if asked => None,
        Some(at) if seen.now.duration_since(at).abs() < seen.pace().contest_window => {
            Some(Plan::Block(Blocked::new(
                Reason::Contested,
                format!(
                    "token {id} was rotated by another party again; it was reclaimed at {at} and will not be reclaimed within 24 h of that. \
                     Find the other party that rotates it; to take it back now, request a rotation"
                ),
            )))
        }
        _ => due(seen, Cause::Reclaimed),
    }
}

fn last_reclaim(seen: &Observed) -> Option<Timestamp> {
    let history = &seen.resource.status.as_ref()?.history;
    history
        .iter()
        .filter(|entry| {
            entry.reason == Cause::Reclaimed && entry.outcome == RotationOutcome::Stored
        })
        .map(|entry| entry.at.0)
        .max()
}

/// Rotating loses nothing, and may renew it; once, since Astro may keep the expiry. Where two tokens take turns it is done before
/// that, with the other token if there is one that can be rotated.
pub(super) fn expired(seen: &Observed) -> Option<Plan> {
    let held = seen.held()?;
    let is_own = |live: &&Live| live.id() == Some(&held.stamp.token_id);
    let own = || seen.records.all().into_iter().find(is_own);
    if !is_dead(seen) && last_hour(seen).is_some_and(|at| at <= seen.now) {
        let live = subject(seen).or_else(own)?;
        return Some(begin(seen, live, Cause::Expiring, Reason::TokenExpired));
    }
    let ends = seen.expiry().filter(|ends| *ends <= seen.now)?;
    let was_tried = (held.stamp.obtained_at(seen.now)).is_some_and(|at| at >= ends);
    match subject(seen).filter(|live| !was_tried || !is_own(live) && seen.takes_turns()) {
        Some(live) => Some(begin(seen, live, Cause::Expiring, Reason::TokenExpired)),
        None => Some(Plan::Block(token_expired(held, ends))),
    }
}

/// A live value that is already in the cluster is kept: under a former target name, or given away with consent.
pub(super) fn adopt(seen: &Observed) -> Option<Plan> {
    let from = match &seen.stored {
        Stored::Absent {
            elsewhere: Some(held),
            ..
        } => held.clone(),
        Stored::Consented {
            value_is_live: Some(true),
            ..
        } => match seen.taken_over() {
            Some(held) => held,
            None => return Some(Plan::Look),
        },
        Stored::Consented {
            value_is_live: None,
            ..
        } => return Some(Plan::Look),
        _ => return None,
    };
    if let Some((token, true)) = seen.record(&from.stamp.token_id) {
        return match from.compare(&token.version) {
            Drift::Same => Some(rewrite(seen, from)),
            Drift::StoredNewer | Drift::Unknown => Some(undecided(seen)),
            Drift::LiveNewer => None,
        };
    }
    let is_settled = |live: &&Live| {
        matches!(
            live,
            Live::Token { fresh: true, .. }
                | Live::Refused { fresh: true, .. }
                | Live::Unavailable { .. }
        )
    };
    let mut references = seen.resource.spec.references();
    let all = references.all(|(role, _)| is_settled(&seen.records.of(role)));
    (!all).then_some(Plan::Look)
}

pub(super) fn no_value(seen: &Observed) -> Option<Plan> {
    let is_missing = seen.held().is_none();
    is_missing.then(|| due(seen, Cause::Initial)).flatten()
}

/// Of two tokens the next one has to wait until the value before is out of use; where it cannot be rotated, the request stays open.
pub(super) fn requested(seen: &Observed) -> Option<Plan> {
    let waits = || not_before(seen).is_some_and(|at| at > seen.now) && seen.revokes().is_none();
    let is_next = seen.is_requested() && !waits();
    is_next.then(|| due(seen, Cause::Requested)).flatten()
}

/// The previous value is invalidated by a rotation of its token, and the new value of that is not stored.
pub(super) fn revoked(seen: &Observed) -> Option<Plan> {
    let due_at = revoking(seen).filter(|it| it.at <= seen.now)?;
    due(seen, due_at.rule.into()).filter(|_| !is_dead(seen))
}

pub(super) fn scheduled(seen: &Observed) -> Option<Plan> {
    match next_due(seen) {
        Err(blocked) => Some(Plan::Block(blocked)),
        Ok(due_at) => {
            let due_at = due_at.filter(|it| it.at <= seen.now)?;
            due(seen, due_at.rule.into())
        }
    }
}

/// A rotation of the token whose turn it is; `None`: there is none that can be taken.
fn due(seen: &Observed, cause: Cause) -> Option<Plan> {
    Some(begin(
        seen,
        subject(seen)?,
        cause,
        Reason::VendorUnavailable,
    ))
}

fn begin(seen: &Observed, live: &Live, cause: Cause, doubt: Reason) -> Plan {
    match fresh(seen, live, |why| Blocked::new(doubt, why)) {
        Ok(token) => rotate(seen, token, cause, 1),
        Err(plan) => plan,
    }
}

/// An edit never rotates.
pub(super) fn outdated(seen: &Observed) -> Option<Plan> {
    let held = seen.held()?;
    let (was, lacks) = (&held.stamp.version, |have: bool, there: bool| {
        !have && there
    });
    if let Some((token, fresh)) = seen.record(&held.stamp.token_id)
        // Not from an old record, which is of the value that this one has replaced.
        && (held.stamp.replaced.is_none() || token.version.short_token != held.stamp.replaced)
        && (lacks(was.rotated_at.is_some(), token.version.rotated_at.is_some())
            || lacks(
                was.short_token.is_some(),
                token.version.short_token.is_some(),
            ))
    {
        // The rotate answer did not say, or a person removed it; the record does. An old reading may be of the value before.
        let version = token.version.clone();
        return Some(match fresh {
            true => {
                let stamp = Stamp {
                    version,
                    expires: token.ends,
                    ..held.stamp.clone()
                };
                let outdated = Some("the annotations that tell which value it is".into());
                let from = Held {
                    stamp,
                    outdated,
                    ..held.clone()
                };
                rewrite(seen, from)
            }
            false => Plan::Look,
        });
    }
    if let Some(from) = with_other(seen, held) {
        return Some(rewrite(seen, from));
    }
    held.outdated.as_ref()?;
    Some(rewrite(seen, held.clone()))
}

/// The evidence with the token that takes turns with it now, where the Secret does not name that one yet. While its own token is
/// none of the spec's, the one that it names says what it is here for.
fn with_other(seen: &Observed, held: &Held) -> Option<Held> {
    seen.held_role()?;
    let other = seen.other_id(&held.stamp.token_id)?;
    if held.stamp.other.as_ref() == Some(&other) {
        return None;
    }
    let stamp = Stamp {
        other: Some(other),
        previous: None,
        ..held.stamp.clone()
    };
    Some(Held {
        stamp,
        outdated: Some(format!("metadata.annotations[{}]", evidence::OTHER_ID)),
        ..held.clone()
    })
}

pub(super) fn idle(seen: &Observed) -> Plan {
    if let Some((until, blocked)) = in_use(seen) {
        return Plan::Wait {
            until,
            doubt: Some(blocked),
        };
    }
    match (next_due(seen), some_trouble(seen)) {
        (Err(blocked), _) => Plan::Block(blocked),
        (Ok(_), Some((blocked, is_fresh))) => blocked_if_fresh(blocked, is_fresh),
        (Ok(next), None) => Plan::Idle { next },
    }
}
