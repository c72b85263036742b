//! Rules about what stands in the way.

use crate::api::request;
use crate::decide::evidence::{Access, Held, Live, Observed, Rival, Stored, said};
use crate::decide::plan::Plan;
use crate::decide::plan::brake::tries::racing;
use crate::decide::schedule::ScheduleError;
use crate::decide::turn::all_trouble;
use crate::decide::validate::{check_pair, check_spec};
use crate::reason::{Blocked, Reason};
use kube::ResourceExt;

/// A value in hand is stored by its own task.
pub(super) fn being_deleted(seen: &Observed) -> Option<Plan> {
    let deleted = seen.resource.metadata.deletion_timestamp.is_some();
    deleted.then_some(Plan::Idle { next: None })
}

/// Even where the API server let it through.
pub(super) fn invalid_spec(seen: &Observed) -> Option<Plan> {
    let problem = match &seen.schedule {
        Err(ScheduleError::Invalid(message)) => Blocked::new(Reason::InvalidSpec, message),
        Err(ScheduleError::TooFrequent(message)) => {
            Blocked::new(Reason::ScheduleTooFrequent, message)
        }
        Ok(_) => {
            let checked = check_spec(&seen.resource.spec).and_then(|()| check_pair(seen));
            return checked.err().map(Plan::Block);
        }
    };
    Some(Plan::Block(problem))
}

pub(super) fn no_access(seen: &Observed) -> Option<Plan> {
    match &seen.access {
        Access::Denied(blocked) => Some(Plan::Block(blocked.clone())),
        Access::Unknown | Access::Granted(_) => None,
    }
}

/// One that was not looked at yet may turn out unable to; for that moment nothing is called its conflict.
pub(super) fn rival(seen: &Observed) -> Option<Plan> {
    let Rival { blocked, until } = seen.rival.clone()?;
    let said = said_before(seen);
    let is_said = said.as_ref().is_some_and(|s| s.reason == blocked.reason);
    let Some(until) = until.filter(|_| !is_said) else {
        return Some(Plan::Block(blocked));
    };
    Some(Plan::Wait {
        until: until.min(seen.now + seen.pace().rival_retry),
        doubt: said.or(seen.held().is_none().then_some(blocked)),
    })
}

pub(super) fn not_our_secret(seen: &Observed) -> Option<Plan> {
    let blocked = match &seen.stored {
        Stored::Foreign(blocked) => blocked.clone(),
        Stored::Holds(held) => foreign_evidence(seen, held)?,
        Stored::Unread(held) if held.stamp.cluster != seen.settings.cluster => {
            foreign_evidence(seen, held)?
        }
        Stored::Absent { .. } | Stored::Consented { .. } | Stored::Unread(_) => return None,
    };
    Some(Plan::Block(blocked))
}

fn foreign_evidence(seen: &Observed, held: &Held) -> Option<Blocked> {
    let (secret, name) = (&held.secret, seen.resource.name_any());
    if held.stamp.cluster != seen.settings.cluster {
        return Some(Blocked::new(
            Reason::ClusterChanged,
            format!(
                "Secret {secret} was written in another cluster (kube-system uid {}), which may still use the value; \
                 annotate the Secret with {}={} if this cluster shall own the token now",
                held.stamp.cluster,
                request::ADOPT,
                held.stamp.adopted.unused(&name)
            ),
        ));
    }
    let manager = held.key_written_by.as_ref()?;
    Some(Blocked::new(
        Reason::SecretNotOurs,
        format!(
            "key {} of Secret {secret} was overwritten by {manager}; delete the Secret, or annotate it with {}={}, \
             to have the value replaced",
            held.stamp.key,
            request::ADOPT,
            held.stamp.adopted.unused(&name)
        ),
    ))
}

/// What is written into it is gone with it.
pub(super) fn terminating(seen: &Observed) -> Option<Plan> {
    let held = seen.held().filter(|held| held.terminating)?;
    Some(Plan::Block(Blocked::new(
        Reason::TargetTerminating,
        format!(
            "Secret {} is being deleted, and a finalizer keeps it for now; the value is written again once it is gone",
            held.secret
        ),
    )))
}

/// Before a rotation because there is no value, its absence is read, and not concluded.
pub(super) fn unread(seen: &Observed) -> Option<Plan> {
    matches!(seen.stored, Stored::Unread(_)).then_some(Plan::Look)
}

pub(super) fn suspended(seen: &Observed) -> Option<Plan> {
    (seen.resource.spec.suspend == Some(true)).then_some(Plan::Idle { next: None })
}

/// Of two tokens one is enough.
pub(super) fn refused(seen: &Observed) -> Option<Plan> {
    let mut references = seen.resource.spec.references();
    let is_refused = |role| matches!(seen.records.of(role), Live::Refused { .. });
    let all = references.all(|(role, _)| is_refused(role));
    let (blocked, fresh) = all.then(|| all_trouble(seen)).flatten()?;
    Some(blocked_if_fresh(blocked, fresh))
}

pub(super) fn unsuitable_token(seen: &Observed) -> Option<Plan> {
    let (blocked, fresh) = all_trouble(seen)?;
    Some(blocked_if_fresh(blocked, fresh))
}

pub(super) fn blocked_if_fresh(blocked: Blocked, fresh: bool) -> Plan {
    match fresh {
        true => Plan::Block(blocked),
        false => Plan::Look,
    }
}

/// After a failure an edit of the spec or a new request ends the wait; while others change what is worked on, nothing does,
/// as edits may be what they do. It stands before the rules that rotate, so that no path can rotate a token again and again.
pub(super) fn backing_off(seen: &Observed) -> Option<Plan> {
    if let Some((until, told)) = racing(seen) {
        let doubt = told.or_else(|| said_before(seen));
        return Some(Plan::Wait { until, doubt });
    }
    let status = seen.resource.status.as_ref()?;
    let until = status.retry_at.as_ref()?.0;
    let edited = status.observed_generation != seen.resource.metadata.generation;
    // One that is only not answered yet was tried before.
    let is_new = seen.is_requested() && !seen.tries.has_failed(&seen.requests());
    let asked = seen.pending().is_none() && is_new;
    let from_future = until.duration_since(seen.now) > seen.pace().longest_retry;
    if seen.now >= until || from_future || edited || asked {
        return None;
    }
    let doubt = said_before(seen);
    Some(Plan::Wait { until, doubt })
}

/// What the status says stands in the way.
pub(super) fn said_before(seen: &Observed) -> Option<Blocked> {
    said(seen.resource.status.as_ref()?)
}
