//! The local control plane is as real as the other tests take it for.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ResourceQuota, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::pinned_kind;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt as _};
use lab::control_plane::{ControlPlane, apply};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(60);

const PROBES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: probes.lab.example.com
spec:
  group: lab.example.com
  scope: Namespaced
  names: { kind: Probe, plural: probes }
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            size:
              type: integer
              x-kubernetes-validations:
                - rule: self < 10
---
apiVersion: v1
kind: Namespace
metadata: { name: probes }
---
apiVersion: lab.example.com/v1
kind: Probe
metadata: { name: one, namespace: probes }
size: 1
"#;

#[tokio::test]
async fn a_definition_and_its_objects_can_be_applied_again_and_again() {
    let plane = ControlPlane::shared().await.unwrap();
    let client = plane.client();
    for size in [1, 2] {
        let yaml = PROBES.replace("size: 1", &format!("size: {size}"));
        apply(&client, &yaml).await.unwrap();
        assert_eq!(probe(&client).await["size"], size);
    }
    let refused = apply(&client, &PROBES.replace("size: 1", "size: 10")).await;
    assert_eq!(refused.is_err(), plane.version() >= (1, 25), "{refused:?}");
}

#[tokio::test]
async fn what_cannot_be_applied_is_named() {
    let client = ControlPlane::shared().await.unwrap().client();
    let nowhere = "{apiVersion: v1, kind: Secret, metadata: {name: lost, namespace: nowhere}}";
    let refused = apply(&client, nowhere).await.unwrap_err();
    assert_eq!(refused.to_string(), "cannot apply Secret lost");
}

#[tokio::test]
async fn a_service_account_may_do_exactly_what_its_role_says() {
    let plane = ControlPlane::shared().await.unwrap();
    let admin = plane.client();
    apply(
        &admin,
        r#"
{apiVersion: v1, kind: Namespace, metadata: {name: roles}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: roles}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: page, namespace: roles}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: page, namespace: elsewhere}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: roles}
rules:
  - {apiGroups: [""], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: roles}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
  - {kind: ServiceAccount, name: reader, namespace: roles}
"#,
    )
    .await
    .unwrap();

    let file = plane.dir().join("reader.kubeconfig");
    plane
        .service_account_kubeconfig("roles", "reader", &file)
        .await
        .unwrap();
    let from_file = Kubeconfig::read_from(&file).unwrap();
    let options = KubeConfigOptions::default();
    for config in [
        plane.service_account("roles", "reader").await.unwrap(),
        Config::from_custom_kubeconfig(from_file, &options)
            .await
            .unwrap(),
    ] {
        let reader = Client::try_from(config).unwrap();
        let pages: Api<ConfigMap> = Api::default_namespaced(reader.clone());
        allowed(pages.get("page")).await;
        forbidden(pages.list(&ListParams::default())).await;
        forbidden(pages.delete("page", &DeleteParams::default())).await;
        forbidden(pages.create(&PostParams::default(), &ConfigMap::default())).await;
        forbidden(Api::<ConfigMap>::namespaced(reader.clone(), "elsewhere").get("page")).await;
        forbidden(Api::<Secret>::default_namespaced(reader).get("page")).await;
    }
    let unknown = plane.service_account("roles", "nobody").await.unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "no token for service account roles/nobody"
    );
}

#[tokio::test]
async fn the_controllers_count_quotas_collect_garbage_and_empty_namespaces() {
    let plane = ControlPlane::shared().await.unwrap();
    if !plane.has_controllers() {
        println!("skipped: there is no kube-controller-manager");
        return;
    }
    let client = plane.client();
    apply(
        &client,
        r#"
{apiVersion: v1, kind: Namespace, metadata: {name: short-lived}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: secrets, namespace: short-lived}
spec: {hard: {secrets: "1"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: first, namespace: short-lived}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: owner, namespace: short-lived}}
"#,
    )
    .await
    .unwrap();

    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), "short-lived");
    let counted = |quota: Option<&ResourceQuota>| {
        let used = quota.and_then(|quota| quota.status.as_ref()?.used.as_ref()?.get("secrets"));
        used.is_some_and(|used| used.0 == "1")
    };
    in_time(await_condition(quotas, "secrets", counted)).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "short-lived");
    forbidden(secrets.create(&PostParams::default(), &named("second"))).await;

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "short-lived");
    let owner = maps.get("owner").await.unwrap();
    let mut owned = ConfigMap::default();
    owned.metadata.name = Some("owned".to_owned());
    owned.metadata.owner_references = Some(vec![kube::Resource::owner_ref(&owner, &()).unwrap()]);
    let owned = maps.create(&PostParams::default(), &owned).await.unwrap();
    maps.delete("owner", &DeleteParams::background())
        .await
        .unwrap();
    let collected = conditions::is_deleted(owned.metadata.uid.as_deref().unwrap());
    in_time(await_condition(maps, "owned", collected)).await;

    let namespaces: Api<Namespace> = Api::all(client);
    let uid = namespaces.get("short-lived").await.unwrap().uid().unwrap();
    namespaces
        .delete("short-lived", &DeleteParams::default())
        .await
        .unwrap();
    in_time(await_condition(
        namespaces,
        "short-lived",
        conditions::is_deleted(&uid),
    ))
    .await;
}

#[tokio::test]
async fn objects_survive_the_api_server_and_nothing_survives_the_plane() {
    let mut plane = ControlPlane::start().await.unwrap();
    let client = plane.client();
    apply(&client, PROBES).await.unwrap();
    let url = plane.url();

    plane.stop_api_server();
    let gone = client.apiserver_version().await.unwrap_err();
    assert!(!matches!(gone, kube::Error::Api(_)), "{gone:?}");

    plane.start_api_server().await.unwrap();
    assert_eq!(plane.url(), url);
    assert_eq!(probe(&client).await["size"], 1);

    let dir = plane.dir().to_owned();
    drop(plane);
    assert!(client.apiserver_version().await.is_err());
    assert!(!dir.exists());
}

async fn probe(client: &Client) -> serde_json::Value {
    let kind = GroupVersionKind::gvk("lab.example.com", "v1", "Probe");
    let (resource, _) = pinned_kind(client, &kind).await.unwrap();
    let probes: Api<DynamicObject> = Api::namespaced_with(client.clone(), "probes", &resource);
    probes.get("one").await.unwrap().data
}

fn named(name: &str) -> Secret {
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.to_owned());
    secret
}

async fn allowed<T>(request: impl Future<Output = kube::Result<T>>) {
    request.await.map(drop).unwrap();
}

async fn forbidden<T>(request: impl Future<Output = kube::Result<T>>) {
    match request.await.map(drop) {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{}", status.message),
        other => panic!("expected 403, got {other:?}"),
    }
}

async fn in_time<T, E>(future: impl Future<Output = Result<T, E>>)
where
    E: std::error::Error + Send + Sync + 'static,
{
    let outcome = timeout(DEADLINE, future).await.context("not in time");
    outcome.unwrap().unwrap();
}
