//! What rules begin: a fresh look, and a rotation on it.

use super::obstacles::said_before;
use crate::api::{Cause, evidence};
use crate::decide::evidence::{Held, Live, Observed, Token};
use crate::decide::plan::brake::{brake, tries};
use crate::decide::plan::{Plan, Rotation, Setback, clocks};
use crate::decide::turn;
use crate::id::is_same;
use crate::reason::{Blocked, Reason};

/// The token of this record as read just now, or the plan that gets it.
pub(super) fn fresh<'a>(
    seen: &'a Observed,
    live: &'a Live,
    doubt: impl Fn(&str) -> Blocked,
) -> Result<&'a Token, Plan> {
    match live {
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

/// Whether a look has to wait for a dry run of the Secret's write: it was refused the last time, and while it is, a look costs
/// a turn to rotate and calls to the vendor for nothing.
pub fn rehearses_first(seen: &Observed) -> bool {
    said_before(seen).is_some_and(|said| is_of_write(said.reason))
}

/// Whether a dry run that ended so says that nothing can be written for now.
pub fn is_refusal(setback: &Setback) -> bool {
    match setback {
        Setback::Refused(blocked) | Setback::Unavailable { blocked, .. } => {
            is_of_write(blocked.reason)
        }
        Setback::Raced | Setback::Definite { .. } | Setback::InDoubt(_) => false,
    }
}

fn is_of_write(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TargetRefused | Reason::KubernetesUnavailable
    )
}

/// The only way to a planned rotation, so that no rule can do without the brake, nor without the fence: what another process may
/// have in hand of an earlier one is kept out of the Secret before its token is rotated again.
pub(super) fn rotate(seen: &Observed, token: &Token, cause: Cause, attempt: i32) -> Plan {
    if is_called_by_another(seen) {
        return Plan::Wait {
            until: seen.now + seen.pace().look_retry,
            doubt: None,
        };
    }
    if let (Some(fence), Some(held)) = (turn::unfenced(seen, token), seen.held()) {
        let mut from = held.clone();
        from.outdated = Some(format!("metadata.annotations[{}]", evidence::FENCE));
        from.stamp.fence = Some(fence);
        return rewrite(seen, from);
    }
    match clocks::differ(seen, cause).or_else(|| brake(seen, token, cause)) {
        Some((until, blocked)) => Plan::Wait {
            until,
            doubt: Some(blocked),
        },
        None => Plan::Rotate(Box::new(rotation(seen, token, cause, attempt))),
    }
}

/// Whether the credential that is to be the value in the target was read apart from its evidence, and may be of another turn.
fn is_called_by_another(seen: &Observed) -> bool {
    let held = seen
        .held()
        .filter(|_| seen.resource.spec.rotates_its_credential());
    held.zip(seen.credential_of())
        .is_some_and(|(held, caller)| !is_same(&held.stamp.token_id, caller))
}

/// The only way to a planned rewrite from the value that `from` is the evidence of, so that no rule can do without the brake.
pub(super) fn rewrite(seen: &Observed, from: Held) -> Plan {
    match tries::rewriting(seen, &from) {
        Some((until, blocked)) => Plan::Wait {
            until,
            doubt: Some(blocked),
        },
        None => Plan::Rewrite {
            from: Box::new(from),
        },
    }
}

/// A rotation on this evidence, whether or not it is due.
pub fn rotation(seen: &Observed, token: &Token, cause: Cause, attempt: i32) -> Rotation {
    Rotation {
        cause,
        attempt,
        token: token.clone(),
        requests: seen.requests(),
        secret_version: seen.stored.resource_version(),
    }
}
