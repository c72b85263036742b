//! What is believed of the value in the Secret: whether it is live, and when it is due to be replaced.

use crate::api::{CronStatus, Pending, request};
use crate::decide::evidence::{Held, Observed, Token};
use crate::decide::schedule::{Due, DueRule, Expiry, Origin, Schedule, ScheduleError};
use crate::decide::turn;
use crate::decide::version::{Drift, compare_records};
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

/// Whether the Secret holds a value that is believed to be live; otherwise why not.
pub fn believe(seen: &Observed) -> Result<&Held, Blocked> {
    let target = &seen.resource.spec.target.name;
    let Some(held) = seen.held() else {
        let message = if seen.resource.spec.suspend == Some(true) {
            format!("Secret {target} holds no value, and rotation is suspended; unset spec.suspend")
        } else {
            format!("Secret {target} holds no value yet")
        };
        return Err(Blocked::new(Reason::AwaitingFirstRotation, message));
    };
    let of_held = |pending: &&Pending| {
        pending.token_id == held.stamp.token_id || pending.is_unreadable() || !seen.takes_turns()
    };
    if let Some(pending) = seen.pending().filter(of_held) {
        return Err(match seen.record(&held.stamp.token_id) {
            Some((token, _))
                if compare_records(&pending.replaces, &token.version) == Drift::LiveNewer =>
            {
                Blocked::new(
                    Reason::ValueLost,
                    format!(
                        "a value of token {} was issued and lost, and the one in Secret {target} is no longer valid; it is replaced as soon as rotation is no longer suspended",
                        token.id
                    ),
                )
            }
            _ => in_doubt(pending, "rotation is suspended"),
        });
    }
    if let Some((Drift::LiveNewer, held, token, _)) = seen.drift() {
        return Err(rotated_elsewhere(held, token));
    }
    if seen.token_is_gone {
        return Err(token_gone(held));
    }
    match seen.expiry() {
        Some(ends) if ends <= seen.now => Err(token_expired(held, ends)),
        _ => Ok(held),
    }
}

/// The next due rotation of the stored value.
///
/// # Errors
/// Why the schedule cannot be followed for this token.
pub fn next_due(seen: &Observed) -> Result<Option<Due>, Blocked> {
    let due = due(seen)?;
    let is_by_time = |due: &Due| matches!(due.rule, DueRule::Scheduled | DueRule::Expiring);
    let quiet_from = due
        .filter(is_by_time)
        .and_then(|due| turn::quiet_from(seen, due.at));
    Ok(due.map(|due| Due {
        at: quiet_from.map_or(due.at, |at| due.at.max(at)),
        ..due
    }))
}

/// Until when a rotation that is due waits for those who still use the value before, and why.
pub fn in_use(seen: &Observed) -> Option<(Timestamp, Blocked)> {
    let (used, token) = (turn::still_used(seen)?, turn::still_valid(seen)?);
    let since = due(seen).ok()??.at;
    let until = next_due(seen).ok()??.at;
    let message = format!(
        "a rotation is due since {since} and would end the value that the Secret held before, of token {}, which was used at {used}; it \
         waits until {until} at the latest, unless that value is used less. Restart the consumers that still use it",
        token.name
    );
    let is_waiting = since <= seen.now && seen.now < until;
    is_waiting.then(|| (until, Blocked::new(Reason::PreviousInUse, message)))
}

/// The same, whether or not the previous value is still used.
fn due(seen: &Observed) -> Result<Option<Due>, Blocked> {
    let (Ok(schedule), Some(held)) = (&seen.schedule, seen.held()) else {
        return Ok(None);
    };
    let token = seen.record(&held.stamp.token_id).map(|(token, _)| token);
    let born = seen.resource.metadata.creation_timestamp.as_ref();
    let obtained = held
        .stamp
        .obtained_at(seen.now)
        .or(token.and_then(|token| token.starts))
        .or(born.map(|time| time.0))
        .unwrap_or(seen.now);
    let expiry = seen.expiry().map(|ends| Expiry {
        // Unknown: as if valid for ever, so that nothing is called too frequent on a guess.
        starts: token.and_then(|t| t.starts).unwrap_or(Timestamp::MIN),
        ends,
    });
    let standby = turn::expiring(seen, schedule.before_expiry());
    if expiry.is_none() && standby.is_none() && schedule.only_before_expiry() {
        return Err(Blocked::new(
            Reason::TokenNeverExpires,
            format!(
                "token {} has no expiry, and schedule.beforeExpiry is the only rule; add schedule.every or schedule.cron",
                held.stamp.token_id
            ),
        ));
    }
    // A time in the future was written by a clock that was wrong.
    let adopted = held.stamp.adopted_at.filter(|at| *at <= seen.now);
    let origin = Origin {
        obtained,
        base: adopted.map_or(obtained, |at| at.max(obtained)),
        since: counted(seen, schedule).since.0,
    };
    let uid = seen.resource.uid().unwrap_or_default();
    let own = schedule
        .next(origin, expiry, &uid)
        .map_err(|error| match error {
            ScheduleError::Invalid(message) => Blocked::new(Reason::InvalidSpec, message),
            ScheduleError::TooFrequent(message) => {
                Blocked::new(Reason::ScheduleTooFrequent, message)
            }
        })?;
    let not_before = turn::not_before(seen);
    let asked = not_before.filter(|_| seen.is_requested() && turn::next(seen).is_some());
    let asked = asked.map(|at| Due {
        at,
        rule: DueRule::Requested,
    });
    let all = own.into_iter().chain(standby).chain(asked);
    let next = all.min_by_key(|due| due.at);
    let next = next.map(|due| Due {
        at: not_before.map_or(due.at, |at| due.at.max(at)),
        ..due
    });
    // A revocation waits only until consumers had time to follow.
    let all = next.into_iter().chain(turn::revoking(seen));
    Ok(all.min_by_key(|due| due.at))
}

/// From when on times of `cron` count, as the status is to say it.
///
/// A time that passed before `cron` was written, or while the resource was suspended, is not made up for.
pub fn counted(seen: &Observed, schedule: &Schedule) -> CronStatus {
    let resource = &seen.resource;
    let status = resource.status.clone().unwrap_or_default();
    let cron = schedule.cron_hash();
    let was = |it: &Condition| it.type_ == "Suspended" && it.status == "True";
    let is_resumed = status.conditions.iter().any(was) && resource.spec.suspend != Some(true);
    let since = match status.schedule {
        Some(known) if known.cron == cron && known.since.0 <= seen.now && !is_resumed => {
            known.since
        }
        None if !is_resumed && !is_edited_at_rest(seen) => {
            let born = resource.metadata.creation_timestamp.clone();
            born.unwrap_or(Time(seen.now))
        }
        _ => Time(seen.now),
    };
    CronStatus { cron, since }
}

/// Whether the spec was edited since a status that does not say what its `cron` was, when nothing was due.
fn is_edited_at_rest(seen: &Observed) -> bool {
    seen.resource.status.as_ref().is_some_and(|status| {
        let next = status.next_rotation.as_ref();
        let generation = status.observed_generation;
        generation.is_some()
            && generation != seen.resource.metadata.generation
            && next.is_some_and(|next| next.0 > seen.now)
    })
}

pub(super) fn in_doubt(pending: &Pending, why: &str) -> Blocked {
    Blocked::new(
        Reason::RotationInDoubt,
        format!(
            "rotation {} (attempt {}) was begun at {} and its outcome is unknown: {why}",
            pending.id, pending.attempt, pending.started_at.0
        ),
    )
}

pub(super) fn rotated_elsewhere(held: &Held, token: &Token) -> Blocked {
    let at = token
        .version
        .rotated_at
        .as_ref()
        .map_or_else(|| "an unknown time".into(), |time| time.0.to_string());
    Blocked::new(
        Reason::RotatedElsewhere,
        format!(
            "token {} was rotated by another party at {at}, so the value in Secret {} is no longer valid; request a rotation with the annotation {}",
            token.id,
            held.secret,
            request::ROTATE
        ),
    )
}

pub(super) fn token_gone(held: &Held) -> Blocked {
    Blocked::new(
        Reason::TokenNotFound,
        format!(
            "token {} does not exist any more, so the value in Secret {} is no longer valid",
            held.stamp.token_id, held.secret
        ),
    )
}

pub(super) fn token_expired(held: &Held, ends: Timestamp) -> Blocked {
    Blocked::new(
        Reason::TokenExpired,
        format!(
            "token {} expired at {ends}; if rotating does not renew it, create a new token and name it in spec.token",
            held.stamp.token_id
        ),
    )
}
