//! A watch that remembers, to wait until objects are as wanted.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::watcher::{Config, Error, watcher};
use kube::runtime::{WatchStreamExt as _, reflector::ObjectRef};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::resource::kind;

/// Longest wait until all are as wanted: at least so much, and so much for each.
const DEADLINE: Duration = Duration::from_secs(120);
const DEADLINE_FOR_EACH: Duration = Duration::from_millis(100);

/// The resources of one label, as last seen.
pub struct Watching {
    events: BoxStream<'static, Result<DynamicObject, Error>>,
    seen: HashMap<ObjectRef<DynamicObject>, DynamicObject>,
}

impl Watching {
    /// Watches all resources with `label`, in all namespaces.
    pub fn begin(client: &Client, label: &str) -> Self {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind());
        let events = watcher(api, Config::default().labels(label));
        Self {
            events: events.default_backoff().applied_objects().boxed(),
            seen: HashMap::new(),
        }
    }

    /// Waits until `number` resources are as `wanted`, given their status.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn until(
        &mut self,
        what: &str,
        number: usize,
        wanted: impl Fn(&DynamicObject) -> bool,
    ) -> anyhow::Result<()> {
        let within = DEADLINE + DEADLINE_FOR_EACH * u32::try_from(number)?;
        let deadline = Instant::now() + within;
        let mut arrived = self.seen.values().filter(|seen| wanted(seen)).count();
        while arrived < number {
            let event = timeout_at(deadline, self.events.next()).await;
            let Ok(event) = event else {
                bail!("{arrived} of {number} resources {what} within {within:?}");
            };
            // An interruption is retried by the watcher itself.
            let Ok(object) = event.context("a watch ended")? else {
                continue;
            };
            arrived += usize::from(wanted(&object));
            let reference = ObjectRef::from_obj_with(&object, kind());
            if let Some(before) = self.seen.insert(reference, object) {
                arrived -= usize::from(wanted(&before));
            }
        }
        Ok(())
    }

    /// How many are as `wanted` now.
    pub fn count(&self, wanted: impl Fn(&DynamicObject) -> bool) -> usize {
        self.seen.values().filter(|seen| wanted(seen)).count()
    }

    /// All resources seen so far.
    pub fn all(&self) -> impl Iterator<Item = &DynamicObject> {
        self.seen.values()
    }
}

/// A field of the status by JSON pointer; null when absent.
pub fn status<'a>(object: &'a DynamicObject, pointer: &str) -> &'a Value {
    let field = object.data.pointer(&format!("/status{pointer}"));
    field.unwrap_or(&Value::Null)
}

/// A time in the status.
pub fn time(object: &DynamicObject, pointer: &str) -> Option<Timestamp> {
    status(object, pointer).as_str()?.parse().ok()
}

/// Whether the operator has nothing more to do: it has seen the newest spec, nothing is in flight, and it is ready.
pub fn is_settled(object: &DynamicObject) -> bool {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let conditions = status(object, "/conditions").as_array();
    status(object, "/observedGeneration").as_i64() == object.metadata.generation
        && status(object, "/pending").is_null()
        && conditions.is_some_and(|all| all.iter().any(ready))
}
