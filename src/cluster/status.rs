//! The only writer of a resource's status: under its own field manager, and always fenced.

use super::decode::Item;
use super::error::{Error, LONGEST_MESSAGE};
use crate::api::{Status, WorkspaceTokenRotation};
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Map, Value, json};

/// Field manager of the status. Not the one of anything else: an old API server would forget that it owns the status.
const MANAGER: &str = "astro-token-operator-status";

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
    let api: Api<Item<WorkspaceTokenRotation>> =
        Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": WorkspaceTokenRotation::api_version(&()),
        "kind": WorkspaceTokenRotation::kind(&()),
        "metadata": { "name": name, "resourceVersion": resource.resource_version() },
        "status": status,
    });
    // Force: the status is ours alone; the fence guards against our own other selves.
    let params = PatchParams::apply(MANAGER).force();
    let body = Patch::Apply(&body);
    let written = match status.conditions.is_empty() {
        // An old API server makes null of a list that an apply takes the last item from, and then refuses that.
        true => resource.clone(),
        false => {
            let written = api.patch_status(&name, &params, &body);
            written.await.and_then(Item::read).map_err(verdict)?
        }
    };
    let Some(correction) = correction(status, written.status.as_ref()) else {
        return Ok(written);
    };
    let body = Patch::Merge(json!({
        "metadata": { "resourceVersion": written.resource_version() },
        "status": correction,
    }));
    let params = PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let corrected = api.patch_status(&name, &params, &body);
    corrected.await.and_then(Item::read).map_err(verdict)
}

/// What to merge into `written` to make it `wanted`: an apply leaves alone what another party wrote, as an
/// administrator with a backup does.
fn correction(wanted: &Status, written: Option<&Status>) -> Option<Map<String, Value>> {
    let (mut wanted, written) = (fields(wanted), fields(written?));
    let differ = |(field, value): (String, Value)| {
        let wanted = wanted.remove(&field).unwrap_or_default();
        (wanted != value).then_some((field, wanted))
    };
    let differing: Map<_, _> = written.into_iter().filter_map(differ).collect();
    (!differing.is_empty()).then_some(differing)
}

fn fields(status: &Status) -> Map<String, Value> {
    match json!(status) {
        Value::Object(fields) => fields,
        _ => Map::default(),
    }
}

fn verdict(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Error::Raced,
        kube::Error::Api(status) if status.message.contains("field not declared") => {
            Error::Refused(Blocked::new(
                Reason::TargetRefused,
                format!(
                    "the API server does not know a field of the status, so nothing can be recorded and nothing is \
                     rotated; apply the operator's CustomResourceDefinition: {}",
                    scrub(&status.message, LONGEST_MESSAGE)
                ),
            ))
        }
        error => Error::Unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_apply_leaves_is_corrected_and_nothing_else_is_written() {
        let wanted = Status {
            failures: Some(2),
            handled_request: Some("x".into()),
            ..Status::default()
        };
        assert_eq!(correction(&wanted, Some(&wanted)), None);
        assert_eq!(correction(&wanted, None), None);
        let written = Status {
            failures: Some(3),
            observed_generation: Some(1),
            ..wanted.clone()
        };
        let correction = correction(&wanted, Some(&written)).map(Value::Object);
        assert_eq!(
            correction,
            Some(json!({"failures": 2, "observedGeneration": null}))
        );
    }
}
