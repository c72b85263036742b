//! Every wait and back-off of the operator, with its reason. Tests run on a scaled copy of the same table.

use jiff::SignedDuration;
use std::time::Duration;

/// How many tries to store a value are made with short pauses, whatever comes of them: about a minute of them.
const OFTEN: u32 = 17;

/// Declares the table: for each wait its reason, its type, what is shipped, and the least that scaling leaves of it.
macro_rules! table {
    ($($(#[$reason:meta])+ $name:ident: $type:ident = $shipped:expr, at least $floor:expr;)+) => {
        /// How long the operator waits for what.
        ///
        /// Decisions count signed whole seconds, as times in the API do; effects wait for what a runtime can wait for.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Pace {
            $($(#[$reason])+ pub $name: $type,)+
        }

        impl Pace {
            /// What is shipped.
            pub const SHIPPED: Self = Self { $($name: $type::from_millis($shipped),)+ };

            /// All of it scaled by one factor, so that what is shorter stays shorter; nothing gets shorter than a busy
            /// machine can keep to.
            pub fn scaled(self, factor: f64) -> Self {
                Self {
                    $($name: {
                        let millis = scaled(self.$name.as_millis() as f64, factor, $floor);
                        $type::from_millis(millis.into())
                    },)+
                }
            }

            /// Each wait by its name, in milliseconds.
            #[cfg(test)]
            fn rows(&self) -> Vec<(&'static str, u128)> {
                vec![$((stringify!($name), self.$name.as_millis() as u128),)+]
            }
        }
    };
}

table! {
    // Calls to Astro. What flags set is here by its default.

    /// Longest time for one call to Astro; `--vendor-timeout`.
    vendor_timeout: Duration = 30_000, at least 2_000;
    /// Longest time to connect to Astro, within that; `--vendor-connect-timeout`.
    vendor_connect_timeout: Duration = 5_000, at least 1_000;
    /// How long an unused connection to Astro is kept: its buffers hold the credential for as long.
    vendor_idle: Duration = 5_000, at least 1_000;
    /// The pause after a 429 that does not say for how long.
    vendor_default_pause: Duration = 2_000, at least 100;
    /// A pause at least this long is reported as a failure instead of waited for.
    vendor_long_pause: Duration = 30_000, at least 3_000;
    /// The longest pause that Astro may ask for.
    vendor_longest_pause: Duration = 600_000, at least 3_000;
    /// How long a failed list of tokens is shared, so that many resources with one bad credential make one attempt.
    vendor_failure_shared: Duration = 5_000, at least 500;
    /// A list of tokens no older than this tells as well as one read now which token has a name.
    list_fresh: Duration = 1_000, at least 1_000;
    /// For how long a credential that was read is shared by the resources that name it.
    credential_fresh: Duration = 1_000, at least 1_000;

    // One rotation.

    /// Between intent and call no more than this may pass: a process that was paused must not call late.
    latest_call: Duration = 5_000, at least 3_000;
    /// How long a call may still take effect after its caller has died.
    landing: SignedDuration = 10_000, at least 1_000;
    /// A mounted Secret follows a rotation within this time.
    follow: SignedDuration = 120_000, at least 2_000;
    /// So long after an intent was recorded everything that is as it was before stays so.
    rest: SignedDuration = 600_000, at least 60_000;
    /// Longest time from Astro's answer to the value in the Secret that others wait for.
    write_budget: Duration = 20_000, at least 2_000;
    /// A value older than this is not written over a Secret that was not read again.
    fresh_write: Duration = 2_000, at least 1_000;
    /// A value that cannot be stored for this long is reported, instead of a pass waiting for its end.
    late_write: Duration = 2_000, at least 500;
    /// The first pause between two attempts to store a value.
    write_retry: Duration = 100, at least 50;
    /// The longest pause between two attempts to store a value.
    write_longest_retry: Duration = 5_000, at least 500;
    /// The longest pause between two attempts to store a value that is refused again and again, or changed by others.
    refused_longest_retry: Duration = 60_000, at least 2_000;
    /// How much longer than a call a pass waits for a rotation, before it lets the task go on alone.
    pass_patience: Duration = 10_000, at least 2_000;

    // Looking again.

    /// How often Astro's record of each Workspace's tokens is read; `--audit-interval`.
    audit: SignedDuration = 600_000, at least 1_000;
    /// A call that landed late must be noticed: Astro is looked at again this long after a recovery.
    recovery_audit: SignedDuration = 60_000, at least 2_000;
    /// Astro is asked again after this long without an answer, if that is sooner than the next audit.
    unanswered_retry: SignedDuration = 60_000, at least 2_000;
    /// Between two looks while Astro answers with a record older than what is stored.
    stale_retry: SignedDuration = 5_000, at least 1_000;
    /// The longest pause between two such looks.
    stale_longest_retry: SignedDuration = 300_000, at least 2_000;
    /// Until an older resource was looked at once more; it wakes this one as soon as it was.
    rival_retry: SignedDuration = 5_000, at least 1_000;
    /// How long an older resource that has stored nothing is waited for to show that it can work: its credential may never
    /// be answered.
    rival_patience: SignedDuration = 60_000, at least 4_000;
    /// After a fresh look that did not settle the matter.
    look_retry: SignedDuration = 5_000, at least 1_000;
    /// After a write that another party's write came before; doubled with each one that follows.
    raced_retry: SignedDuration = 1_000, at least 1_000;
    /// The longest pause after such writes.
    raced_longest_retry: SignedDuration = 60_000, at least 2_000;
    /// Until what another party has undone is written again, the second time; doubled with each one that follows.
    undone_retry: SignedDuration = 30_000, at least 1_000;
    /// The longest pause until it is written again.
    undone_longest_retry: SignedDuration = 1_800_000, at least 2_000;
    /// After so long without such a write the next one is at once again.
    undone_quiet: SignedDuration = 3_600_000, at least 3_000;
    /// The first pause between two looks at something that a person has to fix.
    blocked_retry: SignedDuration = 5_000, at least 1_000;
    /// The longest pause between two looks at something that a person has to fix.
    blocked_longest_retry: SignedDuration = 300_000, at least 2_000;
    /// The pause after a failure at Astro, doubled with each one that follows.
    failure_retry: SignedDuration = 15_000, at least 1_000;
    /// The longest pause after failures at Astro.
    failure_longest_retry: SignedDuration = 600_000, at least 2_000;
    /// After a pass that the API server gave no evidence for.
    error_retry: SignedDuration = 5_000, at least 500;
    /// The longest pause after passes that the API server gave no evidence for.
    error_longest_retry: SignedDuration = 60_000, at least 2_000;
    /// No failure asks for a longer pause; a status that does was written by a clock that is wrong.
    longest_retry: SignedDuration = 3_600_000, at least 60_000;

    // What is believed for how long.

    /// How long a reading of Astro's that is older than our own last write is taken for stale.
    stale_for: SignedDuration = 3_600_000, at least 60_000;
    /// How long before the expiry of the token that is next it is rotated, where the schedule does not say.
    standby_expiry: SignedDuration = 86_400_000, at least 60_000;
    /// Of two tokens that take turns, so long before its expiry a value is replaced, by one of the same token if the other cannot
    /// be rotated.
    last_hour: SignedDuration = 3_600_000, at least 60_000;
    /// How long before the end of a credential it is warned of that.
    credential_warning: SignedDuration = 604_800_000, at least 86_400_000;
    /// How far the clocks here and at Astro may be apart before nothing is rotated only because of the time.
    clocks_apart: SignedDuration = 3_600_000, at least 3_600_000;
    /// One reclaim in this time; a second needs a person.
    contest_window: SignedDuration = 86_400_000, at least 3_600_000;

    // The API server.

    /// To connect to the API server, and between two bytes of an answer.
    api_timeout: Duration = 10_000, at least 10_000;
    /// The first pause where the API server asks to retry a request and does not say when.
    held_back_retry: Duration = 1_000, at least 100;
    /// How long a request of the operator's waits in all when the API server asks to retry it; then the pass ends.
    held_back_patience: Duration = 10_000, at least 2_000;
    /// The same of a request of a command, whose caller waits for the answer.
    held_back_by_hand: Duration = 60_000, at least 60_000;
    /// That requests are held back is logged at most once in this time.
    held_back_log: Duration = 60_000, at least 60_000;
    /// The first pause before a watch that failed is begun again.
    watch_retry: Duration = 800, at least 100;
    /// The longest pause before a watch that failed is begun again.
    watch_longest_retry: Duration = 30_000, at least 1_000;
    /// How long a watch has to go well before its pauses begin anew.
    watch_calm: Duration = 120_000, at least 3_000;
    /// How long claims stay where resources may no longer be read: a refusal is mostly a mistake that is soon put right,
    /// and a younger resource elsewhere must not take a token for it.
    refused_claims: Duration = 3_600_000, at least 60_000;
    /// Of events that repeat within this time one is counted up, and no other created.
    event_series: Duration = 360_000, at least 60_000;
    /// How long events that are not published yet have at the end: nothing else waits for them.
    event_drain: Duration = 1_000, at least 500;

    // Leadership; the lease counts whole seconds.

    /// How long others wait for a leader that has gone silent.
    lease: Duration = 15_000, at least 10_000;
    /// How long after its last good renewal a leader steps down.
    lease_renew_deadline: Duration = 10_000, at least 7_000;
    /// The pause between two renewals, and between two looks of a standby.
    lease_retry: Duration = 2_000, at least 500;
    /// How long after a signal the lease is kept for what is in flight: five seconds less than the grace period of the pod.
    lease_after_stop: Duration = 55_000, at least 2_000;

    // The process.

    /// How often lists and budgets that are no longer used are forgotten.
    housekeeping: Duration = 600_000, at least 60_000;
    /// How long requests for metrics may go on after the end: a client that sends half a request cannot hold the process.
    drain: Duration = 1_000, at least 500;
    /// How long `rotate` by hand asks Astro what became of a call.
    by_hand_patience: SignedDuration = 300_000, at least 60_000;
}

impl Pace {
    /// How long a recorded rotation may still be worked on by a live holder: until its call, its call, and its write.
    pub fn in_flight(&self) -> SignedDuration {
        let all = self.latest_call.saturating_add(self.vendor_timeout);
        let all = all.saturating_add(self.write_budget);
        SignedDuration::try_from(all).unwrap_or(SignedDuration::MAX)
    }

    /// How long to wait after so many `failures` in a row, of which there is at least one.
    pub fn after_failures(&self, failures: u32) -> SignedDuration {
        doubled(self.failure_retry, failures, self.failure_longest_retry)
    }

    /// How long to wait after so many passes in a row that the API server gave no evidence for.
    pub fn after_errors(&self, errors: u32) -> Duration {
        doubled(self.error_retry, errors, self.error_longest_retry).unsigned_abs()
    }

    /// How long to wait after so many tries in a row that another party's write came before.
    pub fn after_races(&self, races: u32) -> SignedDuration {
        doubled(self.raced_retry, races, self.raced_longest_retry)
    }

    /// How long to wait after a value could not be stored for so many times. Those that are refused, or changed by others as
    /// soon as they are stored, are tried often at first and then more and more rarely.
    pub fn after_writes(&self, failures: u32, is_refused: bool) -> Duration {
        let signed = |it: Duration| SignedDuration::try_from(it).unwrap_or(SignedDuration::MAX);
        let longest = signed(self.write_longest_retry);
        let pause = match failures.checked_sub(OFTEN) {
            Some(more) if is_refused && more > 0 => {
                doubled(longest, more + 1, signed(self.refused_longest_retry))
            }
            _ => doubled(signed(self.write_retry), failures, longest),
        };
        pause.unsigned_abs()
    }
}

/// A pause that doubles with each of `times`, of which there is at least one.
pub fn doubled(first: SignedDuration, times: u32, longest: SignedDuration) -> SignedDuration {
    let doublings = times.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}

/// Milliseconds by a factor; of what lasts a second or longer, whole seconds.
fn scaled(millis: f64, factor: f64, floor: u32) -> u32 {
    let unit = if millis < 1_000.0 { 1.0 } else { 1_000.0 };
    let millis = ((millis * factor / unit).ceil() * unit) as u32;
    millis.max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn these_are_the_waits_that_are_shipped() {
        let seconds = |millis: u128| millis as f64 / 1_000.0;
        let rows = Pace::SHIPPED.rows().into_iter();
        let rows: Vec<_> = rows.map(|(name, it)| (name, seconds(it))).collect();
        assert_eq!(
            rows,
            [
                ("vendor_timeout", 30.0),
                ("vendor_connect_timeout", 5.0),
                ("vendor_idle", 5.0),
                ("vendor_default_pause", 2.0),
                ("vendor_long_pause", 30.0),
                ("vendor_longest_pause", 600.0),
                ("vendor_failure_shared", 5.0),
                ("list_fresh", 1.0),
                ("credential_fresh", 1.0),
                ("latest_call", 5.0),
                ("landing", 10.0),
                ("follow", 120.0),
                ("rest", 600.0),
                ("write_budget", 20.0),
                ("fresh_write", 2.0),
                ("late_write", 2.0),
                ("write_retry", 0.1),
                ("write_longest_retry", 5.0),
                ("refused_longest_retry", 60.0),
                ("pass_patience", 10.0),
                ("audit", 600.0),
                ("recovery_audit", 60.0),
                ("unanswered_retry", 60.0),
                ("stale_retry", 5.0),
                ("stale_longest_retry", 300.0),
                ("rival_retry", 5.0),
                ("rival_patience", 60.0),
                ("look_retry", 5.0),
                ("raced_retry", 1.0),
                ("raced_longest_retry", 60.0),
                ("undone_retry", 30.0),
                ("undone_longest_retry", 1_800.0),
                ("undone_quiet", 3_600.0),
                ("blocked_retry", 5.0),
                ("blocked_longest_retry", 300.0),
                ("failure_retry", 15.0),
                ("failure_longest_retry", 600.0),
                ("error_retry", 5.0),
                ("error_longest_retry", 60.0),
                ("longest_retry", 3_600.0),
                ("stale_for", 3_600.0),
                ("standby_expiry", 86_400.0),
                ("last_hour", 3_600.0),
                ("credential_warning", 604_800.0),
                ("clocks_apart", 3_600.0),
                ("contest_window", 86_400.0),
                ("api_timeout", 10.0),
                ("held_back_retry", 1.0),
                ("held_back_patience", 10.0),
                ("held_back_by_hand", 60.0),
                ("held_back_log", 60.0),
                ("watch_retry", 0.8),
                ("watch_longest_retry", 30.0),
                ("watch_calm", 120.0),
                ("refused_claims", 3_600.0),
                ("event_series", 360.0),
                ("event_drain", 1.0),
                ("lease", 15.0),
                ("lease_renew_deadline", 10.0),
                ("lease_retry", 2.0),
                ("lease_after_stop", 55.0),
                ("housekeeping", 600.0),
                ("drain", 1.0),
                ("by_hand_patience", 300.0),
            ]
        );
    }

    #[test]
    fn their_relations_hold_at_every_scale() {
        for factor in [1.0, 0.5, 0.2, 0.1, 0.01, 3.0] {
            let pace = Pace::SHIPPED.scaled(factor);
            let signed = |it: Duration| SignedDuration::try_from(it).unwrap();
            for (what, holds) in [
                // A recovery must not begin while the call of a dead process may still take effect, nor while a live
                // one may still work.
                ("landing < in flight", pace.landing < pace.in_flight()),
                ("in flight < rest", pace.in_flight() < pace.rest),
                (
                    "connect < call",
                    pace.vendor_connect_timeout < pace.vendor_timeout,
                ),
                (
                    "latest call < in flight",
                    signed(pace.latest_call) < pace.in_flight(),
                ),
                (
                    "a pass outlasts a call",
                    pace.pass_patience >= pace.late_write,
                ),
                (
                    "late write < write budget",
                    pace.late_write < pace.write_budget,
                ),
                (
                    "first write retry < longest",
                    pace.write_retry < pace.write_longest_retry,
                ),
                (
                    "longest write retry < that of a refused one",
                    pace.write_longest_retry < pace.refused_longest_retry,
                ),
                ("look again < audit", pace.look_retry <= pace.audit),
                // The first look after a recovery comes when the call has landed.
                (
                    "landing < recovery audit",
                    pace.landing < pace.recovery_audit,
                ),
                (
                    "one look again < patience",
                    pace.rival_retry < pace.rival_patience,
                ),
                // One call that is slow does not cost a resource its claim.
                (
                    "call < patience",
                    signed(pace.vendor_timeout) < pace.rival_patience,
                ),
                ("blocked", pace.blocked_retry < pace.blocked_longest_retry),
                ("failures", pace.failure_retry < pace.failure_longest_retry),
                (
                    "failures < sanity",
                    pace.failure_longest_retry <= pace.longest_retry,
                ),
                (
                    "a pause of Astro's < sanity",
                    signed(pace.vendor_longest_pause) <= pace.longest_retry,
                ),
                (
                    "a pause < a request's patience",
                    pace.held_back_retry < pace.held_back_patience,
                ),
                ("errors", pace.error_retry < pace.error_longest_retry),
                ("stale", pace.stale_retry < pace.stale_longest_retry),
                ("raced", pace.raced_retry < pace.raced_longest_retry),
                ("undone", pace.undone_retry < pace.undone_longest_retry),
                // What is undone for ever must not be forgotten between two tries.
                (
                    "longest undone < quiet",
                    pace.undone_longest_retry < pace.undone_quiet,
                ),
                ("stale < contest", pace.stale_for < pace.contest_window),
                ("watch", pace.watch_retry < pace.watch_longest_retry),
                // A leader knows before the others that it no longer leads, and has two tries to renew.
                ("step down < lease", pace.lease_renew_deadline < pace.lease),
                (
                    "two tries",
                    pace.lease_retry * 2 < pace.lease_renew_deadline,
                ),
            ] {
                assert!(holds, "{what}, scaled by {factor}: {pace:?}");
            }
        }
    }

    #[test]
    fn one_is_no_change_and_what_is_a_second_or_longer_stays_whole_seconds() {
        assert_eq!(Pace::SHIPPED.scaled(1.0), Pace::SHIPPED);
        let fast = Pace::SHIPPED.scaled(0.1);
        assert_eq!(fast.failure_retry, SignedDuration::from_secs(2));
        assert_eq!(fast.recovery_audit, SignedDuration::from_secs(6));
        assert_eq!(fast.api_timeout, Pace::SHIPPED.api_timeout);
    }

    #[test]
    fn pauses_after_passes_without_evidence_double_up_to_the_longest() {
        let seconds = [1, 2, 3, 4, 5, u32::MAX].map(|errors| Pace::SHIPPED.after_errors(errors));
        let seconds = seconds.map(|pause| pause.as_secs());
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn pauses_after_failures_double_up_to_the_longest() {
        let seconds = [0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX]
            .map(|failures| Pace::SHIPPED.after_failures(failures).as_secs());
        assert_eq!(seconds, [15, 15, 30, 60, 120, 240, 480, 600, 600, 600]);
    }
}
