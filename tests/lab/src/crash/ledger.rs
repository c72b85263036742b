//! The ledger: which values the vendor issued, which of them reached the Secret, and for how long it held a dead one.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::resource::{Resource, kind, status};

/// After an interruption of a watch: no value is replaced so soon after another.
const RETRY: Duration = Duration::from_millis(200);
/// Which rotation a Secret's value is of.
const ROTATION_ID: &str = "astro-token-operator.io/rotation-id";

/// A value that was issued, and when.
pub type Issue = (Instant, Arc<str>);

/// What an administrator sees of one namespace, as it changes. Holds values, so it has no `Debug`.
pub struct Ledger {
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Seen {
    resources: HashMap<String, Resource>,
    /// The values under the key `token` of each Secret, oldest first, and since when.
    stored: HashMap<String, Vec<(Instant, String)>>,
    /// The rotations that these values are of.
    rotations: HashMap<String, Vec<String>>,
    causes: HashMap<String, Cause>,
}

/// Why a rotation was done.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// As in the status.
    pub reason: String,
    /// Calls it took.
    pub attempts: i32,
}

/// What became of the values of one token, or of two that take turns.
#[derive(Debug, Default, PartialEq)]
pub struct Account {
    /// Values that were issued after a token's first, and never reached the Secret.
    pub lost: usize,
    /// For how long the Secret held a dead value, each time.
    pub dead: Vec<Duration>,
    /// It holds the live value now.
    pub live: bool,
}

impl Ledger {
    /// Watches the resources and Secrets of a namespace.
    pub fn begin(client: &Client, namespace: &str) -> Self {
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let resources: Api<Resource> = Api::namespaced_with(client.clone(), namespace, &kind());
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let resources = watcher(resources, Config::default());
        let secrets = watcher(secrets, Config::default());
        let (by_resource, by_secret) = (shared.clone(), shared.clone());
        let watching = async move {
            tokio::join!(
                each(resources, |event| by_resource.resource(event)),
                each(secrets, |event| {
                    if let Event::Apply(secret) | Event::InitApply(secret) = event {
                        by_secret.secret(secret);
                    }
                }),
            );
        };
        Self {
            shared,
            _watch: AbortOnDropHandle::new(tokio::spawn(watching)),
        }
    }

    /// A resource as last seen.
    pub fn resource(&self, name: &str) -> Option<Resource> {
        self.shared.seen().resources.get(name).cloned()
    }

    /// The value a Secret holds.
    pub fn value(&self, secret: &str) -> Option<String> {
        let seen = self.shared.seen();
        let (_, value) = seen.stored.get(secret)?.last()?;
        Some(value.clone())
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// What became of the values that were issued so of each token; `secret` is to hold them, `former` did before.
    pub fn account(&self, secret: &str, former: &str, issues: &[Vec<Issue>]) -> Account {
        let seen = self.shared.seen();
        let stored = |name| seen.stored.get(name).map_or(&[][..], Vec::as_slice);
        account(issues, stored(secret), stored(former))
    }

    /// The ids of the rotations whose values reached a Secret, oldest first.
    pub fn rotations(&self, secret: &str) -> Vec<String> {
        let seen = self.shared.seen();
        seen.rotations.get(secret).cloned().unwrap_or_default()
    }

    /// Why a rotation was done, if the status was seen while it said so.
    pub fn cause(&self, rotation: &str) -> Option<Cause> {
        self.shared.seen().causes.get(rotation).cloned()
    }

    /// Forgets what is known of Secrets.
    pub fn forget(&self) {
        let mut seen = self.shared.seen();
        seen.stored.clear();
        seen.rotations.clear();
    }
}

/// The one in the middle and the last of what is sorted.
pub fn median(sorted: &[Duration]) -> Option<(Duration, Duration)> {
    Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resource(&self, event: Event<Resource>) {
        let mut seen = self.seen();
        match event {
            Event::Apply(it) | Event::InitApply(it) => {
                if let Some(last) = status(&it).last_rotation {
                    let cause = Cause {
                        reason: last.reason,
                        attempts: last.attempts.unwrap_or(1),
                    };
                    seen.causes.insert(last.id, cause);
                }
                seen.resources.insert(it.name_any(), it);
            }
            Event::Delete(it) => {
                seen.resources.remove(&it.name_any());
            }
            Event::Init | Event::InitDone => {}
        }
        drop(seen);
        self.changed.send_replace(());
    }

    fn secret(&self, secret: Secret) {
        let now = Instant::now();
        let name = secret.name_any();
        let rotation = secret.annotations().get(ROTATION_ID).cloned();
        let value = secret.data.and_then(|mut data| data.remove("token"));
        let value = value.and_then(|bytes| String::from_utf8(bytes.0).ok());
        if let Some(value) = value {
            let mut seen = self.seen();
            let stored = seen.stored.entry(name.clone()).or_default();
            if stored.last().is_none_or(|(_, last)| *last != value) {
                stored.push((now, value));
                let rotations = seen.rotations.entry(name).or_default();
                rotations.extend(rotation);
            }
        }
        self.changed.send_replace(());
    }
}

/// Takes every event; an interrupted watch begins anew by itself.
async fn each<K>(
    events: impl Stream<Item = Result<Event<K>, Error>>,
    mut take: impl FnMut(Event<K>),
) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(event),
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Books the issues of each token against stores. The value that a token is created with does not have to be stored.
fn account(
    issues: &[Vec<Issue>],
    stored: &[(Instant, String)],
    former: &[(Instant, String)],
) -> Account {
    let ever = |value: &str| stored.iter().chain(former).any(|(_, it)| it == value);
    let later = issues.iter().flat_map(|of_token| of_token.iter().skip(1));
    let lost = later.filter(|(_, value)| !ever(value));
    let of_tokens = issues.iter().enumerate().flat_map(|(token, issues)| {
        let issues = issues.iter();
        issues.map(move |(at, value)| (*at, Some(token), &**value))
    });
    let of_secret = stored.iter().map(|(at, value)| (*at, None, value.as_str()));
    let mut events: Vec<_> = of_tokens.chain(of_secret).collect();
    events.sort_by_key(|(at, ..)| *at);
    let mut live: Vec<Option<&str>> = vec![None; issues.len()];
    let (mut held, mut since) = (None, None);
    let is_live =
        |held: Option<&str>, live: &[Option<&str>]| held.is_none() || live.contains(&held);
    let mut dead = Vec::new();
    for (at, issued, value) in events {
        match issued {
            Some(token) => live[token] = Some(value),
            None => held = Some(value),
        }
        match (is_live(held, &live), since) {
            (true, Some(began)) => {
                dead.push(at - began);
                since = None;
            }
            (false, None) => since = Some(at),
            _ => {}
        }
    }
    Account {
        lost: lost.count(),
        dead,
        live: held.is_some() && is_live(held, &live),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, second: u64) -> Instant {
        base + Duration::from_secs(second)
    }

    #[test]
    fn values_are_booked_as_stored_or_lost_and_the_time_between_as_dead() {
        let base = Instant::now();
        let issues = |all: &[(u64, &str)]| -> Vec<Vec<Issue>> {
            let of_one = all.iter().map(|(s, v)| (at(base, *s), (*v).into()));
            vec![of_one.collect()]
        };
        let stored = |all: &[(u64, &str)]| -> Vec<(Instant, String)> {
            all.iter()
                .map(|(s, v)| (at(base, *s), (*v).into()))
                .collect()
        };
        let seconds = |all: &[u64]| -> Vec<Duration> {
            all.iter().map(|s| Duration::from_secs(*s)).collect()
        };
        let created = [(0, "a")];
        assert_eq!(account(&issues(&created), &[], &[]), Account::default());

        let story = [(0, "a"), (10, "b"), (20, "c"), (25, "d")];
        let done = account(&issues(&story), &stored(&[(11, "b"), (29, "d")]), &[]);
        let expected = Account {
            lost: 1,
            dead: seconds(&[9]),
            live: true,
        };
        assert_eq!(done, expected);

        let open = account(&issues(&story), &stored(&[(11, "b")]), &[]);
        assert_eq!((open.lost, open.live), (2, false));
        let moved = account(&issues(&story[..2]), &[], &stored(&[(11, "b")]));
        assert_eq!((moved.lost, moved.live), (0, false));

        // Of two tokens the one that the Secret does not hold is rotated, and later the one that it holds.
        let both = [
            issues(&[(0, "a"), (30, "c")]),
            issues(&[(0, "x"), (10, "b")]),
        ]
        .concat();
        let turn = account(&both, &stored(&[(5, "a"), (11, "b")]), &[]);
        assert_eq!((turn.lost, turn.live, turn.dead), (1, true, seconds(&[])));
        let held = account(&both, &stored(&[(5, "a"), (35, "c")]), &[]);
        assert_eq!((held.live, held.dead), (true, seconds(&[5])));
    }
}
