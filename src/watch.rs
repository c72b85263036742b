//! The two watches: resources, and the metadata of the Secrets that are ours. They feed the stores and wake reconciles.

use crate::api::{MANAGED_BY, WorkspaceTokenRotation, evidence};
use crate::ownership::{self, Metadata};
use crate::rivals::Claims;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, ResourceExt};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

/// Sends a resource to be reconciled.
pub type Wake = UnboundedSender<ObjectRef<WorkspaceTokenRotation>>;

/// Objects of one list request.
const PAGE: u32 = 500;

/// All resources. Keeps `claims` up, and wakes what changed and what waited for it.
pub fn resources(
    client: &Client,
    claims: Arc<Mutex<Claims>>,
    wake: Wake,
) -> (
    Store<WorkspaceTokenRotation>,
    impl Future<Output = ()> + use<>,
) {
    let (store, writer) = reflector::store();
    let api: Api<WorkspaceTokenRotation> = Api::all(client.clone());
    let events = watch(api, watcher::Config::default().page_size(PAGE));
    let events = events.default_backoff().reflect(writer);
    let present = store.clone();
    let feed = async move {
        let mut events = pin!(reported(events, "resources"));
        while let Some(event) = events.next().await {
            let mut claims = claims.lock().unwrap_or_else(PoisonError::into_inner);
            let woken = match &event {
                Event::Apply(resource) | Event::InitApply(resource) => {
                    let _ = wake.send(ObjectRef::from(resource));
                    claims.apply(resource)
                }
                Event::Delete(resource) => claims.remove(resource),
                Event::InitDone => claims.retain(&present.state()),
                Event::Init => Vec::new(),
            };
            for waiting in woken {
                let _ = wake.send(waiting);
            }
        }
    };
    (store, feed)
}

/// Metadata of all Secrets with our label; unrelated Secrets cost nothing. Wakes the resource that owns one.
pub fn secrets(client: &Client, wake: Wake) -> (Store<Metadata>, impl Future<Output = ()> + use<>) {
    let (store, writer) = reflector::store();
    let api: Api<Metadata> = Api::all(client.clone());
    let ours = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let config = watcher::Config::default().labels(&ours).page_size(PAGE);
    let events = watch(api, config).default_backoff();
    let events = events.modify(ownership::slim).reflect(writer);
    let feed = async move {
        let touched = reported(events, "Secrets").map(Ok::<_, watcher::Error>);
        let mut touched = pin!(touched.touched_objects());
        while let Ok(Some(secret)) = touched.try_next().await {
            let owner = secret.annotations().get(evidence::OWNED_BY);
            if let (Some(owner), Some(namespace)) = (owner, secret.namespace()) {
                let _ = wake.send(ObjectRef::new(owner).within(&namespace));
            }
        }
    };
    (store, feed)
}

/// Waits until a store has everything.
///
/// By polling: the store's own signal has room for one waker, and the controller needs it too.
pub async fn synced<K>(store: &Store<K>)
where
    K: kube::runtime::reflector::Lookup + Clone + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    const POLL: Duration = Duration::from_millis(50);
    while tokio::time::timeout(POLL, store.wait_until_ready())
        .await
        .is_err()
    {}
}

/// The events alone; errors are logged and retried by the watcher with backoff.
fn reported<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    what: &'static str,
) -> impl Stream<Item = Event<K>> {
    events.filter_map(move |event| async move {
        event
            .map_err(|error| warn!(what, %error, "watch interrupted, trying again"))
            .ok()
    })
}
