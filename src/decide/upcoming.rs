//! The next rotations of a resource, each computed from the one before. Pure.

use crate::api::Cause;
use crate::decide::evidence::{Held, Live, Observed, Stored};
use crate::decide::plan::Plan;
use crate::decide::plan::belief::next_due;
use crate::decide::plan::rules::plan;
use crate::decide::schedule::{Due, Expiry, Schedule};
use crate::decide::stamp::Stamp;
use jiff::Timestamp;
use kube::ResourceExt;

/// How many are told.
const COUNT: usize = 5;

/// Rotations to come.
#[derive(Debug, Default, PartialEq)]
pub struct Upcoming {
    /// When, and why.
    pub times: Vec<(Timestamp, Cause)>,
    /// They would be others if Astro did not start a token's validity anew with each rotation.
    pub assumes_renewal: bool,
}

/// The rotations that follow from this plan, as long as nothing else happens.
pub fn upcoming(seen: &Observed, decided: &Plan) -> Upcoming {
    let Ok(schedule) = &seen.schedule else {
        return Upcoming::default();
    };
    let Some(first) = first(seen, decided) else {
        return Upcoming::default();
    };
    let validity = match &seen.records.token {
        Live::Token { token, .. } => token.starts.zip(token.ends),
        _ => None,
    };
    let validity = validity.map(|(starts, ends)| Expiry { starts, ends });
    let seed = seen.resource.uid().unwrap_or_default();
    let renewed = |at: Timestamp| {
        let Expiry { starts, ends } = validity?;
        let ends = at.saturating_add(ends.duration_since(starts)).ok()?;
        Some(Expiry { starts: at, ends })
    };
    let times = follow(schedule, first, renewed, &seed);
    let kept = follow(schedule, first, |_| validity, &seed);
    Upcoming {
        assumes_renewal: validity.is_some() && times != kept,
        times,
    }
}

fn first(seen: &Observed, decided: &Plan) -> Option<(Timestamp, Cause)> {
    match decided {
        Plan::Rotate(rotation) => Some((seen.now, rotation.cause)),
        // Nothing is known that stands in the way of the first one.
        Plan::Look => Some((seen.now, Cause::Initial)),
        Plan::Idle { next } => next.map(due),
        Plan::Wait { until, .. } => {
            let (at, cause) = due(next_due(seen).ok()??);
            Some((at.max(*until), cause))
        }
        Plan::Rewrite { from } => {
            let rewritten = rewritten(seen, from);
            match plan(&rewritten) {
                Plan::Rewrite { .. } => next_due(&rewritten).ok()?.map(due),
                then => first(&rewritten, &then),
            }
        }
        Plan::Retry { .. } | Plan::Block(_) | Plan::Settle => None,
    }
}

/// The evidence once the Secret is written anew.
fn rewritten(seen: &Observed, from: &Held) -> Observed {
    let target = &seen.resource.spec.target;
    Observed {
        stored: Stored::Holds(Held {
            secret: target.name.clone(),
            stamp: Stamp {
                key: target.key().into(),
                cluster: seen.settings.cluster.clone(),
                ..from.stamp.clone()
            },
            key_written_by: None,
            outdated: None,
            ..from.clone()
        }),
        ..seen.clone()
    }
}

fn due(due: Due) -> (Timestamp, Cause) {
    (due.at, due.rule.into())
}

fn follow(
    schedule: &Schedule,
    first: (Timestamp, Cause),
    expiry_after: impl Fn(Timestamp) -> Option<Expiry>,
    seed: &str,
) -> Vec<(Timestamp, Cause)> {
    let after = |(at, _): &(Timestamp, Cause)| {
        let next = schedule.next(*at, expiry_after(*at), seed);
        next.ok().flatten().map(due)
    };
    std::iter::successors(Some(first), after)
        .take(COUNT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ScheduleSpec, WorkspaceTokenRotation};
    use crate::decide::evidence::{Access, CredentialClaims, Settings, Token};
    use crate::decide::pace::Pace;
    use crate::decide::plan::rules::rotation;
    use crate::decide::schedule::DueRule;
    use jiff::SignedDuration;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use std::sync::Arc;

    const DAY: i64 = 86_400;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// At second 0, with a token that is valid from then for so many days.
    fn seen(schedule: ScheduleSpec, days: Option<i64>) -> Observed {
        let spec = serde_json::json!({"workspaceId": "w", "token": {"id": "t"}, "schedule": schedule, "target": {"name": "s"}});
        let mut resource = WorkspaceTokenRotation::new("x", serde_json::from_value(spec).unwrap());
        resource.metadata.uid = Some("u".into());
        let settings = Arc::new(Settings {
            minimum_interval: SignedDuration::from_mins(5),
            pace: Pace::SHIPPED,
            cluster: "c".into(),
        });
        let mut seen = Observed::begin(&resource, at(0), &settings);
        seen.records.token = Live::Token {
            token: Token {
                id: "t".into(),
                scope: "WORKSPACE".into(),
                kind: "STANDARD".into(),
                entities: vec!["w".into()],
                starts: days.map(|_| at(0)),
                ends: days.map(|days| at(days * DAY)),
                ..Token::default()
            },
            fresh: true,
        };
        seen
    }

    fn schedule(
        every: Option<&str>,
        cron: Option<&str>,
        before_expiry: Option<&str>,
    ) -> ScheduleSpec {
        ScheduleSpec {
            every: every.map(str::to_owned),
            cron: cron.map(str::to_owned),
            before_expiry: before_expiry.map(str::to_owned),
            ..ScheduleSpec::default()
        }
    }

    /// The days, each with the first letter of its cause.
    fn days(of: &Upcoming) -> Vec<String> {
        let day = |(at, cause): &(Timestamp, Cause)| {
            format!("{}{}", &cause.to_string()[..1], at.as_second() / DAY)
        };
        of.times.iter().map(day).collect()
    }

    #[test]
    fn each_follows_from_the_one_before_and_the_assumption_is_told_where_it_matters() {
        for (every, cron, before, life, expected, assumes) in [
            (
                Some("30d"),
                None,
                None,
                None,
                ["I0", "S30", "S60", "S90", "S120"],
                false,
            ),
            (
                Some("30d"),
                None,
                None,
                Some(90),
                ["I0", "S30", "S60", "S90", "S120"],
                false,
            ),
            (
                None,
                Some("0 0 1 * *"),
                None,
                None,
                ["I0", "S31", "S59", "S90", "S120"],
                false,
            ),
            (
                None,
                None,
                Some("10d"),
                Some(90),
                ["I0", "E80", "E160", "E240", "E320"],
                true,
            ),
            (
                Some("60d"),
                None,
                Some("1w"),
                Some(90),
                ["I0", "S60", "S120", "S180", "S240"],
                true,
            ),
            (
                Some("7d"),
                None,
                Some("1d"),
                Some(365),
                ["I0", "S7", "S14", "S21", "S28"],
                false,
            ),
        ] {
            let seen = seen(schedule(every, cron, before), life);
            let Live::Token { token, .. } = &seen.records.token else {
                panic!("a token")
            };
            let plan = Plan::Rotate(Box::new(rotation(&seen, token, Cause::Initial, 1)));
            let upcoming = upcoming(&seen, &plan);
            assert_eq!(days(&upcoming), expected);
            assert_eq!(
                upcoming.assumes_renewal, assumes,
                "{every:?} {cron:?} {before:?}"
            );
        }
    }

    #[test]
    fn the_first_is_what_the_plan_says() {
        let mut seen = seen(schedule(Some("1d"), None, None), None);
        assert!(upcoming(&seen, &Plan::Idle { next: None }).times.is_empty());
        let next = Due {
            at: at(9 * DAY),
            rule: DueRule::Scheduled,
        };
        let idle = Plan::Idle { next: Some(next) };
        assert_eq!(
            days(&upcoming(&seen, &idle)),
            ["S9", "S10", "S11", "S12", "S13"]
        );
        assert_eq!(days(&upcoming(&seen, &Plan::Look))[0], "I0");
        let wait = Plan::Wait {
            until: at(2 * DAY),
            doubt: None,
        };
        assert!(
            upcoming(&seen, &wait).times.is_empty(),
            "no value, no due time"
        );
        let held = Held {
            stamp: Stamp {
                token_id: "t".into(),
                cluster: "c".into(),
                version: crate::api::Version {
                    rotated_at: Some(Time(at(0))),
                    short_token: None,
                },
                ..Stamp::default()
            },
            ..Held::default()
        };
        if let Live::Token { token, .. } = &mut seen.records.token {
            token.version.clone_from(&held.stamp.version);
        }
        let rewrite = Plan::Rewrite {
            from: Box::new(held.clone()),
        };
        assert_eq!(days(&upcoming(&seen, &rewrite))[0], "S1");
        seen.stored = Stored::Holds(held);
        assert_eq!(
            days(&upcoming(&seen, &wait))[0],
            "S2",
            "not before it looks again"
        );
    }

    #[test]
    fn an_adoption_is_followed_by_what_counts_from_it() {
        let mut seen = seen(schedule(Some("30d"), None, None), None);
        seen.access = Access::Granted(CredentialClaims::default());
        seen.stored = Stored::Consented {
            used: Default::default(),
            lacks: None,
            value_is_live: Some(true),
            resource_version: None,
        };
        if let Live::Token { token, .. } = &mut seen.records.token {
            token.version.rotated_at = Some(Time(at(-60 * DAY)));
        }
        let upcoming = upcoming(&seen, &plan(&seen));
        assert_eq!(days(&upcoming), ["S30", "S60", "S90", "S120", "S150"]);
    }

    #[test]
    fn a_schedule_that_cannot_be_followed_has_none() {
        for broken in [
            schedule(None, Some("61 * * * *"), None),
            schedule(Some("1s"), None, None),
            schedule(None, None, None),
        ] {
            let seen = seen(broken, None);
            assert_eq!(upcoming(&seen, &Plan::Look), Upcoming::default());
        }
    }
}
