//! What the schedule promises, by example, over every zone's clock changes, and for any input.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;
use serde_json::{Value, json};

const MINIMUM: SignedDuration = SignedDuration::from_mins(5);
const UID: &str = "7d0a6d0c-5f0e-4b62-8a52-0e6f5b1d3c11";

fn parse(spec: Value) -> Result<Schedule, ScheduleError> {
    parse_with(spec, MINIMUM)
}

fn parse_with(spec: Value, minimum: SignedDuration) -> Result<Schedule, ScheduleError> {
    let spec: ScheduleSpec = serde_json::from_value(spec).unwrap();
    Schedule::parse(&spec, minimum)
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A token's life, `None` for one that never expires.
fn life(starts: &str, ends: &str) -> Option<Expiry> {
    Some(Expiry {
        starts: time(starts),
        ends: time(ends),
    })
}

/// The due times one after the other, each rotation being done on time.
fn following(schedule: &Schedule, last: Timestamp) -> impl Iterator<Item = Timestamp> {
    let due = |last: &Timestamp| Some(schedule.next(*last, None, UID).unwrap()?.at);
    std::iter::successors(Some(last), due).skip(1)
}

#[test]
fn the_earliest_rule_wins() {
    let (a, z) = ("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z");
    let scheduled = |at| Some((at, DueRule::Scheduled));
    let expiring = |at| Some((at, DueRule::Expiring));
    #[rustfmt::skip]
    let table = [
        // spec, last, life, due
        (json!({"every": "720h"}), "2026-01-10T12:00:00Z", None, scheduled("2026-02-09T12:00:00Z")),
        (json!({"every": "30d"}), "2026-01-10T12:00:00.9Z", None, scheduled("2026-02-09T12:00:00Z")),
        (json!({"cron": "0 3 1 * *"}), "2026-01-10T12:00:00Z", None, scheduled("2026-02-01T03:00:00Z")),
        (json!({"cron": "0 3 1 * *", "timeZone": "Europe/Berlin"}), "2026-01-10T12:00:00Z", None, scheduled("2026-02-01T02:00:00Z")),
        (json!({"cron": "@daily", "timeZone": "asia/kathmandu"}), "2026-01-10T12:00:00Z", None, scheduled("2026-01-10T18:15:00Z")),
        (json!({"cron": "0  3 * * SUN"}), "2026-01-10T12:00:00Z", None, scheduled("2026-01-11T03:00:00Z")),
        (json!({"cron": "0 3 * * 7"}), "2026-01-10T12:00:00Z", None, scheduled("2026-01-11T03:00:00Z")),
        (json!({"cron": "0 3 L * *"}), "2026-01-10T12:00:00Z", None, scheduled("2026-01-31T03:00:00Z")),
        // Strictly after the last rotation.
        (json!({"cron": "0 3 * * *"}), "2026-01-10T03:00:00Z", None, scheduled("2026-01-11T03:00:00Z")),
        (json!({"cron": "0 3 * * *"}), "2026-01-10T02:54:59.5Z", None, scheduled("2026-01-10T03:00:00Z")),
        // Not closer to it than the minimum, unless the token expires sooner.
        (json!({"cron": "0 3 * * *"}), "2026-01-10T02:59:59.5Z", None, scheduled("2026-01-10T03:04:59Z")),
        (json!({"beforeExpiry": "7d"}), "2026-02-21T23:58:00Z", life(a, z), expiring("2026-02-22T00:03:00Z")),
        (json!({"beforeExpiry": "1m"}), "2026-02-28T23:58:00Z", life(a, z), expiring(z)),
        // Day of month or weekday, as in cron.
        (json!({"cron": "0 3 13 * FRI"}), "2026-01-12T12:00:00Z", None, scheduled("2026-01-13T03:00:00Z")),
        (json!({"cron": "0 3 13 * FRI"}), "2026-01-13T12:00:00Z", None, scheduled("2026-01-16T03:00:00Z")),
        (json!({"every": "10d", "cron": "0 3 1 * *"}), "2026-01-10T12:00:00Z", None, scheduled("2026-01-20T12:00:00Z")),
        (json!({"every": "30d", "cron": "0 3 1 * *"}), "2026-01-10T12:00:00Z", None, scheduled("2026-02-01T03:00:00Z")),
        (json!({"beforeExpiry": "7d"}), "2026-01-10T12:00:00Z", life(a, z), expiring("2026-02-22T00:00:00Z")),
        (json!({"beforeExpiry": "7d"}), "2026-01-10T12:00:00Z", life(a, "2026-03-01T00:00:00.7Z"), expiring("2026-02-22T00:00:00Z")),
        (json!({"beforeExpiry": "7d"}), "2026-01-10T12:00:00Z", None, None),
        (json!({"beforeExpiry": "7d", "jitter": "7d"}), "2026-01-10T12:00:00Z", life(a, z), expiring("2026-02-22T00:00:00Z")),
        (json!({"beforeExpiry": "7d", "every": "30d"}), "2026-01-10T12:00:00Z", life(a, z), scheduled("2026-02-09T12:00:00Z")),
        (json!({"beforeExpiry": "7d", "every": "60d"}), "2026-01-10T12:00:00Z", life(a, z), expiring("2026-02-22T00:00:00Z")),
        // A rotation inside the window that did not extend the expiry is not repeated.
        (json!({"beforeExpiry": "7d"}), "2026-02-21T23:55:00Z", life(a, z), expiring("2026-02-22T00:00:00Z")),
        (json!({"beforeExpiry": "7d"}), "2026-02-22T00:00:00Z", life(a, z), None),
        (json!({"beforeExpiry": "7d", "every": "60d"}), "2026-02-23T00:00:00Z", life(a, z), scheduled("2026-04-24T00:00:00Z")),
        (json!({"every": "30d", "jitter": "0s"}), "2026-01-10T12:00:00Z", None, scheduled("2026-02-09T12:00:00Z")),
        // Out of reach, not out of range.
        (json!({"every": "1000000w"}), "2026-01-10T12:00:00Z", None, scheduled("9999-12-30T22:00:00Z")),
    ];
    for (spec, last, expiry, due) in table {
        let due = due.map(|(at, rule)| Due { at: time(at), rule });
        let next = parse(spec.clone()).unwrap().next(time(last), expiry, UID);
        assert_eq!(next, Ok(due), "{spec} after {last}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_field_text_and_remedy() {
    #[rustfmt::skip]
    let invalid = [
        (json!({}), "schedule", "at least one of every, cron and beforeExpiry"),
        (json!({"jitter": "5m"}), "schedule", "at least one of every, cron and beforeExpiry"),
        (json!({"every": "30d", "timeZone": "UTC"}), "schedule.timeZone", "give both or neither"),
        (json!({"cron": "@daily", "timeZone": "Mars/Olympus"}), "schedule.timeZone", "\"Mars/Olympus\""),
        (json!({"cron": "@daily", "timeZone": "Etc/Unknown"}), "schedule.timeZone", "\"Etc/Unknown\""),
        (json!({"cron": "@daily", "timeZone": ""}), "schedule.timeZone", "\"\""),
        (json!({"cron": ""}), "schedule.cron", "\"\""),
        (json!({"cron": "0 3 * *"}), "schedule.cron", "\"0 3 * *\""),
        (json!({"cron": "0 0 3 * * *"}), "schedule.cron", "five fields"),
        (json!({"cron": "0 0 3 * * * 2027"}), "schedule.cron", "five fields"),
        (json!({"cron": "0 25 * * *"}), "schedule.cron", "\"0 25 * * *\""),
        (json!({"cron": "@reboot"}), "schedule.cron", "@daily"),
        (json!({"cron": "0 3 * * 7/2"}), "schedule.cron", "\"0 3 * * 7/2\""),
        (json!({"cron": "0 /3 * * *"}), "schedule.cron", "\"0 /3 * * *\""),
        (json!({"cron": ", * * * *"}), "schedule.cron", "remove the comma"),
        (json!({"cron": "0 3,,4 * * *"}), "schedule.cron", "remove the comma"),
        (json!({"cron": "0 3 31 2 *"}), "schedule.cron", "never matches"),
        (json!({"cron": "0 3 * * \u{17f}un"}), "schedule.cron", "ASCII"),
        (json!({"cron": "0 3 * * *\n"}), "schedule.cron", "one line"),
        (json!({"every": "soon"}), "schedule.every", "\"soon\""),
        (json!({"every": "0s"}), "schedule.every", "is zero"),
        (json!({"every": "30d", "beforeExpiry": "-7d"}), "schedule.beforeExpiry", "negative"),
        (json!({"every": "30d", "jitter": "1.5s"}), "schedule.jitter", "whole seconds"),
    ];
    for (spec, field, remedy) in invalid {
        match parse(spec.clone()) {
            Err(ScheduleError::Invalid(message)) => {
                assert!(message.starts_with(&format!("{field}: ")), "{message}");
                assert!(message.contains(remedy), "{message}");
            }
            other => panic!("{spec} gave {other:?}"),
        }
    }
}

#[test]
fn long_text_is_neither_read_nor_repeated() {
    let long = format!("{}0 3 * * *", " ".repeat(1_000_000));
    let Err(ScheduleError::Invalid(message)) = parse(json!({"cron": long})) else {
        panic!("accepted");
    };
    assert!(message.len() < 200, "{} bytes", message.len());
}

#[test]
fn the_rarest_patterns_are_not_taken_for_ones_that_never_match() {
    for weekday in 0..7 {
        let schedule = parse(json!({"cron": format!("0 0 29 2 +{weekday}")})).unwrap();
        let due = following(&schedule, time("2072-03-01T00:00:00Z")).next();
        assert!(due.unwrap() < time("2113-01-01T00:00:00Z"), "{due:?}");
    }
}

#[test]
fn intervals_below_the_minimum_are_refused() {
    #[rustfmt::skip]
    let table = [
        // spec, minimum, too frequent
        (json!({"every": "299s"}), "5m", true),
        (json!({"every": "5m"}), "5m", false),
        (json!({"cron": "*/4 * * * *"}), "5m", true),
        (json!({"cron": "*/5 * * * *"}), "5m", false),
        (json!({"cron": "@hourly"}), "61m", true),
        // Over midnight, and at the end of a day that has other times.
        (json!({"cron": "2,58 0,23 * * *"}), "5m", true),
        (json!({"cron": "0 0,23 1 * *"}), "2h", false),
        (json!({"cron": "0,30,59 23 1 1 *"}), "30m", true),
        (json!({"cron": "@daily"}), "2d", true),
        (json!({"cron": "@weekly"}), "2d", false),
        (json!({"cron": "* * * * *"}), "60s", false),
        (json!({"cron": "* * * * *"}), "61s", true),
    ];
    for (spec, minimum, too_frequent) in table {
        let schedule = parse_with(spec.clone(), parse_duration(minimum).unwrap());
        let refused = matches!(&schedule, Err(ScheduleError::TooFrequent(message)) if message.starts_with("schedule."));
        assert_eq!(refused, too_frequent, "{spec} at least {minimum}");
        assert_eq!(schedule.is_ok(), !too_frequent, "{spec} at least {minimum}");
    }
}

#[test]
fn a_token_that_lives_hardly_longer_than_before_expiry_is_refused() {
    let last = time("2026-01-01T00:00:00Z");
    let schedule = parse(json!({"beforeExpiry": "24h", "every": "1h"})).unwrap();
    let due_when_it_ends = |ends| schedule.next(last, life("2026-01-01T00:00:00Z", ends), UID);

    assert!(due_when_it_ends("2026-01-02T00:05:00Z").is_ok());
    for ends in [
        "2026-01-02T00:04:59Z",
        "2026-01-01T12:00:00Z",
        "1999-01-01T00:00:00Z",
    ] {
        let Err(ScheduleError::TooFrequent(message)) = due_when_it_ends(ends) else {
            panic!("accepted {ends}");
        };
        assert!(
            message.starts_with("schedule.beforeExpiry: 24h before"),
            "{message}"
        );
    }
    let Err(error) = due_when_it_ends("2026-01-01T12:00:00Z") else {
        panic!("accepted");
    };
    assert!(error.to_string().contains("lives 12h"), "{error}");
    assert!(error.to_string().contains("every 5m"), "{error}");
}

#[test]
fn only_before_expiry_is_told_apart() {
    let table = [
        (json!({"beforeExpiry": "7d", "jitter": "1h"}), true),
        (json!({"beforeExpiry": "7d", "every": "30d"}), false),
        (json!({"beforeExpiry": "7d", "cron": "@daily"}), false),
    ];
    for (spec, only) in table {
        assert_eq!(parse(spec).unwrap().only_before_expiry(), only);
    }
}

#[test]
fn a_cron_pattern_means_what_it_does_in_a_cronjob() {
    #[rustfmt::skip]
    let table = [
        // After 2026-01-01T00:00:00Z, a Thursday.
        ("0 0 1 1/3 *", ["2026-04-01T00:00", "2026-07-01T00:00", "2026-10-01T00:00", "2027-01-01T00:00"]),
        ("0 0 1 JAN/6 *", ["2026-07-01T00:00", "2027-01-01T00:00", "2027-07-01T00:00", "2028-01-01T00:00"]),
        ("5/20 * * * *", ["2026-01-01T00:05", "2026-01-01T00:25", "2026-01-01T00:45", "2026-01-01T01:05"]),
        ("0 10/6 * * *", ["2026-01-01T10:00", "2026-01-01T16:00", "2026-01-01T22:00", "2026-01-02T10:00"]),
        ("0 0 9,20/5 * *", ["2026-01-09T00:00", "2026-01-20T00:00", "2026-01-25T00:00", "2026-01-30T00:00"]),
        // The week ends with Saturday, so that a step never reaches the next Sunday.
        ("0 0 * * 1/2", ["2026-01-02T00:00", "2026-01-05T00:00", "2026-01-07T00:00", "2026-01-09T00:00"]),
        ("0 0 * * MON/3", ["2026-01-05T00:00", "2026-01-08T00:00", "2026-01-12T00:00", "2026-01-15T00:00"]),
        // A step restricts the day: then either of both has to match. An asterisk, or a step of one, does not.
        ("0 0 */10 * 1", ["2026-01-05T00:00", "2026-01-11T00:00", "2026-01-12T00:00", "2026-01-19T00:00"]),
        ("0 0 13 * */3", ["2026-01-03T00:00", "2026-01-04T00:00", "2026-01-07T00:00", "2026-01-10T00:00"]),
        ("0 0 13 * 5", ["2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00", "2026-01-16T00:00"]),
        ("0 0 * * 1", ["2026-01-05T00:00", "2026-01-12T00:00", "2026-01-19T00:00", "2026-01-26T00:00"]),
        ("0 0 */1 * 1", ["2026-01-05T00:00", "2026-01-12T00:00", "2026-01-19T00:00", "2026-01-26T00:00"]),
        ("0 0 13 * */1", ["2026-01-13T00:00", "2026-02-13T00:00", "2026-03-13T00:00", "2026-04-13T00:00"]),
        ("0 0 ? * 1", ["2026-01-05T00:00", "2026-01-12T00:00", "2026-01-19T00:00", "2026-01-26T00:00"]),
        ("0 ?/12 * ? *", ["2026-01-01T12:00", "2026-01-02T00:00", "2026-01-02T12:00", "2026-01-03T00:00"]),
        ("@midnight", ["2026-01-02T00:00", "2026-01-03T00:00", "2026-01-04T00:00", "2026-01-05T00:00"]),
    ];
    for (cron, expected) in table {
        let schedule = parse(json!({"cron": cron})).unwrap();
        let dues: Vec<_> = following(&schedule, time("2026-01-01T00:00:00Z"))
            .take(expected.len())
            .collect();
        assert_eq!(
            dues,
            expected.map(|at| time(&format!("{at}:00Z"))),
            "{cron}"
        );
    }
}

#[test]
fn missed_times_collapse_into_one() {
    let spec = json!({"cron": "*/5 * * * *", "timeZone": "Europe/Berlin"});
    let schedule = parse_with(spec, SignedDuration::ZERO).unwrap();
    let (last, now) = (time("2016-03-01T00:01:00Z"), time("2026-03-01T00:01:30Z"));

    let overdue: Vec<_> = following(&schedule, last).take(1).collect();
    assert_eq!(overdue, [time("2016-03-01T00:05:00Z")]);
    // Rotated at last, the next one is to come: nothing is caught up.
    assert_eq!(
        following(&schedule, now).next(),
        Some(time("2026-03-01T00:05:00Z"))
    );
}

#[test]
fn the_calendar_ends_with_an_error() {
    let schedule = parse(json!({"cron": "@daily"})).unwrap();
    let Err(ScheduleError::Invalid(message)) = schedule.next(Timestamp::MAX, None, UID) else {
        panic!("a time after the last one");
    };
    assert!(message.starts_with("schedule.cron: "), "{message}");
}

#[test]
fn durations_are_read() {
    #[rustfmt::skip]
    let table = [
        ("90s", Some(90)), ("5m", Some(300)), ("720h", Some(2_592_000)), ("30d", Some(2_592_000)),
        ("4w", Some(2_419_200)), ("1d12h", Some(129_600)), ("1 day, 12 hours", Some(129_600)),
        ("", None), ("5", None), ("m", None), ("5x", None), ("0s", None), ("0d0h", None),
        ("-5m", None), ("5m ago", None), ("1y", None), ("1mo", None), ("1mo5m", None),
        ("1500ms", None), ("0.5s", None), ("PT5M", None), ("P30D", None),
        ("99999999w", None), ("99999999999999999999h", None),
    ];
    for (text, seconds) in table {
        let read = parse_duration(text);
        assert_eq!(
            read.clone().ok().map(|read| read.as_secs()),
            seconds,
            "{text}"
        );
        if let Err(message) = read {
            assert!(message.contains(&format!("{text:?}")), "{message}");
        }
    }
}

#[test]
fn jitter_is_the_same_in_every_release_and_spreads() {
    let schedule = parse(json!({"every": "30d", "jitter": "10m"})).unwrap();
    let last = time("2026-01-01T00:00:00Z");
    let delay = |last, seed: &str| {
        let due = schedule.next(last, None, seed).unwrap().unwrap().at;
        due.duration_since(last).as_secs() - 30 * 86_400
    };
    assert_eq!(delay(last, UID), 340);
    let other_time = last + SignedDuration::from_hours(1);
    assert_ne!(delay(other_time, UID), delay(last, UID));

    let mut per_minute = [0; 10];
    for seed in 0..1_000 {
        per_minute[usize::try_from(delay(last, &seed.to_string()) / 60).unwrap()] += 1;
    }
    assert!(
        per_minute.iter().all(|count| (60..140).contains(count)),
        "{per_minute:?}"
    );
}

#[test]
fn a_local_time_fires_once_whatever_the_clocks_do() {
    #[rustfmt::skip]
    let table: &[(_, _, _, &[_])] = &[
        // The gap of 2027-03-28, 02:00 to 03:00: at its end, also for several times in it.
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", &["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]),
        ("*/30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", &["2027-03-28T01:00:00Z", "2027-03-29T00:00:00Z"]),
        ("0 2,14 * * *", "Europe/Berlin", "2027-03-27T18:00:00Z", &["2027-03-28T01:00:00Z", "2027-03-28T12:00:00Z"]),
        // The second 02:00 to 03:00 of 2026-10-25: never.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("0 2,14 * * *", "Europe/Berlin", "2026-10-24T18:00:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T13:00:00Z"]),
        ("@hourly", "Europe/Berlin", "2026-10-24T23:30:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"]),
        // A gap that ends on the next day, and a day that never was.
        ("30 23 * * SAT", "America/Nuuk", "2025-03-24T12:00:00Z", &["2025-03-30T01:00:00Z", "2025-04-06T00:30:00Z"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", &["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"]),
    ];
    for (cron, zone, last, expected) in table {
        let schedule = parse(json!({"cron": cron, "timeZone": zone})).unwrap();
        let dues: Vec<_> = following(&schedule, time(last))
            .take(expected.len())
            .collect();
        let expected: Vec<_> = expected.iter().map(|text| time(text)).collect();
        assert_eq!(dues, expected, "{cron} in {zone}");
    }
}

#[test]
fn every_clock_change_of_every_zone_fires_once() {
    let (from, to) = (time("2024-01-01T00:00:00Z"), time("2029-01-01T00:00:00Z"));
    let (mut gaps, mut folds) = (0, 0);
    for name in TimeZoneDatabase::bundled().available() {
        let zone = TimeZoneDatabase::bundled().get(name.as_str()).unwrap();
        let mut before = zone.to_offset(from);
        for change in zone
            .following(from)
            .take_while(|change| change.timestamp() < to)
        {
            let (at, after) = (change.timestamp(), change.offset());
            let jump = after.duration_since(before);
            // The middle of the local times that are skipped or repeated.
            let start = before.min(after).to_datetime(at);
            let local = start + jump.abs() / 2;
            let due = match jump.is_positive() {
                true => at,
                false => before.to_timestamp(local).unwrap(),
            };
            before = after;
            match jump.signum() {
                0 => continue,
                1 => gaps += 1,
                _ => folds += 1,
            }
            let (minute, hour, other) = (local.minute(), local.hour(), (local.hour() + 12) % 24);
            for cron in [
                format!("{minute} {hour} * * *"),
                format!("{minute} {hour},{other} * * *"),
            ] {
                let spec = json!({"cron": cron, "timeZone": name.as_str()});
                let schedule = parse(spec).unwrap();
                let hours_later = |hours| at + SignedDuration::from_hours(hours);
                let dues: Vec<_> = following(&schedule, hours_later(-6))
                    .take_while(|due| *due < hours_later(6))
                    .collect();
                assert_eq!(dues, [due], "{cron} in {} around {at}", name.as_str());

                // The same from any moment nearby, the second pass included.
                for quarter in -12..12 {
                    let last = at + SignedDuration::from_mins(15 * quarter);
                    let next = following(&schedule, last).next().unwrap();
                    let expected = if last < due {
                        next == due
                    } else {
                        next > hours_later(6)
                    };
                    assert!(expected, "{cron} in {} after {last}: {next}", name.as_str());
                }
            }
        }
    }
    assert!(gaps > 500 && folds > 500, "{gaps} gaps and {folds} folds");
}

/// Anything a tenant could write into a field, with a liking for what looks right.
fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof![
        any::<String>(),
        "[ -~]{0,40}",
        "[0-9]{1,20}(w|d|h|m|s|y|mo|ms)",
        "([0-9*/,L#W?+-]{1,5} ){4}[0-9*/,L#W?+-]{1,5}",
        "@(hourly|daily|weekly|monthly|yearly)",
        pattern(),
        zone(),
    ])
}

/// A cron pattern that matches at times.
fn pattern() -> impl Strategy<Value = String> {
    let minute = prop_oneof!["[1-5]?[0-9]", Just("*/30".into()), "[0-9],[1-5][0-9]"];
    let hour = prop_oneof![
        "1?[0-9]",
        Just("*".into()),
        Just("*/6".into()),
        "[0-9],1[0-9]"
    ];
    let day = prop_oneof![
        Just("*".into()),
        "[1-9]",
        "[12][0-9]",
        Just("L".into()),
        "[1-9]W"
    ];
    let month = prop_oneof![Just("*".into()), "[1-9]", Just("*/2".into())];
    let weekday = prop_oneof![
        Just("*".into()),
        "[0-7]",
        "[0-7]#[1-4]",
        Just("MON-FRI".into())
    ];
    (minute, hour, day, month, weekday).prop_map(
        |(minute, hour, day, month, weekday): (String, String, String, String, String)| {
            format!("{minute} {hour} {day} {month} {weekday}")
        },
    )
}

/// A zone of the database.
fn zone() -> impl Strategy<Value = String> {
    let names: Vec<_> = TimeZoneDatabase::bundled()
        .available()
        .map(|name| name.as_str().to_owned())
        .filter(|name| name != "Etc/Unknown")
        .collect();
    proptest::sample::select(names)
}

/// Any instant there is, fractions included.
fn any_time() -> impl Strategy<Value = Timestamp> {
    let range = Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond();
    range.prop_map(|nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap())
}

/// An instant of this century or the last.
fn near_time() -> impl Strategy<Value = Timestamp> {
    let range = time("1900-01-01T00:00:00Z").as_second()..time("2100-01-01T00:00:00Z").as_second();
    range.prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    #[test]
    fn no_input_panics(
        text in text(), minimum in any::<i64>(), last in any_time(), starts in any_time(), ends in any_time(),
    ) {
        let specs = [
            json!({"every": text, "jitter": text}),
            json!({"cron": text}),
            json!({"cron": "@daily", "timeZone": text, "jitter": text}),
            json!({"beforeExpiry": text}),
        ];
        for (spec, minimum) in specs.into_iter().zip([0, minimum, 0, i64::MIN]) {
            if let Ok(schedule) = parse_with(spec, SignedDuration::from_secs(minimum)) {
                let _ = schedule.next(last, None, UID);
                let _ = schedule.next(last, Some(Expiry { starts, ends }), UID);
            }
        }
    }

    #[test]
    fn cron_is_after_the_last_rotation_and_skips_nothing(
        cron in pattern(), zone in zone(), last in near_time(), part in 0.0..1.0,
    ) {
        let spec = json!({"cron": cron, "timeZone": zone});
        // The pattern may be one that never matches, like the 30th of February.
        let Ok(schedule) = parse_with(spec, SignedDuration::ZERO) else { return Ok(()) };
        let due = following(&schedule, last).next().unwrap();
        prop_assert!(due > last);
        prop_assert_eq!(due.subsec_nanosecond(), 0);
        prop_assert_eq!(following(&schedule, last).next(), Some(due));
        // Seen from any moment before it, the same time is next.
        let later = last + (due.duration_since(last) - SignedDuration::from_secs(1)).mul_f64(part);
        prop_assert_eq!(following(&schedule, later).next(), Some(due));
    }

    #[test]
    fn nothing_is_due_sooner_after_a_rotation_than_the_minimum(
        cron in pattern(), last in near_time(), lifetime in 0_i64..1_000_000, minimum in 0_i64..4_000, seed in any::<String>(),
    ) {
        let minimum = SignedDuration::from_secs(minimum);
        let spec = json!({"cron": cron, "beforeExpiry": "1h", "jitter": "1h"});
        let Ok(schedule) = parse_with(spec, minimum) else { return Ok(()) };
        let ends = last + SignedDuration::from_secs(lifetime);
        let expiry = Expiry { starts: Timestamp::MIN, ends };
        let due = schedule.next(last, Some(expiry), &seed).unwrap().unwrap();
        prop_assert!(due.at >= (last + minimum).min(ends), "{due:?}");
    }

    #[test]
    fn jitter_delays_less_than_itself_and_never_past_the_expiry_rule(
        cron in pattern(), last in near_time(), jitter in 0_i64..10_000_000, lifetime in 1_000_000_i64..100_000_000,
        seed in any::<String>(),
    ) {
        let sharp = parse_with(json!({"cron": cron, "beforeExpiry": "1d"}), SignedDuration::ZERO);
        let Ok(sharp) = sharp else { return Ok(()) };
        let spec = json!({"cron": cron, "beforeExpiry": "1d", "jitter": format!("{jitter}s")});
        let blurred = parse_with(spec, SignedDuration::ZERO).unwrap();

        let planned = sharp.next(last, None, &seed).unwrap().unwrap().at;
        let delayed = blurred.next(last, None, &seed).unwrap().unwrap().at;
        let delay = delayed.duration_since(planned).as_secs();
        prop_assert!((0..jitter.max(1)).contains(&delay), "{delay} of {jitter}");

        let ends = last + SignedDuration::from_secs(lifetime);
        let limit = ends - SignedDuration::from_hours(24);
        let due = blurred.next(last, Some(Expiry { starts: last, ends }), &seed).unwrap().unwrap();
        prop_assert_eq!(due.at, delayed.min(limit));
        prop_assert_eq!(due.rule == DueRule::Expiring, limit < delayed);
    }
}
