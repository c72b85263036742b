//! One row per rule and crash window, and properties that hold on any evidence.

use super::rules::*;
use super::wake::*;
use super::*;
use crate::api::{
    CronStatus, ExternalRotation, HistoryEntry, LastRotation, Pending, RotationOutcome, Status,
    Version, WorkspaceTokenRotation, WorkspaceTokenRotationSpec, request,
};
use crate::decide::consent::Used;
use crate::decide::evidence::Settings;
use crate::decide::evidence::{
    Access, CredentialClaims, Live, Observed, Records, Rival, Stored, Work,
};
use crate::decide::notice::expiring;
use crate::decide::pace::Pace;
use crate::decide::rivals::is_able;
use crate::decide::schedule::{Schedule, ScheduleError};
use crate::decide::stamp::{Stamp, rotation_id};
use crate::decide::status;
use crate::decide::tries::Tries;
use crate::decide::version::Drift;
use crate::reason::{EXPLANATIONS, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const NOW: i64 = 1_800_000_000;
const CLUSTER: &str = "this-cluster";

fn at(offset: i64) -> Timestamp {
    Timestamp::from_second(NOW + offset).unwrap()
}

/// A version issued `offset` seconds from now.
fn version(offset: i64) -> Version {
    Version {
        rotated_at: Some(Time(at(offset))),
        short_token: Some(format!("short{offset}")),
    }
}

fn token(version: Version) -> Token {
    Token {
        id: "tok".into(),
        name: "CI".into(),
        scope: "WORKSPACE".into(),
        kind: "STANDARD".into(),
        entities: vec!["ws".into()],
        version,
        starts: Some(at(-1000)),
        ends: None,
        last_used: None,
        odd: None,
    }
}

fn held(version: Version) -> Held {
    Held {
        secret: "target".into(),
        stamp: Stamp {
            owner: "res".into(),
            key: "token".into(),
            token_id: "tok".into(),
            rotation_id: version.rotated_at.as_ref().map(|t| rotation_id(t.0, 1)),
            version,
            cluster: CLUSTER.into(),
            ..Stamp::default()
        },
        resource_version: Some("7".into()),
        ..Held::default()
    }
}

/// It with another stamp.
fn stamped(mut held: Held, edit: impl FnOnce(&mut Stamp)) -> Held {
    edit(&mut held.stamp);
    held
}

fn spec(edit: impl FnOnce(&mut serde_json::Value)) -> WorkspaceTokenRotationSpec {
    let mut spec = serde_json::json!({
        "workspaceId": "ws",
        "token": {"name": "CI"},
        "schedule": {"every": "1h"},
        "target": {"name": "target"},
    });
    edit(&mut spec);
    serde_json::from_value(spec).unwrap()
}

/// The Secret holds the live value, issued 100 seconds ago; the reading is fresh; nothing is due for an hour.
fn calm() -> Observed {
    let mut resource = WorkspaceTokenRotation::new("res", spec(|_| ()));
    resource.metadata.namespace = Some("ns".into());
    resource.metadata.uid = Some("uid".into());
    resource.metadata.generation = Some(1);
    resource.metadata.creation_timestamp = Some(Time(at(-5000)));
    resource.status = Some(Status {
        observed_generation: Some(1),
        ..Status::default()
    });
    Observed {
        now: at(0),
        schedule: Schedule::parse(&resource.spec.schedule, SignedDuration::from_mins(5)),
        resource,
        settings: Arc::new(Settings {
            minimum_interval: SignedDuration::from_mins(5),
            pace: Pace::SHIPPED,
            cluster: CLUSTER.into(),
        }),
        access: Access::Granted(CredentialClaims::default()),
        stored: Stored::Holds(held(version(-100))),
        elsewhere: None,
        records: Records {
            token: Live::Token {
                token: token(version(-100)),
                fresh: true,
            },
            ..Records::default()
        },
        asked_at: Some(at(-30)),
        value_of: None,
        token_is_gone: false,
        vendor_time: None,
        rival: None,
        taken: Vec::new(),
        is_in_ring: false,
        work: None,
        begun: BTreeMap::new(),
        tries: Tries::default(),
        holder_done_at: None,
    }
}

fn with(edit: impl FnOnce(&mut Observed)) -> Observed {
    let mut seen = calm();
    edit(&mut seen);
    seen
}

fn with_spec(edit: impl FnOnce(&mut serde_json::Value)) -> Observed {
    with(|seen| {
        seen.resource.spec = spec(edit);
        let minimum = seen.settings.minimum_interval;
        seen.schedule = Schedule::parse(&seen.resource.spec.schedule, minimum);
    })
}

fn status_of(seen: &mut Observed) -> &mut Status {
    seen.resource.status.get_or_insert_default()
}

fn live(seen: &mut Observed, version: Version) {
    seen.records.token = Live::Token {
        token: token(version),
        fresh: true,
    };
}

fn pending(age: i64) -> Pending {
    Pending {
        id: rotation_id(at(-age), 9),
        reason: Cause::Scheduled,
        attempt: 1,
        token_id: "tok".into(),
        started_at: Time(at(-age)),
        replaces: version(-4000),
        holder: "another/process".into(),
        request: None,
        revoke: None,
    }
}

/// An intent of `age` seconds that was to replace the stored value, which is the one of 4000 seconds ago.
fn begun(age: i64, live_version: i64) -> Observed {
    with(|seen| {
        seen.stored = Stored::Holds(held(version(-4000)));
        live(seen, version(live_version));
        status_of(seen).pending = Some(pending(age));
    })
}

/// It as far as a list tells that was read some time ago.
fn cached(mut seen: Observed) -> Observed {
    if let Live::Token { fresh, .. } = &mut seen.records.token {
        *fresh = false;
    }
    seen
}

fn empty() -> Stored {
    Stored::Absent {
        elsewhere: None,
        resource_version: None,
    }
}

/// The same with an intent that cannot be read, and was seen first `age` seconds ago.
fn unreadable(age: i64, live_version: i64) -> Observed {
    let mut seen = begun(age, live_version);
    let mut resource = seen.resource.clone();
    resource.status.as_mut().unwrap().pending = Some(Pending::unreadable());
    seen.resource = Observed::begin(&resource, at(-age), &seen.settings).resource;
    let stored = seen.stored.clone();
    seen.found(stored);
    seen
}

/// A plan in short: its kind and what matters of it.
fn short(plan: &Plan) -> String {
    match plan {
        Plan::Idle { next } => match next {
            Some(due) => format!("idle {}", due.at.duration_since(at(0)).as_secs()),
            None => "idle".into(),
        },
        Plan::Wait { until, doubt } => {
            let doubt = doubt
                .as_ref()
                .map_or("calm".into(), |b| b.reason.to_string());
            format!("wait {} {doubt}", until.duration_since(at(0)).as_secs())
        }
        Plan::Retry { until, blocked } => {
            let seconds = until.duration_since(at(0)).as_secs();
            format!("retry {seconds} {}", blocked.reason)
        }
        Plan::Block(blocked) => format!("block {}", blocked.reason),
        Plan::Look => "look".into(),
        Plan::Settle => "settle".into(),
        Plan::Rotate(rotation) => format!("rotate {} {}", rotation.cause, rotation.attempt),
        Plan::Rewrite { from } => format!("rewrite from {}", from.secret),
    }
}

fn blocked(reason: Reason) -> Blocked {
    Blocked::new(reason, "because")
}

/// For good, or for so long.
fn rival(seconds: Option<i64>) -> Rival {
    let blocked = blocked(Reason::TokenConflict);
    let until = seconds.map(at);
    Rival { blocked, until }
}

fn not_ready(reason: Reason) -> Condition {
    Condition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: reason.to_string(),
        message: "because".into(),
        observed_generation: None,
        last_transition_time: Time(at(-10)),
    }
}

#[test]
fn each_rule_has_its_say() {
    let stale = |seen: &mut Observed| {
        if let Live::Token { fresh, .. } = &mut seen.records.token {
            *fresh = false;
        }
    };
    let absent = |seen: &mut Observed| {
        seen.stored = Stored::Absent {
            elsewhere: None,
            resource_version: None,
        };
    };
    let annotate = |seen: &mut Observed, key: &str, value: &str| {
        seen.resource
            .annotations_mut()
            .insert(key.into(), value.into());
    };
    let reclaimed = |seen: &mut Observed, age: i64| {
        status_of(seen).history.push(HistoryEntry {
            id: "r".into(),
            reason: Cause::Reclaimed,
            at: Time(at(-age)),
            token_id: "tok".into(),
            outcome: RotationOutcome::Stored,
        });
    };
    let rows: Vec<(&str, Observed, &str)> = vec![
        ("15 nothing to do until the next due", calm(), "idle 3500"),
        (
            "being deleted: nothing is begun",
            with(|s| {
                absent(s);
                s.resource.metadata.deletion_timestamp = Some(Time(at(-1)));
            }),
            "idle",
        ),
        (
            "no rule in the schedule",
            with_spec(|s| s["schedule"] = serde_json::json!({})),
            "block InvalidSpec",
        ),
        (
            "a cron that is none",
            with_spec(|s| s["schedule"] = serde_json::json!({"cron": "nonsense"})),
            "block InvalidSpec",
        ),
        (
            "an unknown zone",
            with_spec(|s| {
                s["schedule"] = serde_json::json!({"cron": "@daily", "timeZone": "Mars/Base"})
            }),
            "block InvalidSpec",
        ),
        (
            "too often",
            with_spec(|s| s["schedule"]["every"] = "1m".into()),
            "block ScheduleTooFrequent",
        ),
        (
            "neither name nor id",
            with_spec(|s| s["token"] = serde_json::json!({})),
            "block InvalidSpec",
        ),
        (
            "name and id",
            with_spec(|s| s["token"]["id"] = "tok".into()),
            "block InvalidSpec",
        ),
        (
            "an id that would change the URL",
            with_spec(|s| s["workspaceId"] = "../x".into()),
            "block InvalidSpec",
        ),
        (
            "a label of ours",
            with_spec(|s| {
                s["target"]["labels"] = serde_json::json!({"astro-token-operator.io/x": "y"})
            }),
            "block InvalidSpec",
        ),
        (
            "target is the credential",
            with_spec(|s| s["credentials"] = serde_json::json!({"secretRef": {"name": "target"}})),
            "block SelfRotation",
        ),
        (
            "no credential",
            with(|s| s.access = Access::Denied(blocked(Reason::CredentialsMissing))),
            "block CredentialsMissing",
        ),
        (
            "a rival",
            with(|s| s.rival = Some(rival(None))),
            "block TokenConflict",
        ),
        (
            "an older one that was not looked at: a value keeps its truth",
            with(|s| s.rival = Some(rival(Some(60)))),
            "wait 5 calm",
        ),
        (
            "an older one that was not looked at, and is not waited for much longer",
            with(|s| s.rival = Some(rival(Some(2)))),
            "wait 2 calm",
        ),
        (
            "an older one that was not looked at: no value, and why",
            with(|s| {
                absent(s);
                s.rival = Some(rival(Some(60)));
            }),
            "wait 5 TokenConflict",
        ),
        (
            "an older one that was not looked at: known as one that works",
            with(|s| {
                s.rival = Some(rival(Some(60)));
                status_of(s)
                    .conditions
                    .push(not_ready(Reason::TokenConflict));
            }),
            "block TokenConflict",
        ),
        (
            "begun in a far future: no clock keeps it in flight",
            begun(-4000, -4000),
            "rotate Scheduled 2",
        ),
        (
            "a pause until a far future is none",
            with(|s| {
                absent(s);
                status_of(s).retry_at = Some(Time(at(10_000_000)));
            }),
            "rotate Initial 1",
        ),
        (
            "a reclaim in a far future is none",
            with(|s| {
                reclaimed(s, -10_000_000);
                live(s, version(-10));
            }),
            "rotate Reclaimed 1",
        ),
        (
            "an intent for a token that the spec no longer means",
            with(|s| {
                status_of(s).pending = Some(Pending {
                    token_id: "former".into(),
                    ..pending(4000)
                });
            }),
            "settle",
        ),
        (
            "the short form is missing in the evidence",
            with(|s| {
                let mut lacking = held(version(-100));
                lacking.stamp.version.short_token = None;
                s.stored = Stored::Holds(lacking);
            }),
            "rewrite from target",
        ),
        (
            "an older one is gone, and what it did is not known",
            with(|s| {
                stale(s);
                status_of(s)
                    .conditions
                    .push(not_ready(Reason::TokenConflict));
            }),
            "look",
        ),
        (
            "nor can it be known now: not believed, and looked at again",
            with(|s| {
                s.records.token = Live::Unavailable {
                    message: "down".into(),
                    retry_after: None,
                };
                status_of(s)
                    .conditions
                    .push(not_ready(Reason::TokenConflict));
            }),
            "retry 15 TokenConflict",
        ),
        (
            "it did nothing",
            with(|s| {
                status_of(s)
                    .conditions
                    .push(not_ready(Reason::TokenConflict))
            }),
            "idle 3500",
        ),
        (
            "a foreign Secret",
            with(|s| s.stored = Stored::Foreign(blocked(Reason::SecretNotOurs))),
            "block SecretNotOurs",
        ),
        (
            "from another cluster",
            with(|s| {
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.cluster = "other".into();
                }))
            }),
            "block ClusterChanged",
        ),
        (
            "key edited by hand",
            with(|s| {
                s.stored = Stored::Holds(Held {
                    key_written_by: Some("kubectl-edit".into()),
                    ..held(version(-100))
                })
            }),
            "block SecretNotOurs",
        ),
        (
            "the Secret proves the rotation",
            with(|s| {
                status_of(s).pending = Some(Pending {
                    replaces: version(-4000),
                    ..pending(5)
                });
            }),
            "settle",
        ),
        (
            "by the rotation's id, though the time is missing",
            with(|s| {
                let p = pending(5);
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.version = Version::default();
                    it.rotation_id = Some(p.id.clone());
                }));
                status_of(s).pending = Some(p);
            }),
            "settle",
        ),
        (
            "under the former name of the target, which was edited in the middle of it",
            with(|s| {
                let p = pending(5);
                s.stored = Stored::Absent {
                    elsewhere: Some(Held {
                        secret: "former".into(),
                        ..stamped(held(version(-100)), |it| {
                            it.rotation_id = Some(p.id.clone());
                        })
                    }),
                    resource_version: None,
                };
                status_of(s).pending = Some(p);
            }),
            "settle",
        ),
        (
            "settle: another value of the same second is stored",
            with(|s| {
                let another = Version {
                    short_token: Some("another".into()),
                    ..version(-100)
                };
                let mut begun = pending(90);
                begun.replaces = version(-100);
                s.stored = Stored::Holds(held(another.clone()));
                live(s, another);
                status_of(s).pending = Some(begun);
            }),
            "settle",
        ),
        (
            "settle: the value before one that was issued and lost in the same second is none",
            with(|s| {
                let mut begun = pending(90);
                begun.replaces = Version {
                    short_token: Some("lost".into()),
                    ..version(-100)
                };
                s.stored = Stored::Holds(held(version(-100)));
                live(s, version(-90));
                status_of(s).pending = Some(begun);
            }),
            "rotate Lost 2",
        ),
        (
            "settle: all is as it was before, and no call can land any more",
            begun(600, -4000),
            "settle",
        ),
        (
            "settle: not yet for sure",
            begun(599, -4000),
            "rotate Scheduled 2",
        ),
        (
            "settle: the reading is from before that",
            with(|s| {
                *s = cached(begun(700, -4000));
                s.asked_at = Some(at(-101));
            }),
            "look",
        ),
        (
            "settle: the reading is from after that",
            with(|s| {
                *s = cached(begun(700, -4000));
                s.asked_at = Some(at(-100));
            }),
            "settle",
        ),
        (
            "settle: all is as it was before, while suspended",
            with(|s| {
                *s = begun(600, -4000);
                s.resource.spec.suspend = Some(true);
            }),
            "settle",
        ),
        (
            "settle: the Secret was behind before",
            with(|s| {
                *s = begun(600, -4000);
                s.stored = Stored::Holds(held(version(-5000)));
            }),
            "rotate Scheduled 2",
        ),
        (
            "settle: there was no value before",
            with(|s| {
                *s = begun(600, -4000);
                s.stored = empty();
            }),
            "rotate Scheduled 2",
        ),
        (
            "in-flight: an intent that cannot be read",
            unreadable(20, -4000),
            "wait 35 RotationInDoubt",
        ),
        (
            "settle: an intent that cannot be read had no effect",
            unreadable(60, -4000),
            "settle",
        ),
        (
            "resolve-pending: an intent that cannot be read had one",
            unreadable(60, -50),
            "rotate Lost 2",
        ),
        (
            "no-value: an intent that cannot be read, and nothing is stored",
            with(|s| {
                *s = unreadable(60, -4000);
                s.found(empty());
                let pending = status_of(s).pending.as_mut().unwrap();
                pending.token_id = Pending::unreadable().token_id;
            }),
            "rotate Initial 1",
        ),
        (
            "somebody may be at it",
            begun(20, -4000),
            "wait 35 RotationInDoubt",
        ),
        (
            "its holder has been done for two seconds: only a call may still land",
            with(|s| {
                *s = begun(4, -4000);
                s.holder_done_at = Some(at(-2));
            }),
            "wait 8 RotationInDoubt",
        ),
        (
            "this process is at it",
            with(|s| s.work = Some(Work::Calling)),
            "wait 55 calm",
        ),
        (
            "this process cannot store the value",
            with(|s| s.work = Some(Work::Storing { error: "no".into() })),
            "wait 55 ValueNotStored",
        ),
        (
            "a second attempt waits longer",
            with(|s| {
                *s = begun(20, -4000);
                status_of(s).pending.as_mut().unwrap().attempt = 5;
            }),
            "wait 100 RotationInDoubt",
        ),
        (
            "suspended, though due",
            with_spec(|s| {
                s["suspend"] = true.into();
                s["schedule"]["every"] = "5m".into();
            }),
            "idle",
        ),
        (
            "suspended, though lost",
            with(|s| {
                *s = begun(500, -450);
                s.resource.spec.suspend = Some(true);
            }),
            "idle",
        ),
        (
            "token gone",
            with(|s| {
                s.records.token = Live::Refused {
                    blocked: blocked(Reason::TokenNotFound),
                    fresh: true,
                }
            }),
            "block TokenNotFound",
        ),
        (
            "token gone by an old list: look first",
            with(|s| {
                s.records.token = Live::Refused {
                    blocked: blocked(Reason::TokenNotFound),
                    fresh: false,
                }
            }),
            "look",
        ),
        (
            "wrong scope",
            with(|s| {
                s.records.token = Live::Token {
                    token: Token {
                        scope: "ORGANIZATION".into(),
                        ..token(version(-100))
                    },
                    fresh: true,
                }
            }),
            "block WrongScope",
        ),
        (
            "not a standard token",
            with(|s| {
                s.records.token = Live::Token {
                    token: Token {
                        kind: "DIRECT_ACCESS".into(),
                        ..token(version(-100))
                    },
                    fresh: true,
                }
            }),
            "block WrongScope",
        ),
        (
            "wrong Workspace",
            with(|s| {
                s.records.token = Live::Token {
                    token: Token {
                        entities: vec!["other".into()],
                        ..token(version(-100))
                    },
                    fresh: true,
                }
            }),
            "block WrongWorkspace",
        ),
        (
            "the credential itself",
            with(|s| {
                s.access = Access::Granted(CredentialClaims {
                    token_id: Some("tok".into()),
                    expires: None,
                })
            }),
            "block SelfRotation",
        ),
        (
            "vendor down, nothing due: no matter",
            with(|s| {
                s.records.token = Live::Unavailable {
                    message: "down".into(),
                    retry_after: None,
                }
            }),
            "idle 3500",
        ),
        (
            "vendor down, rotation due",
            with(|s| {
                s.stored = Stored::Holds(held(version(-4000)));
                s.records.token = Live::Unavailable {
                    message: "down".into(),
                    retry_after: None,
                };
            }),
            "retry 15 VendorUnavailable",
        ),
        (
            "vendor says when to come back",
            with(|s| {
                s.stored = Stored::Holds(held(version(-4000)));
                s.records.token = Live::Unavailable {
                    message: "429".into(),
                    retry_after: Some(SignedDuration::from_secs(90)),
                };
            }),
            "retry 90 VendorUnavailable",
        ),
        (
            "due here, and not yet by the vendor's clock",
            with(|s| {
                s.stored = Stored::Holds(held(version(-4000)));
                live(s, version(-4000));
                s.vendor_time = Some(at(-31_536_000));
            }),
            "wait 60 VendorUnavailable",
        ),
        (
            "the call never took effect",
            begun(500, -4000),
            "rotate Scheduled 2",
        ),
        (
            "a value was issued and lost",
            begun(500, -450),
            "rotate Lost 2",
        ),
        (
            "by an old reading: look first",
            with(|s| {
                *s = begun(500, -4000);
                stale(s);
            }),
            "look",
        ),
        (
            "an answer older than the intent",
            begun(500, -5000),
            "retry 5 RotationInDoubt",
        ),
        (
            "vendor down",
            with(|s| {
                *s = begun(500, -4000);
                s.records.token = Live::Unavailable {
                    message: "down".into(),
                    retry_after: None,
                };
            }),
            "retry 15 RotationInDoubt",
        ),
        (
            "a stale reading is no drift",
            with(|s| live(s, version(-200))),
            "retry 5 VendorUnavailable",
        ),
        (
            "an old list is no drift either",
            with(|s| {
                live(s, version(-200));
                stale(s);
            }),
            "idle 3500",
        ),
        (
            "rotated elsewhere by an old list: look first",
            with(|s| {
                live(s, version(-50));
                stale(s);
            }),
            "look",
        ),
        (
            "rotated elsewhere",
            with(|s| live(s, version(-50))),
            "rotate Reclaimed 1",
        ),
        (
            "rotated elsewhere within the same second",
            with(|s| {
                live(
                    s,
                    Version {
                        short_token: Some("z".into()),
                        ..version(-100)
                    },
                )
            }),
            "rotate Reclaimed 1",
        ),
        (
            "drift: renamed there and back, and the live value is still there",
            with(|s| {
                live(s, version(-50));
                s.elsewhere = Some(Held {
                    secret: "former".into(),
                    ..held(version(-50))
                });
            }),
            "rewrite from former",
        ),
        (
            "drift: what is elsewhere is not live either",
            with(|s| {
                live(s, version(-50));
                s.elsewhere = Some(held(version(-60)));
            }),
            "rotate Reclaimed 1",
        ),
        (
            "only reported",
            with(|s| {
                live(s, version(-50));
                s.resource.spec.external_rotation = Some(ExternalRotation::Report);
            }),
            "block RotatedElsewhere",
        ),
        (
            "reported, and a person asks",
            with(|s| {
                live(s, version(-50));
                s.resource.spec.external_rotation = Some(ExternalRotation::Report);
                annotate(s, request::ROTATE, "now");
            }),
            "rotate Requested 1",
        ),
        (
            "again within a day",
            with(|s| {
                live(s, version(-50));
                reclaimed(s, 3600);
            }),
            "block Contested",
        ),
        (
            "again after a day",
            with(|s| {
                live(s, version(-50));
                reclaimed(s, 90_000);
            }),
            "rotate Reclaimed 1",
        ),
        (
            "backing off",
            with(|s| {
                absent(s);
                status_of(s).retry_at = Some(Time(at(40)));
            }),
            "wait 40 calm",
        ),
        (
            "an edit ends the wait",
            with(|s| {
                absent(s);
                status_of(s).retry_at = Some(Time(at(40)));
                s.resource.metadata.generation = Some(2);
            }),
            "rotate Initial 1",
        ),
        (
            "a request ends the wait",
            with(|s| {
                status_of(s).retry_at = Some(Time(at(40)));
                annotate(s, request::ROTATE, "now");
            }),
            "rotate Requested 1",
        ),
        ("13 no value yet", with(absent), "rotate Initial 1"),
        (
            "no value, not looked",
            with(|s| {
                absent(s);
                s.records.token = Live::NotAsked;
            }),
            "look",
        ),
        (
            "of another token",
            with(|s| {
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.token_id = "other".into();
                }))
            }),
            "rotate Initial 1",
        ),
        (
            "requested",
            with(|s| annotate(s, request::ROTATE, "now")),
            "rotate Requested 1",
        ),
        (
            "requested and handled",
            with(|s| {
                annotate(s, request::ROTATE, "now");
                status_of(s).handled_request = Some("now".into());
            }),
            "idle 3500",
        ),
        (
            "requested and handled, says the Secret",
            with(|s| {
                annotate(s, request::ROTATE, "now");
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.requests.rotate = Some("now".into());
                }));
            }),
            "idle 3500",
        ),
        (
            "requested by the other annotation",
            with(|s| {
                annotate(s, request::ROTATE, "one");
                annotate(s, request::REVOKE, "two");
                status_of(s).handled_request = Some("one".into());
            }),
            "rotate Requested 1",
        ),
        (
            "both were handled, says an older version, and one is taken away",
            with(|s| {
                annotate(s, request::ROTATE, "one");
                status_of(s).handled_request = Some("one two".into());
            }),
            "idle 3500",
        ),
        (
            "due",
            with(|s| {
                s.stored = Stored::Holds(held(version(-3600)));
                live(s, version(-3600));
            }),
            "rotate Scheduled 1",
        ),
        (
            "not yet due",
            with(|s| {
                s.stored = Stored::Holds(held(version(-3599)));
                live(s, version(-3599));
            }),
            "idle 1",
        ),
        (
            "the vendor's clock is behind ours: the same slot is not due twice",
            with(|s| {
                let own = stamped(held(version(-3700)), |it| {
                    it.rotation_id = Some(rotation_id(at(-100), 1));
                });
                s.stored = Stored::Holds(own);
                live(s, version(-3700));
            }),
            "idle 3500",
        ),
        (
            "before expiry",
            with(|s| {
                s.resource.spec =
                    spec(|s| s["schedule"] = serde_json::json!({"beforeExpiry": "1h"}));
                s.schedule =
                    Schedule::parse(&s.resource.spec.schedule, SignedDuration::from_mins(5));
                s.records.token = Live::Token {
                    token: Token {
                        starts: Some(at(-90_000)),
                        ends: Some(at(1800)),
                        ..token(version(-90_000))
                    },
                    fresh: true,
                };
                s.stored = Stored::Holds(held(version(-90_000)));
            }),
            "rotate Expiring 1",
        ),
        (
            "before expiry of a token that has none",
            with_spec(|s| s["schedule"] = serde_json::json!({"beforeExpiry": "1h"})),
            "block TokenNeverExpires",
        ),
        (
            "expired: rotating loses nothing",
            with(|s| {
                s.records.token = Live::Token {
                    token: Token {
                        ends: Some(at(-10)),
                        ..token(version(-100))
                    },
                    fresh: true,
                };
            }),
            "rotate Expiring 1",
        ),
        (
            "expired, and rotating did not help",
            with(|s| {
                s.records.token = Live::Token {
                    token: Token {
                        ends: Some(at(-500)),
                        ..token(version(-100))
                    },
                    fresh: true,
                };
            }),
            "block TokenExpired",
        ),
        (
            "labels differ",
            with(|s| {
                s.stored = Stored::Holds(Held {
                    outdated: Some("data[token]".into()),
                    ..held(version(-100))
                })
            }),
            "rewrite from target",
        ),
        (
            "the answer did not say when: completed by a fresh reading",
            with(|s| {
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.version = Version {
                        rotated_at: None,
                        ..version(-100)
                    };
                }));
            }),
            "rewrite from target",
        ),
        (
            "the target was renamed: an edit never rotates",
            with(|s| {
                let old = Held {
                    secret: "former".into(),
                    ..held(version(-100))
                };
                s.stored = Stored::Absent {
                    elsewhere: Some(old),
                    resource_version: None,
                };
            }),
            "rewrite from former",
        ),
        (
            "the target was renamed, and its former value is dead",
            with(|s| {
                let old = Held {
                    secret: "former".into(),
                    ..held(version(-200))
                };
                s.stored = Stored::Absent {
                    elsewhere: Some(old),
                    resource_version: None,
                };
            }),
            "rotate Initial 1",
        ),
        (
            "the target was renamed, and the reading is older than its value",
            with(|s| {
                live(s, version(-200));
                let old = Held {
                    secret: "former".into(),
                    ..held(version(-100))
                };
                s.stored = Stored::Absent {
                    elsewhere: Some(old),
                    resource_version: None,
                };
            }),
            "retry 5 VendorUnavailable",
        ),
        (
            "storing: a value in memory is reported first, even when the spec is invalid",
            with(|s| {
                s.resource.spec = spec(|s| s["schedule"] = serde_json::json!({}));
                s.schedule =
                    Schedule::parse(&s.resource.spec.schedule, SignedDuration::from_mins(5));
                s.work = Some(Work::Storing { error: "no".into() });
            }),
            "wait 55 ValueNotStored",
        ),
        (
            "target-terminating: nothing is rotated into a Secret that is about to vanish",
            with(|s| {
                annotate(s, request::ROTATE, "now");
                s.stored = Stored::Holds(Held {
                    terminating: true,
                    ..held(version(-100))
                });
            }),
            "block TargetTerminating",
        ),
        (
            "unread: the absence of a value is read before a rotation",
            with(|s| s.stored = Stored::Unread(held(version(-100)))),
            "look",
        ),
        (
            "stale-read: the versions do not tell, and the value was not asked",
            with(|s| {
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.version = Version::default();
                }));
            }),
            "retry 5 VendorUnavailable",
        ),
        (
            "outdated: the versions do not tell, and the value is live",
            with(|s| {
                s.stored = Stored::Holds(Held {
                    is_live: Some(true),
                    ..stamped(held(version(-100)), |it| it.version = Version::default())
                });
            }),
            "rewrite from target",
        ),
        (
            "drift: the versions do not tell, and the value is not live",
            with(|s| {
                s.stored = Stored::Holds(Held {
                    is_live: Some(false),
                    ..stamped(held(version(-100)), |it| it.version = Version::default())
                });
            }),
            "rotate Reclaimed 1",
        ),
        (
            "idle: a record rounds its time up, and the short form is proven to change",
            with(|s| {
                s.stored = Stored::Holds(stamped(held(version(-100)), |it| {
                    it.replaced = Some("before".into());
                }));
                let rounded = Version {
                    rotated_at: Some(Time(at(-99))),
                    ..version(-100)
                };
                live(s, rounded);
            }),
            "idle 3500",
        ),
        (
            "adopted with its live value",
            with(|s| {
                s.stored = Stored::Consented {
                    used: Used::default(),
                    lacks: None,
                    value_is_live: Some(true),
                    resource_version: None,
                }
            }),
            "rewrite from target",
        ),
        (
            "adopted with a dead value",
            with(|s| {
                s.stored = Stored::Consented {
                    used: Used::default(),
                    lacks: None,
                    value_is_live: Some(false),
                    resource_version: None,
                }
            }),
            "rotate Initial 1",
        ),
        (
            "adopted, not looked",
            with(|s| {
                s.stored = Stored::Consented {
                    used: Used::default(),
                    lacks: None,
                    value_is_live: None,
                    resource_version: None,
                }
            }),
            "look",
        ),
    ];
    for (what, seen, expected) in rows {
        assert_eq!(short(&plan(&seen)), expected, "{what}");
    }
}

/// Architecture's table of crash windows: what the next process finds, and what it does.
#[test]
fn each_crash_window_closes() {
    let rows: Vec<(&str, Observed, &str)> = vec![
        (
            "rehearse: nothing changed",
            with(|s| {
                s.stored = Stored::Holds(held(version(-4000)));
                live(s, version(-4000));
            }),
            "rotate Scheduled 1",
        ),
        ("begin: wait", begun(1, -4000), "wait 54 RotationInDoubt"),
        ("begin: then rotate", begun(55, -4000), "rotate Scheduled 2"),
        (
            "call, before the write: wait",
            begun(1, -1),
            "wait 54 RotationInDoubt",
        ),
        (
            "call, before the write: then rotate once more",
            begun(55, -54),
            "rotate Lost 2",
        ),
        (
            "write: settle at once, no call",
            with(|s| {
                *s = begun(1, -1);
                s.stored = Stored::Holds(held(version(-1)));
            }),
            "settle",
        ),
        ("status: done", calm(), "idle 3500"),
    ];
    for (what, seen, expected) in rows {
        assert_eq!(short(&plan(&seen)), expected, "{what}");
    }
}

#[test]
fn a_rotation_settles_in_one_status_write_and_is_then_at_rest() {
    let mut seen = begun(3, -1);
    seen.stored = Stored::Holds(held(version(-1)));
    let settled = status::next(&seen, &plan(&seen), None);
    assert_eq!(settled.pending, None);
    assert_eq!(settled.history[0].outcome, RotationOutcome::Stored);
    assert_eq!(
        settled.last_rotation.as_ref().map(|l| l.reason),
        Some(Cause::Scheduled)
    );
    assert_eq!(settled.next_rotation, Some(Time(at(3599))));
    assert_eq!(settled.ready().map(|c| c.status.as_str()), Some("True"));
    seen.resource.status = Some(settled.clone());
    assert_eq!(status::next(&seen, &plan(&seen), None), settled);
}

/// An old value that was adopted so many seconds ago, of a token that expires in so many.
fn adopted(schedule: &str, age: Option<i64>, ends: i64) -> Observed {
    let mut seen = with_spec(|it| it["schedule"] = serde_json::from_str(schedule).unwrap());
    let old = version(-5_184_000);
    seen.records.token = Live::Token {
        token: Token {
            starts: Some(at(-5_184_000)),
            ends: Some(at(ends)),
            ..token(old.clone())
        },
        fresh: true,
    };
    seen.stored = Stored::Holds(stamped(held(old), |it| {
        it.rotation_id = None;
        it.adopted_at = age.map(|age| at(-age));
    }));
    seen
}

#[test]
fn every_and_cron_count_from_an_adoption_and_before_expiry_does_not() {
    let (every, cron) = (r#"{"every": "30d"}"#, r#"{"cron": "0 8 * * *"}"#);
    let expiry = r#"{"beforeExpiry": "1d"}"#;
    for (schedule, age, ends, expected) in [
        // Now it is 8:00.
        (every, Some(100), 9_999_999, "idle 2591900"),
        (cron, Some(100), 9_999_999, "rotate Scheduled 1"),
        (cron, Some(0), 9_999_999, "idle 86400"),
        // By an older version, or by a clock that was ahead.
        (every, None, 9_999_999, "rotate Scheduled 1"),
        (every, Some(-100), 9_999_999, "rotate Scheduled 1"),
        // Adopted a hundred seconds ago, shortly before that time, and shortly after it.
        (expiry, Some(100), 86_410, "idle 10"),
        (expiry, Some(100), 86_390, "rotate Expiring 1"),
        (expiry, Some(100), 80_000, "rotate Expiring 1"),
    ] {
        let seen = adopted(schedule, age, ends);
        assert_eq!(short(&plan(&seen)), expected, "{schedule} {age:?} {ends}");
    }
}

/// A value of yesterday, and a time of `cron` that passed five hours ago; it is 8:00. `say` is what the status says.
fn missed(say: impl FnOnce(&mut Observed, String)) -> Observed {
    let mut seen = with_spec(|it| {
        it["schedule"] = serde_json::json!({"cron": "0 3 * * *", "timeZone": "UTC"})
    });
    seen.resource.metadata.creation_timestamp = Some(Time(at(-9_999_999)));
    seen.stored = Stored::Holds(held(version(-86_400)));
    live(&mut seen, version(-86_400));
    let hash = seen.schedule.as_ref().unwrap().cron_hash().unwrap();
    say(&mut seen, hash);
    seen
}

fn counts_since(seen: &mut Observed, cron: Option<String>, since: i64) {
    let since = Time(at(since));
    status_of(seen).schedule = Some(CronStatus { cron, since });
}

fn suspended(seen: &mut Observed) {
    status_of(seen).conditions.push(Condition {
        type_: "Suspended".into(),
        status: "True".into(),
        ..not_ready(Reason::AwaitingFirstRotation)
    });
}

#[test]
fn a_time_of_cron_counts_if_it_was_written_and_not_suspended_by_then() {
    let (due, tomorrow) = ("rotate Scheduled 1", "idle 68400");
    let rows: Vec<(&str, Observed, &str)> = vec![
        (
            "it was written before",
            missed(|s, hash| counts_since(s, Some(hash), -90_000)),
            due,
        ),
        (
            "it was written since",
            missed(|s, hash| counts_since(s, Some(hash), -100)),
            tomorrow,
        ),
        (
            "it was another one, and nobody has looked since",
            missed(|s, _| counts_since(s, Some("another".into()), -90_000)),
            tomorrow,
        ),
        (
            "there was none",
            missed(|s, _| counts_since(s, None, -90_000)),
            tomorrow,
        ),
        (
            "by a clock that was ahead",
            missed(|s, hash| counts_since(s, Some(hash), 9_999_999)),
            tomorrow,
        ),
        (
            "the resource was suspended",
            missed(|s, hash| {
                counts_since(s, Some(hash), -90_000);
                suspended(s);
            }),
            tomorrow,
        ),
        (
            "it was suspended, says an older version",
            missed(|s, _| suspended(s)),
            tomorrow,
        ),
        (
            "an older version does not say it: what was due stays due",
            missed(|_, _| ()),
            due,
        ),
        (
            "nor after an edit",
            missed(|s, _| {
                status_of(s).next_rotation = Some(Time(at(-18_000)));
                s.resource.metadata.generation = Some(2);
            }),
            due,
        ),
        (
            "an older version knew of nothing due before the edit",
            missed(|s, _| {
                status_of(s).next_rotation = Some(Time(at(100)));
                s.resource.metadata.generation = Some(2);
            }),
            tomorrow,
        ),
        (
            "the resource is new",
            missed(|s, _| {
                s.resource.status = None;
                s.resource.metadata.creation_timestamp = Some(Time(at(-100)));
            }),
            tomorrow,
        ),
        (
            "an age is no time of cron",
            missed(|s, _| {
                s.resource.spec = spec(|it| it["schedule"]["every"] = "12h".into());
                let minimum = s.settings.minimum_interval;
                s.schedule = Schedule::parse(&s.resource.spec.schedule, minimum);
                counts_since(s, Some("another".into()), -90_000);
            }),
            due,
        ),
    ];
    for (what, seen, expected) in rows {
        assert_eq!(short(&plan(&seen)), expected, "{what}");
    }
}

#[test]
fn a_cron_is_told_from_others_by_its_pattern_and_its_zone() {
    let hash = |schedule: serde_json::Value| {
        let seen = with_spec(|it| it["schedule"] = schedule);
        seen.schedule.unwrap().cron_hash()
    };
    let cron = |text: &str| hash(serde_json::json!({"cron": text}));
    assert_eq!(
        cron("0 3 * * *").as_deref(),
        Some("421d4021-c0a0-5801-a45b-4127e67156bf"),
        "the same in every release: otherwise times are missed on an upgrade"
    );
    let in_utc = hash(serde_json::json!({"cron": "0 3 * * *", "timeZone": "UTC", "jitter": "1h"}));
    assert_eq!(in_utc, cron("0 3 * * *"));
    assert_ne!(cron("0 3 * * *"), cron("0 4 * * *"));
    let elsewhere = hash(serde_json::json!({"cron": "0 3 * * *", "timeZone": "Europe/Berlin"}));
    assert_ne!(elsewhere, cron("0 3 * * *"));
    assert_eq!(hash(serde_json::json!({"every": "1h"})), None);
}

#[test]
fn the_status_says_from_when_on_cron_counts_once_it_is_written_anyway() {
    let rested = |mut seen: Observed| {
        let status = status::next(&seen, &plan(&seen), None);
        seen.resource.status = Some(status.clone());
        (seen, status.schedule.map(|it| it.since.0))
    };
    // A new one, and one that is at rest under an older version.
    let (mut seen, since) = rested(missed(|_, _| ()));
    assert_eq!(since, Some(at(-9_999_999)));
    status_of(&mut seen).schedule = None;
    let (mut seen, since) = rested(seen);
    assert_eq!(since, None, "no write for this alone");

    // What it says stays, until there is another reason.
    counts_since(&mut seen, None, -90_000);
    let (mut seen, since) = rested(seen);
    assert_eq!(since, Some(at(0)));
    seen.now = at(1000);
    let (mut seen, since) = rested(seen);
    assert_eq!(since, Some(at(0)));
    suspended(&mut seen);
    seen.resource.spec.suspend = Some(true);
    let (mut seen, since) = rested(seen);
    assert_eq!(since, Some(at(0)));
    seen.resource.spec.suspend = None;
    let (mut seen, since) = rested(seen);
    assert_eq!(since, Some(at(1000)));
    seen.now = at(2000);
    let (seen, since) = rested(seen);
    assert_eq!(since, Some(at(1000)));

    let mut edited = seen;
    counts_since(&mut edited, None, -90_000);
    let begun = rotation(&edited, &token(version(-86_400)), Cause::Requested, 1);
    let begun = status::begin(&edited, &begun, "id".into(), "me".into(), at(0));
    assert_eq!(begun.schedule.map(|it| it.since.0), Some(at(2000)));
    edited.schedule = Err(ScheduleError::Invalid("unreadable".into()));
    let (_, since) = rested(edited);
    assert_eq!(since, Some(at(-90_000)), "nothing is known of it");
}

#[test]
fn only_what_a_person_gave_away_counts_as_adopted_now() {
    for by_person in [true, false] {
        let mut seen = adopted(r#"{"every": "30d"}"#, None, 9_999_999);
        seen.stored = Stored::Consented {
            used: Used::default(),
            lacks: (!by_person).then(|| "a label".into()),
            value_is_live: Some(true),
            resource_version: None,
        };
        let Plan::Rewrite { from } = plan(&seen) else {
            panic!("not kept");
        };
        assert_eq!(from.stamp.adopted_at, by_person.then_some(at(0)));
        seen.stored = Stored::Holds(*from);
        let expected = match by_person {
            true => "idle 2592000",
            false => "rotate Scheduled 1",
        };
        assert_eq!(short(&plan(&seen)), expected);
    }
}

#[test]
fn a_definite_failure_clears_the_intent_and_an_ambiguous_one_keeps_it() {
    let seen = begun(1, -4000);
    let rotation = Plan::Retry {
        until: at(1),
        blocked: blocked(Reason::VendorUnavailable),
    };
    let definite = Setback::Definite {
        blocked: blocked(Reason::Forbidden),
        retry_after: None,
    };
    let after = status::next(&seen, &rotation, Some(&definite));
    assert_eq!(
        (after.pending, after.failures, after.retry_at),
        (None, Some(1), Some(Time(at(15))))
    );
    let doubt = Setback::InDoubt(blocked(Reason::RotationInDoubt));
    let after = status::next(&seen, &rotation, Some(&doubt));
    assert!(after.pending.is_some() && after.failures == Some(1));
}

#[test]
fn a_rotation_answers_both_annotations_and_remembers_each_apart() {
    let ask = |seen: &mut Observed, key: &str, text: &str| {
        let all = seen.resource.annotations_mut();
        all.insert(key.into(), text.into());
    };
    let rotated = |seen: &mut Observed| {
        let Plan::Rotate(rotation) = plan(seen) else {
            panic!("no rotation");
        };
        let id = rotation_id(at(0), 5);
        let begun = status::begin(seen, &rotation, id.clone(), "me".into(), seen.now);
        seen.resource.status = Some(begun);
        seen.stored = Stored::Holds(stamped(held(version(0)), |it| {
            it.rotation_id = Some(id);
            it.requests = rotation.requests;
        }));
        live(seen, version(0));
        let booked = status::booked(seen).resource.status.unwrap();
        let status = status::next(seen, &plan(seen), None);
        assert_eq!(booked.handled_request, status.handled_request);
        assert_eq!(booked.handled_revoke, status.handled_revoke);
        seen.resource.status = Some(status.clone());
        assert_eq!(short(&plan(seen)), "idle 3600");
        (status.handled_request, status.handled_revoke)
    };
    let texts = |rotate: &str, revoke: &str| (Some(rotate.to_owned()), Some(revoke.to_owned()));

    let mut seen = calm();
    ask(&mut seen, request::ROTATE, "one");
    assert_eq!(rotated(&mut seen), texts("one", ""));
    ask(&mut seen, request::REVOKE, "two");
    assert_eq!(rotated(&mut seen), texts("one", "two"));
    seen.resource.annotations_mut().remove(request::REVOKE);
    assert_eq!(short(&plan(&seen)), "idle 3600", "taken away");
    ask(&mut seen, request::ROTATE, "three");
    assert_eq!(rotated(&mut seen), texts("three", "two"));
    ask(&mut seen, request::REVOKE, "two");
    assert_eq!(short(&plan(&seen)), "idle 3600", "there again");
    // Without a status the Secret tells.
    seen.resource.status = Some(Status::default());
    seen.resource.annotations_mut().remove(request::REVOKE);
    assert_eq!(short(&plan(&seen)), "idle 3600", "by the Secret");
    let status = status::next(&seen, &plan(&seen), None);
    let told = (status.handled_request, status.handled_revoke);
    assert_eq!(told, texts("three", "two"));
}

#[test]
fn what_an_older_version_left_at_rest_is_neither_rotated_nor_written() {
    let mut seen = with_spec(|it| it["schedule"] = serde_json::json!({"cron": "0 3 * * *"}));
    for (key, text) in [(request::ROTATE, "one"), (request::REVOKE, "two")] {
        let all = seen.resource.annotations_mut();
        all.insert(key.into(), text.into());
    }
    seen.stored = Stored::Holds(stamped(held(version(-100)), |it| {
        it.requests.rotate = Some("one two".into());
    }));
    let mut old = status::next(&seen, &plan(&seen), None);
    (old.schedule, old.handled_revoke) = (None, None);
    old.handled_request = Some("one two".into());
    for key in [None, Some(request::ROTATE), Some(request::REVOKE)] {
        let mut seen = seen.clone();
        key.map(|key| seen.resource.annotations_mut().remove(key));
        seen.resource.status = Some(old.clone());
        let decided = plan(&seen);
        assert_eq!(short(&decided), "idle 68400", "{key:?}");
        assert_eq!(status::next(&seen, &decided, None), old, "{key:?}");
    }
}

#[test]
fn an_intent_for_a_former_token_is_forgotten_and_not_called_stored() {
    let seen = with(|s| {
        status_of(s).pending = Some(Pending {
            token_id: "former".into(),
            ..pending(4000)
        });
    });
    let status = status::next(&seen, &Plan::Settle, None);
    assert_eq!(status.pending, None);
    assert_eq!(status.last_rotation, None);
    assert_eq!(status.history[0].outcome, RotationOutcome::Lost);
    assert!(status.ready().is_some_and(|ready| ready.status == "True"));
}

#[test]
fn an_intent_without_effect_is_forgotten_and_the_value_is_believed_again() {
    for seen in [begun(600, -4000), unreadable(60, -4000)] {
        let status = status::next(&seen, &plan(&seen), None);
        assert_eq!(status.pending, None);
        assert_eq!(
            (status.last_rotation.as_ref(), &status.history),
            (None, &vec![])
        );
        assert!(status.ready().is_some_and(|ready| ready.status == "True"));
    }
}

#[test]
fn an_intent_that_cannot_be_read_is_in_flight_since_it_was_first_seen() {
    let seen = unreadable(5, -4000);
    let status = status::next(&seen, &plan(&seen), None);
    let pending = status.pending.clone().unwrap();
    assert!(pending.is_unreadable());
    assert_eq!(
        (pending.started_at, pending.token_id.as_str()),
        (Time(at(-5)), "tok")
    );
    let mut resource = seen.resource.clone();
    resource.status = Some(status.clone());
    // And stays so, once the status says since when.
    let later = Observed::begin(&resource, at(100), &seen.settings);
    assert_eq!(later.resource.status, Some(status));
}

#[test]
fn a_lost_value_is_remembered_when_the_next_attempt_is_begun() {
    let seen = begun(60, -55);
    let Plan::Rotate(rotation) = plan(&seen) else {
        panic!("no rotation");
    };
    let status = status::begin(&seen, &rotation, "id".into(), "me".into(), at(7));
    assert_eq!(status.history[0].outcome, RotationOutcome::Lost);
    assert_eq!(
        status.pending.map(|p| (p.attempt, p.reason)),
        Some((2, Cause::Lost))
    );
}

#[test]
fn the_intent_s_clock_starts_when_it_is_recorded_and_not_when_the_vendor_was_asked() {
    let seen = begun(60, -4000);
    let Plan::Rotate(rotation) = plan(&seen) else {
        panic!("no rotation");
    };
    let status = status::begin(&seen, &rotation, "id".into(), "me".into(), at(20));
    assert_eq!(status.pending.map(|it| it.started_at), Some(Time(at(20))));
    assert_eq!(status.history, []);
}

/// The first attempt is in doubt, the second one is refused, and then the first one is found to have taken effect.
#[test]
fn a_definite_answer_takes_back_its_own_attempt_and_no_other() {
    let second = Pending {
        attempt: 2,
        ..pending(60)
    };
    let mut seen = with(|s| {
        s.stored = Stored::Holds(held(version(-4000)));
        live(s, version(-4000));
        status_of(s).pending = Some(second.clone());
        s.resource.spec.external_rotation = Some(ExternalRotation::Report);
    });
    let definite = Setback::Definite {
        blocked: blocked(Reason::VendorUnavailable),
        retry_after: None,
    };
    let refused = status::next(&seen, &plan(&seen), Some(&definite));
    assert_eq!(refused.pending, Some(second));
    assert_eq!(refused.failures, Some(1));
    seen.resource.status = Some(Status {
        retry_at: None,
        ..refused
    });
    live(&mut seen, version(-50));
    assert_eq!(short(&plan(&seen)), "rotate Lost 3");
}

#[test]
fn an_attempt_that_was_refused_after_a_lost_value_is_no_second_loss() {
    let seen = with(|s| {
        s.stored = Stored::Holds(held(version(-4000)));
        live(s, version(-100));
        status_of(s).pending = Some(Pending {
            attempt: 2,
            reason: Cause::Lost,
            replaces: version(-100),
            ..pending(90)
        });
    });
    let Plan::Rotate(rotation) = plan(&seen) else {
        panic!("no rotation");
    };
    assert_eq!((rotation.cause, rotation.attempt), (Cause::Lost, 3));
    let status = status::begin(&seen, &rotation, "id".into(), "me".into(), at(0));
    assert_eq!(status.history, []);
}

/// What each reason means for a resource with a live value: whether that stays `Ready`, and whether a person has to act.
#[test]
fn each_reason_has_its_conditions() {
    use Reason::*;
    const KEEPS: bool = true;
    const DENIES: bool = false;
    let table = [
        (AwaitingFirstRotation, DENIES, "Reconciling"),
        (ClusterChanged, DENIES, "Stalled"),
        (Contested, DENIES, "Stalled"),
        (CredentialsMissing, KEEPS, "Stalled"),
        (CredentialsNotAllowed, KEEPS, "Stalled"),
        (CredentialsRejected, KEEPS, "Stalled"),
        (Forbidden, KEEPS, "Stalled"),
        (InvalidSpec, KEEPS, "Stalled"),
        (KubernetesUnavailable, KEEPS, "Reconciling"),
        (OrganizationUnknown, KEEPS, "Stalled"),
        (PreviousInUse, KEEPS, "Reconciling"),
        (RotatedElsewhere, DENIES, "Reconciling"),
        (RotationInDoubt, DENIES, "Reconciling"),
        (ScheduleTooFrequent, KEEPS, "Stalled"),
        (SecretNotOurs, DENIES, "Stalled"),
        (SelfRotation, KEEPS, "Stalled"),
        (TargetConflict, DENIES, "Stalled"),
        (TargetImmutable, KEEPS, "Stalled"),
        (TargetRefused, KEEPS, "Stalled"),
        (TargetTerminating, KEEPS, "Reconciling"),
        (TargetTypeDiffers, KEEPS, "Stalled"),
        (TargetUnstable, KEEPS, "Reconciling"),
        (TemplateFailed, KEEPS, "Stalled"),
        (TokenAmbiguous, KEEPS, "Stalled"),
        (TokenConflict, DENIES, "Stalled"),
        (TokenExpired, DENIES, "Stalled"),
        (TokenNeverExpires, KEEPS, "Stalled"),
        (TokenNotFound, KEEPS, "Stalled"),
        (TooManyRotations, KEEPS, "Reconciling"),
        (ValueLost, DENIES, "Reconciling"),
        (ValueNotStored, DENIES, "Reconciling"),
        (VendorUnavailable, KEEPS, "Reconciling"),
        (WrongScope, KEEPS, "Stalled"),
        (WrongWorkspace, KEEPS, "Stalled"),
    ];
    assert_eq!(table.len(), EXPLANATIONS.len());
    let said = |status: &Status, type_: &str| {
        let mut all = status.conditions.iter();
        let found = all.find(|condition| condition.type_ == type_)?;
        Some((found.status.clone(), found.reason.clone()))
    };
    for (reason, keeps, beside) in table {
        let because = || blocked(reason);
        let plans = [
            (Plan::Idle { next: None }, Some(Setback::Refused(because()))),
            (
                Plan::Wait {
                    until: at(1),
                    doubt: Some(because()),
                },
                None,
            ),
            (
                Plan::Retry {
                    until: at(1),
                    blocked: because(),
                },
                None,
            ),
        ];
        for (plan, setback) in plans {
            let status = status::next(&calm(), &plan, setback.as_ref());
            let ready = match keeps {
                true => ("True".to_owned(), "Live".to_owned()),
                false => ("False".to_owned(), reason.to_string()),
            };
            assert_eq!(said(&status, "Ready"), Some(ready), "{reason}");
            let other = if beside == "Stalled" {
                "Reconciling"
            } else {
                "Stalled"
            };
            let present = Some(("True".to_owned(), reason.to_string()));
            assert_eq!(said(&status, beside), present, "{reason}");
            assert_eq!(said(&status, other), None, "{reason}");
            // Where there is no value, it is the reason of both.
            let without = with(|s| s.stored = Stored::Foreign(blocked(SecretNotOurs)));
            let status = status::next(&without, &plan, setback.as_ref());
            let ready = Some(("False".to_owned(), reason.to_string()));
            assert_eq!(said(&status, "Ready"), ready, "{reason}");
        }
    }
}

/// The value that is stored is dead, and something else keeps it from being replaced.
#[test]
fn ready_tells_what_is_wrong_with_the_value_and_stalled_what_keeps_it_so() {
    let seen = with(|s| live(s, version(-50)));
    let plan = Plan::Block(blocked(Reason::CredentialsRejected));
    let status = status::next(&seen, &plan, None);
    let ready = status.ready().unwrap();
    assert_eq!(
        (&*ready.status, &*ready.reason),
        ("False", "RotatedElsewhere")
    );
    let stalled = status.present("Stalled").unwrap();
    assert_eq!(stalled.reason, "CredentialsRejected");
    // Still there, so that an overdue rotation shows.
    assert_eq!(status.next_rotation, Some(Time(at(3500))));
}

#[test]
fn a_token_that_is_gone_has_no_live_value_and_one_whose_name_is_mistyped_has() {
    let is_ready = |is_gone| {
        let mut seen = calm();
        let blocked = blocked(Reason::TokenNotFound);
        seen.records.token = Live::Refused {
            blocked: blocked.clone(),
            fresh: true,
        };
        seen.token_is_gone = is_gone;
        let status = status::next(&seen, &Plan::Block(blocked), None);
        status.is_ready()
    };
    assert!(!is_ready(true) && is_ready(false));
}

#[test]
fn blocked_resources_are_looked_at_soon_and_then_rarely() {
    let wake_after = |blocked_for: i64| {
        let mut seen = calm();
        status_of(&mut seen).conditions.push(Condition {
            type_: "Ready".into(),
            status: "False".into(),
            reason: "Forbidden".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(-blocked_for)),
        });
        let plan = Plan::Block(blocked(Reason::Forbidden));
        wake(&seen, &plan, None).duration_since(at(0)).as_secs()
    };
    assert_eq!([0, 20, 10_000].map(wake_after), [5, 20, 300]);
}

#[test]
fn one_that_is_blocked_by_a_rival_wakes_when_that_one_keeps_nobody_any_more() {
    let mut seen = calm();
    let mut condition = not_ready(Reason::TokenConflict);
    condition.last_transition_time = Time(at(-10_000));
    status_of(&mut seen).conditions = vec![condition];
    for (until, expected) in [(None, 300), (Some(40), 40), (Some(-5), 300)] {
        seen.rival = Some(rival(until));
        let planned = plan(&seen);
        assert_eq!(short(&planned), "block TokenConflict");
        assert_eq!(wake(&seen, &planned, None), at(expected), "{until:?}");
    }
}

#[test]
fn a_token_that_a_secret_names_is_in_the_status_once_the_credential_was_shown_it() {
    let known = |seen: &Observed| {
        let status = status::next(seen, &plan(seen), None);
        status.token.map(|token| token.id)
    };
    let unseen = |edit: fn(&mut Observed)| {
        with(|seen| {
            seen.records.token = Live::NotAsked;
            edit(seen);
        })
    };
    let tok = Some("tok".to_owned());
    assert_eq!(known(&calm()), tok);
    assert_eq!(known(&unseen(|_| ())), None);
    let denied = unseen(|s| s.access = Access::Denied(blocked(Reason::CredentialsMissing)));
    assert_eq!(known(&denied), None);
    let unanswered = unseen(|seen| {
        seen.records.token = Live::Unavailable {
            message: "no".into(),
            retry_after: None,
        };
    });
    assert_eq!(known(&unanswered), None);
    // What it was shown before stays, also while it is not known whether the value is there.
    let before: fn(&mut Observed) = |seen| {
        status_of(seen).token = status::next(&calm(), &plan(&calm()), None).token;
    };
    assert_eq!(known(&unseen(before)), tok);
    let mut unread = unseen(before);
    unread.stored = Stored::Unread(held(version(-100)));
    assert_eq!(known(&unread), tok);
    let mut other = unseen(before);
    other.stored = Stored::Holds(stamped(held(version(-100)), |it| it.token_id = "x".into()));
    assert_eq!(known(&other), None);
}

#[test]
fn a_credential_that_may_read_a_token_and_not_rotate_it_is_not_able() {
    assert_eq!(is_able(&calm()), Some(true));
    for (reason, failures, expected) in [
        (Reason::Forbidden, Some(1), Some(false)),
        (Reason::CredentialsRejected, Some(3), Some(false)),
        // It was put right since, or it is another trouble.
        (Reason::Forbidden, None, Some(true)),
        (Reason::VendorUnavailable, Some(1), Some(true)),
    ] {
        let seen = with(|seen| {
            status_of(seen).failures = failures;
            status_of(seen).conditions = vec![not_ready(reason)];
        });
        assert_eq!(is_able(&seen), expected, "{reason} {failures:?}");
    }
}

#[test]
fn the_next_audit_is_counted_from_the_last_reading() {
    let seen = calm();
    assert_eq!(wake(&seen, &plan(&seen), None), at(600 - 30 + 1));
}

#[test]
fn a_vendor_that_did_not_answer_is_asked_again_before_the_next_audit() {
    let mut seen = calm();
    seen.asked_at = None;
    assert_eq!(wake(&seen, &plan(&seen), None), at(60));
}

#[test]
fn after_a_recovery_the_vendor_is_looked_at_once_more() {
    let mut seen = calm();
    let last = |age: i64| LastRotation {
        id: "r".into(),
        reason: Cause::Scheduled,
        at: Time(at(-age)),
        attempts: Some(2),
    };
    status_of(&mut seen).last_rotation = Some(last(20));
    assert_eq!(wake(&seen, &plan(&seen), None), at(40));
    status_of(&mut seen).last_rotation = Some(last(70));
    assert_eq!(reading_not_before(&seen), at(-10));
}

prop_compose! {
    fn any_version()(offset in prop::option::of(-5000i64..100), short in prop::option::of("[ab]")) -> Version {
        Version { rotated_at: offset.map(|o| Time(at(o))), short_token: short }
    }
}

prop_compose! {
    fn any_held()(version in any_version(), token in "tok|other", outdated: bool, age in prop::option::of(0i64..5000), cluster in "this-cluster|other", edited in prop::option::of("kubectl"), expires in prop::option::of(-100i64..5000), adopted in prop::option::of(-100i64..5000)) -> Held {
        Held {
            outdated: outdated.then(|| "data[token]".into()), key_written_by: edited,
            stamp: Stamp {
                version, token_id: token, cluster, expires: expires.map(at), adopted_at: adopted.map(|age| at(-age)),
                rotation_id: age.map(|a| rotation_id(at(-a), 9)),
                ..held(Version::default()).stamp
            },
            ..held(Version::default())
        }
    }
}

fn any_stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        prop::option::of(any_held()).prop_map(|elsewhere| Stored::Absent {
            elsewhere,
            resource_version: None
        }),
        Just(Stored::Foreign(blocked(Reason::SecretNotOurs))),
        any::<(bool, Option<bool>)>().prop_map(|(by_person, value_is_live)| Stored::Consented {
            used: Used::default(),
            lacks: (!by_person).then(|| "a label".into()),
            value_is_live,
            resource_version: None
        }),
        any_held().prop_map(Stored::Holds),
        any_held().prop_map(Stored::Unread),
    ]
}

fn any_live() -> impl Strategy<Value = Live> {
    prop_oneof![
        Just(Live::NotAsked),
        (
            any_version(),
            any::<bool>(),
            "tok|other",
            prop::option::of(-100i64..5000)
        )
            .prop_map(|(version, fresh, id, ends)| Live::Token {
                token: Token {
                    id,
                    ends: ends.map(at),
                    ..token(version)
                },
                fresh,
            }),
        any::<bool>().prop_map(|fresh| Live::Refused {
            blocked: blocked(Reason::TokenNotFound),
            fresh
        }),
        Just(Live::Unavailable {
            message: "down".into(),
            retry_after: None
        }),
    ]
}

prop_compose! {
    fn any_pending()(age in 0i64..5000, attempt in -1i32..9, replaces in any_version()) -> Pending {
        Pending { attempt, replaces, ..pending(age) }
    }
}

prop_compose! {
    fn any_seen()(
        stored in any_stored(), live in any_live(), pending in prop::option::of(any_pending()),
        retry in prop::option::of(-10i64..100), failures in prop::option::of(-1i32..99),
        (suspend, deleted, done, working, older) in any::<(bool, bool, bool, bool, Option<bool>)>(),
        request in prop::array::uniform2(prop::option::of("[a-c]{0,2}|[a-z]{0,80}")), handled in prop::array::uniform2(prop::option::of("[a-c ]{0,3}")),
        since in prop::option::of((prop::option::of("[a-c]"), -5000i64..100)),
        schedule in prop::sample::select(vec![r#"{"every":"1h"}"#, r#"{"cron":"@daily"}"#, r#"{"beforeExpiry":"1h"}"#, r#"{"cron":"x"}"#]),
        report: bool,
    ) -> Observed {
        with(|seen| {
            seen.resource.spec = spec(|s| s["schedule"] = serde_json::from_str(schedule).unwrap());
            seen.schedule = Schedule::parse(&seen.resource.spec.schedule, SignedDuration::from_mins(5));
            seen.resource.spec.suspend = Some(suspend);
            seen.resource.spec.external_rotation = report.then_some(ExternalRotation::Report);
            seen.resource.metadata.deletion_timestamp = deleted.then(|| Time(at(-1)));
            for (key, request) in [request::ROTATE, request::REVOKE].into_iter().zip(request) {
                seen.resource.annotations_mut().extend(request.map(|text| (key.to_owned(), text)));
            }
            let status = status_of(seen);
            (status.pending, status.failures) = (pending, failures);
            [status.handled_request, status.handled_revoke] = handled;
            status.retry_at = retry.map(|r| Time(at(r)));
            status.schedule = since.map(|(cron, since)| CronStatus { cron, since: Time(at(since)) });
            seen.stored = stored;
            seen.records.token = live;
            seen.holder_done_at = done.then(|| at(-5000));
            seen.rival = older.map(|shown| rival((!shown).then_some(60)));
            seen.work = working.then_some(Work::Calling);
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_never_rotates_without_fresh_evidence_consent_or_right(seen in any_seen()) {
        if let Plan::Rotate(rotation) = plan(&seen) {
            let fresh = matches!(&seen.records.token, Live::Token { token, fresh: true } if *token == rotation.token);
            prop_assert!(fresh, "not on fresh evidence");
            prop_assert_ne!(seen.resource.spec.suspend, Some(true));
            prop_assert!(seen.rival.is_none() && seen.work.is_none() && seen.schedule.is_ok());
            prop_assert!(seen.resource.metadata.deletion_timestamp.is_none());
            prop_assert!(!matches!(seen.stored, Stored::Foreign(_)));
            if let Some(pending) = seen.pending() {
                prop_assert!(rotation.attempt > pending.attempt || rotation.token.id != pending.token_id);
                let age = seen.now.duration_since(pending.started_at.0);
                prop_assert!(age >= seen.pace().landing, "in flight");
            }
        }
    }

    #[test]
    fn status_is_idempotent_and_never_wakes_in_the_past(mut seen in any_seen()) {
        let first = plan(&seen);
        let status = status::next(&seen, &first, None);
        prop_assert!(wake(&seen, &first, None) >= seen.now);
        if matches!(first, Plan::Retry { .. } | Plan::Settle) {
            return Ok(());
        }
        seen.resource.status = Some(status.clone());
        let again = status::next(&seen, &plan(&seen), None);
        // Clearing a failure may let a later rule speak; after that nothing moves.
        seen.resource.status = Some(again.clone());
        let third = plan(&seen);
        if !matches!(third, Plan::Retry { .. } | Plan::Settle) {
            prop_assert_eq!(status::next(&seen, &third, None), again);
        }
    }

    #[test]
    fn what_is_said_to_be_live_is_believed_on_evidence(seen in any_seen()) {
        let decided = plan(&seen);
        let status = status::next(&seen, &decided, None);
        let ready = status.ready().map(|c| c.status == "True");
        if ready == Some(true) {
            prop_assert!(seen.held().is_some(), "Ready without a value");
            if let Live::Token { token, fresh: true } = &seen.records.token
                && !matches!(decided, Plan::Settle) && seen.work.is_none()
            {
                let held = seen.held().unwrap();
                prop_assert_ne!(held.compare(&token.version), Drift::LiveNewer, "Ready with a dead value");
            }
        }
    }
}

#[test]
fn of_a_credential_that_expires_within_a_week_a_condition_warns() {
    const DAY: i64 = 86_400;
    let after = |old: Status, expires: Option<i64>| {
        let mut seen = calm();
        seen.resource.status = Some(old);
        seen.access = Access::Granted(CredentialClaims {
            token_id: None,
            expires: expires.map(at),
        });
        status::next(&seen, &plan(&seen), None)
    };
    let warning = |status: &Status| status.present(status::EXPIRING).cloned();
    let far = after(Status::default(), Some(7 * DAY + 1));
    assert_eq!(warning(&far), None);
    assert_eq!(far.credential_expires_at, Some(Time(at(7 * DAY + 1))));
    // The value is as live as before.
    let soon = after(far.clone(), Some(7 * DAY));
    assert!(soon.is_ready());
    let message = warning(&soon).unwrap().message;
    assert!(message.contains(&at(7 * DAY).to_string()), "{message}");
    let told = expiring(&far, &soon).unwrap();
    assert_eq!((&*told.reason, told.warning), (status::EXPIRING, true));
    assert_eq!(expiring(&soon, &after(soon.clone(), Some(7 * DAY))), None);
    // A credential that could not be read for a moment says nothing.
    let mut unread = calm();
    unread.resource.status = Some(soon.clone());
    unread.access = Access::Unknown;
    assert_eq!(status::next(&unread, &plan(&unread), None), soon);
    // It was replaced.
    let replaced = after(soon, None);
    assert_eq!(warning(&replaced), None);
    assert_eq!(replaced.credential_expires_at, None);
    // That a status of an older version does not say when is no reason to write one.
    let old = Status {
        credential_expires_at: None,
        ..far
    };
    assert_eq!(after(old.clone(), Some(8 * DAY)), old);
}
