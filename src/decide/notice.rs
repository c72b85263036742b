//! What a person should hear of, once.

use crate::api::{Cause, Status};
use crate::reason::LIVE;

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
        return Some(Notice {
            reason: reason.into(),
            message: format!("token {} {what} ({})", token.name, last.reason),
            action: last.reason.to_string(),
            rotation_id: Some(last.id.clone()),
            warning: false,
        });
    }
    let (before, after) = (old.ready(), new.ready()?);
    let same = before.is_some_and(|before| before.reason == after.reason);
    // Waiting for the first rotation is how every resource begins.
    let quiet = after.reason == "AwaitingFirstRotation";
    if same || quiet || (after.status == "True" && before.is_none_or(|b| b.reason == LIVE)) {
        return None;
    }
    Some(Notice {
        reason: match after.status.as_str() {
            "True" => "Ready".into(),
            _ => after.reason.clone(),
        },
        message: after.message.clone(),
        action: "Reconcile".into(),
        rotation_id: None,
        warning: after.status != "True",
    })
}
