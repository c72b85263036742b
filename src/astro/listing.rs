//! The vendor's list of an entity's tokens: read once for all resources that need it, and shared.

use crate::api::SecretKeyRef;
use crate::astro::client::Astro;
use crate::astro::credential::Credential;
use crate::astro::error::{Error, Kind};
use crate::astro::shared::{Reading, Shared};
use crate::decide::entity::Entity;
use crate::decide::evidence::{CredentialClaims, Live, Token};
use crate::decide::pace::Pace;
use crate::decide::token::{Listed, Tokens};
use crate::reason::Blocked;
use jiff::SignedDuration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Whose list: credential and entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The namespace of the caller: the operator's own credential is allowed for each namespace separately.
    pub namespace: String,
    /// Where the credential is; `None`: the operator's own.
    pub credential: Option<SecretKeyRef>,
    /// As the spec says.
    pub organization: Option<String>,
    /// What the tokens are for.
    pub entity: Entity,
}

/// Why there is no list.
#[derive(Clone, Debug)]
pub enum Failure {
    /// No credential to ask with.
    Denied(Blocked),
    /// Whether there is a credential is not known.
    Unread {
        /// What happened.
        message: String,
    },
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
            Self::Unread { message } => Live::Unavailable {
                message,
                retry_after: None,
            },
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

/// Every token with a role on the entity, or why there is no list.
pub type Found = Result<Arc<Tokens>, Failure>;

/// The tokens, and what the credential says of itself that they were read with; `None`: the credential itself could not be
/// read.
pub type List = (Found, Option<CredentialClaims>);

/// A list as read at one moment.
pub type Listing = Reading<List>;

/// Organization and entity.
type OfEntity = (String, Entity);

/// All lists.
pub struct Listings {
    /// By the caller, who may see only what the caller's own credential shows.
    asked: Shared<Key, List>,
    /// By what was asked: two who ask with the same credential share one list.
    read: Shared<(u128, OfEntity), Found>,
    /// The list of each entity that was read last, with whatever credential: lists of one are much alike.
    latest: Mutex<HashMap<OfEntity, Weak<Tokens>>>,
    /// How long a failure is shared: many resources with one bad credential make one attempt.
    failure_shared: Duration,
}

impl Listings {
    /// None yet.
    pub fn new(pace: &Pace) -> Self {
        Self {
            asked: Shared::default(),
            read: Shared::default(),
            latest: Mutex::default(),
            failure_shared: pace.vendor_failure_shared,
        }
    }

    /// A list whose reading began at or after `not_before` (`None`: any), if there is one.
    pub fn known(&self, key: &Key, not_before: Option<Instant>) -> Option<Listing> {
        let known = self.asked.known(key)?;
        self.serves(&known, known.value.0.is_ok(), not_before)
            .then_some(known)
    }

    /// A list that is as good as one read now to tell which token has a name: no older than `fresh`, or than five times as
    /// long as its reading took. Otherwise many that are due at once would read a long list again and again.
    pub fn recent(&self, key: &Key, fresh: Duration) -> Option<Listing> {
        let known = self.asked.known(key)?;
        let is_recent = known.value.0.is_ok() && known.age() < fresh.max(known.took() * 5);
        is_recent.then_some(known)
    }

    /// The same as [`Listings::known`]; read with `read` when there is none. Of callers that come together one reads and the
    /// others share.
    pub async fn get(
        &self,
        key: &Key,
        not_before: Option<Instant>,
        read: impl AsyncFnOnce() -> List,
    ) -> Listing {
        let serves = |it: &Listing| self.serves(it, it.value.0.is_ok(), not_before);
        self.asked.get(key, serves, read).await
    }

    /// The list of an entity of an Organization, as a credential shows it. Of tokens that are not wanted it tells only that
    /// they are there: an Organization may have many more than anybody here asks for.
    pub async fn list(
        &self,
        astro: &Astro,
        credential: &Credential,
        (organization, entity): (&str, &Entity),
        not_before: Option<Instant>,
        is_wanted: impl Fn(&Token) -> bool,
    ) -> Found {
        let whole = (organization.to_owned(), entity.clone());
        let key = (credential.fingerprint(), whole);
        let serves = |it: &Reading<_>| self.serves(it, Result::is_ok(&it.value), not_before);
        let read = async || {
            let latest = self.latest().get(&key.1).and_then(Weak::upgrade);
            let latest = latest.unwrap_or_default();
            let keep = |token: &Token| Listed::new(token, is_wanted(token), &latest);
            let list = astro.list(credential, organization, entity, keep).await;
            let tokens = list.map(|all| Arc::new(Tokens::new(all)));
            tokens.map_err(|error| Failure::from(&error))
        };
        let found = self.read.get(&key, serves, read).await.value;
        if let Ok(tokens) = &found {
            let latest = Arc::downgrade(tokens);
            self.latest().insert(key.1, latest);
        }
        found
    }

    fn serves<V>(&self, reading: &Reading<V>, is_list: bool, not_before: Option<Instant>) -> bool {
        match is_list {
            true => not_before.is_none_or(|at| reading.began() >= at),
            // However old a list may be: a failure may be over. From its end: one that took long is one for all who waited.
            false => reading.rested() < self.failure_shared,
        }
    }

    /// Forgets lists that have not been read in `idle`.
    pub fn forget_older_than(&self, idle: Duration) {
        self.asked.retain(|_, it| it.age() < idle);
        self.read.retain(|_, it| it.age() < idle);
        self.latest().retain(|_, it| it.strong_count() > 0);
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<OfEntity, Weak<Tokens>>> {
        // Each change is whole, even after a panic.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Scope;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key() -> Key {
        Key {
            namespace: "ns".into(),
            credential: None,
            organization: None,
            entity: Entity {
                scope: Scope::Workspace,
                id: "w".into(),
            },
        }
    }

    #[tokio::test]
    async fn callers_that_come_together_share_one_reading_and_a_fresh_one_is_read_anew() {
        let (listings, reads) = (Listings::new(&Pace::SHIPPED), AtomicUsize::new(0));
        let asked = Instant::now();
        assert!(listings.known(&key(), None).is_none());
        let get = async |not_before| {
            let read = async || {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                (Ok(Arc::default()), None)
            };
            listings.get(&key(), Some(not_before), read).await
        };
        futures::future::join_all((0..10).map(|_| get(asked))).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        let later = Instant::now();
        assert!(listings.known(&key(), Some(asked)).is_some());
        assert!(listings.known(&key(), Some(later)).is_none());
        assert!(listings.recent(&key(), Duration::from_secs(60)).is_some());
        get(later).await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        listings.forget_older_than(Duration::ZERO);
        assert!(listings.known(&key(), None).is_none());
    }

    #[tokio::test]
    async fn a_failure_that_took_long_is_known_to_those_who_waited_for_it() {
        let pace = Pace::SHIPPED.scaled(0.01);
        let listings = Listings::new(&pace);
        let read = async || {
            // As long as a vendor that does not answer.
            tokio::time::sleep(pace.vendor_failure_shared * 2).await;
            let message = "no answer".into();
            (Err(Failure::Unread { message }), None)
        };
        listings.get(&key(), None, read).await;
        assert!(listings.known(&key(), None).is_some());
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
            let listing = listings.get(&key(), Some(Instant::now()), read).await;
            assert!(listing.value.0.is_err());
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }
}
