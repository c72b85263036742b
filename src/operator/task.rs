//! A rotation of the operator's, in a task of its own that nothing aborts: its intent goes into the resource's status, and
//! its value into the target Secret.

use super::admission::Permit;
use super::grant::Grant;
use super::handles::Handles;
use super::observe::Observer;
use super::rotate::{Hands, Issued, rotate};
use super::works::{WorkGuard, Works};
use crate::api::{Cause, Status, WorkspaceTokenRotation};
use crate::astro::error::Error as VendorError;
use crate::cluster;
use crate::cluster::secret::{self, Draft, Landed};
use crate::decide::evidence::{Held, Observed, Token};
use crate::decide::plan::brake::is_vanished;
use crate::decide::plan::{Rotation, Setback};
use crate::decide::status;
use kube::ResourceExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// A rotation that was stored.
pub(crate) struct Done {
    /// The resource with the intent in its status, as last written.
    pub(crate) resource: WorkspaceTokenRotation,
    /// The evidence on the Secret; `None`: it is as it was, because the value is nothing that anybody needs.
    pub(crate) held: Option<Held>,
    /// The vendor's record of the token, as far as its answer carried it.
    pub(crate) token: Token,
    /// The place it was given.
    pub(super) permit: Option<Permit>,
}

/// Rotates for a resource of the cluster. It notifies `stuck` when the value is in hand and cannot be stored for now, and
/// makes no call once `stop` is cancelled.
///
/// # Errors
/// What kept it from being done, and whether the vendor may have rotated all the same.
pub(crate) async fn run(
    observer: &Observer,
    works: &Works,
    seen: &Observed,
    rotation: &Rotation,
    (grant, permit): (Grant, Permit),
    (stuck, stop): (&Notify, &CancellationToken),
) -> Result<Done, Setback> {
    let uid = seen.resource.uid().unwrap_or_default();
    let handles = &observer.handles;
    let mut task = Task {
        handles,
        observer,
        work: works
            .begin(&uid, &rotation.token.id)
            .ok_or(Setback::Raced)?,
        seen,
        rotation,
        permit: Some(permit),
        stuck,
        stop,
    };
    rotate(&mut task, &handles.astro, &grant, seen, rotation).await
}

struct Task<'a> {
    handles: &'a Handles,
    observer: &'a Observer,
    work: WorkGuard,
    seen: &'a Observed,
    rotation: &'a Rotation,
    permit: Option<Permit>,
    stuck: &'a Notify,
    stop: &'a CancellationToken,
}

impl Task<'_> {
    fn count(&self, outcome: &str) {
        let cause = self.rotation.cause.to_string();
        self.handles.metrics.rotation(&cause, outcome);
    }

    fn names(&self) -> (Option<String>, String) {
        let resource = &self.seen.resource;
        (resource.namespace(), resource.name_any())
    }
}

impl Hands for Task<'_> {
    type Done = Done;

    fn holder(&self) -> String {
        self.handles.identity.to_string()
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    async fn take_back(&mut self, recorded: &WorkspaceTokenRotation) {
        let before = self.seen.resource.status.clone().unwrap_or_default();
        let written = cluster::status::write(&self.handles.client, recorded, &before).await;
        // Where that fails, evidence tells the next process that no call was made.
        if let Ok(written) = written {
            self.observer.book(&written);
        }
    }

    async fn rehearse(&mut self, draft: &Draft<'_>) -> Result<(), Setback> {
        Ok(secret::rehearse(&self.handles.client, draft).await?)
    }

    async fn record(&mut self, intent: &Status) -> Result<WorkspaceTokenRotation, Setback> {
        let written = cluster::status::write(&self.handles.client, &self.seen.resource, intent);
        let written = written.await?;
        self.observer.book(&written);
        let (metrics, rotation) = (&self.handles.metrics, self.rotation);
        if status::lost(self.seen, rotation).is_some() {
            metrics.value_lost();
        }
        if is_vanished(self.seen, &rotation.token, rotation.cause) {
            metrics.secret_vanished();
        }
        Ok(written)
    }

    fn failed(&mut self, error: &VendorError, rotation_id: &str) {
        let ((namespace, name), definite) = (self.names(), error.is_definite());
        warn!(namespace, name, rotation_id, definite, %error, "rotation failed");
        self.count(if definite { "refused" } else { "in_doubt" });
    }

    async fn hand_over(&mut self, issued: Issued) -> Result<Done, Setback> {
        if self.rotation.cause == Cause::Revoked {
            // A second valid value would only be something to lose, so it is wiped here.
            self.work.stored();
            self.count("dropped");
            return Ok(Done {
                resource: issued.resource,
                held: None,
                token: issued.token,
                permit: self.permit.take(),
            });
        }
        let unsaved = self.handles.metrics.unsaved();
        let (namespace, name) = self.names();
        let (rotation_id, answered) = (issued.rotation_id.as_str(), issued.answer.answered);
        let pace = self.seen.pace();
        let fresh = answered.duration_since(issued.begun) < pace.fresh_write
            && answered.elapsed() < pace.fresh_write;
        let value = &issued.answer.value;
        let landed = secret::land(
            (&self.handles.client, &self.handles.secrets),
            issued.draft(),
            value,
            fresh,
            pace,
            |problem| {
                if self.work.storing(problem.to_string()) {
                    error!(namespace, name, rotation_id, error = %problem, "the new value cannot be stored; trying until it can");
                }
                // What cannot be stored for long must not keep others waiting.
                self.permit.take();
                if answered.elapsed() > pace.late_write {
                    self.stuck.notify_one();
                }
            },
        );
        let landed = landed.await;
        drop(unsaved);
        let held = match landed {
            Landed::Stored(held) => *held,
            dropped @ (Landed::Superseded | Landed::NoPlace) => {
                let why = match dropped {
                    Landed::NoPlace => "the namespace is gone",
                    _ => "the Secret holds a newer one",
                };
                warn!(
                    namespace,
                    name, rotation_id, why, "the new value was dropped"
                );
                self.count("lost");
                return Err(Setback::Raced);
            }
        };
        self.work.stored();
        // It may be another resource's credential.
        let secret = &issued.resource.spec.target.name;
        let grants = &self.handles.grants;
        grants.forget_secret(namespace.as_deref().unwrap_or_default(), secret);
        self.handles.metrics.stored(answered.elapsed());
        self.count("stored");
        let (token_id, expected) = (&issued.token.id, &self.rotation.token.id);
        if token_id != expected {
            warn!(
                namespace,
                name,
                token_id,
                expected,
                "the vendor changed the token's id; name the new one in spec.token.id"
            );
        }
        Ok(Done {
            resource: issued.resource,
            held: Some(held),
            token: issued.token,
            permit: self.permit.take(),
        })
    }
}
