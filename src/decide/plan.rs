//! The decision table: from evidence to one plan. Pure; the first rule that speaks wins.

mod wake;

#[cfg(test)]
mod tests;

pub use wake::{reading_not_before, wake};

use crate::api::{Cause, ExternalRotation, Pending, RotationOutcome, request};
use crate::decide::evidence::{
    Access, Drift, Held, Live, Observed, Rival, Stored, Token, Work, compare,
};
use crate::decide::schedule::{self, Due, Expiry, ScheduleError};
use crate::decide::validate::{check_spec, check_token};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

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
    Unavailable(String),
    /// Nothing was begun, and a person has to mend it.
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
    /// The request annotation it answers.
    pub request: Option<String>,
    /// The target Secret's resourceVersion as just read; `None`: there is no Secret.
    pub secret_version: Option<String>,
}

/// A rule of the table.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it says, in one line.
    pub says: &'static str,
    /// Its plan, when it speaks.
    decide: fn(&Observed) -> Option<Plan>,
}

const fn rule(
    name: &'static str,
    says: &'static str,
    decide: fn(&Observed) -> Option<Plan>,
) -> Rule {
    Rule { name, says, decide }
}

/// The table. The order is the meaning.
const RULES: &[Rule] = &[
    rule(
        "being-deleted",
        "A resource that is being deleted starts nothing.",
        being_deleted,
    ),
    rule(
        "invalid-spec",
        "A spec that makes no sense is not acted on.",
        invalid_spec,
    ),
    rule(
        "no-access",
        "Without a credential nothing can be done.",
        no_access,
    ),
    rule(
        "older-rival",
        "Of two resources with a claim to one token or Secret, only the oldest works.",
        older_rival,
    ),
    rule(
        "not-our-secret",
        "A Secret of somebody else, or of another cluster, is never touched.",
        not_our_secret,
    ),
    rule(
        "settle",
        "The Secret proves that the recorded rotation is done, which is booked.",
        settle,
    ),
    rule(
        "in-flight",
        "Somebody may still be working on the recorded rotation.",
        in_flight,
    ),
    rule(
        "after-rival",
        "An older resource worked on the token until now, so the vendor is asked first.",
        after_rival,
    ),
    rule("suspended", "While suspended nothing rotates.", suspended),
    rule(
        "wrong-token",
        "The token is gone, not unique, not a Workspace token, in another Workspace, or the credential is refused.",
        wrong_token,
    ),
    rule(
        "backing-off",
        "After a failure the next try waits.",
        backing_off,
    ),
    rule(
        "resolve-pending",
        "A rotation was recorded and its outcome is unknown; the vendor's record tells what happened.",
        resolve_pending,
    ),
    rule(
        "stale-read",
        "The vendor's answer is older than what is stored.",
        stale_read,
    ),
    rule(
        "drift",
        "Somebody else rotated the token, so the Secret's value is dead.",
        drift,
    ),
    rule(
        "expired",
        "The value has expired; one rotation may renew it.",
        expired,
    ),
    rule(
        "due",
        "No value is stored, a request is not handled yet, or the schedule says so.",
        due,
    ),
    rule(
        "outdated",
        "The Secret differs from what the spec asks for, and is written anew with the value it holds.",
        outdated,
    ),
];

/// The rule that is left when no other speaks.
const IDLE: Rule = rule(
    "idle",
    "Nothing is to be done before the next due time.",
    |seen| Some(idle(seen)),
);

/// What to do on this evidence.
pub fn plan(seen: &Observed) -> Plan {
    explained(seen).1
}

/// What to do on this evidence, and the rule that says so.
pub fn explained(seen: &Observed) -> (&'static Rule, Plan) {
    RULES
        .iter()
        .find_map(|rule| Some((rule, (rule.decide)(seen)?)))
        .unwrap_or_else(|| (&IDLE, idle(seen)))
}

/// 1. A resource that is being deleted starts nothing; a value in hand is stored by its own task.
fn being_deleted(seen: &Observed) -> Option<Plan> {
    let deleted = seen.resource.metadata.deletion_timestamp.is_some();
    deleted.then_some(Plan::Idle { next: None })
}

/// 2a. A spec that makes no sense is not acted on, even where the API server let it through.
fn invalid_spec(seen: &Observed) -> Option<Plan> {
    let problem = match &seen.schedule {
        Err(ScheduleError::Invalid(message)) => Blocked::new(Reason::InvalidSpec, message),
        Err(ScheduleError::TooFrequent(message)) => {
            Blocked::new(Reason::ScheduleTooFrequent, message)
        }
        Ok(_) => return check_spec(&seen.resource.spec).err().map(Plan::Block),
    };
    Some(Plan::Block(problem))
}

/// 2b. Without a credential nothing can be done.
fn no_access(seen: &Observed) -> Option<Plan> {
    match &seen.access {
        Access::Denied(blocked) => Some(Plan::Block(blocked.clone())),
        Access::Unknown | Access::Granted { .. } => None,
    }
}

/// 2c. Of two resources with a claim to one token or Secret, only the oldest works.
///
/// One that was not looked at yet may turn out unable to; for that moment nothing is called its conflict.
fn older_rival(seen: &Observed) -> Option<Plan> {
    let Rival { blocked, looked_at } = seen.rival.clone()?;
    let said = said_before(seen);
    if looked_at || said.as_ref().is_some_and(|s| s.reason == blocked.reason) {
        return Some(Plan::Block(blocked));
    }
    Some(Plan::Wait {
        until: seen.now + seen.pace().rival_retry,
        doubt: said.or(seen.held().is_none().then_some(blocked)),
    })
}

/// 3. A Secret of somebody else, or of another cluster, is never touched.
fn not_our_secret(seen: &Observed) -> Option<Plan> {
    let blocked = match &seen.stored {
        Stored::Foreign(blocked) => blocked.clone(),
        Stored::Holds(held) => foreign_evidence(seen, held)?,
        Stored::Absent { .. } | Stored::Consented { .. } => return None,
    };
    Some(Plan::Block(blocked))
}

fn foreign_evidence(seen: &Observed, held: &Held) -> Option<Blocked> {
    let (secret, name) = (&held.secret, seen.resource.name_any());
    if held.cluster != seen.settings.cluster {
        return Some(Blocked::new(
            Reason::ClusterChanged,
            format!(
                "Secret {secret} was written in another cluster (kube-system uid {}), which may still use the value; \
                 annotate the Secret with {}={name} if this cluster shall own the token now",
                held.cluster,
                request::ADOPT
            ),
        ));
    }
    let manager = held.key_written_by.as_ref()?;
    Some(Blocked::new(
        Reason::SecretNotOurs,
        format!(
            "key {} of Secret {secret} was overwritten by {manager}; delete the Secret, or annotate it with {}={name}, \
             to have the value replaced",
            held.key,
            request::ADOPT
        ),
    ))
}

/// 4. The Secret itself proves that the call and the write happened.
fn settle(seen: &Observed) -> Option<Plan> {
    // Not `held()`: a value is proven stored even when the spec has come to mean another token, or another target, to
    // which it is moved next.
    let (pending, held) = (seen.pending()?, seen.stored.value()?);
    let proven = held.rotation_id.as_ref() == Some(&pending.id)
        || held.token_id == pending.token_id
            && compare(&pending.replaces, &held.version) == Drift::LiveNewer;
    proven.then_some(Plan::Settle)
}

/// 5. Somebody may still be working on it.
fn in_flight(seen: &Observed) -> Option<Plan> {
    if let Some(work) = &seen.work {
        let doubt = match work {
            Work::Calling => None,
            Work::Storing { error } => Some(Blocked::new(
                Reason::ValueNotStored,
                format!(
                    "the new value cannot be stored in Secret {}, and the old one is dead: {error}; \
                     it is kept in memory and tried again, so do not restart the operator",
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

/// 5b. An older resource worked on the token until now: what was known of it before is not known any more.
fn after_rival(seen: &Observed) -> Option<Plan> {
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

/// 6. Suspended: no rule below may rotate.
fn suspended(seen: &Observed) -> Option<Plan> {
    (seen.resource.spec.suspend == Some(true)).then_some(Plan::Idle { next: None })
}

/// 7. The token is gone, not a Workspace token, in another Workspace, or the credential is refused.
fn wrong_token(seen: &Observed) -> Option<Plan> {
    let (blocked, fresh) = match &seen.live {
        Live::Refused { blocked, fresh } => (blocked.clone(), *fresh),
        Live::Token { token, fresh } => (check_token(seen, token).err()?, *fresh),
        Live::NotAsked | Live::Unavailable { .. } => return None,
    };
    Some(if fresh {
        Plan::Block(blocked)
    } else {
        Plan::Look
    })
}

/// 12. After a failure the next try waits, whatever it is for; an edit of the spec or a new request ends the wait.
///
/// It stands before the rules that rotate, so that no path can burn token after token.
fn backing_off(seen: &Observed) -> Option<Plan> {
    let status = seen.resource.status.as_ref()?;
    let until = status.retry_at.as_ref()?.0;
    let edited = status.observed_generation != seen.resource.metadata.generation;
    let asked = seen.pending().is_none() && seen.unhandled_request().is_some();
    let from_future = until.duration_since(seen.now) > seen.pace().longest_retry;
    if seen.now >= until || from_future || edited || asked {
        return None;
    }
    let doubt = said_before(seen);
    Some(Plan::Wait { until, doubt })
}

/// What the status says stands in the way.
fn said_before(seen: &Observed) -> Option<Blocked> {
    let conditions = &seen.resource.status.as_ref()?.conditions;
    let ready = conditions.iter().find(|it| it.type_ == "Ready")?;
    let reason = Reason::from_name(&ready.reason)?;
    (ready.status == "False").then(|| Blocked::new(reason, &ready.message))
}

/// 8 and 9. An intent whose outcome is unknown: the vendor's record tells what happened.
///
/// The live version is still the one to be replaced: the call never took effect. Another one: a value
/// was issued and lost, and since that killed the stored one, rotating again loses nothing.
fn resolve_pending(seen: &Observed) -> Option<Plan> {
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

/// 10. The vendor's reading is older than what we stored: stale, never drift.
fn stale_read(seen: &Observed) -> Option<Plan> {
    let (drift, held, _, fresh) = seen.drift()?;
    (drift == Drift::StoredNewer && fresh && is_recent(seen, held)).then(|| Plan::Wait {
        until: seen.now + seen.pace().stale_retry,
        doubt: None,
    })
}

/// Whether the vendor may still answer with a record older than this value.
fn is_recent(seen: &Observed, held: &Held) -> bool {
    held.obtained_at()
        .is_some_and(|at| seen.now < at.saturating_add(seen.pace().stale_for).unwrap_or(at))
}

/// 11. Somebody else rotated the token: the Secret's value is dead.
fn drift(seen: &Observed) -> Option<Plan> {
    let (drift, held, token, fresh) = seen.drift()?;
    let stale = drift == Drift::StoredNewer && !fresh;
    if drift == Drift::Same || stale {
        return None;
    }
    if !fresh {
        return Some(Plan::Look);
    }
    if seen.resource.spec.external_rotation == Some(ExternalRotation::Report) {
        let asked = seen.unhandled_request().is_some();
        return (!asked).then(|| Plan::Block(rotated_elsewhere(held, token)));
    }
    match last_reclaim(seen) {
        Some(at) if seen.now.duration_since(at).abs() < seen.pace().contest_window => {
            if seen.unhandled_request().is_some() {
                return None;
            }
            Some(Plan::Block(Blocked::new(
                Reason::Contested,
                format!(
                    "token {} was rotated by somebody else again; it was reclaimed at {at} and will not be reclaimed within 24 h of that. \
                     Find who else rotates it; to take it back now, request a rotation",
                    token.id
                ),
            )))
        }
        _ => Some(rotate(seen, token, Cause::Reclaimed, 1)),
    }
}

/// The value has expired: rotating loses nothing, and may renew it. Once: a vendor may keep the expiry.
fn expired(seen: &Observed) -> Option<Plan> {
    let held = seen.held()?;
    let ends = seen.expiry().filter(|ends| *ends <= seen.now)?;
    if held.obtained_at().is_some_and(|at| at >= ends) {
        return Some(Plan::Block(token_expired(held, ends)));
    }
    Some(
        match fresh(seen, |why| Blocked::new(Reason::TokenExpired, why)) {
            Ok(token) => rotate(seen, token, Cause::Expiring, 1),
            Err(plan) => plan,
        },
    )
}

/// 13. No value stored, a request that was not handled, or the schedule says so.
fn due(seen: &Observed) -> Option<Plan> {
    if let Some(plan) = adopt(seen) {
        return Some(plan);
    }
    let cause = match (seen.held(), seen.unhandled_request(), next_due(seen)) {
        (None, _, _) => Cause::Initial,
        (_, Some(_), _) => Cause::Requested,
        (_, _, Err(blocked)) => return Some(Plan::Block(blocked)),
        (_, _, Ok(Some(due))) if due.at <= seen.now => match due.rule {
            schedule::Rule::Scheduled => Cause::Scheduled,
            schedule::Rule::Expiring => Cause::Expiring,
        },
        (_, _, Ok(_)) => return None,
    };
    Some(
        match fresh(seen, |why| Blocked::new(Reason::VendorUnavailable, why)) {
            Ok(token) => rotate(seen, token, cause, 1),
            Err(plan) => plan,
        },
    )
}

/// A live value that is already in the cluster is kept: under a former target name, or given away with consent.
fn adopt(seen: &Observed) -> Option<Plan> {
    let from = match &seen.stored {
        Stored::Absent {
            elsewhere: Some(held),
            ..
        } => held.clone(),
        Stored::Consented {
            value_is_live: Some(true),
            resource_version,
        } => {
            let Live::Token { token, fresh: true } = &seen.live else {
                return Some(Plan::Look);
            };
            Held {
                secret: seen.resource.spec.target.name.clone(),
                key: seen.resource.spec.target.key().into(),
                token_id: token.id.clone(),
                version: token.version.clone(),
                expires: token.ends,
                cluster: seen.settings.cluster.clone(),
                resource_version: resource_version.clone(),
                ..Held::default()
            }
        }
        Stored::Consented {
            value_is_live: None,
            ..
        } => return Some(Plan::Look),
        _ => return None,
    };
    match &seen.live {
        Live::Token { token, fresh: true } if token.id == from.token_id => {
            match compare(&from.version, &token.version) {
                Drift::Same => Some(Plan::Rewrite {
                    from: Box::new(from),
                }),
                Drift::StoredNewer if is_recent(seen, &from) => Some(Plan::Wait {
                    until: seen.now + seen.pace().stale_retry,
                    doubt: None,
                }),
                Drift::StoredNewer | Drift::LiveNewer => None,
            }
        }
        Live::Token { fresh: true, .. } | Live::Unavailable { .. } => None,
        _ => Some(Plan::Look),
    }
}

/// 14. Key, labels or owner differ from what the Secret shows: written anew from the value it holds. An edit never rotates.
fn outdated(seen: &Observed) -> Option<Plan> {
    let held = seen.held()?;
    let (was, lacks) = (&held.version, |have: bool, there: bool| !have && there);
    if let Live::Token { token, fresh } = &seen.live
        && (lacks(was.rotated_at.is_some(), token.version.rotated_at.is_some())
            || lacks(
                was.short_token.is_some(),
                token.version.short_token.is_some(),
            ))
    {
        // The rotate answer did not say, or a person removed it; the record does. An old reading may be of the value before.
        let version = token.version.clone();
        return Some(match fresh {
            true => Plan::Rewrite {
                from: Box::new(Held {
                    version,
                    expires: token.ends,
                    ..held.clone()
                }),
            },
            false => Plan::Look,
        });
    }
    held.outdated.then(|| Plan::Rewrite {
        from: Box::new(held.clone()),
    })
}

/// 15. Nothing to do until the next due time.
fn idle(seen: &Observed) -> Plan {
    match next_due(seen) {
        Ok(next) => Plan::Idle { next },
        Err(blocked) => Plan::Block(blocked),
    }
}

/// Whether the Secret holds a value believed live; else why not.
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
    if let Some(pending) = seen.pending() {
        return Err(match seen.live {
            Live::Token { ref token, .. }
                if compare(&pending.replaces, &token.version) == Drift::LiveNewer =>
            {
                Blocked::new(
                    Reason::ValueLost,
                    format!(
                        "a value of token {} was issued and lost, and the one in Secret {target} is dead; it is replaced as soon as rotation is not suspended",
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
    let (Ok(schedule), Some(held)) = (&seen.schedule, seen.held()) else {
        return Ok(None);
    };
    let token = match &seen.live {
        Live::Token { token, .. } => Some(token),
        _ => None,
    };
    let born = seen.resource.metadata.creation_timestamp.as_ref();
    let last = held
        .obtained_at()
        .or(token.and_then(|token| token.starts))
        .or(born.map(|time| time.0))
        .unwrap_or(seen.now);
    let expiry = seen.expiry().map(|ends| Expiry {
        // Unknown: as if valid for ever, so that nothing is called too frequent on a guess.
        starts: token.and_then(|t| t.starts).unwrap_or(Timestamp::MIN),
        ends,
    });
    if expiry.is_none() && schedule.only_before_expiry() {
        return Err(Blocked::new(
            Reason::TokenNeverExpires,
            format!(
                "token {} has no expiry, and schedule.beforeExpiry is the only rule; add schedule.every or schedule.cron",
                held.token_id
            ),
        ));
    }
    let uid = seen.resource.uid().unwrap_or_default();
    schedule
        .next(last, expiry, &uid)
        .map_err(|error| match error {
            ScheduleError::Invalid(message) => Blocked::new(Reason::InvalidSpec, message),
            ScheduleError::TooFrequent(message) => {
                Blocked::new(Reason::ScheduleTooFrequent, message)
            }
        })
}

/// The token as read just now, or the plan that gets it.
fn fresh(seen: &Observed, doubt: impl Fn(&str) -> Blocked) -> Result<&Token, Plan> {
    match &seen.live {
        Live::Token { token, fresh: true } => Ok(token),
        Live::Unavailable {
            message,
            retry_after,
        } => {
            let failures = seen.resource.status.as_ref().and_then(|s| s.failures);
            let pause =
                (seen.pace()).after_failures(failures.unwrap_or(0).max(0).unsigned_abs() + 1);
            Err(Plan::Retry {
                until: seen.now + retry_after.unwrap_or(pause).max(pause),
                blocked: doubt(message),
            })
        }
        _ => Err(Plan::Look),
    }
}

fn rotate(seen: &Observed, token: &Token, cause: Cause, attempt: i32) -> Plan {
    Plan::Rotate(Box::new(rotation(seen, token, cause, attempt)))
}

/// A rotation on this evidence, whether or not it is due.
pub fn rotation(seen: &Observed, token: &Token, cause: Cause, attempt: i32) -> Rotation {
    let secret_version = match &seen.stored {
        Stored::Holds(held) => held.resource_version.clone(),
        Stored::Consented {
            resource_version, ..
        }
        | Stored::Absent {
            resource_version, ..
        } => resource_version.clone(),
        Stored::Foreign(_) => None,
    };
    Rotation {
        cause,
        attempt,
        token: token.clone(),
        request: seen.request(),
        secret_version,
    }
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

fn in_doubt(pending: &Pending, why: &str) -> Blocked {
    Blocked::new(
        Reason::RotationInDoubt,
        format!(
            "rotation {} (attempt {}) was begun at {} and its outcome is unknown: {why}",
            pending.id, pending.attempt, pending.started_at.0
        ),
    )
}

fn rotated_elsewhere(held: &Held, token: &Token) -> Blocked {
    let at = token
        .version
        .rotated_at
        .as_ref()
        .map_or_else(|| "an unknown time".into(), |time| time.0.to_string());
    Blocked::new(
        Reason::RotatedElsewhere,
        format!(
            "token {} was rotated by somebody else at {at}, so the value in Secret {} is dead; request a rotation with the annotation {}",
            token.id,
            held.secret,
            request::ROTATE
        ),
    )
}

fn token_expired(held: &Held, ends: Timestamp) -> Blocked {
    Blocked::new(
        Reason::TokenExpired,
        format!(
            "token {} expired at {ends}; if rotating does not renew it, create a new token and name it in spec.token",
            held.token_id
        ),
    )
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
