//! Brings YAML documents into a cluster.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::time::{sleep, timeout};

const FIELD_MANAGER: &str = "lab";
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

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
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object))
        .await?;
    Ok(())
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
    timeout(ESTABLISHED_WITHIN, async {
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let established = await_condition(crds, &name, conditions::is_crd_established()).await?;
        for kind in established.iter().flat_map(served_kinds) {
            // Discovery follows a moment later and cannot be watched.
            while pinned_kind(client, &kind).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        }
        anyhow::Ok(())
    })
    .await
    .context("is not established in time")?
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
