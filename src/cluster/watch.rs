//! The watches: resources, and the metadata of the Secrets that are ours, in the whole cluster or in some namespaces.
//! However many they are, they feed one store of each kind and wake reconciles.

mod changes;
mod events;
mod list;
#[cfg(test)]
mod tests;
mod unreadable;

use self::changes::{Change, changes, is_refused, text};
pub use self::unreadable::Report;
use self::unreadable::Unreadable;
use crate::api::{Key, MANAGED_BY, WorkspaceTokenRotation, evidence};
use crate::clock::now;
use crate::cluster::store::{Kept, Names, Put, Store};
use crate::decide::managed::Metadata;
use crate::decide::names::is_object_name;
use crate::decide::pace::Pace;
use crate::decide::rivals::Claims;
use clap::ValueEnum;
use futures::future::join_all;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::Error;
use kube::{Api, Client, Resource, ResourceExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::SetOnce;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tracing::{info, warn};

/// Sends resources to be reconciled.
#[derive(Clone)]
pub struct Wake(UnboundedSender<Key>);

impl Wake {
    /// It, and what comes out at its other end.
    pub fn channel() -> (Self, UnboundedReceiver<Key>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends these. While the process stops nothing receives them any more, and nothing is lost by that.
    pub fn send(&self, resources: impl IntoIterator<Item = Key>) {
        for resource in resources {
            let _ = self.0.send(resource);
        }
    }
}

/// How the operator learns what its Secrets hold; values are read in neither way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SecretAccess {
    /// List and watch the metadata of its Secrets: a deleted one is noticed at once
    #[default]
    Watch,
    /// Only get each by its name: a deleted one is noticed within an audit interval
    Get,
}

/// Where the operator works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In all namespaces, by one watch of each kind.
    Cluster,
    /// In these, by a watch of each kind in each: none needs a permission outside of them.
    Namespaces(Vec<String>),
}

/// What is watched, and whether all of it is known.
#[derive(Clone)]
pub struct Watched {
    /// All resources.
    pub resources: Store<WorkspaceTokenRotation>,
    /// Metadata of all Secrets with our label; `None` without the permission.
    pub secrets: Option<Store<Metadata>>,
    places: Arc<[Area]>,
}

/// One namespace, or the whole cluster, and how far its watches have come.
#[derive(Default)]
struct Area {
    /// `None`: the whole cluster.
    namespace: Option<String>,
    secrets_listed: SetOnce<()>,
    resources_listed: SetOnce<()>,
    /// One of its watches failed: others do not wait for a namespace that cannot be worked in.
    has_failed: SetOnce<()>,
    /// What was reported as refused: that is said once and not for each try.
    refused: Mutex<HashSet<What>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Resources,
    Secrets,
}

impl Scope {
    /// `namespaces` as given on the command line; none: the whole cluster.
    pub fn new(mut namespaces: Vec<String>) -> Self {
        namespaces.sort();
        namespaces.dedup();
        match namespaces.is_empty() {
            true => Self::Cluster,
            false => Self::Namespaces(namespaces),
        }
    }

    /// One place each for a watch.
    fn places(&self) -> Arc<[Area]> {
        let place = |namespace| Area {
            namespace,
            ..Area::default()
        };
        match self {
            Self::Cluster => [place(None)].into(),
            Self::Namespaces(names) => names.iter().cloned().map(Some).map(place).collect(),
        }
    }

    /// One for each watch there is.
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::Cluster => vec![Api::all(client.clone())],
            Self::Namespaces(names) => names
                .iter()
                .map(|name| Api::namespaced(client.clone(), name))
                .collect(),
        }
    }
}

impl Watched {
    /// Waits until everything is known of every place; of a namespace that fails no more than that it does.
    pub async fn synced(&self) {
        join_all(self.places.iter().map(Area::heard)).await;
    }
}

/// Watches for as long as the future is polled. Keeps `claims` up, wakes what changed and what waited for it, and tells
/// `count` how many objects cannot be read.
pub fn watch(
    client: &Client,
    scope: &Scope,
    (access, secrets): (SecretAccess, Store<Metadata>),
    claims: Arc<Mutex<Claims>>,
    wake: Wake,
    pace: Pace,
    report: Report,
) -> (Watched, impl Future<Output = ()> + use<>) {
    let places = scope.places();
    let (resources, feed_resources) = watch_resources(
        client,
        scope,
        places.clone(),
        claims,
        wake.clone(),
        pace,
        report.clone(),
    );
    let (secrets, feed_secrets) = match access {
        SecretAccess::Watch => {
            let store = secrets.clone();
            let feed = watch_secrets(client, scope, places.clone(), secrets, wake, pace, report);
            (Some(store), feed.left_future())
        }
        SecretAccess::Get => {
            for place in places.iter() {
                let _ = place.secrets_listed.set(());
            }
            (None, std::future::pending().right_future())
        }
    };
    let watched = Watched {
        resources,
        secrets,
        places,
    };
    let feeds = async {
        tokio::join!(feed_resources, feed_secrets);
    };
    (watched, feeds)
}

fn watch_resources(
    client: &Client,
    scope: &Scope,
    places: Arc<[Area]>,
    claims: Arc<Mutex<Claims>>,
    wake: Wake,
    pace: Pace,
    report: Report,
) -> (
    Store<WorkspaceTokenRotation>,
    impl Future<Output = ()> + use<>,
) {
    let store = Store::default();
    let apis = scope.apis(client);
    let present = store.clone();
    let mut unreadable = Unreadable::of::<WorkspaceTokenRotation>("WorkspaceTokenRotation", report);
    let client = client.clone();
    let feed = async move {
        let watches = apis.into_iter().zip(places.iter()).map(|(api, place)| {
            // Where Secrets cannot be listed, no resource is worked on: its value may be under a former name.
            let (client, known) = (client.clone(), present.clone());
            let begin = async move {
                if place.namespace.is_some() {
                    place.secrets_listed.wait().await;
                }
                changes(client, api, None, &pace, move |it| known.is_echo(it))
            };
            let changes = begin.into_stream().flatten();
            changes.map(move |change| (place, change)).boxed()
        });
        let mut watches = stream::select_all(watches);
        // Since when a namespace refuses.
        let mut refused: HashMap<Option<&str>, Instant> = HashMap::new();
        while let Some((place, change)) = watches.next().await {
            let namespace = place.namespace.as_deref();
            let mut claims = claims.lock().unwrap_or_else(PoisonError::into_inner);
            let mut woken = Vec::new();
            let mut is_complete = false;
            match change {
                Change::Apply(key, resource) => {
                    unreadable.remove(&key);
                    // What was written here is known already, and wakes nobody.
                    if let Put::News(former) = present.put(&resource) {
                        woken.push(key);
                        woken.extend(former.iter().flat_map(|former| claims.remove(former)));
                        woken.extend(claims.apply(&resource, now()));
                    }
                }
                Change::Unreadable(key, metadata, why, part) => {
                    unreadable.add(&key, *metadata, &why);
                    present.remove(&key);
                    // What is known of it from before stays.
                    let part = part.iter();
                    woken.extend(part.flat_map(|part| claims.apply_part(part, now())));
                }
                Change::Delete(key) => {
                    unreadable.remove(&key);
                    match present.remove(&key) {
                        Some(resource) => woken.extend(claims.remove(&resource)),
                        None => is_complete = true,
                    }
                }
                Change::Listed(names) => {
                    for key in place.missing(&present, &names) {
                        present.remove(&key);
                    }
                    unreadable.retain(|key| !place.covers(key) || names.contains(key));
                    refused.remove(&namespace);
                    is_complete = true;
                    place.listed(What::Resources);
                }
                Change::Failed(error) => {
                    if is_refused(&error) {
                        // What may no longer be read is not worked on; it comes back with the next list.
                        for key in place.missing(&present, &Names::default()) {
                            present.remove(&key);
                        }
                        unreadable.retain(|key| !place.covers(key));
                        refused.entry(namespace).or_insert_with(Instant::now);
                        is_complete = true;
                    }
                    place.failed(&error, What::Resources);
                }
            }
            if is_complete {
                let stays = |key: &Key| {
                    // Of those that are not present, nothing says that these are gone.
                    let since = refused
                        .get(&None)
                        .or_else(|| refused.get(&Some(key.namespace.as_str())));
                    present.contains(key)
                        || unreadable.has(key)
                        || since.is_some_and(|it| it.elapsed() < pace.refused_claims)
                };
                woken.extend(claims.retain(stays));
            }
            wake.send(woken);
        }
    };
    (store, feed)
}

fn watch_secrets(
    client: &Client,
    scope: &Scope,
    places: Arc<[Area]>,
    present: Store<Metadata>,
    wake: Wake,
    pace: Pace,
    report: Report,
) -> impl Future<Output = ()> + use<> {
    let apis = scope.apis(client);
    let ours = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let mut unreadable = Unreadable::of::<Metadata>("Secret", report);
    let client = client.clone();
    async move {
        let watches = apis.into_iter().zip(places.iter()).map(|(api, place)| {
            let known = present.clone();
            let is_known = move |it: &_| known.is_echo(it);
            let changes = changes(client.clone(), api, Some(ours.clone()), &pace, is_known);
            changes.map(move |change| (place, change)).boxed()
        });
        let mut watches = stream::select_all(watches);
        let tell = |secret: &Metadata| {
            // Anybody who may write Secrets can put any text there.
            if let Some(owner) = secret.annotations().get(evidence::OWNED_BY)
                && is_object_name(owner)
                && let Some(namespace) = secret.namespace()
            {
                let name = owner.clone();
                wake.send([Key { namespace, name }]);
            }
        };
        while let Some((place, change)) = watches.next().await {
            let mut gone = Vec::new();
            match change {
                Change::Apply(key, secret) => {
                    unreadable.remove(&key);
                    if let Put::News(_) = present.put(&secret) {
                        tell(&secret);
                    }
                }
                Change::Unreadable(key, metadata, why, _) => {
                    unreadable.add(&key, *metadata, &why);
                    gone.push(key);
                }
                Change::Delete(key) => {
                    unreadable.remove(&key);
                    gone.push(key);
                }
                Change::Listed(names) => {
                    gone = place.missing(&present, &names);
                    unreadable.retain(|key| !place.covers(key) || names.contains(key));
                    place.listed(What::Secrets);
                }
                Change::Failed(error) => place.failed(&error, What::Secrets),
            }
            for key in gone {
                if let Some(secret) = present.remove(&key) {
                    tell(&secret);
                }
            }
        }
    }
}

impl Area {
    async fn heard(&self) {
        let listed =
            async { tokio::join!(self.secrets_listed.wait(), self.resources_listed.wait()) };
        tokio::select! {
            _ = listed => {}
            _ = self.has_failed.wait() => {}
        }
    }

    fn covers(&self, key: &Key) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == key.namespace)
    }

    /// What the store has of this place beside these.
    fn missing<K: Kept>(&self, store: &Store<K>, names: &Names) -> Vec<Key> {
        let mut here = store.keys(self.namespace.as_deref());
        here.retain(|key| !names.contains(key));
        here
    }

    fn listed(&self, what: What) {
        let _ = match what {
            What::Resources => self.resources_listed.set(()),
            What::Secrets => self.secrets_listed.set(()),
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.remove(&what) {
            info!(namespace = self.namespace, ?what, "permitted now");
        }
    }

    fn failed(&self, error: &Error, what: What) {
        let (namespace, refusal) = (self.namespace.as_deref(), is_refused(error));
        let error = text(error);
        if namespace.is_some() {
            let _ = self.has_failed.set(());
        }
        if !refusal {
            warn!(namespace, ?what, error, "watch interrupted, trying again");
            return;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.insert(what) {
            return;
        }
        let remedy = match namespace {
            Some(_) => {
                "create the namespace if there is none and apply deploy/tenant to it, or take it out of --namespaces"
            }
            None => "apply deploy",
        };
        warn!(
            namespace,
            ?what,
            error,
            "nothing is reconciled here until access is granted; retrying; {remedy}"
        );
    }
}
