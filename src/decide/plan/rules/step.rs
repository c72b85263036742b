//! What rules begin: a fresh look, and a rotation on it.

use crate::api::Cause;
use crate::decide::evidence::{Live, Observed, Token};
use crate::decide::plan::brake::brake;
use crate::decide::plan::{Plan, Rotation, clocks};
use crate::reason::Blocked;

/// The token as read just now, or the plan that gets it.
pub(super) fn fresh(seen: &Observed, doubt: impl Fn(&str) -> Blocked) -> Result<&Token, Plan> {
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

/// The only way to a planned rotation, so that no rule can do without the brake.
pub(super) fn rotate(seen: &Observed, token: &Token, cause: Cause, attempt: i32) -> Plan {
    match clocks::differ(seen, cause).or_else(|| brake(seen, token, cause)) {
        Some((until, blocked)) => Plan::Wait {
            until,
            doubt: Some(blocked),
        },
        None => Plan::Rotate(Box::new(rotation(seen, token, cause, attempt))),
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
