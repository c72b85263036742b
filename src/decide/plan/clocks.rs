//! Whether the clock of this host can be trusted with a rotation that only time asks for.

use crate::api::Cause;
use crate::decide::evidence::Observed;
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;

/// Until when a rotation waits because the clocks here and at the vendor differ, and why: one of them makes it due too
/// early. What a person asked for, and what heals, does not depend on the time.
pub fn differ(seen: &Observed, cause: Cause) -> Option<(Timestamp, Blocked)> {
    let (here, there) = (seen.now, seen.vendor_time?);
    let is_by_time = matches!(cause, Cause::Scheduled | Cause::Expiring);
    let apart = here.duration_since(there).abs();
    (is_by_time && apart > seen.pace().clocks_apart).then(|| {
        let message = format!(
            "the clocks differ: it is {here} here and {there} at Astro, so it is not known whether a rotation is due; correct \
             the clock of the operator's node"
        );
        let blocked = Blocked::new(Reason::VendorUnavailable, message);
        (here + seen.pace().unanswered_retry, blocked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkspaceTokenRotation;
    use crate::decide::evidence::Settings;
    use crate::decide::pace::Pace;
    use jiff::SignedDuration;
    use std::sync::Arc;

    #[test]
    fn what_only_time_asks_for_waits_while_the_clocks_differ_by_more_than_an_hour() {
        let spec = serde_json::json!({
            "workspaceId": "w", "token": {"id": "tok"}, "schedule": {"every": "1d"}, "target": {"name": "s"},
        });
        let resource = WorkspaceTokenRotation::new("r", serde_json::from_value(spec).unwrap());
        let settings = Settings {
            minimum_interval: SignedDuration::from_secs(300),
            pace: Pace::SHIPPED,
            cluster: "here".into(),
        };
        let here: Timestamp = "2026-11-01T09:00:00Z".parse().unwrap();
        let mut seen = Observed::begin(&resource, here, &Arc::new(settings));
        let held_back = |seen: &Observed, cause| differ(seen, cause).map(|it| it.1.reason);
        for (ahead, waits) in [
            (None, false),
            (Some(0), false),
            (Some(3_600), false),
            (Some(-3_600), false),
            (Some(3_601), true),
            (Some(-3_601), true),
            (Some(-31_536_000), true),
        ] {
            seen.vendor_time = ahead.map(|ahead| here + SignedDuration::from_secs(ahead));
            let reason = waits.then_some(Reason::VendorUnavailable);
            for cause in [Cause::Scheduled, Cause::Expiring] {
                assert_eq!(held_back(&seen, cause), reason, "{ahead:?}");
            }
            for cause in [
                Cause::Initial,
                Cause::Requested,
                Cause::Lost,
                Cause::Reclaimed,
            ] {
                assert_eq!(held_back(&seen, cause), None, "{ahead:?}");
            }
        }
    }
}
