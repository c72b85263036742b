//! What is shipped as YAML: in step with the code, accepted by a real API server, and allowed no more than is used.

mod crd;
mod deployment;
mod examples;
mod permissions;

use crate::stage;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use lab::control_plane::ControlPlane;
use lab::manifests::shipped;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::time::timeout;

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
    let image = json!({"name": NAME, "newName": NAME, "newTag": env!("CARGO_PKG_VERSION")});
    for install in ["deploy", "deploy/namespaced"] {
        let kustomization = &documents(path(install).join("kustomization.yaml"))[0];
        assert_eq!(kustomization["images"], json!([image]), "{install}");
    }
}

/// What can be applied, and what its file offers in a comment.
const KUSTOMIZATIONS: [(&str, &[&str]); 3] = [
    ("deploy", &["own-credential", "get-secrets"]),
    ("deploy/namespaced", &["own-credential", "get-secrets"]),
    ("deploy/tenant", &["get-secrets"]),
];

#[tokio::test]
async fn kustomize_renders_what_these_tests_apply() {
    let kubectl = async |arguments: &[&str]| {
        let mut command = Command::new("kubectl");
        let output = command.args(arguments).kill_on_drop(true).output();
        let output = timeout(stage::DEADLINE, output).await;
        let output = output.expect("kubectl does not end").ok()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        String::from_utf8(output.stdout).ok()
    };
    let version = kubectl(&["version", "--client", "--output=json"]).await;
    let version: Value = serde_json::from_str(&version.unwrap_or("{}".into())).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or("0");
    // An older one has a kustomize of 2019.
    if minor.trim_end_matches('+').parse::<u32>().unwrap() < 21 {
        say("skipped: there is no kubectl of version 1.21 or newer");
        return;
    }
    for (kustomization, offered) in KUSTOMIZATIONS {
        for component in [None].into_iter().chain(offered.iter().map(Some)) {
            let components: Vec<_> = component.into_iter().copied().collect();
            let copy = copy_with(&components);
            let folder = copy.join(kustomization);
            let rendered = kubectl(&["kustomize", folder.to_str().unwrap()]).await;
            let rendered: Vec<Value> = serde_saphyr::from_multiple(&rendered.unwrap()).unwrap();
            let ours = shipped(kustomization, &components).unwrap();
            let what = format!("{kustomization} with {components:?}");
            assert_eq!(in_order(rendered), in_order(ours), "{what}");
        }
    }
}

/// A copy of what is deployed, where these components are no longer commented out.
fn copy_with(components: &[&str]) -> PathBuf {
    let name = format!("kustomize-{}", components.concat());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    for part in ["crds", "deploy"] {
        copy(&path(part), &folder.join(part), components);
    }
    folder
}

fn copy(from: &Path, to: &Path, components: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to, components);
            continue;
        }
        let wanted = |line: &str| {
            let component = line.rsplit('/').next().unwrap();
            line.starts_with("#   - ") && components.contains(&component)
        };
        let text = read(entry.path());
        let some = text.lines().any(wanted);
        let lines = text.lines().map(|line| match line {
            "# components:" if some => &line[2..],
            line if wanted(line) => &line[2..],
            line => line,
        });
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(to, text).unwrap();
    }
}

/// Whatever the order of objects, and of what has a name in them.
fn in_order(objects: Vec<Value>) -> BTreeSet<String> {
    fn sort(value: &mut Value) {
        match value {
            Value::Array(all) => {
                all.iter_mut().for_each(sort);
                if all.iter().all(|it| it["name"].is_string()) {
                    all.sort_by_key(|it| it["name"].to_string());
                }
            }
            Value::Object(all) => all.values_mut().for_each(sort),
            _ => {}
        }
    }
    let mut objects = objects;
    objects.iter_mut().for_each(sort);
    objects.iter().map(Value::to_string).collect()
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

fn deployment() -> Deployment {
    deployment_of("deploy", &[])
}

fn deployment_of(kustomization: &str, components: &[&str]) -> Deployment {
    let mut objects = shipped(kustomization, components).unwrap().into_iter();
    let found = objects.find(|object| object["kind"] == "Deployment");
    serde_json::from_value(found.unwrap()).unwrap()
}

/// A cluster with everything of `deploy/`, and a client in a new namespace of this name.
async fn cluster(namespace: &str) -> (&'static ControlPlane, Client) {
    let plane = stage::plane().await;
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
