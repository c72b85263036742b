//! How fast the vendor is called: so many calls a second and so many rotations at once for each credential, and pauses that
//! the vendor asked for.

use crate::astro::credential::Credential;
use crate::astro::error::Error;
use crate::decide::pace::Pace;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Rotations in flight at once for one credential: enough to keep servers busy, few enough that the write of a
/// value does not queue behind the preparations of hundreds of others.
const IN_FLIGHT: usize = 32;

/// A credential's turn to rotate, from the last look at the evidence to the stored value; another's when dropped.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

/// Budgets and pauses of all credentials, by fingerprint.
pub(super) struct Limits {
    reads: DefaultKeyedRateLimiter<u64>,
    rotations: DefaultKeyedRateLimiter<u64>,
    in_flight: Mutex<HashMap<u64, Arc<Semaphore>>>,
    paused: Mutex<HashMap<u64, Instant>>,
    pace: Pace,
}

impl Limits {
    /// So many reads and so many rotations a second, for each credential.
    pub(super) fn new(reads: NonZeroU32, rotations: NonZeroU32, pace: Pace) -> Self {
        Self {
            reads: RateLimiter::keyed(quota(reads)),
            rotations: RateLimiter::keyed(quota(rotations)),
            in_flight: Mutex::default(),
            paused: Mutex::default(),
            pace,
        }
    }

    /// Waits until one more read may be sent.
    pub(super) async fn read(&self, credential: &Credential) {
        self.reads.until_key_ready(&credential.fingerprint()).await;
    }

    /// Waits for this credential's turn to rotate, so that the evidence for it is read after the wait.
    pub(super) async fn turn(&self, credential: &Credential) -> Turn {
        let key = credential.fingerprint();
        let places = {
            let mut all = self
                .in_flight
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, places| Arc::strong_count(places) > 1);
            let places = all
                .entry(key)
                .or_insert_with(|| Arc::new(Semaphore::new(IN_FLIGHT)));
            places.clone()
        };
        // Cannot fail: it is never closed.
        let permit = places.acquire_owned().await.ok();
        self.rotations.until_key_ready(&key).await;
        // A pause that the vendor asked for is no failure of those who wait; a long one is worth reporting.
        if let Some(left) = self
            .pause_left(credential)
            .filter(|left| *left < self.pace.vendor_long_pause)
        {
            tokio::time::sleep(left).await;
        }
        Turn(permit)
    }

    /// Forgets the budgets of credentials that were not used of late: tenants may bring as many as they like.
    pub(super) fn forget_idle(&self) {
        for budget in [&self.reads, &self.rotations] {
            budget.retain_recent();
            budget.shrink_to_fit();
        }
    }

    /// Not even a read is sent while the vendor wants this credential to pause.
    pub(super) fn check_pause(&self, credential: &Credential) -> Result<(), Error> {
        match self.pause_left(credential) {
            Some(left) => Err(Error::Pausing(left)),
            None => Ok(()),
        }
    }

    fn pause_left(&self, credential: &Credential) -> Option<Duration> {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        paused.retain(|_, until| *until > now);
        Some(*paused.get(&credential.fingerprint())? - now)
    }

    /// Takes note that the vendor wants this credential to pause, for so long if it said.
    pub(super) fn pause(&self, credential: &Credential, pause: Option<Duration>) {
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
