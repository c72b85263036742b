//! When the next rotation is due, computed from a schedule and the times it is given: no clock is read here.
//!
//! | rule | due |
//! |---|---|
//! | `every` | so long after the last rotation |
//! | `cron` | at the first time of the pattern after the last rotation, so that missed ones collapse into one |
//! | `beforeExpiry` | so long before the token's own expiry, unless the last rotation was already past that |
//!
//! The adoption of a value counts as a rotation for the first two. The earliest wins, and none is closer to the last rotation than the minimum. All times are whole seconds, UTC.

mod calendar;

use crate::api::{Cause, ScheduleSpec};
use calendar::{Calendar, find_zone};
use jiff::fmt::friendly::SpanParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, SpanRelativeTo, Timestamp};
use uuid::Uuid;

/// Longest text read of any field, in bytes: a tenant wrote it, and reading costs time.
const MAX_TEXT: usize = 256;

/// A checked schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    every: Option<SignedDuration>,
    cron: Option<Calendar>,
    before_expiry: Option<SignedDuration>,
    jitter: SignedDuration,
    wait_for_previous: Option<SignedDuration>,
    minimum: SignedDuration,
}

/// A schedule that cannot be followed. The message names the field, the bad text and the remedy.
#[derive(thiserror::Error, Clone, Debug, PartialEq)]
pub enum ScheduleError {
    /// It cannot be read, or never fires.
    #[error("{0}")]
    Invalid(String),
    /// It would rotate more often than the operator allows.
    #[error("{0}")]
    TooFrequent(String),
}

/// The token's own validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The vendor's `startAt`.
    pub starts: Timestamp,
    /// The vendor's `endAt`.
    pub ends: Timestamp,
}

/// What due times are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// When the value was obtained.
    pub obtained: Timestamp,
    /// When it was obtained or, if that was later, adopted: `every` and `cron` count from here.
    pub base: Timestamp,
    /// Times of `cron` up to this one do not count.
    pub since: Timestamp,
}

impl From<Timestamp> for Origin {
    /// A rotation at this time.
    fn from(at: Timestamp) -> Self {
        Self {
            obtained: at,
            base: at,
            since: at,
        }
    }
}

/// A rotation to come, or overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When, in whole seconds, jitter included.
    pub at: Timestamp,
    /// What asks for it.
    pub rule: DueRule,
}

/// What makes a rotation due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueRule {
    /// `every` or `cron`.
    Scheduled,
    /// `beforeExpiry`.
    Expiring,
    /// A request that waits for its turn.
    Requested,
    /// A request to end the value before.
    Revoked,
}

impl From<DueRule> for Cause {
    fn from(rule: DueRule) -> Self {
        match rule {
            DueRule::Scheduled => Self::Scheduled,
            DueRule::Expiring => Self::Expiring,
            DueRule::Requested => Self::Requested,
            DueRule::Revoked => Self::Revoked,
        }
    }
}

impl Schedule {
    /// Checks what a person wrote.
    ///
    /// `minimum` is the shortest interval allowed between rotations. A cron pattern is held against it over the first
    /// day it matches and in UTC, `beforeExpiry` in [`Schedule::next`], where the token's lifetime is known.
    pub fn parse(spec: &ScheduleSpec, minimum: SignedDuration) -> Result<Self, ScheduleError> {
        let every = read("every", &spec.every, parse_duration)?;
        let zone = read("timeZone", &spec.time_zone, find_zone)?;
        let has_zone = zone.is_some();
        let zone = zone.unwrap_or(TimeZone::UTC);
        let cron = read("cron", &spec.cron, |text| Calendar::parse(text, zone))?;
        let before_expiry = read("beforeExpiry", &spec.before_expiry, parse_duration)?;
        let jitter = read("jitter", &spec.jitter, parse_span)?.unwrap_or_default();
        let wait = &spec.wait_for_previous;
        let wait_for_previous = read("waitForPrevious", wait, parse_duration)?;

        if every.is_none() && cron.is_none() && before_expiry.is_none() {
            return Err(ScheduleError::Invalid(
                "schedule: give at least one of every, cron and beforeExpiry".into(),
            ));
        }
        if has_zone && cron.is_none() {
            return Err(ScheduleError::Invalid(
                "schedule.timeZone: only has a meaning with schedule.cron; give both or neither"
                    .into(),
            ));
        }
        let too_frequent = |field: &str, text: &Option<String>| {
            let text = text.as_deref().unwrap_or_default();
            Err(ScheduleError::TooFrequent(format!(
                "schedule.{field}: {text:?} rotates more often than every {minimum:#}, the shortest interval allowed; \
                 make it rarer"
            )))
        };
        if every.is_some_and(|every| every < minimum) {
            return too_frequent("every", &spec.every);
        }
        if cron
            .as_ref()
            .is_some_and(|cron| cron.is_closer_than(minimum))
        {
            return too_frequent("cron", &spec.cron);
        }
        Ok(Self {
            every,
            cron,
            before_expiry,
            jitter,
            wait_for_previous,
            minimum,
        })
    }

    /// When the next rotation is due, counted from the last one, or from an adoption.
    ///
    /// `None` when no rule applies: there is only `beforeExpiry`, and the token never expires, or was already rotated
    /// that close to its expiry without getting a later one. `seed` is the resource's uid; it fixes the jitter.
    ///
    /// # Errors
    /// `TooFrequent` when `beforeExpiry` leaves less than the minimum of the token's lifetime; `Invalid` when the cron
    /// pattern has no time left (croner's calendar ends with the year 4999).
    pub fn next(
        &self,
        from: impl Into<Origin>,
        expiry: Option<Expiry>,
        seed: &str,
    ) -> Result<Option<Due>, ScheduleError> {
        let Origin {
            obtained,
            base,
            since,
        } = from.into();
        let every = self.every.map(|every| add(base, every));
        let cron = self.cron.as_ref().map(|cron| {
            let last = base.max(since);
            cron.after(last).ok_or_else(|| {
                ScheduleError::Invalid(format!(
                    "schedule.cron: no time is left after {last}; write another pattern"
                ))
            })
        });
        let scheduled = every.into_iter().chain(cron.transpose()?).min();
        let scheduled = scheduled.map(|at| Due {
            at: add(at, self.delay(at, seed)).max(self.floor(obtained)),
            rule: DueRule::Scheduled,
        });
        let expiring = self.expiring(obtained, expiry)?.map(|at| Due {
            at,
            rule: DueRule::Expiring,
        });
        // The delay is already in, so jitter never reaches past the expiry rule.
        let dues = scheduled.into_iter().chain(expiring);
        Ok(dues.min_by_key(|due| due.at))
    }

    /// Hash of `cron` and its zone; `None`: there is no `cron`.
    pub fn cron_hash(&self) -> Option<String> {
        self.cron.as_ref().map(Calendar::hash)
    }

    /// The zone its times are meant in.
    pub fn zone(&self) -> TimeZone {
        let cron = self.cron.as_ref();
        cron.map_or(TimeZone::UTC, |cron| cron.zone().clone())
    }

    /// Whether the exact times depend on the resource's uid.
    pub fn is_jittered(&self) -> bool {
        self.jitter > SignedDuration::ZERO && !self.only_before_expiry()
    }

    /// How long before a token's expiry it is rotated.
    pub fn before_expiry(&self) -> Option<SignedDuration> {
        self.before_expiry
    }

    /// For how long a due rotation waits for consumers of the value before.
    pub fn wait_for_previous(&self) -> Option<SignedDuration> {
        self.wait_for_previous
    }

    /// Whether the schedule says nothing about a token that never expires.
    pub fn only_before_expiry(&self) -> bool {
        self.every.is_none() && self.cron.is_none()
    }

    /// The expiry rule's time. A vendor that does not renew the expiry on rotation must not cause a loop, so a time
    /// that the last rotation has already answered is none.
    fn expiring(
        &self,
        last: Timestamp,
        expiry: Option<Expiry>,
    ) -> Result<Option<Timestamp>, ScheduleError> {
        let (Some(before), Some(Expiry { starts, ends })) = (self.before_expiry, expiry) else {
            return Ok(None);
        };
        let lifetime = ends.duration_since(starts);
        if lifetime.saturating_sub(before) < self.minimum {
            return Err(ScheduleError::TooFrequent(format!(
                "schedule.beforeExpiry: {before:#} before the expiry of a token that lives {lifetime:#} rotates more \
                 often than every {:#}, the shortest interval allowed; shorten beforeExpiry or give the token a longer \
                 life",
                self.minimum
            )));
        }
        let due = ends.checked_sub(before).ok().map(whole);
        let due = due.filter(|due| *due > last);
        // Not later than the expiry, after which nothing is left to protect.
        Ok(due.map(|due| due.max(self.floor(last).min(whole(ends)))))
    }

    /// The earliest time for the rotation after the one at `last`.
    fn floor(&self, last: Timestamp) -> Timestamp {
        add(last, self.minimum)
    }

    /// The jitter of one due time: whole seconds in [0, jitter), the same on every machine and in every release.
    fn delay(&self, due: Timestamp, seed: &str) -> SignedDuration {
        let name = format!("{seed}/{}", due.as_second());
        let (_, hash) = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).as_u64_pair();
        let choices = self.jitter.as_secs().unsigned_abs().max(1);
        SignedDuration::from_secs((hash % choices).cast_signed())
    }
}

/// Reads `90s`, `5m`, `720h`, `30d`, `4w` or `1d12h`: whole seconds, more than zero, a day of 24 hours.
///
/// # Errors
/// A message that quotes the text and says what to write.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    match parse_span(text)? {
        SignedDuration::ZERO => Err(format!("{text:?} is zero; write a longer duration")),
        duration => Ok(duration),
    }
}

/// Reads a field if it is there, and names it in the error.
fn read<T>(
    field: &str,
    text: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, ScheduleError> {
    text.as_deref()
        .map(|text| check_text(text).and_then(|()| parse(text)))
        .transpose()
        .map_err(|problem| ScheduleError::Invalid(format!("schedule.{field}: {problem}")))
}

/// Refuses what is too long to read or to repeat in a message, or does not look like what it is.
fn check_text(text: &str) -> Result<(), String> {
    if text.len() <= MAX_TEXT && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    let start: String = text.chars().take(32).collect();
    Err(format!(
        "the text that starts {start:?} is too long or strange; write at most {MAX_TEXT} ASCII characters on one line"
    ))
}

/// A duration of whole seconds, zero or more.
fn parse_span(text: &str) -> Result<SignedDuration, String> {
    let duration = SpanParser::new()
        .parse_span(text)
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    match duration {
        Ok(duration) if duration.is_negative() => {
            Err(format!("{text:?} is negative; write a duration above zero"))
        }
        Ok(duration) if duration.subsec_nanos() != 0 => Err(format!(
            "{text:?} has a fraction of a second; write whole seconds"
        )),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!(
            "{text:?} is not a duration of weeks, days, hours, minutes and seconds; write it like 4w, 30d, 720h, 5m, \
             90s or 1d12h"
        )),
    }
}

/// The time so much later, or the last there is.
fn add(time: Timestamp, duration: SignedDuration) -> Timestamp {
    whole(time.checked_add(duration).unwrap_or(Timestamp::MAX))
}

/// The time without its fraction of a second.
fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
