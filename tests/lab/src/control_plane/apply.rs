//! Brings YAML documents into a cluster.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::time::timeout;

use crate::wait::poll;

const FIELD_MANAGER: &str = "lab";
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);
/// Of a resource whose CustomResourceDefinition is new or has changed, while the server prepares its storage.
const NOT_YET: u16 = 429;

/// Applies every document of a YAML text, in its order, with server-side apply; objects without a namespace go to the
/// client's default one. A CustomResourceDefinition is created or replaced instead, since Kubernetes 1.20 refuses to
/// apply validation rules, and can be used when this returns.
pub async fn apply(client: &Client, yaml: &str) -> anyhow::Result<()> {
    for object in serde_saphyr::from_multiple::<DynamicObject>(yaml)? {
        let kind = kind_of(&object)?;
        let name = object.name_any();
        let applied = if kind.group == CustomResourceDefinition::group(&()) {
            define(client, &kind, object).await
        } else {
            apply_object(client, &kind, object).await
        };
        applied.with_context(|| format!("cannot apply {} {name}", kind.kind))?;
    }
    Ok(())
}

async fn apply_object(
    client: &Client,
    kind: &GroupVersionKind,
    object: DynamicObject,
) -> anyhow::Result<()> {
    let api = api_of(client, kind, &object).await?;
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let (name, patch) = (object.name_any(), Patch::Apply(&object));
    poll(
        "the server takes it",
        ESTABLISHED_WITHIN,
        async || match api.patch(&name, &parameters, &patch).await {
            Err(kube::Error::Api(status)) if status.code == NOT_YET => Ok(Err(status.message)),
            done => Ok(Ok(done.map(drop)?)),
        },
    )
    .await
}

/// Creates or replaces a CustomResourceDefinition and waits until its objects can be asked for.
async fn define(
    client: &Client,
    kind: &GroupVersionKind,
    mut crd: DynamicObject,
) -> anyhow::Result<()> {
    let name = crd.name_any();
    let api = api_of(client, kind, &crd).await?;
    let parameters = PostParams::default();
    match api.get_opt(&name).await? {
        None => api.create(&parameters, &crd).await?,
        Some(current) => {
            crd.metadata.resource_version = current.metadata.resource_version;
            api.replace(&name, &parameters, &crd).await?
        }
    };
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let established = await_condition(crds, &name, conditions::is_crd_established());
    let established = timeout(ESTABLISHED_WITHIN, established)
        .await
        .context("is not established in time")??;
    for kind in established.iter().flat_map(served_kinds) {
        // Discovery and storage follow a moment later and cannot be watched.
        poll(
            "its objects can be listed",
            ESTABLISHED_WITHIN,
            async || Ok(can_be_listed(client, &kind).await),
        )
        .await?;
    }
    Ok(())
}

/// Whether objects of this kind can be listed; otherwise why not.
async fn can_be_listed(client: &Client, kind: &GroupVersionKind) -> Result<(), String> {
    let found = pinned_kind(client, kind).await;
    let (resource, _) = found.map_err(|error| error.to_string())?;
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let listed = all.list_metadata(&ListParams::default().limit(1)).await;
    listed.map(drop).map_err(|error| error.to_string())
}

fn served_kinds(crd: &CustomResourceDefinition) -> impl Iterator<Item = GroupVersionKind> {
    let served = crd.spec.versions.iter().filter(|version| version.served);
    served
        .map(|version| GroupVersionKind::gvk(&crd.spec.group, &version.name, &crd.spec.names.kind))
}

async fn api_of(
    client: &Client,
    kind: &GroupVersionKind,
    object: &DynamicObject,
) -> anyhow::Result<Api<DynamicObject>> {
    let (resource, capabilities) = pinned_kind(client, kind).await?;
    Ok(match (capabilities.scope, object.namespace()) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    })
}

fn kind_of(object: &DynamicObject) -> anyhow::Result<GroupVersionKind> {
    let types = object.types.as_ref().context("a document has no kind")?;
    ensure!(
        object.metadata.name.is_some(),
        "a {} has no name",
        types.kind
    );
    Ok(GroupVersionKind::try_from(types)?)
}
