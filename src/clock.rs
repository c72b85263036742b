//! The wall clock, read nowhere else: decisions take the time from their caller.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the clock"
)]

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// The time now in whole seconds, as times in the API are.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The time now with its fraction, for records that people read and nothing is decided on.
pub fn precise() -> Timestamp {
    Timestamp::now()
}

/// How long it is from now until `at`; zero when that has passed.
pub fn until(at: Timestamp) -> Duration {
    let left = at
        .duration_since(Timestamp::now())
        .max(SignedDuration::ZERO);
    Duration::try_from(left).unwrap_or_default()
}
