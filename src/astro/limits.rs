//! How fast the vendor is called: so many calls a second for each credential, and pauses that the vendor asked for.

use crate::astro::credential::Credential;
use crate::astro::error::Error;
use crate::decide::pace::Pace;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Budgets and pauses of all credentials, by fingerprint.
pub(super) struct Limits {
    reads: DefaultKeyedRateLimiter<u128>,
    rotations: DefaultKeyedRateLimiter<u128>,
    paused: Mutex<HashMap<u128, Instant>>,
    pace: Pace,
}

impl Limits {
    /// So many reads and so many rotations a second, for each credential.
    pub(super) fn new(reads: NonZeroU32, rotations: NonZeroU32, pace: Pace) -> Self {
        Self {
            reads: RateLimiter::keyed(quota(reads)),
            rotations: RateLimiter::keyed(quota(rotations)),
            paused: Mutex::default(),
            pace,
        }
    }

    /// Waits until one more read may be sent.
    pub(super) async fn read(&self, credential: &Credential) {
        self.reads.until_key_ready(&credential.fingerprint()).await;
    }

    /// Takes one more rotation from the budget of a credential; otherwise how long to wait before it is tried again.
    pub(super) fn rotation(&self, fingerprint: u128) -> Result<(), Duration> {
        self.pause(fingerprint)?;
        let budget = self.rotations.check_key(&fingerprint);
        budget.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }

    /// How long the vendor wants the credential to pause. A pause is no failure of those who wait; one that is too long to
    /// wait for is worth reporting, and the call itself tells of it.
    pub(super) fn pause(&self, fingerprint: u128) -> Result<(), Duration> {
        let left = self.pause_left(fingerprint);
        match left.filter(|left| *left < self.pace.vendor_long_pause) {
            Some(left) => Err(left),
            None => Ok(()),
        }
    }

    /// Forgets the budgets of credentials that were not used of late: tenants may bring as many as they like.
    pub(super) fn forget_idle(&self) {
        for budget in [&self.reads, &self.rotations] {
            budget.retain_recent();
            budget.shrink_to_fit();
        }
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.retain(|_, until| *until > Instant::now());
        paused.shrink_to_fit();
    }

    /// Not even a read is sent while the vendor wants this credential to pause.
    pub(super) fn check_pause(&self, credential: &Credential) -> Result<(), Error> {
        match self.pause_left(credential.fingerprint()) {
            Some(left) => Err(Error::Pausing(left)),
            None => Ok(()),
        }
    }

    fn pause_left(&self, fingerprint: u128) -> Option<Duration> {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let left = paused
            .get(&fingerprint)?
            .checked_duration_since(Instant::now());
        if left.is_none() {
            paused.remove(&fingerprint);
        }
        left
    }

    /// Takes note that the vendor wants this credential to pause, for so long if it said.
    pub(super) fn begin_pause(&self, credential: &Credential, pause: Option<Duration>) {
        let pause = pause.unwrap_or(self.pace.vendor_default_pause);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.insert(credential.fingerprint(), Instant::now() + pause);
    }
}

/// Far from the limit at first, so that requests which arrive closer together than they were sent do not exceed it.
fn quota(rate: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(rate.get() / 5).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(burst)
}
