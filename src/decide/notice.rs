//! What a person should hear of, once.

use crate::api::{Cause, HistoryEntry, RotationOutcome, Status};
use crate::decide::status::EXPIRING;
use crate::reason::{LIVE, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Something worth an event: reason, message, and whether it is a warning.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// CamelCase reason.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// What was being done; of events with the same reason and action only the first is shown in full.
    pub action: String,
    /// The rotation it is about.
    pub rotation_id: Option<String>,
    /// A failure.
    pub warning: bool,
}

/// What changed between two statuses that a person should hear of, once: a rotation, a recovery, a new failure.
pub fn notice(old: &Status, new: &Status) -> Option<Notice> {
    let rotated = new.last_rotation.as_ref().filter(|last| {
        let before = old.last_rotation.as_ref();
        before.is_none_or(|before| before.id != last.id)
    });
    if let (Some(last), Some(token)) = (rotated, &new.token) {
        let (reason, what) = match last.reason {
            Cause::Lost => ("Recovered", "rotated again after a value was lost"),
            Cause::Reclaimed => ("Reclaimed", "reclaimed after another party had rotated it"),
            _ => ("Rotated", "rotated"),
        };
        let kept = new
            .previous_token
            .as_ref()
            .map_or_else(String::new, |before| {
                format!(
                    "; the value before it, of token {}, stays valid",
                    before.name
                )
            });
        return Some(Notice {
            reason: reason.into(),
            message: format!("token {} {what} ({}){kept}", token.name, last.reason),
            action: last.reason.to_string(),
            rotation_id: Some(last.id.clone()),
            warning: false,
        });
    }
    let (first, was_first) = (new.history.first(), old.history.first());
    let is_new = |entry: &&HistoryEntry| was_first.is_none_or(|it| it.id != entry.id);
    let dropped = first
        .filter(|it| it.outcome == RotationOutcome::Dropped)
        .filter(is_new);
    if let Some(revoked) = dropped {
        return Some(Notice {
            reason: "Revoked".into(),
            message: format!(
                "the value before the one in the Secret, of token {}, is no longer valid",
                revoked.token_id
            ),
            action: revoked.reason.to_string(),
            rotation_id: Some(revoked.id.clone()),
            warning: false,
        });
    }
    let (before, after) = (old.ready(), new.ready()?);
    let same = before.is_some_and(|before| before.reason == after.reason);
    // Waiting for the first rotation is how every resource begins.
    let quiet = after.reason == "AwaitingFirstRotation";
    let ready = (!same && !quiet).then_some(after);
    // Then what stands in the way of the next rotation, where it is something else.
    let (was, is) = (beside(old), beside(new));
    let is_news = is.is_some_and(|is| {
        is.reason != after.reason && was.is_none_or(|was| was.reason != is.reason)
    });
    let is_over = was.is_some() && is.is_none();
    let (of, warning) = match ready {
        Some(ready) if ready.status != "True" => (ready, true),
        _ if is_news => (is?, true),
        Some(ready) if before.is_some_and(|before| before.reason != LIVE) => (ready, false),
        _ if is_over && after.status == "True" => (after, false),
        _ => return None,
    };
    let reason = match warning {
        true => &of.reason,
        false => "Ready",
    };
    Some(of_condition(of, reason, warning))
}

/// The same of a credential that expires soon, whatever else there is to hear of.
pub fn expiring(old: &Status, new: &Status) -> Option<Notice> {
    let is_known = old.present(EXPIRING).is_some();
    let of = new.present(EXPIRING).filter(|_| !is_known)?;
    Some(of_condition(of, EXPIRING, true))
}

fn of_condition(condition: &Condition, reason: &str, warning: bool) -> Notice {
    Notice {
        reason: reason.into(),
        message: condition.message.clone(),
        action: "Reconcile".into(),
        rotation_id: None,
        warning,
    }
}

/// What stands in the way of the next rotation.
fn beside(status: &Status) -> Option<&Condition> {
    let mut all = ["Stalled", "Reconciling"].into_iter();
    let is_reason = |it: &&Condition| Reason::from_name(&it.reason).is_some();
    all.find_map(|type_| status.present(type_).filter(is_reason))
}
