//! How often a token may be rotated, whatever asks for it: every rotation that a rule begins passes through here.

pub mod tries;

use crate::api::{Cause, HistoryEntry, RotationOutcome, Status};
use crate::decide::evidence::{Observed, Token};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

/// Rotations that may be begun within a minimum interval, recoveries and requests included.
const MOST_IN_INTERVAL: usize = 3;
/// Requests that may be answered within [`REQUESTS_WITHIN`]: as many as the history has entries.
const MOST_REQUESTS: usize = 10;
/// Within so many fifths of the minimum interval, which is an hour of the shipped one.
const REQUESTS_WITHIN: i32 = 60;
/// How long repairs that follow one another wait, in fifths of the minimum interval.
const LADDER: [i32; 6] = [0, 1, 5, 15, 60, 360];
/// After so many fifths of the minimum interval without one, repairs begin at the first step again.
const QUIET: i32 = 1_440;
/// From so many repairs in a row on a person has to act.
const NEEDS_PERSON: usize = 3;

/// Until when a rotation that is begun for this cause has to wait, and why.
pub fn brake(seen: &Observed, token: &Token, cause: Cause) -> Option<(Timestamp, Blocked)> {
    let holds = [
        cap(seen, token),
        requests(seen, cause),
        repairs(seen, token, cause),
    ];
    let holds = holds.into_iter().flatten();
    let latest = holds.max_by_key(|(until, _)| *until)?;
    (latest.0 > seen.now).then_some(latest)
}

/// Whether so many repairs have followed one another that a person has to act.
pub fn needs_person(seen: &Observed, reason: Reason) -> bool {
    let row = match reason {
        Reason::ValueLost => lost(seen),
        // By what is written into a Secret that holds a value, or by the value itself.
        Reason::TargetUnstable if seen.held().is_some() => return tries::is_tug_of_war(seen),
        Reason::TargetUnstable => vanished(seen),
        _ => return false,
    };
    row.len() >= NEEDS_PERSON
}

/// Whether a status says that a rotation waits because there were too many.
pub fn holds_back(status: &Status) -> bool {
    let is_suspended = status.present("Suspended").is_some();
    status.obstacles().any(|condition| {
        let is_beside = condition.type_ != "Ready";
        match Reason::from_name(&condition.reason) {
            Some(Reason::TooManyRotations) => true,
            Some(Reason::TargetUnstable) => is_beside && !status.is_ready(),
            Some(Reason::ValueLost) => is_beside && !is_suspended,
            _ => false,
        }
    })
}

/// How many values in a row a status says were lost, with the one that is about to be replaced.
pub fn lost_in_a_row(status: &Status) -> usize {
    let entries = status.history.iter();
    let recorded = entries.take_while(|entry| entry.outcome == RotationOutcome::Lost);
    let lost = Reason::ValueLost.to_string();
    let is_known = status.ready().is_some_and(|ready| ready.reason == lost);
    recorded.count() + usize::from(is_known && status.pending.is_some())
}

/// Whether a rotation is to replace a value that was there before, and is gone.
pub fn is_vanished(seen: &Observed, token: &Token, cause: Cause) -> bool {
    let is_stored = |entry: &HistoryEntry| {
        let is_ours = entry.token_id == token.id || seen.record(&entry.token_id).is_some();
        entry.outcome == RotationOutcome::Stored && is_ours
    };
    cause == Cause::Initial && history(seen).any(is_stored)
}

/// Three in any interval.
fn cap(seen: &Observed, token: &Token) -> Option<(Timestamp, Blocked)> {
    let pending = seen
        .pending()
        .filter(|pending| pending.token_id == token.id);
    let recorded = history(seen)
        .filter(|entry| entry.token_id == token.id)
        .map(|entry| entry.at.0)
        .chain(pending.map(|pending| pending.started_at.0));
    let begun = seen.begun.get(&token.id).cloned().unwrap_or_default();
    let known = later(recorded.collect(), begun);
    let third = known.get(MOST_IN_INTERVAL - 1)?;
    let until = after(*third, seen.settings.minimum_interval);
    Some((
        until,
        Blocked::new(
            Reason::TooManyRotations,
            format!(
                "token {} was rotated {MOST_IN_INTERVAL} times since {third}; the next rotation waits until {until}",
                token.id
            ),
        ),
    ))
}

/// Of what the status records and what this process remembers, which a wiped status does not take away, the list that
/// counts more; newest first.
fn later(mut recorded: Vec<Timestamp>, mut remembered: Vec<Timestamp>) -> Vec<Timestamp> {
    for times in [&mut recorded, &mut remembered] {
        times.sort_by_key(|at| std::cmp::Reverse(*at));
    }
    let third = |times: &[Timestamp]| times.get(MOST_IN_INTERVAL - 1).copied();
    match third(&recorded) >= third(&remembered) {
        true => recorded,
        false => remembered,
    }
}

fn requests(seen: &Observed, cause: Cause) -> Option<(Timestamp, Blocked)> {
    if cause != Cause::Requested {
        return None;
    }
    let answered = history(seen).filter(|entry| entry.reason == Cause::Requested);
    let tenth = answered.map(|entry| entry.at.0).nth(MOST_REQUESTS - 1)?;
    let until = after(tenth, fifths(seen, REQUESTS_WITHIN));
    Some((
        until,
        Blocked::new(
            Reason::TooManyRotations,
            format!(
                "{MOST_REQUESTS} requests were answered since {tenth}; the next one waits until {until}"
            ),
        ),
    ))
}

/// What is done again and again waits longer and longer; an edit of the spec skips a step.
fn repairs(seen: &Observed, token: &Token, cause: Cause) -> Option<(Timestamp, Blocked)> {
    let (row, steps) = match cause {
        Cause::Lost => {
            let row = lost(seen);
            let steps = row.len().saturating_sub(1);
            (row, steps)
        }
        Cause::Initial => {
            let row = vanished(seen);
            let steps = row.len();
            (row, steps)
        }
        _ => return None,
    };
    let status = seen.resource.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let is_edited = observed.is_some() && observed != seen.resource.metadata.generation;
    let step = steps.saturating_sub(is_edited.into()).min(LADDER.len() - 1);
    let (last, number) = (*row.first()?, row.len());
    let until = after(last, fifths(seen, LADDER[step]));
    let blocked = match cause {
        Cause::Lost => Blocked::new(
            Reason::ValueLost,
            format!(
                "{number} values of token {} in a row were issued and lost, the last one at {last}; the next attempt is made \
                 at {until}",
                token.id
            ),
        ),
        _ => Blocked::new(
            Reason::TargetUnstable,
            format!(
                "the value in Secret {} was deleted {} times in a row, and replaced by a rotation each time, the last one at \
                 {last}; the next rotation waits until {until}. Find who deletes it",
                seen.resource.spec.target.name,
                number + 1
            ),
        ),
    };
    Some((until, blocked))
}

/// When the values that were lost in a row were begun, newest first; the pending one is about to be found lost.
fn lost(seen: &Observed) -> Vec<Timestamp> {
    let pending = seen.pending().map(|pending| pending.started_at.0);
    let recorded = history(seen).take_while(|entry| entry.outcome == RotationOutcome::Lost);
    together(
        seen,
        pending.into_iter().chain(recorded.map(|entry| entry.at.0)),
    )
}

/// When values were rotated in a row because there was none though there had been one, newest first.
fn vanished(seen: &Observed) -> Vec<Timestamp> {
    let all: Vec<_> = history(seen).collect();
    let is_repair = |(index, entry): &(usize, &&HistoryEntry)| {
        let before = |older: &&&HistoryEntry| {
            let is_same = older.token_id == entry.token_id
                || [older, entry]
                    .iter()
                    .all(|it| seen.record(&it.token_id).is_some());
            older.outcome == RotationOutcome::Stored && is_same
        };
        entry.reason == Cause::Initial
            && entry.outcome == RotationOutcome::Stored
            && all[index + 1..].iter().any(|older| before(&older))
    };
    let row = all.iter().enumerate().take_while(is_repair);
    together(seen, row.map(|(_, entry)| entry.at.0))
}

/// Those of a row, newest first, that follow one another without a long time of quiet.
fn together(seen: &Observed, row: impl Iterator<Item = Timestamp>) -> Vec<Timestamp> {
    let quiet = fifths(seen, QUIET);
    let mut later = seen.now;
    row.take_while(|at| std::mem::replace(&mut later, *at).duration_since(*at) <= quiet)
        .collect()
}

fn history(seen: &Observed) -> impl Iterator<Item = &HistoryEntry> {
    let status = seen.resource.status.iter();
    status.flat_map(|status| &status.history)
}

fn fifths(seen: &Observed, number: i32) -> SignedDuration {
    seen.settings.minimum_interval.saturating_mul(number) / 5
}

fn after(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Pending, Status, Version, WorkspaceTokenRotation};
    use crate::decide::evidence::Settings;
    use crate::decide::pace::Pace;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use std::sync::Arc;

    const START: i64 = 1_800_000_000;
    const INTERVAL: i64 = 300;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(START + second).unwrap()
    }

    /// A resource whose token is rotated by the brake's leave, and the seconds at which that was.
    struct Driven {
        seen: Observed,
        token: Token,
        rotated: Vec<i64>,
    }

    impl Driven {
        fn new() -> Self {
            let spec = serde_json::json!({
                "workspaceId": "w", "token": {"id": "tok"}, "schedule": {"every": "1d"}, "target": {"name": "s"},
            });
            let resource = WorkspaceTokenRotation::new("r", serde_json::from_value(spec).unwrap());
            let settings = Settings {
                minimum_interval: SignedDuration::from_secs(INTERVAL),
                pace: Pace::SHIPPED,
                cluster: "here".into(),
            };
            let token = Token {
                id: "tok".into(),
                ..Token::default()
            };
            Self {
                seen: Observed::begin(&resource, at(0), &Arc::new(settings)),
                token,
                rotated: Vec::new(),
            }
        }

        fn status(&mut self) -> &mut Status {
            self.seen.resource.status.get_or_insert_default()
        }

        fn push(&mut self, second: i64, reason: Cause, outcome: RotationOutcome) {
            let entry = HistoryEntry {
                id: "id".into(),
                reason,
                at: Time(at(second)),
                token_id: "tok".into(),
                outcome,
            };
            let history = &mut self.status().history;
            history.insert(0, entry);
            history.truncate(10);
            self.rotated.push(second);
        }

        fn is_held(&mut self, second: i64, cause: Cause) -> bool {
            self.seen.now = at(second);
            brake(&self.seen, &self.token, cause).is_some()
        }

        /// For an hour, each second: whatever is asked for is done when the brake allows it.
        fn drive(mut self, cause: Cause, outcome: RotationOutcome) -> (usize, usize) {
            for second in 0..3_600 {
                if !self.is_held(second, cause) {
                    self.push(second, cause, outcome);
                }
            }
            let in_minute = self.rotated.iter().filter(|at| **at < 60).count();
            (in_minute, self.rotated.len())
        }
    }

    #[test]
    fn a_secret_that_is_deleted_each_second_is_replaced_less_and_less() {
        let driven = Driven::new().drive(Cause::Initial, RotationOutcome::Stored);
        // At 0 s and 1 s, then after 1, 5, 15 and 60 minutes.
        assert_eq!(driven, (2, 5));
    }

    #[test]
    fn requests_without_end_are_answered_within_the_cap() {
        let driven = Driven::new().drive(Cause::Requested, RotationOutcome::Stored);
        assert_eq!(driven, (3, 10));
    }

    #[test]
    fn values_that_are_lost_in_a_row_cost_fewer_and_fewer_rotations() {
        let mut driven = Driven::new();
        for second in 0..3_600 {
            // Each attempt loses its value too: the pending one becomes a lost one when the next is begun.
            if driven.is_held(second, Cause::Lost) {
                continue;
            }
            if let Some(lost) = driven.status().pending.take() {
                let at = lost.started_at.0.as_second() - START;
                driven.push(at, Cause::Lost, RotationOutcome::Lost);
                driven.rotated.pop();
            }
            driven.rotated.push(second);
            driven.status().pending = Some(Pending {
                id: "id".into(),
                reason: Cause::Lost,
                attempt: 1,
                token_id: "tok".into(),
                started_at: Time(at(second)),
                replaces: Version::default(),
                holder: String::new(),
                request: None,
                revoke: None,
            });
        }
        // The one that is lost first, its recovery at once, and then after 1, 5 and 15 minutes.
        assert_eq!(driven.rotated, [0, 1, 61, 361, 1_261]);
        assert!(needs_person(&driven.seen, Reason::ValueLost));
    }

    #[test]
    fn a_rotation_for_another_reason_or_a_day_of_quiet_ends_a_row_and_an_edit_skips_a_step() {
        let mut driven = Driven::new();
        for second in [0, 1, 61] {
            driven.push(second, Cause::Initial, RotationOutcome::Stored);
        }
        assert!(driven.is_held(360, Cause::Initial));
        driven.status().observed_generation = Some(1);
        driven.seen.resource.metadata.generation = Some(2);
        assert!(!driven.is_held(361, Cause::Initial));
        driven.seen.resource.metadata.generation = Some(1);
        assert!(!driven.is_held(90_000, Cause::Initial));
        assert_eq!(vanished(&driven.seen), Vec::new(), "a day of quiet");
        driven.push(400, Cause::Scheduled, RotationOutcome::Stored);
        assert!(!driven.is_held(701, Cause::Initial));
    }

    #[test]
    fn a_wiped_status_does_not_take_the_brake_away() {
        let mut driven = Driven::new();
        driven.seen.begun = [("tok".into(), vec![at(2), at(1), at(0)])].into();
        assert!(driven.is_held(299, Cause::Scheduled) && !driven.is_held(300, Cause::Scheduled));
    }
}
