//! What the first version has written is read by this one: nothing is rotated for it, and next to nothing written.

use crate::api::{Status, WorkspaceTokenRotation};
use crate::cluster::decode::{Decode, Item};
use crate::decide::evidence::{Access, CredentialClaims, Live, Observed, Settings, Stored, Token};
use crate::decide::managed::Metadata;
use crate::decide::ownership;
use crate::decide::pace::Pace;
use crate::decide::plan::Plan;
use crate::decide::plan::rules::plan;
use crate::decide::status::next;
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::sync::Arc;

/// Resources and their Secrets without the data, as the API server had them after a run of the first version.
const WRITTEN: &str = include_str!("tests/first.json");
/// When their tokens were made.
const MADE: &str = "2026-11-29T11:15:50Z";
/// When the next version was started.
const STARTED: &str = "2026-11-29T11:16:04Z";

fn read<T: Decode>(object: &Value) -> T {
    let item: Item<T> = serde_json::from_value(object.clone()).unwrap();
    item.read().unwrap()
}

/// The evidence on one of them, so long after the start, while its value is the live one.
fn seen(name: &str, after: SignedDuration) -> Observed {
    let written: Value = serde_json::from_str(WRITTEN).unwrap();
    let (resource, secret) = (&written[name]["resource"], &written[name]["secret"]);
    let (resource, secret): (WorkspaceTokenRotation, Metadata) = (read(resource), read(secret));
    let cluster = &secret.metadata.annotations.as_ref().unwrap()["astro-token-operator.io/cluster"];
    let settings = Settings {
        minimum_interval: SignedDuration::from_mins(5),
        pace: Pace::SHIPPED,
        cluster: cluster.clone(),
    };
    let now = STARTED.parse::<Timestamp>().unwrap() + after;
    let mut seen = Observed::begin(&resource, now, &Arc::new(settings));
    seen.access = Access::Granted(CredentialClaims::default());
    seen.found(ownership::read(&secret, &resource, cluster, |_| true));
    let Stored::Holds(held) = &seen.stored else {
        panic!("{name}: {:?}", seen.stored);
    };
    seen.records.token = Live::Token {
        token: Token {
            id: held.stamp.token_id.clone(),
            name: resource.spec.token.name.clone().unwrap(),
            scope: "WORKSPACE".into(),
            kind: "STANDARD".into(),
            entities: resource.spec.workspace_id.into_iter().collect(),
            version: held.stamp.version.clone(),
            starts: Some(MADE.parse().unwrap()),
            ends: held.stamp.expires,
            ..Token::default()
        },
        fresh: true,
    };
    seen
}

fn status(seen: &Observed) -> Status {
    seen.resource.status.clone().unwrap()
}

#[test]
fn what_was_at_rest_is_neither_rotated_nor_written() {
    for name in [
        "every",
        "cron",
        "expiring",
        "adopted",
        "suspended",
        "requested",
        "requested twice",
    ] {
        let seen = seen(name, SignedDuration::ZERO);
        let planned = plan(&seen);
        assert!(matches!(planned, Plan::Idle { .. }), "{name}: {planned:?}");
        assert_eq!(next(&seen, &planned, None), status(&seen), "{name}");
    }
}

#[test]
fn what_is_due_after_an_upgrade_is_what_was_due_before() {
    for name in ["every", "cron", "expiring", "requested"] {
        let seen = seen(name, SignedDuration::ZERO);
        let Plan::Idle { next: Some(due) } = plan(&seen) else {
            panic!("{name}: {:?}", plan(&seen));
        };
        assert_eq!(
            Some(due.at),
            status(&seen).next_rotation.map(|it| it.0),
            "{name}"
        );
    }
}

#[test]
fn what_was_blocked_with_a_live_value_is_written_once_and_is_ready() {
    let mut seen = seen("blocked", SignedDuration::ZERO);
    let missing = Blocked::new(Reason::CredentialsMissing, "the credential is missing");
    (seen.access, seen.records.token) = (Access::Denied(missing), Live::NotAsked);
    let was = status(&seen);
    let planned = plan(&seen);
    assert!(matches!(planned, Plan::Block(_)), "{planned:?}");
    let first = next(&seen, &planned, None);
    assert!(!was.is_ready() && first.is_ready());
    let stalled = |status: &Status| status.present("Stalled").unwrap().reason.clone();
    assert_eq!(
        (stalled(&was), stalled(&first)),
        (stalled(&first), "CredentialsMissing".into())
    );
    seen.resource.status = Some(first.clone());
    assert_eq!(next(&seen, &plan(&seen), None), first);
}

#[test]
fn what_was_in_doubt_is_resolved_as_before() {
    let soon = seen("in doubt", SignedDuration::from_mins(2));
    let Plan::Rotate(rotation) = plan(&soon) else {
        panic!("{:?}", plan(&soon));
    };
    let pending = status(&soon).pending.unwrap();
    assert_eq!(
        (rotation.cause, rotation.attempt),
        (pending.reason, pending.attempt + 1)
    );

    // So late the request is answered for its own sake.
    let late = seen("in doubt", SignedDuration::from_mins(20));
    assert_eq!(plan(&late), Plan::Settle);
    let settled = next(&late, &Plan::Settle, None);
    assert_eq!(
        (settled.pending, settled.history),
        (None, status(&late).history)
    );
}
