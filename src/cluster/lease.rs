//! Leader election by a `Lease`: at most one process acts, and a leader knows before the others when it no longer leads.
//!
//! Every write carries the resourceVersion it was decided on, so of two that want the lease one gets a conflict.
//! No clock is compared with another host's: a rival's lease has expired when this process has seen it unchanged for
//! as long as the lease says, and a leader counts its own time from before it sent the renewal that succeeded.

use std::{error::Error as StdError, time::Duration};

use crate::cluster::decode::Item;
use crate::decide::identity::Identity;
use crate::decide::pace::Pace;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{Api, Client, api::PostParams, core::Status};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

/// How fast leadership is renewed, given up and taken over.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait for a holder that has gone silent; whole seconds.
    pub lease: Duration,
    /// How long after its last good renewal a leader steps down; shorter than `lease`.
    pub renew_deadline: Duration,
    /// The pause between two renewals, and between two looks of a standby.
    pub retry: Duration,
}

/// A process that wants to lead.
pub struct Candidate {
    /// Best a client of its own, so that no other traffic delays a renewal.
    pub client: Client,
    /// The namespace of the lease.
    pub namespace: String,
    /// The name of the lease.
    pub name: String,
    /// Who is to lead.
    pub identity: Identity,
    /// The pace.
    pub timing: Timing,
}

/// Held leadership, renewed in the background until released, lost or dropped.
pub struct Leadership {
    /// Until when the last good renewal lasts; closed when there will be no other.
    until: watch::Receiver<Instant>,
    stop: CancellationToken,
    renewal: AbortOnDropHandle<()>,
    grace: Duration,
}

/// Whose the lease is after an attempt to write it.
enum Claim {
    Ours(Lease),
    Theirs(Lease),
    /// Another process wrote it in the meantime; the next look shows which.
    Raced,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no answer in time")]
    Timeout,
    #[error("{}: {}", .0.code, .0.message)]
    Refused(Box<Status>),
    #[error("no usable answer")]
    Failed(#[source] kube::Error),
}

/// Which version of the lease was seen last, and since when.
#[derive(Default)]
struct Sighting(Option<(String, Instant)>);

/// What was logged last, so that it is said once and not on every try.
#[derive(Default)]
struct Said(String);

impl From<&Pace> for Timing {
    fn from(pace: &Pace) -> Self {
        Self {
            lease: pace.lease,
            renew_deadline: pace.lease_renew_deadline,
            retry: pace.lease_retry,
        }
    }
}

impl Candidate {
    /// Waits until this process leads: at once when the lease is free, released, or held by an earlier process of this pod.
    ///
    /// Who leads instead is logged once at info; an API server that cannot be reached or forbids it, at warn.
    pub async fn acquire(self) -> Leadership {
        let mut sighting = Sighting::default();
        let mut said = Said::default();
        loop {
            let started = Instant::now();
            let may_take = |lease: &Lease| {
                let expiry = sighting.expiry(lease, self.timing.lease, Instant::now());
                self.is_free(lease) || expiry <= Instant::now()
            };
            match self.claim(None, may_take).await {
                Ok(Claim::Ours(lease)) => {
                    info!(lease = self.name, identity = %self.identity, "leading");
                    return Leadership::begin(self, lease, started);
                }
                Ok(Claim::Theirs(lease)) => {
                    let holder = holder(&lease);
                    if said.is_news(holder) {
                        info!(lease = self.name, holder, "waiting for the leader");
                    }
                }
                Ok(Claim::Raced) => {}
                Err(error) => {
                    if said.is_news(&error.to_string()) {
                        let error: &dyn StdError = &error;
                        warn!(lease = self.name, error, "cannot become leader");
                    }
                }
            }
            sleep_until(started + self.timing.retry).await;
        }
    }

    /// Renews what was acquired until `stop`; ends, and so closes `until`, when that has failed for too long.
    async fn renew(self, lease: Lease, until: watch::Sender<Instant>, stop: CancellationToken) {
        let mut known = Some(lease);
        let mut said = Said::default();
        let mut next = Instant::now() + self.timing.retry;
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.give_up(known).await,
                () = sleep_until(next) => {}
            }
            let started = Instant::now();
            let deadline = *until.borrow();
            if started >= deadline {
                warn!(lease = self.name, "leadership lost: not renewed in time");
                return;
            }
            next = started + self.timing.retry;
            let claim = self.claim(known.take(), |lease| self.holds(lease));
            match timeout_at(deadline, claim)
                .await
                .unwrap_or(Err(Error::Timeout))
            {
                Ok(Claim::Ours(lease)) => {
                    until.send_replace(started + self.timing.renew_deadline);
                    known = Some(lease);
                    said = Said::default();
                }
                Ok(Claim::Theirs(lease)) => {
                    let holder = holder(&lease);
                    warn!(lease = self.name, holder, "leadership lost: taken over");
                    return;
                }
                Ok(Claim::Raced) => {}
                Err(error) => {
                    if said.is_news(&error.to_string()) {
                        let error: &dyn StdError = &error;
                        warn!(lease = self.name, error, "cannot renew leadership");
                    }
                }
            }
        }
    }

    /// Hands over at once. When an attempt has just failed, and so the version is not known, the others wait for the expiry.
    async fn give_up(&self, known: Option<Lease>) {
        let Some(mut lease) = known else { return };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(now());
        match self.replace(&lease).await {
            Ok(_) => info!(lease = self.name, "leadership released"),
            Err(error) => {
                let error: &dyn StdError = &error;
                warn!(lease = self.name, error, "cannot release leadership");
            }
        }
    }

    /// Makes the lease ours when there is none or when `may_take` allows it.
    async fn claim(
        &self,
        known: Option<Lease>,
        may_take: impl FnOnce(&Lease) -> bool,
    ) -> Result<Claim, Error> {
        let current = match known {
            Some(lease) => Some(lease),
            None => self.step(self.get()).await?,
        };
        let written = match current {
            None => self.create().await,
            Some(lease) if may_take(&lease) => self.replace(&self.ours(lease)).await,
            Some(lease) => return Ok(Claim::Theirs(lease)),
        };
        match written {
            Err(Error::Refused(status)) if status.code == 409 => Ok(Claim::Raced),
            written => written.map(Claim::Ours),
        }
    }

    async fn create(&self) -> Result<Lease, Error> {
        let lease = self.ours(Lease::default()).into();
        let params = PostParams::default();
        let created = async { self.leases().create(&params, &lease).await?.read() };
        self.step(created).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Error> {
        let lease = lease.clone().into();
        let params = PostParams::default();
        let replaced = async {
            let replaced = self.leases().replace(&self.name, &params, &lease).await?;
            replaced.read()
        };
        self.step(replaced).await
    }

    /// One request. Half the renewal's time each, so that a hung connection leaves time for a second try.
    async fn step<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        match timeout(self.timing.renew_deadline / 2, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(Error::Refused(status)),
            Ok(Err(error)) => Err(Error::Failed(error)),
            Err(_) => Err(Error::Timeout),
        }
    }

    async fn get(&self) -> kube::Result<Option<Lease>> {
        let found = self.leases().get_opt(&self.name).await?;
        found.map(Item::read).transpose()
    }

    fn leases(&self) -> Api<Item<Lease>> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The lease as it reads when this process holds it from now on.
    fn ours(&self, mut lease: Lease) -> Lease {
        let renewed = self.holds(&lease);
        lease.metadata.name = Some(self.name.clone());
        let spec = lease.spec.get_or_insert_default();
        if !renewed {
            spec.acquire_time = Some(now());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n + 1));
        }
        spec.holder_identity = Some(self.identity.to_string());
        spec.lease_duration_seconds = i32::try_from(self.timing.lease.as_secs()).ok();
        spec.renew_time = Some(now());
        lease
    }

    /// Whether the lease can be taken however fresh it is. It may be ours: a write that was never answered.
    fn is_free(&self, lease: &Lease) -> bool {
        let holder = holder(lease);
        holder.is_empty() || self.holds(lease) || self.identity.succeeds(holder)
    }

    fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == self.identity.to_string()
    }
}

impl Leadership {
    fn begin(candidate: Candidate, lease: Lease, started: Instant) -> Self {
        let timing = candidate.timing;
        let (renewed, until) = watch::channel(started + timing.renew_deadline);
        let stop = CancellationToken::new();
        let renewal = tokio::spawn(candidate.renew(lease, renewed, stop.clone()));
        Self {
            until,
            stop,
            renewal: AbortOnDropHandle::new(renewal),
            grace: timing.renew_deadline / 2,
        }
    }

    /// Completes when leadership must be considered gone. Safe to cancel and to call again.
    pub async fn lost(&mut self) {
        loop {
            // Not left to the task that renews: it may hang where this does not.
            let until = *self.until.borrow_and_update();
            match timeout_at(until, self.until.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Ends leadership so that another process can take over at once; takes half the renewal deadline at most.
    pub async fn release(self) {
        self.stop.cancel();
        // When the time is up the renewal is dropped, and others wait for the expiry.
        let _ = timeout(self.grace, self.renewal).await;
    }
}

impl Sighting {
    /// When `lease`, seen at `now`, has expired unless it changes; `default` is for a lease that does not say how long it lasts.
    fn expiry(&mut self, lease: &Lease, default: Duration, now: Instant) -> Instant {
        let version = lease.metadata.resource_version.as_deref();
        let since = match &self.0 {
            Some((seen, since)) if Some(seen.as_str()) == version => *since,
            _ => now,
        };
        self.0 = version.map(|version| (version.into(), since));
        let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds);
        let lasts = seconds.and_then(|s| u64::try_from(s).ok());
        since + lasts.map_or(default, Duration::from_secs)
    }
}

impl Said {
    fn is_news(&mut self, what: &str) -> bool {
        let news = self.0 != what;
        self.0 = what.into();
        news
    }
}

/// The holder; empty when there is none.
fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|s| s.holder_identity.as_deref())
        .unwrap_or_default()
}

fn now() -> MicroTime {
    MicroTime(crate::clock::precise())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::Response;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;
    use uuid::Uuid;

    const LEASE: Duration = Duration::from_secs(15);

    fn lease(version: &str, seconds: Option<i32>) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.into());
        lease.spec = Some(LeaseSpec {
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn a_lease_expires_by_how_long_it_was_seen_unchanged() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sighting = Sighting::default();
        let mut expiry = |version, now| sighting.expiry(&lease(version, Some(20)), LEASE, at(now));
        assert_eq!(expiry("1", 0), at(20));
        assert_eq!(expiry("1", 19), at(20));
        // Renewed: the wait begins anew.
        assert_eq!(expiry("2", 19), at(39));
        assert_eq!(expiry("2", 30), at(39));
    }

    #[test]
    fn a_lease_without_a_duration_lasts_as_long_as_ours() {
        let now = Instant::now();
        let expiry = Sighting::default().expiry(&lease("1", None), LEASE, now);
        assert_eq!(expiry, now + LEASE);
    }

    #[test]
    fn news_is_said_once() {
        let mut said = Said::default();
        assert!(said.is_news("pod-a leads"));
        assert!(!said.is_news("pod-a leads"));
        assert!(said.is_news("unreachable"));
        assert!(said.is_news("pod-a leads"));
    }

    #[tokio::test]
    async fn leadership_is_lost_at_its_deadline_even_when_the_renewal_hangs() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let (renewed, until) = watch::channel(start + ms(50));
        let mut leadership = Leadership {
            until,
            stop: CancellationToken::new(),
            renewal: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
            grace: LEASE,
        };
        let renew = async {
            renewed.send_replace(start + ms(150));
            std::future::pending::<()>().await
        };
        tokio::select! {
            // First, so that the renewal comes while it waits.
            biased;
            lost = timeout(ms(5_000), leadership.lost()) => lost.unwrap(),
            () = renew => {}
        }
        assert!(start.elapsed() >= ms(150));
    }
    #[tokio::test]
    async fn a_process_that_slept_past_its_deadline_does_not_renew() {
        let server = tower::service_fn(|_| std::future::pending::<Result<Response, Infallible>>());
        let candidate = Candidate {
            client: Client::new(server, "operator"),
            namespace: "operator".into(),
            name: "operator".into(),
            identity: Identity::new(None, String::new(), Uuid::nil()),
            timing: Timing {
                retry: Duration::ZERO,
                ..Timing::from(&Pace::SHIPPED)
            },
        };
        let (until, _) = watch::channel(Instant::now());
        let held = candidate.ours(lease("1", None));
        let renewal = candidate.renew(held, until, CancellationToken::new());
        timeout(Duration::from_secs(5), renewal)
            .await
            .expect("it still tries");
    }
}
