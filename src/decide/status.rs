//! The next status: from the old one, the evidence, the plan and what came of it. Pure.

use crate::api::{
    Binding, CronStatus, HistoryEntry, LastRotation, Pending, PreviousToken, RotationOutcome,
    Status, TokenStatus,
};
use crate::decide::evidence::{Access, CredentialClaims, Held, Live, Observed, Stored};
use crate::decide::plan::belief::{believe, counted, next_due};
use crate::decide::plan::brake::needs_person;
use crate::decide::plan::brake::tries::racing;
use crate::decide::plan::rules::{is_dropped, is_stored, is_without_effect, plan};
use crate::decide::plan::{Plan, Rotation, Setback};
use crate::decide::requests::Requests;
use crate::decide::turn::{still_used, still_valid, subject};
use crate::decide::version::{Drift, compare_records};
use crate::reason::{Blocked, LIVE, Reason};
use crate::text::line;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition; the API server's limit is 32,768.
const LONGEST_MESSAGE: usize = 1024;
/// Longest name of a token that is shown.
const LONGEST_NAME: usize = 256;
/// The condition, and its reason, of a credential that expires soon.
pub const EXPIRING: &str = "CredentialsExpiring";
/// Rotations kept in `history`.
const HISTORY: usize = 10;

/// The status that follows; equal to the old one when nothing changed.
pub fn next(seen: &Observed, decided: &Plan, setback: Option<&Setback>) -> Status {
    let old = seen.resource.status.clone().unwrap_or_default();
    let mut new = Status {
        observed_generation: seen.resource.metadata.generation,
        ..old.clone()
    };
    match (setback, decided) {
        (Some(Setback::Raced), _) => return old,
        // Nothing was looked at, and there is nothing to tell yet.
        (None, Plan::Wait { until, .. }) if matches!(racing(seen), Some((at, None)) if at == *until) =>
        {
            return old;
        }
        (Some(Setback::Definite { retry_after, .. }), _) => {
            // It answers one attempt; whether an earlier one took effect is as open as before.
            new.pending = new.pending.filter(|pending| pending.attempt > 1);
            fail(&mut new, seen, *retry_after);
        }
        (Some(Setback::Unavailable { retry_after, .. }), _) => fail(&mut new, seen, *retry_after),
        (Some(Setback::InDoubt(_)), _) => fail(&mut new, seen, None),
        // What is repaired then is none of the objects that are watched, so it is tried with growing pauses.
        (Some(Setback::Refused(blocked)), _) if blocked.reason == Reason::TargetRefused => {
            fail(&mut new, seen, None);
        }
        (None, Plan::Settle) => {
            let booked = booked(seen);
            return next(&booked, &plan(&booked), None);
        }
        (None, Plan::Idle { .. }) => calm(seen, &mut new),
        (None, Plan::Retry { until, .. }) => {
            new.failures = Some(new.failures.unwrap_or(0).saturating_add(1));
            new.retry_at = Some(Time(*until));
        }
        (Some(Setback::Refused(_)), _) | (None, _) => {}
    }
    // The name outlives the value: after an edit of the target it leads to the Secret to move it from.
    let held = seen.held().map(|held| held.secret.clone());
    new.binding = held.map(|name| Binding { name }).or(new.binding);
    new.token = token(seen, &old);
    new.next_rotation = match decided {
        Plan::Idle { next } => next.as_ref().map(|due| Time(due.at)),
        // Still there while something stands in the way, and in the past once it is overdue.
        Plan::Block(_) => next_due(seen).ok().flatten().map(|due| Time(due.at)),
        _ => new.next_rotation,
    };
    new.previous_token = still_valid(seen).map(|token| {
        let ends = token.ends.map(Time).into_iter();
        PreviousToken {
            id: token.id.clone(),
            name: line(&token.name, LONGEST_NAME),
            last_used_at: token.last_used.and_then(day).map(Time),
            still_used: still_used(seen).map(|_| true),
            valid_until: ends.chain(new.next_rotation.clone()).min(),
        }
    });
    conditions(seen, decided, setback, &old, &mut new);
    // That a status of an older version does not say it is no reason to write one.
    if old.schedule.is_some() || new != old {
        new.schedule = cron_status(seen, &old);
    }
    if let Access::Granted(CredentialClaims { expires, .. }) = seen.access
        && (old.credential_expires_at.is_some() || new != old)
    {
        new.credential_expires_at = expires.map(Time);
    }
    // Nor are the consents that the Secret names; should it be made again with an old one, that is known to be used.
    if let Some(held) = seen.held().filter(|_| new != old) {
        new.used_consents.clone_from(&held.stamp.adopted.0);
    }
    new
}

/// From when on times of `cron` count; of a schedule that cannot be read nothing is known.
fn cron_status(seen: &Observed, old: &Status) -> Option<CronStatus> {
    let known = seen.schedule.as_ref().ok();
    let known = known.map(|schedule| counted(seen, schedule));
    known.or_else(|| old.schedule.clone())
}

/// The evidence once the pending rotation is booked, which the Secret proves, which had no effect, or which is about a
/// token that is none of ours any more.
pub fn booked(seen: &Observed) -> Observed {
    let mut new = seen.resource.status.clone().unwrap_or_default();
    new.observed_generation = seen.resource.metadata.generation;
    match new.pending.take() {
        Some(pending) if pending.is_unreadable() || is_without_effect(seen) => {}
        Some(pending) if is_stored(seen) => {
            remember(&mut new, &pending, RotationOutcome::Stored);
            new.last_rotation = Some(LastRotation {
                id: pending.id,
                reason: pending.reason,
                at: pending.started_at,
                attempts: Some(pending.attempt).filter(|attempt| *attempt > 1),
            });
            new.handled_request = pending.request.or(new.handled_request);
            new.handled_revoke = pending.revoke.or(new.handled_revoke);
        }
        Some(pending) if is_dropped(seen) => {
            remember(&mut new, &pending, RotationOutcome::Dropped);
        }
        Some(lost) => remember(&mut new, &lost, RotationOutcome::Lost),
        None => {}
    }
    (new.failures, new.retry_at) = (None, None);
    let mut booked = seen.clone();
    booked.resource.status = Some(new);
    booked.work = None;
    booked
}

/// Nothing stands in the way: failures are over, and the Secret's evidence fills in what status lost.
fn calm(seen: &Observed, new: &mut Status) {
    (new.failures, new.retry_at) = (None, None);
    if let Some(held) = seen.held() {
        let Requests { rotate, revoke } = held.stamp.requests.clone();
        new.handled_request = rotate.or(new.handled_request.take());
        new.handled_revoke = revoke.or(new.handled_revoke.take());
    }
}

/// The recorded intent whose value a rotation finds to be issued and lost.
pub fn lost<'a>(seen: &'a Observed, rotation: &Rotation) -> Option<&'a Pending> {
    let is_lost = |pending: &&Pending| {
        pending.token_id == rotation.token.id
            && compare_records(&pending.replaces, &rotation.token.version) == Drift::LiveNewer
    };
    seen.pending().filter(is_lost)
}

/// The status that records an intent, begun `now`.
pub fn begin(
    seen: &Observed,
    rotation: &Rotation,
    id: String,
    holder: String,
    now: Timestamp,
) -> Status {
    let old = seen.resource.status.clone().unwrap_or_default();
    let mut new = Status {
        observed_generation: seen.resource.metadata.generation,
        schedule: cron_status(seen, &old),
        ..old.clone()
    };
    // Of one about another token it stays unknown what became of it, and it may land for a while.
    let of_another = seen.pending().filter(|it| it.token_id != rotation.token.id);
    if let Some(lost) = lost(seen, rotation).or(of_another) {
        remember(&mut new, lost, RotationOutcome::Lost);
    }
    new.pending = Some(Pending {
        id,
        reason: rotation.cause,
        attempt: rotation.attempt,
        token_id: rotation.token.id.clone(),
        started_at: Time(now),
        replaces: rotation.token.version.clone(),
        holder,
        request: rotation.requests.rotate.clone(),
        revoke: rotation.requests.revoke.clone(),
    });
    let message = format!("rotating token {} ({})", rotation.token.id, rotation.cause);
    let mut all = Conditions::new(seen, &old, &mut new);
    all.set("Reconciling", "True", "Rotating", message);
    all.remove("Stalled");
    new
}

/// Its beginning, UTC: a time that changes with each call to the vendor must not have a status written each time.
fn day(at: Timestamp) -> Option<Timestamp> {
    let seconds = at.as_second();
    Timestamp::from_second(seconds - seconds.rem_euclid(86_400)).ok()
}

fn fail(new: &mut Status, seen: &Observed, retry_after: Option<SignedDuration>) {
    let failures = new.failures.unwrap_or(0).saturating_add(1);
    let pause = seen.pace().after_failures(failures.unsigned_abs());
    new.failures = Some(failures);
    new.retry_at = Some(Time(seen.now + retry_after.unwrap_or(pause).max(pause)));
}

fn remember(new: &mut Status, pending: &Pending, outcome: RotationOutcome) {
    new.history.insert(
        0,
        HistoryEntry {
            id: pending.id.clone(),
            reason: pending.reason,
            at: pending.started_at.clone(),
            token_id: pending.token_id.clone(),
            outcome,
        },
    );
    new.history.truncate(HISTORY);
}

/// The token whose value the Secret holds, by the Secret's evidence.
///
/// It is a claim to that token, and whoever may write Secrets can name any token on one. So it has to be one that the
/// resource's own credential was shown, now or before.
fn token(seen: &Observed, old: &Status) -> Option<TokenStatus> {
    if matches!(seen.stored, Stored::Unread(_)) {
        // Whether it is still there is not known.
        return old.token.clone();
    }
    let held = seen.held()?;
    let known = seen.record(&held.stamp.token_id);
    let known = known.map(|(token, _)| token.name.clone());
    let before = old
        .token
        .as_ref()
        .filter(|token| token.id == held.stamp.token_id);
    if known.is_none() && before.is_none() {
        return None;
    }
    let name =
        known
            .or(before.map(|token| token.name.clone()))
            .or(seen.resource.spec.token.name.clone());
    Some(TokenStatus {
        id: held.stamp.token_id.clone(),
        name: line(&name.unwrap_or_default(), LONGEST_NAME),
        short_token: held.stamp.version.short_token.clone(),
        rotated_at: held.stamp.version.rotated_at.clone(),
        expires_at: seen.expiry().map(Time),
    })
}

fn conditions(
    seen: &Observed,
    plan: &Plan,
    setback: Option<&Setback>,
    old: &Status,
    new: &mut Status,
) {
    let obstacle = obstacle(plan, setback);
    let believed = match seen.held() {
        // This process is at it right now: a doubt only once it fails.
        Some(held) if seen.work.is_some() => Ok(held),
        _ => believe(seen),
    };
    let suspended = seen.resource.spec.suspend == Some(true);
    let beside = obstacle.or(believed.as_ref().err());
    let is_stalled = beside.is_some_and(|it| {
        // What passes by itself and is blocked for all that is left as it is, as the spec wants.
        let is_left = setback.is_none() && matches!(plan, Plan::Block(_));
        !it.reason.passes()
            || needs_person(seen, it.reason)
            || it.reason.is_about_value() && (suspended || is_left)
    });
    let doubt = obstacle.filter(|it| is_about_value(seen, it));
    let ready = match (doubt, &believed) {
        (Some(doubt), _) | (None, Err(doubt)) => Err(doubt),
        (None, Ok(held)) => Ok(*held),
    };
    let next = new.next_rotation.clone().filter(|_| !is_stalled);
    let live = ready
        .as_ref()
        .ok()
        .map(|held| live_message(seen, held, new, next));
    let mut all = Conditions::new(seen, old, new);
    match ready {
        Ok(_) => all.set("Ready", "True", LIVE, live.unwrap_or_default()),
        Err(doubt) => {
            let reason = doubt.reason.to_string();
            all.set("Ready", "False", &reason, doubt.message.clone());
        }
    }
    let (present, absent) = match is_stalled {
        true => ("Stalled", "Reconciling"),
        false => ("Reconciling", "Stalled"),
    };
    all.remove(absent);
    match beside {
        Some(it) => all.set(present, "True", &it.reason.to_string(), it.message.clone()),
        None if seen.work.is_some() => {
            let message = "a rotation is in flight";
            all.set(present, "True", "Rotating", message.into());
        }
        None => all.remove(present),
    }
    if let Access::Granted(CredentialClaims { expires, .. }) = seen.access {
        match expires.filter(|at| seen.now + seen.pace().credential_warning >= *at) {
            Some(at) => {
                let message = format!(
                    "the credential expires at {at}, after which nothing is rotated with it; replace it before that"
                );
                all.set(EXPIRING, "True", EXPIRING, message);
            }
            None => all.remove(EXPIRING),
        }
    }
    if suspended {
        let message = "spec.suspend is set: nothing is rotated, not even to recover a lost value";
        all.set("Suspended", "True", "Suspended", message.into());
    } else {
        all.remove("Suspended");
    }
}

/// What keeps the plan from being carried out, or from being more than to wait.
fn obstacle<'a>(plan: &'a Plan, setback: Option<&'a Setback>) -> Option<&'a Blocked> {
    match (setback, plan) {
        (
            Some(
                Setback::Refused(blocked)
                | Setback::Unavailable { blocked, .. }
                | Setback::Definite { blocked, .. }
                | Setback::InDoubt(blocked),
            ),
            _,
        ) => Some(blocked),
        (None, Plan::Block(blocked) | Plan::Retry { blocked, .. }) => Some(blocked),
        (None, Plan::Wait { doubt, .. }) => doubt.as_ref(),
        _ => None,
    }
}

/// Whether an obstacle says that there is no live value. Where nothing is stored, each does: it is why.
fn is_about_value(seen: &Observed, obstacle: &Blocked) -> bool {
    let reason = obstacle.reason;
    let is_gone = reason == Reason::TokenNotFound && seen.token_is_gone;
    // Here alone a caller that is refused proves that the value is dead.
    let is_caller =
        reason == Reason::CredentialsRejected && seen.resource.spec.rotates_its_credential();
    // What is wrong with the token that is next says nothing of the value that is held.
    let is_spared = seen.takes_turns()
        && reason.is_about_token()
        && seen.rival.is_none()
        && believe(seen).is_ok();
    (reason.is_about_value() || is_gone || is_caller || seen.held().is_none()) && !is_spared
}

/// What the Secret holds, what else is valid, and what comes next.
fn live_message(seen: &Observed, held: &Held, new: &Status, next: Option<Time>) -> String {
    let stamp = &held.stamp;
    let of = |token: &str| match seen.takes_turns() {
        true => format!(" of token {token}"),
        false => String::new(),
    };
    let own = new
        .token
        .as_ref()
        .map_or(&stamp.token_id, |token| &token.name);
    let since = stamp.version.rotated_at.as_ref();
    let since = since.map_or_else(String::new, |at| format!(", rotated at {}", at.0));
    let is_former = seen.takes_turns() && seen.resource.spec.alternate_token.is_none();
    let former = if is_former {
        ", which the spec no longer names"
    } else {
        ""
    };
    let before = match (&new.previous_token, &stamp.other) {
        (Some(token), _) => {
            let until = token.valid_until.as_ref();
            let until = until.map_or_else(String::new, |at| format!(" until {}", at.0));
            format!(
                "; the previous value, of token {}, is valid{until}",
                token.name
            )
        }
        (None, Some(id)) if !seen.takes_turns() && stamp.previous.is_some() => format!(
            "; the value before it, of token {id}, is no longer managed and may still be valid; rotate or delete that token at Astro"
        ),
        _ => String::new(),
    };
    let subject = match subject(seen) {
        Some(Live::Token { token, .. }) => of(&token.name),
        _ => String::new(),
    };
    let then = match next {
        _ if seen.resource.spec.suspend == Some(true) => "; rotation is suspended".into(),
        Some(at) => format!("; next rotation{subject} at {}", at.0),
        None => String::new(),
    };
    format!(
        "Secret {} holds the live value{}{former}{since}{before}{then}",
        held.secret,
        of(own)
    )
}

/// The conditions under construction: a transition time changes only with the status.
struct Conditions<'a> {
    now: Timestamp,
    generation: Option<i64>,
    old: &'a [Condition],
    new: &'a mut Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(seen: &Observed, old: &'a Status, new: &'a mut Status) -> Self {
        Self {
            now: seen.now,
            generation: seen.resource.metadata.generation,
            old: &old.conditions,
            new: &mut new.conditions,
        }
    }

    fn remove(&mut self, type_: &str) {
        self.new.retain(|condition| condition.type_ != type_);
    }

    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let since = self
            .old
            .iter()
            .find(|old| old.type_ == type_ && old.status == status)
            .map_or(Time(self.now), |old| old.last_transition_time.clone());
        let condition = Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: line(&message, LONGEST_MESSAGE),
            observed_generation: self.generation,
            last_transition_time: since,
        };
        match self.new.iter_mut().find(|new| new.type_ == type_) {
            Some(place) => *place = condition,
            None => self.new.push(condition),
        }
    }
}
