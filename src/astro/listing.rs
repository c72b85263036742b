//! The vendor's list of a Workspace's tokens: read once for all resources that need it, and shared.

use crate::api::SecretKeyRef;
use crate::astro::error::{Error, Kind};
use crate::decide::evidence::{CredentialClaims, Live, Token};
use crate::decide::pace::Pace;
use crate::reason::Blocked;
use jiff::SignedDuration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whose list: credential and Workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The namespace of the caller: the operator's own credential is allowed for each namespace separately.
    pub namespace: String,
    /// Where the credential is; `None`: the operator's own.
    pub credential: Option<SecretKeyRef>,
    /// As the spec says.
    pub organization: Option<String>,
    /// Workspace id.
    pub workspace: String,
}

/// Why there is no list.
#[derive(Clone, Debug)]
pub enum Failure {
    /// No credential to ask with.
    Denied(Blocked),
    /// The vendor refuses the credential.
    Refused(Blocked),
    /// No usable answer.
    Unavailable {
        /// What happened.
        message: String,
        /// The vendor's own word on when to come back.
        retry_after: Option<SignedDuration>,
    },
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let blocked = error.blocked();
        match error.kind() {
            Kind::Unavailable => Self::Unavailable {
                message: blocked.message,
                retry_after: error.retry_after(),
            },
            Kind::CredentialRejected | Kind::Forbidden | Kind::NotFound => Self::Refused(blocked),
        }
    }
}

impl Failure {
    /// As evidence; `fresh`: from a call just now.
    pub fn live(self, fresh: bool) -> Live {
        match self {
            Self::Denied(blocked) | Self::Refused(blocked) => Live::Refused { blocked, fresh },
            Self::Unavailable {
                message,
                retry_after,
            } => Live::Unavailable {
                message,
                retry_after,
            },
        }
    }
}

/// A list as read at one moment.
#[derive(Clone)]
pub struct Listing {
    /// Every token with a role in the Workspace, or why not.
    pub tokens: Result<Arc<Vec<Token>>, Failure>,
    /// What the credential says of itself that it was read with; `None`: the credential itself could not be read.
    pub credential: Option<CredentialClaims>,
    began: Instant,
}

impl Listing {
    /// Since its reading began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

/// All lists.
pub struct Listings {
    all: Mutex<HashMap<Key, Place>>,
    /// How long a failure is shared: many resources with one bad credential make one attempt.
    failure_shared: Duration,
}

/// One list, locked while it is being read.
type Place = Arc<tokio::sync::Mutex<Option<Listing>>>;

impl Listings {
    /// None yet.
    pub fn new(pace: &Pace) -> Self {
        Self {
            all: Mutex::default(),
            failure_shared: pace.vendor_failure_shared,
        }
    }

    /// A list whose reading began at or after `not_before` (`None`: any); read with `read` when there is none.
    ///
    /// Of callers that come together one reads and the others share.
    pub async fn get<F>(&self, key: &Key, not_before: Option<Instant>, read: F) -> Listing
    where
        F: AsyncFnOnce() -> (Result<Vec<Token>, Failure>, Option<CredentialClaims>),
    {
        let place = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key.clone()).or_default().clone()
        };
        let mut place = place.lock().await;
        let serves = |listing: &&Listing| match &listing.tokens {
            Ok(_) => not_before.is_none_or(|at| listing.began >= at),
            // However old a list may be: a failure may be over.
            Err(_) => listing.age() < self.failure_shared,
        };
        if let Some(listing) = place.as_ref().filter(serves) {
            return listing.clone();
        }
        let began = Instant::now();
        let (tokens, credential) = read().await;
        let listing = Listing {
            tokens: tokens.map(Arc::new),
            credential,
            began,
        };
        *place = Some(listing.clone());
        listing
    }

    /// Forgets lists that have not been asked for in `idle`.
    pub fn forget_older_than(&self, idle: Duration) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, place| match place.try_lock() {
            Ok(listing) => listing.as_ref().is_some_and(|l| l.began.elapsed() < idle),
            Err(_) => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key() -> Key {
        Key {
            namespace: "ns".into(),
            credential: None,
            organization: None,
            workspace: "w".into(),
        }
    }

    #[tokio::test]
    async fn callers_that_come_together_share_one_reading_and_a_fresh_one_is_read_anew() {
        let (listings, reads) = (Listings::new(&Pace::SHIPPED), AtomicUsize::new(0));
        let asked = Instant::now();
        let get = async |not_before| {
            let read = async || {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                (Ok(vec![]), None)
            };
            listings.get(&key(), Some(not_before), read).await
        };
        futures::future::join_all((0..10).map(|_| get(asked))).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        get(Instant::now()).await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_failure_is_shared_for_a_while_even_by_those_who_want_it_fresh() {
        let (listings, reads) = (Listings::new(&Pace::SHIPPED), AtomicUsize::new(0));
        for _ in 0..3 {
            let read = async || {
                reads.fetch_add(1, Ordering::Relaxed);
                let failure = Failure::Unavailable {
                    message: "down".into(),
                    retry_after: None,
                };
                (Err(failure), None)
            };
            assert!(
                listings
                    .get(&key(), Some(Instant::now()), read)
                    .await
                    .tokens
                    .is_err()
            );
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }
}
