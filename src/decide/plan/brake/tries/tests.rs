//! Each loop driven for an hour, second by second: something happens each second that wakes the resource.

use super::*;
use crate::api::{Status, Version, WorkspaceTokenRotation, request};
use crate::decide::evidence::{Access, CredentialClaims, Live, Settings, Token};
use crate::decide::pace::Pace;
use crate::decide::plan::rules::{after_look, is_old_record, plan, rehearses_first};
use crate::decide::plan::{Plan, Setback};
use crate::decide::stamp::Stamp;
use crate::decide::status;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use std::sync::Arc;

const START: i64 = 1_800_000_000;
const HOUR: i64 = 3_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn version(second: i64) -> Version {
    Version {
        rotated_at: Some(Time(at(second))),
        short_token: Some(format!("short{second}")),
    }
}

fn held() -> Held {
    Held {
        secret: "s".into(),
        stamp: Stamp {
            owner: "r".into(),
            key: "token".into(),
            token_id: "tok".into(),
            version: version(-100),
            cluster: "here".into(),
            ..Stamp::default()
        },
        ..Held::default()
    }
}

/// A resource at rest, and what was done for it at which seconds.
struct Driven {
    seen: Observed,
    tries: Vec<i64>,
    /// Each takes a turn to rotate, and calls to the vendor.
    looks: usize,
    undone: usize,
}

impl Driven {
    fn new() -> Self {
        let spec = serde_json::json!({
            "workspaceId": "w", "token": {"id": "tok"}, "schedule": {"every": "1d"}, "target": {"name": "s"},
        });
        let mut resource = WorkspaceTokenRotation::new("r", serde_json::from_value(spec).unwrap());
        resource.metadata.generation = Some(1);
        resource.status = Some(Status::default());
        let settings = Settings {
            minimum_interval: SignedDuration::from_mins(5),
            pace: Pace::SHIPPED,
            cluster: "here".into(),
        };
        let mut seen = Observed::begin(&resource, at(0), &Arc::new(settings));
        seen.access = Access::Granted(CredentialClaims::default());
        seen.stored = Stored::Holds(held());
        Self {
            seen,
            tries: Vec::new(),
            looks: 0,
            undone: 0,
        }
    }

    /// Somebody asks for a rotation.
    fn requested(mut self) -> Self {
        let all = self.seen.resource.annotations_mut();
        all.insert(request::ROTATE.into(), "now".into());
        self
    }

    /// For an hour, each second: a pass as the controller makes it. `record` is the vendor's version of the token, `spoil`
    /// what others do before it, and `act` what comes of what is to be done.
    fn drive(
        &mut self,
        record: i64,
        spoil: impl Fn(&mut Observed),
        act: impl Fn(&mut Self, &Plan) -> Option<Setback>,
    ) -> (usize, usize) {
        for second in 0..HOUR {
            self.seen.now = at(second);
            spoil(&mut self.seen);
            self.reads(record, false);
            let mut decided = plan(&self.seen);
            let mut setback = None;
            if decided == Plan::Look && rehearses_first(&self.seen) {
                setback = act(self, &decided);
            }
            if decided == Plan::Look && setback.is_none() {
                self.looks += 1;
                self.reads(record, true);
                decided = after_look(&self.seen, plan(&self.seen));
            }
            if matches!(decided, Plan::Rotate(_) | Plan::Rewrite { .. }) {
                setback = act(self, &decided);
                if matches!(decided, Plan::Rewrite { .. }) && setback.is_none() {
                    decided = plan(&self.seen);
                }
            }
            if setback.is_some() || matches!(decided, Plan::Retry { .. }) {
                self.seen.tries.failed(self.seen.requests(), self.seen.now);
            }
            match setback {
                Some(Setback::Raced) => self.seen.tries.raced(at(second)),
                _ if racing(&self.seen).is_none() => self.seen.tries.went_well(),
                _ => {}
            }
            let next = status::next(&self.seen, &decided, setback.as_ref());
            self.seen.resource.status = Some(next);
            // Whatever happens, the value that is stored is the live one.
            let ready = self.status().ready();
            assert!(
                ready.is_none_or(|ready| ready.status == "True"),
                "{second}: {ready:?}"
            );
        }
        let in_minute = self.tries.iter().filter(|at| **at < 60).count();
        (in_minute, self.tries.len())
    }

    fn reads(&mut self, second: i64, fresh: bool) {
        let token = Token {
            id: "tok".into(),
            scope: "WORKSPACE".into(),
            kind: "STANDARD".into(),
            entities: vec!["w".into()],
            version: version(second),
            ..Token::default()
        };
        self.seen.records.token = Live::Token { token, fresh };
    }

    fn tried(&mut self) {
        let second = self.seen.now.duration_since(at(0)).as_secs();
        self.tries.push(second);
    }

    /// A rewrite came to this.
    fn rewrote(&mut self, decided: &Plan, came: Came) {
        self.tried();
        let Plan::Rewrite { from } = decided else {
            panic!("no rewrite: {decided:?}");
        };
        let rewritten = Rewritten {
            at: self.seen.now,
            purpose: purpose(&self.seen, from),
            came,
        };
        let quiet = self.seen.pace().undone_quiet;
        self.undone += usize::from(self.seen.tries.rewrote(rewritten, quiet));
    }

    fn status(&self) -> &Status {
        self.seen.resource.status.as_ref().unwrap()
    }

    fn beside(&self, type_: &str) -> &Condition {
        let present = self.status().present(type_);
        present.unwrap_or_else(|| panic!("no {type_}: {:?}", self.status()))
    }
}

fn spoil_label(seen: &mut Observed) {
    let outdated = Some("metadata.labels[team], written by kubectl".into());
    seen.stored = Stored::Holds(Held { outdated, ..held() });
}

fn no_spoiling(_: &mut Observed) {}

fn blocked(reason: Reason) -> Blocked {
    Blocked::new(reason, "because")
}

fn write(driven: &mut Driven, decided: &Plan) -> Option<Setback> {
    driven.rewrote(decided, Came::Written);
    driven.seen.stored = Stored::Holds(held());
    None
}

#[test]
fn what_is_undone_each_second_is_written_less_and_less() {
    let mut driven = Driven::new();
    let counted = driven.drive(-100, spoil_label, write);
    assert_eq!(counted, (2, 7));
    // At once, and then after 30 seconds, doubled.
    assert_eq!(driven.tries, [0, 30, 90, 210, 450, 930, 1_890]);
    assert_eq!((driven.undone, driven.looks), (6, 0));
    let stalled = driven.beside("Stalled");
    assert_eq!(stalled.reason, "TargetUnstable");
    let words = ["7 times", "metadata.labels[team], written by kubectl"];
    for word in words {
        assert!(stalled.message.contains(word), "{}", stalled.message);
    }
}

#[test]
fn one_write_that_is_undone_is_waited_for_and_two_need_a_person() {
    for (times, expected) in [(1, "Reconciling"), (2, "Stalled")] {
        let mut driven = Driven::new();
        for second in 0..times {
            spoil_label(&mut driven.seen);
            driven.seen.now = at(second);
            driven.rewrote(
                &Plan::Rewrite {
                    from: Box::new(held()),
                },
                Came::Written,
            );
        }
        let decided = plan(&driven.seen);
        driven.seen.resource.status = Some(status::next(&driven.seen, &decided, None));
        assert_eq!(driven.beside(expected).reason, "TargetUnstable");
    }
}

#[test]
fn an_edit_and_a_new_value_are_written_at_once_and_so_is_what_is_changed_after_an_hour() {
    let held_back = |seen: &Observed| matches!(plan(seen), Plan::Wait { .. });
    let mut driven = Driven::new();
    driven.drive(-100, spoil_label, write);
    spoil_label(&mut driven.seen);
    assert!(held_back(&driven.seen));

    let mut edited = driven.seen.clone();
    edited.resource.metadata.generation = Some(2);
    assert!(!held_back(&edited), "an edit");
    let mut rotated = driven.seen.clone();
    if let Stored::Holds(held) = &mut rotated.stored {
        held.stamp.rotation_id = Some("new".into());
    }
    assert!(!held_back(&rotated), "a new value");
    let mut later = driven.seen.clone();
    later.now = at(1_890 + 3_601);
    assert_eq!(
        row(&later, &held()),
        Vec::<&Rewritten>::new(),
        "an hour of quiet"
    );
    let mut earlier = driven.seen;
    earlier.now = at(-HOUR);
    assert!(!held_back(&earlier), "by a clock that was ahead");
}

#[test]
fn what_a_policy_changes_or_refuses_is_written_less_and_less_and_told_in_its_words() {
    let come = |came: Came| {
        let mut driven = Driven::new();
        let counted = driven.drive(-100, spoil_label, |driven, decided| {
            driven.rewrote(decided, came.clone());
            Some(Setback::Refused(blocked(Reason::TargetRefused)))
        });
        let stalled = driven.beside("Stalled");
        assert_eq!(
            (&*stalled.reason, &*stalled.message),
            ("TargetRefused", "because")
        );
        (counted, driven.undone, driven.looks)
    };
    let changed = Came::Changed(blocked(Reason::TargetRefused));
    assert_eq!(come(changed), ((2, 7), 7, 0));
    // Nothing is undone by it, so that it heals sooner.
    let refused = Came::Refused(blocked(Reason::TargetRefused));
    assert_eq!(come(refused), ((2, 10), 0, 0));
}

#[test]
fn a_value_that_is_not_there_is_looked_for_and_not_written_again_and_again() {
    let mut driven = Driven::new();
    spoil_label(&mut driven.seen);
    driven.reads(-100, true);
    let decided = plan(&driven.seen);
    driven.rewrote(&decided, Came::NoValue);
    assert!(matches!(plan(&driven.seen), Plan::Wait { .. }));
    driven.seen.stored = doubted(&driven.seen, driven.seen.stored.clone());
    assert_eq!(plan(&driven.seen), Plan::Look);
    assert_eq!(driven.undone, 0);
}

#[test]
fn what_is_changed_whenever_it_is_worked_on_is_tried_less_and_less() {
    let mut driven = Driven::new().requested();
    let counted = driven.drive(-100, no_spoiling, |driven, decided| {
        // The dry run goes well.
        matches!(decided, Plan::Rotate(_)).then(|| {
            driven.tried();
            Setback::Raced
        })
    });
    assert_eq!(counted, (6, 65));
    assert_eq!(driven.tries[..7], [0, 1, 3, 7, 15, 31, 63]);
    assert_eq!(driven.looks, 65);
    let reconciling = driven.beside("Reconciling");
    assert_eq!(reconciling.reason, "KubernetesUnavailable");
    assert!(reconciling.message.contains("changes while"));
}

#[test]
fn it_is_told_from_the_fifth_time_on_and_over_when_one_goes_well() {
    let mut driven = Driven::new();
    driven.reads(-100, false);
    let status = status::next(&driven.seen, &plan(&driven.seen), None);
    driven.seen.resource.status = Some(status);
    // The watch has lost it, which a look would explain.
    driven.seen.stored = Stored::Absent {
        elsewhere: None,
        resource_version: None,
    };
    let told = |driven: &Driven| racing(&driven.seen).map(|(_, told)| told.is_some());
    let mut all = Vec::new();
    for _ in 0..6 {
        driven.seen.tries.raced(at(0));
        all.push(told(&driven));
        if told(&driven) == Some(false) {
            let next = status::next(&driven.seen, &plan(&driven.seen), None);
            assert_eq!(next, *driven.status());
        }
    }
    let (quiet, loud) = (Some(false), Some(true));
    assert_eq!(all, [None, quiet, quiet, quiet, loud, loud]);
    driven.seen.tries.went_well();
    assert_eq!(told(&driven), None);
}

#[test]
fn old_records_of_the_vendor_are_read_less_and_less() {
    // A rotation is asked for, and the record is older than what is stored.
    let mut driven = Driven::new().requested();
    driven.drive(-200, no_spoiling, |_, _| panic!("on an old record"));
    driven.reads(-200, true);
    assert!(is_old_record(&driven.seen));
    assert_eq!(driven.looks, 18);
    let reconciling = driven.beside("Reconciling");
    assert_eq!(reconciling.reason, "VendorUnavailable");
    assert!(reconciling.message.contains("old records"));
}

#[test]
fn a_write_that_fails_before_the_call_costs_one_look_and_then_few_dry_runs() {
    for reason in [Reason::KubernetesUnavailable, Reason::TargetRefused] {
        let mut driven = Driven::new().requested();
        let counted = driven.drive(-100, no_spoiling, |driven, _| {
            driven.tried();
            Some(match reason {
                Reason::TargetRefused => Setback::Refused(blocked(reason)),
                _ => Setback::Unavailable {
                    blocked: blocked(reason),
                    retry_after: None,
                },
            })
        });
        assert_eq!(counted, (3, 11), "{reason}");
        assert_eq!(driven.tries[..5], [0, 15, 45, 105, 225], "{reason}");
        // With its turn to rotate and its calls to the vendor.
        assert_eq!(driven.looks, 1, "{reason}");
    }
}

#[test]
fn a_value_that_is_not_stored_is_tried_often_at_first_and_for_ever() {
    let tries = |is_refused: bool| {
        let (mut at, mut tries) = (0.0, Vec::new());
        for failures in 1.. {
            tries.push(at);
            at += Pace::SHIPPED
                .after_writes(failures, is_refused)
                .as_secs_f64();
            if at >= HOUR as f64 {
                break;
            }
        }
        let in_minute = tries.iter().filter(|at| **at < 60.0).count();
        (in_minute, tries.len())
    };
    assert_eq!(tries(true), (17, 78));
    assert_eq!(tries(false), (17, 725), "while there is no answer at all");
}
