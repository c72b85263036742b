//! What is planned where two tokens take turns, and what `Ready` says beside it.

use crate::api::{
    Cause, HistoryEntry, Pending, RotationOutcome, Status, Version, WorkspaceTokenRotation, request,
};
use crate::decide::evidence::{
    Access, CredentialClaims, Held, Live, Observed, Settings, Stored, Token, Work,
};
use crate::decide::pace::Pace;
use crate::decide::plan::Plan;
use crate::decide::plan::rules::plan;
use crate::decide::stamp::{Stamp, rotation_id};
use crate::decide::status::next;
use crate::reason::Reason;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::sync::Arc;

/// Longer ago than any wait.
const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn version(second: i64) -> Version {
    Version {
        rotated_at: Some(Time(at(second))),
        short_token: Some(format!("short{second}")),
    }
}

fn record(id: &str, second: i64) -> Live {
    Live::Token {
        token: Token {
            id: id.into(),
            name: id.to_uppercase(),
            scope: "WORKSPACE".into(),
            kind: "STANDARD".into(),
            entities: vec!["w".into()],
            version: version(second),
            starts: Some(at(-10 * DAY)),
            ..Token::default()
        },
        fresh: true,
    }
}

/// The tokens `a` and `b`, and a Secret with the value of `a`, which was stored a day ago; that of `b` is a day older.
fn pair(edit: Value) -> Observed {
    let mut spec = json!({
        "workspaceId": "w", "token": {"name": "A"}, "alternateToken": {"name": "B"},
        "schedule": {"every": "30d"}, "target": {"name": "s"},
    });
    spec.as_object_mut()
        .unwrap()
        .extend(edit.as_object().unwrap().clone());
    let mut resource = WorkspaceTokenRotation::new("r", serde_json::from_value(spec).unwrap());
    resource.metadata.generation = Some(1);
    resource.status = Some(Status {
        observed_generation: Some(1),
        ..Status::default()
    });
    let settings = Settings {
        minimum_interval: SignedDuration::from_mins(5),
        pace: Pace::SHIPPED,
        cluster: "here".into(),
    };
    let mut seen = Observed::begin(&resource, at(0), &Arc::new(settings));
    seen.access = Access::Granted(CredentialClaims::default());
    (seen.records.token, seen.records.alternate) = (record("a", -DAY), record("b", -2 * DAY));
    seen.asked_at = Some(at(0));
    seen.stored = Stored::Holds(Held {
        secret: "s".into(),
        stamp: Stamp {
            owner: "r".into(),
            key: "token".into(),
            token_id: "a".into(),
            other: Some("b".into()),
            version: version(-DAY),
            previous: Some(version(-2 * DAY)),
            rotation_id: Some(rotation_id(at(-DAY), 1)),
            cluster: "here".into(),
            ..Stamp::default()
        },
        resource_version: Some("7".into()),
        ..Held::default()
    });
    seen
}

fn stamp(seen: &mut Observed) -> &mut Stamp {
    match &mut seen.stored {
        Stored::Holds(held) => &mut held.stamp,
        _ => panic!("no value"),
    }
}

fn token(live: &mut Live) -> &mut Token {
    match live {
        Live::Token { token, .. } => token,
        _ => panic!("no token"),
    }
}

fn status(seen: &mut Observed) -> &mut Status {
    seen.resource.status.as_mut().unwrap()
}

/// The value that is held was stored so long ago, and is live.
fn stored(seen: &mut Observed, seconds: i64) {
    let version = version(-seconds);
    let stamp = stamp(seen);
    stamp.version = version.clone();
    stamp.rotation_id = Some(rotation_id(at(-seconds), 1));
    token(&mut seen.records.token).version = version;
}

fn pending(seen: &mut Observed, token_id: &str, second: i64, replaces: Version, reason: Cause) {
    status(seen).pending = Some(Pending {
        id: rotation_id(at(second), 2),
        reason,
        attempt: 1,
        token_id: token_id.into(),
        started_at: Time(at(second)),
        replaces,
        holder: "another".into(),
        request: None,
        revoke: None,
    });
}

fn ask(seen: &mut Observed, key: &str, text: &str) {
    let annotations = &mut seen.resource.metadata.annotations;
    annotations
        .get_or_insert_default()
        .insert(key.into(), text.into());
}

fn refused(reason: Reason) -> Live {
    Live::Refused {
        blocked: crate::reason::Blocked::new(reason, "because"),
        fresh: true,
    }
}

/// The plan in short, and then `Ready` and what is beside it.
fn told(seen: &Observed) -> String {
    let planned = plan(seen);
    let seconds = |until: &Timestamp| until.duration_since(at(0)).as_secs();
    let text = match &planned {
        Plan::Idle { next: None } => "idle".into(),
        Plan::Idle { next: Some(due) } => format!("idle {} {:?}", seconds(&due.at), due.rule),
        Plan::Wait { until, .. } => format!("wait {}", seconds(until)),
        Plan::Retry { .. } => "retry".into(),
        Plan::Block(_) => "block".into(),
        Plan::Look => "look".into(),
        Plan::Settle => "settle".into(),
        Plan::Rotate(it) => format!("{} {} {}", it.cause, it.token.id, it.attempt),
        Plan::Rewrite { from } => match from.stamp.fence {
            Some(_) => "fence".into(),
            None => format!("rewrite other {:?}", from.stamp.other),
        },
    };
    let after = next(seen, &planned, None);
    let ready = after.ready().map_or("-", |it| &it.status);
    let beside = after.present("Stalled").or(after.present("Reconciling"));
    let beside = beside.map_or(String::new(), |it| format!(" {}:{}", it.type_, it.reason));
    match planned {
        // What is done next has not changed the status yet.
        Plan::Rotate(_) | Plan::Rewrite { .. } | Plan::Look => text,
        _ => format!("{text}, {ready}{beside}"),
    }
}

type Row = (&'static str, fn(&mut Observed), &'static str);

#[test]
fn each_row_of_the_table_is_planned_so() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("at rest", |_| (), "idle 2505600 Scheduled, True"),
        ("the names of the roles have no meaning", |s| {
            std::mem::swap(&mut s.records.token, &mut s.records.alternate);
        }, "idle 2505600 Scheduled, True"),
        ("due", |s| stored(s, 31 * DAY), "Scheduled b 1"),
        ("requested", |s| ask(s, request::ROTATE, "x"), "Requested b 1"),
        ("requested soon after the last one", |s| { stored(s, 100); ask(s, request::ROTATE, "x"); },
            "idle 200 Requested, True"),
        ("nothing is held", |s| s.stored = Stored::Absent { elsewhere: None, resource_version: None }, "Initial b 1"),
        ("nothing is held, and one was never rotated", |s| {
            s.stored = Stored::Absent { elsewhere: None, resource_version: None };
            token(&mut s.records.token).version = Version::default();
        }, "Initial a 1"),
        // Another party.
        ("the held one rotated elsewhere", |s| token(&mut s.records.token).version = version(-9), "Reclaimed b 1"),
        ("the held one rotated elsewhere, soon after it was stored", |s| {
            stored(s, 100);
            token(&mut s.records.token).version = version(-9);
        }, "Reclaimed a 1"),
        ("both rotated elsewhere, the other one earlier", |s| {
            token(&mut s.records.token).version = version(-9);
            token(&mut s.records.alternate).version = version(-8);
        }, "Reclaimed a 1"),
        ("the next one rotated elsewhere", |s| token(&mut s.records.alternate).version = version(-9),
            "idle 2505600 Scheduled, True"),
        ("the held one gone", |s| { s.records.token = refused(Reason::TokenNotFound); s.token_is_gone = true; },
            "Reclaimed b 1"),
        ("the held one not found by its name", |s| {
            s.records.token = refused(Reason::TokenNotFound);
            s.records.former = record("a", -DAY);
        }, "block, True Stalled:TokenNotFound"),
        ("both gone", |s| {
            s.records.token = refused(Reason::TokenNotFound);
            s.records.alternate = refused(Reason::TokenNotFound);
            s.token_is_gone = true;
        }, "block, False Stalled:TokenNotFound"),
        ("the stamp newer than the record", |s| token(&mut s.records.token).version = version(-3 * DAY),
            "idle 2505600 Scheduled, True"),
        // Trouble with the next one.
        ("ambiguous and due", |s| { stored(s, 31 * DAY); s.records.alternate = refused(Reason::TokenAmbiguous); },
            "block, True Stalled:TokenAmbiguous"),
        ("of another Workspace and requested", |s| {
            ask(s, request::ROTATE, "x");
            token(&mut s.records.alternate).entities.clear();
        }, "block, True Stalled:WrongWorkspace"),
        ("expired and due", |s| { stored(s, 31 * DAY); token(&mut s.records.alternate).ends = Some(at(-1)); },
            "block, True Stalled:TokenExpired"),
        ("both mean one token", |s| s.records.alternate = record("a", -DAY), "block, True Stalled:InvalidSpec"),
        ("not known, and due", |s| { stored(s, 31 * DAY); s.records.alternate = Live::NotAsked; }, "look"),
        // Expiry.
        ("the held one expired", |s| token(&mut s.records.token).ends = Some(at(-1)), "Expiring b 1"),
        ("the held one in its last hour", |s| token(&mut s.records.token).ends = Some(at(60)), "Expiring b 1"),
        ("the same without the other one", |s| {
            token(&mut s.records.token).ends = Some(at(60));
            s.records.alternate = refused(Reason::TokenAmbiguous);
        }, "Expiring a 1"),
        ("the next one expires in 40 hours", |s| token(&mut s.records.alternate).ends = Some(at(40 * 3_600)),
            "idle 57600 Expiring, True"),
        ("the next one expires in 10 hours, so midway", |s| token(&mut s.records.alternate).ends = Some(at(36_000)),
            "Expiring b 1"),
        // An intent about the token that is not held.
        ("in flight", |s| pending(s, "b", -9, version(-2 * DAY), Cause::Scheduled),
            "wait 46, True Reconciling:RotationInDoubt"),
        ("its value in hand, and not stored", |s| {
            pending(s, "b", -9, version(-2 * DAY), Cause::Scheduled);
            token(&mut s.records.alternate).version = version(-8);
            s.work = Some(Work::Storing { error: "no".into() });
        }, "wait 55, True Reconciling:ValueNotStored"),
        ("without effect so far", |s| pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled),
            "wait 501, True Reconciling:RotationInDoubt"),
        ("without effect for good", |s| pending(s, "b", -600, version(-2 * DAY), Cause::Scheduled), "settle, True"),
        ("its value lost", |s| {
            pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled);
            token(&mut s.records.alternate).version = version(-98);
        }, "fence"),
        ("its value lost, and the Secret fenced", |s| {
            pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled);
            token(&mut s.records.alternate).version = version(-98);
            stamp(s).fence = Some(rotation_id(at(-99), 2));
        }, "Lost b 2"),
        ("stored, by the version before", |s| pending(s, "b", -99, version(-3 * DAY), Cause::Scheduled), "settle, True"),
        ("the held one dead meanwhile", |s| {
            pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled);
            token(&mut s.records.token).version = version(-9);
        }, "Reclaimed a 1"),
        ("its token gone", |s| {
            pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled);
            s.records.alternate = refused(Reason::TokenNotFound);
        }, "settle, True Stalled:TokenNotFound"),
        ("its token not named any more", |s| {
            pending(s, "b", -99, version(-2 * DAY), Cause::Scheduled);
            s.records.alternate = record("c", -DAY);
        }, "settle, True"),
        // An intent about the token that is held.
        ("in place, in flight", |s| pending(s, "a", -9, version(-DAY), Cause::Scheduled),
            "wait 46, False Reconciling:RotationInDoubt"),
        ("in place, without effect so far", |s| pending(s, "a", -99, version(-DAY), Cause::Requested), "Requested b 1"),
        ("in place, its value lost", |s| {
            pending(s, "a", -99, version(-DAY), Cause::Requested);
            token(&mut s.records.token).version = version(-98);
        }, "Lost b 1"),
        // A call that may still land.
        ("lost a while ago, and due", |s| {
            stored(s, 31 * DAY);
            status(s).history.push(HistoryEntry {
                id: "lost".into(), reason: Cause::Scheduled, at: Time(at(-99)), token_id: "b".into(),
                outcome: RotationOutcome::Lost,
            });
        }, "idle 501 Scheduled, True"),
        // What the Secret says of the tokens.
        ("the other one not named yet", |s| stamp(s).other = None, "rewrite other Some(\"b\")"),
        ("the held one of neither, and the other one is", |s| s.records.token = record("c", -3 * DAY),
            "idle 2505600 Scheduled, True"),
        ("the same and due", |s| { stored(s, 31 * DAY); s.records.token = record("c", -3 * DAY); }, "Scheduled c 1"),
        ("both of neither", |s| {
            s.records.token = record("c", -3 * DAY);
            s.records.alternate = record("d", -2 * DAY);
        }, "Initial c 1"),
        // A revocation.
        ("revoked", |s| ask(s, request::REVOKE, "x"), "Requested b 1"),
        ("revoked soon after the last one", |s| { stored(s, 100); ask(s, request::REVOKE, "x"); }, "Requested b 1"),
        ("the one before to be ended", |s| { stored(s, 100); stamp(s).revokes = Some("x".into()); },
            "idle 20 Revoked, True"),
        ("the same, after two minutes", |s| { stored(s, 120); stamp(s).revokes = Some("x".into()); }, "Revoked b 1"),
        ("the same at once", |s| { stored(s, 1); stamp(s).revokes = Some("now/x".into()); }, "Revoked b 1"),
        ("the same without an effect", |s| {
            stamp(s).revokes = Some("x".into());
            pending(s, "b", -99, version(-2 * DAY), Cause::Revoked);
        }, "Revoked b 2"),
        ("ended", |s| {
            stamp(s).revokes = Some("x".into());
            pending(s, "b", -99, version(-2 * DAY), Cause::Revoked);
            token(&mut s.records.alternate).version = version(-98);
        }, "settle, True"),
    ];
    for (what, edit, expected) in rows {
        let mut seen = pair(json!({}));
        edit(&mut seen);
        assert_eq!(told(&seen), *expected, "{what}");
    }
}

#[test]
fn a_value_that_was_ended_on_request_is_not_shown_again_by_an_older_record() {
    let mut seen = pair(json!({}));
    let shown = |seen: &Observed| next(seen, &plan(seen), None).previous_token.map(|it| it.id);
    assert_eq!(shown(&seen).as_deref(), Some("b"));
    stamp(&mut seen).revokes = Some("x".into());
    status(&mut seen).history.push(HistoryEntry {
        id: "revoked".into(),
        reason: Cause::Revoked,
        at: Time(at(-9)),
        token_id: "b".into(),
        outcome: RotationOutcome::Dropped,
    });
    assert_eq!(shown(&seen), None);
    assert_eq!(told(&seen), "idle 2505600 Scheduled, True");
}

#[test]
fn with_report_a_token_that_another_party_rotated_is_left_alone_until_a_person_asks() {
    let mut seen = pair(json!({"externalRotation": "Report"}));
    token(&mut seen.records.alternate).version = version(-9);
    assert_eq!(told(&seen), "block, True Stalled:RotatedElsewhere");
    ask(&mut seen, request::ROTATE, "x");
    assert_eq!(told(&seen), "Requested b 1");
}

#[test]
fn a_due_turn_waits_for_those_who_still_use_the_value_before() {
    for (used, expected) in [
        // Within the time that consumers have to follow.
        (-31 * DAY + 100, "Scheduled b 1"),
        (-2 * DAY, "Scheduled b 1"),
        (-60, "wait 3540, True Reconciling:PreviousInUse"),
        (-3_700, "Scheduled b 1"),
    ] {
        let schedule = json!({"every": "30d", "waitForPrevious": "1h"});
        let mut seen = pair(json!({"schedule": schedule}));
        stored(&mut seen, 30 * DAY + 10);
        stamp(&mut seen).previous = Some(version(-60 * DAY));
        let before = token(&mut seen.records.alternate);
        (before.version, before.last_used) = (version(-60 * DAY), Some(at(used)));
        assert_eq!(told(&seen), expected, "{used}");
    }
}

#[test]
fn with_one_token_left_the_next_rotation_takes_that_one_whatever_the_secret_holds() {
    let mut seen = pair(json!({"alternateToken": null}));
    (seen.records.alternate, seen.records.former) = (Live::NotAsked, Live::NotAsked);
    assert_eq!(told(&seen), "idle 2505600 Scheduled, True");
    stored(&mut seen, 31 * DAY);
    assert_eq!(told(&seen), "Scheduled a 1");
    // The Secret holds a value of the one that is not named any more.
    let mut seen = pair(json!({"alternateToken": null, "token": {"name": "B"}}));
    seen.records.former = std::mem::take(&mut seen.records.token);
    seen.records.token = std::mem::take(&mut seen.records.alternate);
    assert_eq!(told(&seen), "idle 2505600 Scheduled, True");
    stamp(&mut seen).rotation_id = Some(rotation_id(at(-31 * DAY), 1));
    ask(&mut seen, request::ROTATE, "x");
    assert_eq!(told(&seen), "Requested b 1");
}
