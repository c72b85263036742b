//! The only writer of a resource's status: under its own field manager, and always fenced.

use super::answer::Answer;
use super::decode::{Item, shallow};
use super::error::{Error, LONGEST_MESSAGE};
use crate::api::{Status, WorkspaceTokenRotation};
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use kube::api::{Api, Patch, PatchParams, Request};
use kube::{Client, Resource, ResourceExt};
use serde::Deserialize;
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
    let (written, left) = match status.conditions.is_empty() {
        // An old API server makes null of a list that an apply takes the last item from, and then refuses that.
        true => (resource.clone(), Vec::new()),
        false => patch(&api, client, &name, (&params, &Patch::Apply(&body))).await?,
    };
    let Some(correction) = correction(status, written.status.as_ref(), left) else {
        return Ok(written);
    };
    let body = json!({
        "metadata": { "resourceVersion": written.resource_version() },
        "status": correction,
    });
    let params = PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let corrected = patch(&api, client, &name, (&params, &Patch::Merge(&body))).await?;
    Ok(corrected.0)
}

/// The resource as it is then, and the fields of its status that cannot be read.
async fn patch(
    api: &Api<Item<WorkspaceTokenRotation>>,
    client: &Client,
    name: &str,
    (params, patch): (&PatchParams, &Patch<&Value>),
) -> Result<(WorkspaceTokenRotation, Vec<String>), Error> {
    let request = Request::new(api.resource_url()).patch_subresource("status", name, params, patch);
    let long = Answer::to(client, request).await.map_err(verdict)?;
    let answer = shallow(long.text().map_err(verdict)?);
    let answer = answer.map_err(kube::Error::SerdeError).map_err(verdict)?;
    let left = unreadable(&answer["status"]);
    let read = Item::deserialize(answer).map_err(kube::Error::SerdeError);
    Ok((read.and_then(Item::read).map_err(verdict)?, left))
}

/// The fields of a status that cannot be read.
fn unreadable(status: &Value) -> Vec<String> {
    if Status::deserialize(status).is_ok() {
        return Vec::new();
    }
    let fields = status.as_object().into_iter().flatten();
    let is_left = |(field, value): &(&String, &Value)| {
        Status::deserialize(json!({field.as_str(): value})).is_err()
    };
    let left = fields.filter(is_left);
    left.map(|(field, _)| field.clone()).collect()
}

/// What to merge into `written` to make it `wanted`: an apply leaves alone what another party wrote, as an
/// administrator with a backup does. What is `left` of that cannot be read.
fn correction(
    wanted: &Status,
    written: Option<&Status>,
    left: Vec<String>,
) -> Option<Map<String, Value>> {
    if left.is_empty() && written? == wanted {
        return None;
    }
    let (mut wanted, mut written) = (fields(wanted), fields(written?));
    for field in left {
        written.entry(field).or_insert(Value::Null);
    }
    let differ = |(field, value): (String, Value)| {
        let wanted = wanted.remove(&field).unwrap_or_default();
        (wanted != value || value.is_null()).then_some((field, wanted))
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
        assert_eq!(correction(&wanted, Some(&wanted), vec![]), None);
        assert_eq!(correction(&wanted, None, vec![]), None);
        let written = Status {
            failures: Some(3),
            observed_generation: Some(1),
            ..wanted.clone()
        };
        let left = vec!["retryAt".to_owned()];
        let correction = correction(&wanted, Some(&written), left).map(Value::Object);
        assert_eq!(
            correction,
            Some(json!({"failures": 2, "observedGeneration": null, "retryAt": null}))
        );
    }
}
