//! What people hear of: log lines and events. Neither can fail a pass.

use super::handles::Handles;
use crate::api::WorkspaceTokenRotation;
use crate::cluster::events::Publisher;
use crate::cluster::watch::Report;
use crate::decide::notice::Notice;
use crate::process::metrics::Metrics;
use crate::text::line;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Longest text of an event and its log line, characters.
const LONGEST_NOTE: usize = 1000;
/// Objects that cannot be read and are not told of yet; more than that are only in the log.
const UNREADABLE: usize = 100;

/// An object that cannot be read, and why.
type Unreadable = (ObjectReference, String);

/// Writes log lines and publishes events.
pub struct Teller {
    events: Publisher,
    metrics: Metrics,
}

/// Counts objects that cannot be read, and passes each on.
pub fn unreadable(metrics: &Metrics) -> (Report, mpsc::Receiver<Unreadable>) {
    let (metrics, (found, receiver)) = (metrics.clone(), mpsc::channel(UNREADABLE));
    let report = Report {
        count: Arc::new(move |kind, count| metrics.unreadable(kind, count)),
        // One that is too many is in the log all the same.
        found: Arc::new(move |object, why| {
            let _ = found.try_send((object, why.to_owned()));
        }),
    };
    (report, receiver)
}

impl Teller {
    /// In the name of this process.
    pub fn new(handles: &Handles) -> Self {
        let (identity, pace) = (handles.identity.to_string(), &handles.settings.pace);
        Self {
            events: Publisher::new(&handles.client, &identity, pace),
            metrics: handles.metrics.clone(),
        }
    }

    /// One log line and one event.
    pub fn tell(&self, resource: &WorkspaceTokenRotation, notice: &Notice) {
        let (namespace, name) = (resource.namespace(), resource.name_any());
        let notice = Notice {
            // Some of it is the text of other parties.
            message: line(&notice.message, LONGEST_NOTE),
            ..notice.clone()
        };
        let (reason, message) = (&notice.reason, &notice.message);
        let rotation_id = notice.rotation_id.as_deref();
        match notice.warning {
            true => warn!(namespace, name, rotation_id, reason, "{message}"),
            false => info!(namespace, name, rotation_id, reason, "{message}"),
        }
        self.publish(resource.object_ref(&()), notice);
    }

    /// An event on each object that cannot be read: its owner reads no log of ours, and its status stays as it is.
    pub async fn tell_of_unreadable(&self, mut found: mpsc::Receiver<Unreadable>) {
        while let Some((object, why)) = found.recv().await {
            let notice = Notice {
                reason: "Unreadable".into(),
                message: format!("the operator leaves it out until it can be read: {why}"),
                action: "Read".into(),
                rotation_id: None,
                warning: true,
            };
            self.publish(object, notice);
        }
    }

    /// Gives the events that are not published yet a short time.
    pub async fn finish(&self) {
        self.events.finish().await;
    }

    fn publish(&self, object: ObjectReference, notice: Notice) {
        if !self.events.publish(object, notice) {
            self.metrics.event_dropped();
        }
    }
}
