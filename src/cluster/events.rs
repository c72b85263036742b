//! Events about objects, as `kubectl describe` shows them.

use crate::clock::precise;
use crate::decide::notice::Notice;
use crate::decide::pace::Pace;
use crate::text::cut;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Longest note of an event, bytes; the API server's limit is 1024.
const LONGEST_NOTE: usize = 1000;
/// Most of a resource's name that an event's own name has, bytes: the two have the same limit, and it needs a suffix.
const LONGEST_PREFIX: usize = 200;

/// Publishes events; one that repeats is counted, and not created again.
pub struct Publisher {
    client: Client,
    instance: String,
    pace: Pace,
    published: Mutex<HashMap<Repeated, Published>>,
}

/// What makes two events the same: the object's uid, the reason, the action, and whether it is a warning.
type Repeated = (String, String, String, bool);

#[derive(Clone)]
struct Published {
    name: String,
    count: i32,
    last: Instant,
}

impl Publisher {
    /// In the name of this process.
    pub fn new(client: Client, instance: String, pace: Pace) -> Self {
        Self {
            client,
            instance,
            pace,
            published: Mutex::default(),
        }
    }

    /// Publishes what is noticed about an object.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn publish(&self, object: &ObjectReference, notice: &Notice) -> kube::Result<()> {
        let namespace = object.namespace.clone().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let repeated = (
            object.uid.clone().unwrap_or_default(),
            notice.reason.clone(),
            notice.action.clone(),
            notice.warning,
        );
        let last = Instant::now();
        // Taken out first: of one that cannot be counted another is created next time.
        let before = {
            let mut published = self.published();
            published.retain(|_, it| it.last.elapsed() < self.pace.event_series);
            published.remove(&repeated)
        };
        let published = match before {
            Some(Published { name, count, .. }) => {
                let count = count + 1;
                let series = json!({"count": count, "lastObservedTime": MicroTime(precise())});
                let series = Patch::Merge(json!({"series": series}));
                events
                    .patch(&name, &PatchParams::default(), &series)
                    .await?;
                Published { name, count, last }
            }
            None => {
                let event = self.event(object, notice);
                events.create(&PostParams::default(), &event).await?;
                let name = event.name_any();
                Published {
                    name,
                    count: 1,
                    last,
                }
            }
        };
        self.published().insert(repeated, published);
        Ok(())
    }

    fn event(&self, object: &ObjectReference, notice: &Notice) -> Event {
        Event {
            action: Some(notice.action.clone()),
            event_time: Some(MicroTime(precise())),
            metadata: ObjectMeta {
                name: Some(name(object.name.as_deref().unwrap_or_default())),
                namespace: object.namespace.clone(),
                ..ObjectMeta::default()
            },
            note: Some(cut(&notice.message, LONGEST_NOTE).into()),
            reason: Some(notice.reason.clone()),
            regarding: Some(object.clone()),
            reporting_controller: Some("astro-token-operator".into()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        }
    }

    fn published(&self) -> std::sync::MutexGuard<'_, HashMap<Repeated, Published>> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new name for an event about the resource of this name.
fn name(resource: &str) -> String {
    // What is before a dot must end as a name does.
    let prefix = cut(resource, LONGEST_PREFIX).trim_end_matches(['-', '.']);
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}.{}", cut(&random, 16))
}

#[cfg(test)]
mod tests {
    use super::name;
    use crate::decide::names::is_object_name;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_resource_gets_a_name_for_its_events(resource in "[a-z0-9]([a-z0-9-]{0,60}[a-z0-9]){0,1}(\\.[a-z0-9]([a-z0-9-]{0,60}[a-z0-9]){0,1}){0,3}") {
            let name = name(&resource);
            prop_assert!(is_object_name(&name) && !name.contains("-."), "{}", name);
            prop_assert!(name.len() <= 217);
        }
    }
}
