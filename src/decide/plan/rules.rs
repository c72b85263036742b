//! The decision table: the first rule that speaks wins.

mod causes;
mod obstacles;
mod pending;
mod step;

pub use self::causes::{asks_value, is_old_record};
pub use self::pending::{is_dropped, is_stored, is_without_effect};
pub use self::step::{is_refusal, rehearses_first, rotation};

use self::causes::{
    adopt, drift, expired, idle, no_value, outdated, requested, revoked, scheduled, stale_read,
};
use self::obstacles::{
    backing_off, being_deleted, invalid_spec, no_access, not_our_secret, refused, rival, suspended,
    terminating, unread, unsuitable_token,
};
use self::pending::{after_rival, in_flight, resolve_pending, settle, storing};
use super::Plan;
use crate::decide::evidence::{Live, Observed};
use crate::decide::version::Drift;

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
        "storing",
        "A value is only in memory, because it cannot be stored for now.",
        storing,
    ),
    rule(
        "being-deleted",
        "A resource that is being deleted starts nothing.",
        being_deleted,
    ),
    rule(
        "invalid-spec",
        "A spec that cannot be used is not acted on.",
        invalid_spec,
    ),
    rule(
        "no-access",
        "Without a credential nothing can be done.",
        no_access,
    ),
    rule(
        "rival",
        "Of two resources with a claim to one token or Secret, only the one with the better claim works.",
        rival,
    ),
    rule(
        "not-our-secret",
        "A Secret of another party, or of another cluster, is never touched.",
        not_our_secret,
    ),
    rule(
        "settle",
        "The Secret proves that the recorded rotation is done, or all is as it was before it for long; the status is brought up to date.",
        settle,
    ),
    rule(
        "in-flight",
        "A process may still be working on the recorded rotation.",
        in_flight,
    ),
    rule(
        "target-terminating",
        "The Secret is being deleted; it is written again once it is gone.",
        terminating,
    ),
    rule(
        "after-rival",
        "An older resource worked on the token until now, so the vendor is asked first.",
        after_rival,
    ),
    rule(
        "suspended",
        "While the resource is suspended nothing is rotated.",
        suspended,
    ),
    rule(
        "refused",
        "Astro refuses the credential, or does not have exactly one token that the spec can mean.",
        refused,
    ),
    rule(
        "unsuitable-token",
        "The token is no standard API token of the scope that the spec asks for, has no role there, or is the credential itself.",
        unsuitable_token,
    ),
    rule(
        "backing-off",
        "After a failure, or while others change what is worked on, the next attempt waits.",
        backing_off,
    ),
    rule(
        "unread",
        "The Secret's metadata does not tell whether its value is there, so the value is read.",
        unread,
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
        "Another party rotated the token, so the value in the Secret is no longer valid.",
        drift,
    ),
    rule(
        "expired",
        "The value has expired; one rotation may renew it.",
        expired,
    ),
    rule(
        "adopt",
        "A live value that is in the cluster already is kept.",
        adopt,
    ),
    rule(
        "no-value",
        "The Secret holds no value of the token.",
        no_value,
    ),
    rule(
        "revoked",
        "A person asked for the end of the value that the Secret held before.",
        revoked,
    ),
    rule(
        "requested",
        "A rotation was requested that has not been done yet.",
        requested,
    ),
    rule(
        "scheduled",
        "The schedule says that a rotation is due.",
        scheduled,
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

/// Whether a rotation follows, should a look show nothing new: such a look takes a turn to rotate, and others do not.
pub fn leads_to_rotation(seen: &Observed) -> bool {
    let mut seen = seen.clone();
    // A list may be older than the last rotation.
    let stored = match seen.drift() {
        Some((Drift::LiveNewer, ..)) | None => None,
        Some((_, held, ..)) => Some(held.stamp.clone()),
    };
    for live in seen.records.all_mut() {
        if let Live::Token { token, fresh } = live {
            *fresh = true;
            if let Some(stored) = stored.as_ref().filter(|it| it.token_id == token.id) {
                token.version = stored.version.clone();
            }
        }
    }
    matches!(plan(&seen), Plan::Rotate(_))
}

/// The plan on fresh evidence. Nothing fresher is to be had: a pause instead of a spin.
pub fn after_look(seen: &Observed, plan: Plan) -> Plan {
    match plan {
        Plan::Look => Plan::Wait {
            until: seen.now + seen.pace().look_retry,
            doubt: None,
        },
        plan => plan,
    }
}
