//! What is shipped as YAML: in step with the code, accepted by a real API server, and allowed no more than is used.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod crd;
mod deployment;
mod examples;
mod permissions;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use lab::control_plane::{ControlPlane, apply};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::sync::OnceCell;

const NAME: &str = "astro-token-operator";
const IMAGE: &str = concat!("astro-token-operator:", env!("CARGO_PKG_VERSION"));
/// The first Kubernetes that enforces validation rules (CEL), and pod security by default.
const RULES_SINCE: (u32, u32) = (1, 25);

#[test]
fn the_version_is_the_same_everywhere() {
    let spec = deployment().spec.unwrap().template.spec.unwrap();
    assert_eq!(spec.containers[0].image.as_deref(), Some(IMAGE));
    assert!(read(path("Makefile")).contains(&format!("IMAGE ?= {IMAGE}\n")));
    assert!(read(path("README.md")).contains(&format!("/{IMAGE}\n")));
    let kustomization = &documents(path("deploy/kustomization.yaml"))[0];
    let image = json!({"name": NAME, "newName": NAME, "newTag": env!("CARGO_PKG_VERSION")});
    assert_eq!(kustomization["images"], json!([image]));
}

#[test]
fn kustomize_renders_what_these_tests_apply() {
    let kubectl = |arguments: &[&str]| {
        let output = Command::new("kubectl").args(arguments).output().ok()?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).ok()
    };
    let version = kubectl(&["version", "--client", "--output=json"]);
    let version: Value = serde_json::from_str(&version.unwrap_or("{}".into())).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or("0");
    // An older one has a kustomize of 2019.
    if minor.trim_end_matches('+').parse::<u32>().unwrap() < 21 {
        say("skipped: there is no kubectl of version 1.21 or newer");
        return;
    }
    let deploy = path("deploy");
    let rendered = kubectl(&["kustomize", deploy.to_str().unwrap()]).unwrap();
    let rendered: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    let sorted = |objects: Vec<Value>| {
        objects
            .iter()
            .map(Value::to_string)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(sorted(rendered), sorted(render(&deploy)));
}

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(file: impl AsRef<Path>) -> String {
    let file = file.as_ref();
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn documents(file: impl AsRef<Path>) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap()
}

/// Every object of a kustomization; ours change nothing in the files they list.
fn render(folder: &Path) -> Vec<Value> {
    let kustomization: Value =
        serde_saphyr::from_str(&read(folder.join("kustomization.yaml"))).unwrap();
    let resources = kustomization["resources"].as_array().unwrap();
    let resources = resources
        .iter()
        .map(|entry| folder.join(entry.as_str().unwrap()));
    resources
        .flat_map(|entry| match entry.is_dir() {
            true => render(&entry),
            false => documents(entry),
        })
        .collect()
}

fn deployment() -> Deployment {
    let mut objects = render(&path("deploy")).into_iter();
    let found = objects.find(|object| object["kind"] == "Deployment");
    serde_json::from_value(found.unwrap()).unwrap()
}

/// A cluster with everything of `deploy/`, and a client in a fresh namespace.
async fn cluster(namespace: &str) -> (&'static ControlPlane, Client) {
    static DEPLOYED: OnceCell<()> = OnceCell::const_new();
    let plane = ControlPlane::shared().await.unwrap();
    let deploy = async || {
        for object in render(&path("deploy")) {
            apply(&plane.client(), &object.to_string()).await.unwrap();
        }
    };
    DEPLOYED.get_or_init(deploy).await;
    let namespaces: Api<Namespace> = Api::all(plane.client());
    let object = Namespace {
        metadata: ObjectMeta {
            name: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    namespaces
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    let mut config = plane.config();
    config.default_namespace = namespace.into();
    (plane, Client::try_from(config).unwrap())
}

/// On the standard error of the test program itself, which is shown of a test that passes, too.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
