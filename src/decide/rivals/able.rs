//! Whether a resource can work on its token, as far as its evidence tells.

use crate::decide::evidence::{Access, Live, Observed, said};
use crate::decide::validate::{check_token, is_workable};
use crate::reason::Reason;

/// Whether the evidence shows that its resource can work on its token; `None`: it does not tell.
pub fn is_able(seen: &Observed) -> Option<bool> {
    if !is_workable(seen) {
        return Some(false);
    }
    let of_each = seen
        .resource
        .spec
        .references()
        .map(|(role, _)| match seen.records.of(role) {
            Live::Refused { .. } => Some(false),
            Live::Token { token, .. } => {
                Some(check_token(seen, token).is_ok() && !was_refused(seen))
            }
            Live::NotAsked | Live::Unavailable { .. } => None,
        });
    // Of two tokens one is enough.
    let known = of_each.max_by_key(|it| match it {
        Some(true) => 2,
        None => 1,
        Some(false) => 0,
    });
    match (&seen.access, known.flatten(), &seen.rival) {
        (Access::Denied(_), ..) => Some(false),
        (_, Some(able), _) => Some(able),
        // It has to wait for a Secret, and is not even looked at.
        (.., Some(rival)) if rival.blocked.reason == Reason::TargetConflict => Some(false),
        (_, None, _) => None,
    }
}

/// Whether its last rotation was refused: a credential may be good enough to read a token, and not to rotate it.
fn was_refused(seen: &Observed) -> bool {
    let status = seen.resource.status.as_ref();
    let failed = status.filter(|status| status.failures.is_some());
    let reason = failed.and_then(said).map(|said| said.reason);
    matches!(
        reason,
        Some(Reason::Forbidden | Reason::CredentialsRejected)
    )
}
