//! What the metrics tell of each resource.

use crate::api::{Status, WorkspaceTokenRotation};
use crate::cluster::store::Store;
use crate::decide::plan::brake::{holds_back, lost_in_a_row};
use crate::process::metrics::ResourceSample;
use kube::ResourceExt;

/// The per-resource series, as of this moment.
pub fn samples(resources: &Store<WorkspaceTokenRotation>) -> Vec<ResourceSample> {
    let sample = |resource: &WorkspaceTokenRotation| {
        let status = resource.status.as_ref();
        let ready = status.and_then(Status::ready);
        let seconds =
            |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.as_second();
        let present = |type_| Some(status?.present(type_)?.reason.clone());
        ResourceSample {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            reason: ready.map_or_else(|| "Unknown".into(), |condition| condition.reason.clone()),
            stalled: present("Stalled"),
            reconciling: present("Reconciling"),
            next: status.and_then(|s| s.next_rotation.as_ref().map(seconds)),
            last: status.and_then(|s| s.last_rotation.as_ref().map(|last| seconds(&last.at))),
            expires: status
                .and_then(|s| s.token.as_ref()?.expires_at.as_ref())
                .map(seconds),
            credential_expires: status.and_then(|s| s.credential_expires_at.as_ref().map(seconds)),
            lost: status.map_or(0, lost_in_a_row),
            held_back: status.is_some_and(holds_back),
        }
    };
    let mut samples = Vec::with_capacity(resources.len());
    resources.each(|resource| samples.push(sample(&resource)));
    samples
}
