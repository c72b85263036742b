//! A cron pattern in a time zone: which instants it names.
//!
//! Fields mean what they do in Kubernetes' CronJob. A local time of the pattern fires once whatever the clocks do: at the end of the gap when they skip it
//! (`*/30 2 * * *` fires once, at 03:00), the first time when they repeat it (`@hourly` pauses for the second pass).

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::civil::{DateTime, date};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// Midnight from which a pattern is tried. Croner gives up in the year 5000, so from here a pattern that never matches
/// costs little, and the rarest that does (29 February on a given weekday) is still found.
const TRIAL: DateTime = date(4950, 1, 1).at(0, 0, 0, 0);
/// A day's times of a pattern, and the first of the next day.
const TRIAL_LENGTH: SignedDuration = SignedDuration::from_hours(25);
/// No two times of a five-field pattern are closer.
const RESOLUTION: SignedDuration = SignedDuration::from_mins(1);
/// The last value of each field.
const LAST: [u8; 5] = [59, 23, 31, 12, 6];

/// A pattern that matches now and then, and its zone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calendar {
    cron: Cron,
    zone: TimeZone,
    /// As it was written.
    text: String,
}

impl Calendar {
    /// Reads five fields, or `@daily` and the like. The error quotes the text and says what to write.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        // Croner reads a lone comma as a list without values, and is seconds in search of a time that has no minute.
        let mut values = text.split_whitespace().flat_map(|field| field.split(','));
        if values.any(str::is_empty) {
            return Err(format!(
                "{text:?} has a comma with nothing beside it; remove the comma"
            ));
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .build()
            .parse(&as_cronjob(text))
            .map_err(|error| {
                format!(
                    "{text:?} is not a cron pattern ({error}); write five fields (minute, hour, day of month, month, \
                     day of week) or @hourly, @daily, @weekly, @monthly, @yearly"
                )
            })?;
        if cron.find_next_occurrence(&TRIAL, true).is_err() {
            return Err(format!(
                "{text:?} never matches; write a pattern of times that exist"
            ));
        }
        let text = text.trim().to_owned();
        Ok(Self { cron, zone, text })
    }

    /// Tells it from any other pattern or zone, in every release.
    pub(super) fn hash(&self) -> String {
        let zone = self.zone.iana_name().unwrap_or_default();
        let name = format!("{} {zone}", self.text);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    }

    /// Where its local times are.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether times of the pattern come closer than `minimum`, going by its first day and in UTC.
    pub(super) fn is_closer_than(&self, minimum: SignedDuration) -> bool {
        if minimum <= RESOLUTION {
            return false;
        }
        let Ok(first) = self.cron.find_next_occurrence(&TRIAL, true) else {
            return false;
        };
        let mut earlier = first;
        while earlier.duration_since(first) < TRIAL_LENGTH
            && let Ok(later) = self.cron.find_next_occurrence(&earlier, false)
        {
            if later.duration_since(earlier) < minimum {
                return true;
            }
            earlier = later;
        }
        false
    }

    /// The first time of the pattern after `last`; `None` when the calendar ends before it.
    pub(super) fn after(&self, last: Timestamp) -> Option<Timestamp> {
        // Croner searches local times and `instant` decides what they mean: given zoned times croner would skip a gap
        // and fire twice in a repeated hour, for every pattern with more than one time a day.
        let mut local = self.zone.to_datetime(last);
        loop {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let at = instant(&self.zone, local)?;
            // Not later: `last` is in the second pass of a repeated hour, and this fired in the first.
            if at > last {
                return Some(at);
            }
        }
    }
}

/// The pattern written so that croner takes it for what Kubernetes' CronJob does.
fn as_cronjob(text: &str) -> String {
    let fields: Vec<_> = text.split_whitespace().collect();
    if fields.len() != LAST.len() {
        let is_midnight = text.trim().eq_ignore_ascii_case("@midnight");
        return if is_midnight { "@daily" } else { text }.into();
    }
    let fields = fields.iter().zip(LAST).map(|(field, last)| {
        let field = field.replace('?', "*");
        // Every step but this one restricts the day of the month or week.
        if field == "*/1" {
            return "*".into();
        }
        let values = field.split(',').map(|value| match value.split_once('/') {
            Some((first, step)) if is_number_or_name(first) => format!("{first}-{last}/{step}"),
            _ => value.to_owned(),
        });
        values.collect::<Vec<_>>().join(",")
    });
    fields.collect::<Vec<_>>().join(" ")
}

fn is_number_or_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// A zone of the database inside the binary: the same on every machine, and no file is read.
pub(super) fn find_zone(name: &str) -> Result<TimeZone, String> {
    match TimeZoneDatabase::bundled().get(name) {
        Ok(zone) if !zone.is_unknown() => Ok(zone),
        _ => Err(format!(
            "{name:?} is not a time zone; write an IANA name like Europe/Berlin or UTC"
        )),
    }
}

/// When a local time happens: the first of two, or the end of the gap that skips it.
fn instant(zone: &TimeZone, local: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let in_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let earlier = ambiguous.earlier().ok()?;
    if in_gap {
        // Read with the offset that holds after the gap, the local time lies before the transition.
        return Some(zone.following(earlier).next()?.timestamp());
    }
    Some(earlier)
}
