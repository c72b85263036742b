//! The only writer of a resource's status: under its own field manager, and always fenced.

use crate::api::{Status, WorkspaceTokenRotation};
use crate::scrub::api_error;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

/// Field manager of the status. Not the one of anything else: an old API server would forget that it owns the status.
const MANAGER: &str = "astro-token-operator-status";

/// Longest text of the API server's that is shown, characters.
const LONGEST_MESSAGE: usize = 400;

/// Why a status was not written.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The resource is not what it was when this was decided, or it is gone.
    #[error("the resource changed or was deleted meanwhile")]
    Raced,
    /// The API server has an older CRD than this operator.
    #[error("the API server does not know a field of the status; apply the operator's CRD: {0}")]
    OldCrd(String),
    /// No success.
    #[error("the status cannot be written: {}", api_error(.0, LONGEST_MESSAGE))]
    Api(kube::Error),
}

/// Writes `status` if the resource is still the one it was decided on; returns the resource with it.
///
/// # Errors
/// See [`Error`]; on any of them nothing was written that a later pass would not find out.
pub async fn write(
    client: &Client,
    resource: &WorkspaceTokenRotation,
    status: &Status,
) -> Result<WorkspaceTokenRotation, Error> {
    let name = resource.name_any();
    let api: Api<WorkspaceTokenRotation> =
        Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": WorkspaceTokenRotation::api_version(&()),
        "kind": WorkspaceTokenRotation::kind(&()),
        "metadata": { "name": name, "resourceVersion": resource.resource_version() },
        "status": status,
    });
    // Force: the status is ours alone; the fence guards against our own other selves.
    let params = PatchParams::apply(MANAGER).force();
    api.patch_status(&name, &params, &Patch::Apply(&body))
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Error::Raced,
            kube::Error::Api(status) if status.message.contains("field not declared") => {
                Error::OldCrd(status.message)
            }
            error => Error::Api(error),
        })
}
