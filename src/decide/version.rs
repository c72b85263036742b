//! Which of two versions of a token's value is the newer one, and whether that can be told.

use crate::api::Version;
use jiff::{SignedDuration, Timestamp};
use std::cmp::Ordering;

/// How far a time in a rotate answer may be from the one in the record of the same rotation, because of rounding.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);
/// The same where the short form, which is equal, is not known to change with a rotation.
const UNPROVEN: SignedDuration = SignedDuration::from_secs(60);

/// How the stored version stands to the one that is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The Secret holds the live value.
    Same,
    /// The stored one is newer: the vendor's answer was old.
    StoredNewer,
    /// The live one is newer, or another one of the same second.
    LiveNewer,
    /// The versions do not tell; the value itself has to be asked.
    Unknown,
}

/// How the version on a Secret stands to the one in the vendor's record of the same token.
///
/// `proven`: the vendor's short form is known to change with a rotation. `rotated`: the stored value comes from a
/// rotation, so the vendor has had a version of it.
pub fn compare(stored: &Version, live: &Version, proven: bool, rotated: bool) -> Drift {
    let times = (at(stored), at(live));
    match (&stored.short_token, &live.short_token) {
        (Some(stored), Some(live)) if stored == live => match times {
            (Some(stored), Some(live)) if !proven => by_time(stored, live, UNPROVEN),
            _ => Drift::Same,
        },
        (Some(_), Some(_)) => match times {
            (Some(stored), Some(live)) if stored > live => Drift::StoredNewer,
            (Some(_), None) => Drift::StoredNewer,
            _ => Drift::LiveNewer,
        },
        _ => match times {
            (Some(stored), Some(live)) => by_time(stored, live, ROUNDING),
            (Some(_), None) => Drift::StoredNewer,
            (None, Some(_)) => Drift::Unknown,
            (None, None) => {
                let neither = *stored == Version::default() && *live == Version::default();
                match neither && !rotated {
                    true => Drift::Same,
                    false => Drift::Unknown,
                }
            }
        },
    }
}

/// How an earlier record of a token stands to a later one: whether it was rotated between the two. Both come from the
/// vendor's records, so their times are compared exactly.
pub fn compare_records(before: &Version, now: &Version) -> Drift {
    match at(before).cmp(&at(now)) {
        Ordering::Less => Drift::LiveNewer,
        Ordering::Greater => Drift::StoredNewer,
        Ordering::Equal => match (&before.short_token, &now.short_token) {
            (Some(before), Some(now)) if before != now => Drift::LiveNewer,
            _ => Drift::Same,
        },
    }
}

fn by_time(stored: Timestamp, live: Timestamp, tolerance: SignedDuration) -> Drift {
    match live.duration_since(stored) {
        apart if apart.abs() <= tolerance => Drift::Same,
        apart if apart.is_positive() => Drift::LiveNewer,
        _ => Drift::StoredNewer,
    }
}

/// Whole seconds.
fn at(version: &Version) -> Option<Timestamp> {
    let at = version.rotated_at.as_ref()?.0;
    Timestamp::from_second(at.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn version(second: Option<i64>, short: Option<&str>) -> Version {
        Version {
            rotated_at: second.map(|second| Time(Timestamp::from_second(second).unwrap())),
            short_token: short.map(str::to_owned),
        }
    }

    #[test]
    fn versions_are_compared_by_this_table() {
        use Drift::{LiveNewer, Same, StoredNewer, Unknown};
        let (a, b) = (Some("a"), Some("b"));
        // Stored, live, then the result where the short form is proven to change, and where it is not.
        let rows = [
            // Equal short forms.
            ((Some(1_000), a), (Some(1_000), a), Same, Same),
            ((Some(1_000), a), (Some(1_060), a), Same, Same),
            ((Some(1_060), a), (Some(1_000), a), Same, Same),
            ((Some(1_000), a), (Some(1_061), a), Same, LiveNewer),
            ((Some(1_061), a), (Some(1_000), a), Same, StoredNewer),
            ((Some(1_000), a), (None, a), Same, Same),
            ((None, a), (Some(1_000), a), Same, Same),
            ((None, a), (None, a), Same, Same),
            // Different short forms.
            ((Some(1_000), a), (Some(1_000), b), LiveNewer, LiveNewer),
            ((Some(1_000), a), (Some(1_001), b), LiveNewer, LiveNewer),
            ((Some(1_001), a), (Some(1_000), b), StoredNewer, StoredNewer),
            ((None, a), (Some(1_000), b), LiveNewer, LiveNewer),
            ((Some(1_000), a), (None, b), StoredNewer, StoredNewer),
            ((None, a), (None, b), LiveNewer, LiveNewer),
            // One short form, or none.
            ((Some(1_000), a), (Some(1_001), None), Same, Same),
            ((Some(1_001), None), (Some(1_000), b), Same, Same),
            (
                (Some(1_000), None),
                (Some(1_002), None),
                LiveNewer,
                LiveNewer,
            ),
            (
                (Some(1_002), None),
                (Some(1_000), b),
                StoredNewer,
                StoredNewer,
            ),
            ((None, a), (Some(1_000), None), Unknown, Unknown),
            ((None, None), (Some(1_000), b), Unknown, Unknown),
            ((Some(1_000), a), (None, None), StoredNewer, StoredNewer),
            ((Some(1_000), None), (None, b), StoredNewer, StoredNewer),
            ((None, a), (None, None), Unknown, Unknown),
            ((None, None), (None, b), Unknown, Unknown),
        ];
        for (stored, live, proven, unproven) in rows {
            let (stored, live) = (version(stored.0, stored.1), version(live.0, live.1));
            for (is_proven, expected) in [(true, proven), (false, unproven)] {
                for rotated in [true, false] {
                    let drift = compare(&stored, &live, is_proven, rotated);
                    assert_eq!(drift, expected, "{stored:?} {live:?} proven: {is_proven}");
                }
            }
        }
        let none = Version::default();
        assert_eq!(compare(&none, &none, false, false), Same);
        assert_eq!(compare(&none, &none, false, true), Unknown);
    }

    #[test]
    fn a_record_that_was_rotated_since_is_told_to_the_second() {
        for (before, now, expected) in [
            ((Some(5), Some("a")), (Some(5), Some("a")), Drift::Same),
            ((Some(5), Some("a")), (Some(6), Some("a")), Drift::LiveNewer),
            (
                (Some(6), Some("a")),
                (Some(5), Some("b")),
                Drift::StoredNewer,
            ),
            ((Some(5), Some("a")), (Some(5), Some("b")), Drift::LiveNewer),
            ((None, Some("a")), (Some(5), Some("a")), Drift::LiveNewer),
            ((None, None), (Some(5), None), Drift::LiveNewer),
            ((None, Some("a")), (None, Some("b")), Drift::LiveNewer),
            ((None, None), (None, None), Drift::Same),
        ] {
            let (before, now) = (version(before.0, before.1), version(now.0, now.1));
            assert_eq!(
                compare_records(&before, &now),
                expected,
                "{before:?} {now:?}"
            );
        }
    }
}
