//! What is shipped as YAML: in step with the code, accepted by a real API server, and allowed no more than is used.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use astro_token_operator::api::WorkspaceTokenRotation;
use astro_token_operator::config::{Cli, Command};
use astro_token_operator::metrics::Metrics;
use astro_token_operator::schedule::Schedule;
use astro_token_operator::server::{Health, serve};
use astro_token_operator::validate::check_spec;
use clap::{CommandFactory, Parser};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::cel::Validator;
use kube::{Api, Client, CustomResourceExt};
use lab::control_plane::{ControlPlane, apply};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

const NAME: &str = "astro-token-operator";
const IMAGE: &str = concat!("astro-token-operator:", env!("CARGO_PKG_VERSION"));
const COMPONENT: &str = "deploy/components/own-credential/deployment.yaml";
/// The first Kubernetes that enforces validation rules (CEL), and pod security by default.
const RULES_SINCE: (u32, u32) = (1, 25);

/// What the operator's account may do: in any namespace, and in its own besides.
const EVERYWHERE: &[&str] = &[
    "get astro-token-operator.io/workspacetokenrotations",
    "list astro-token-operator.io/workspacetokenrotations",
    "watch astro-token-operator.io/workspacetokenrotations",
    "patch astro-token-operator.io/workspacetokenrotations/status",
    "get /secrets",
    "list /secrets",
    "watch /secrets",
    "create /secrets",
    "patch /secrets",
    "create events.k8s.io/events",
    "patch events.k8s.io/events",
    "get /namespaces kube-system",
];
const AT_HOME: &[&str] = &[
    "create coordination.k8s.io/leases",
    "get coordination.k8s.io/leases astro-token-operator",
    "update coordination.k8s.io/leases astro-token-operator",
];

/// Fields that make a good spec bad, the path that the refusal names, and the message where it is a rule's.
const REFUSED: &[(&str, &str, Option<&str>)] = &[
    (
        "token: {}",
        "spec.token",
        Some("give exactly one of token.name and token.id"),
    ),
    (
        "token: {name: a, id: b}",
        "spec.token",
        Some("give exactly one of token.name and token.id"),
    ),
    (
        "schedule: {jitter: 5m}",
        "spec.schedule",
        Some("give at least one of schedule.every, schedule.cron and schedule.beforeExpiry"),
    ),
    (
        "schedule: {every: 30d, timeZone: Europe/Berlin}",
        "spec.schedule",
        Some("schedule.timeZone only has a meaning with schedule.cron"),
    ),
    ("workspaceId: a/b", "spec.workspaceId", None),
    ("workspaceId: ''", "spec.workspaceId", None),
    ("organizationId: ../x", "spec.organizationId", None),
    ("token: {id: a b}", "spec.token.id", None),
    ("token: {name: ''}", "spec.token.name", None),
    ("schedule: {every: monthly}", "spec.schedule.every", None),
    ("schedule: {cron: ''}", "spec.schedule.cron", None),
    (
        "schedule: {beforeExpiry: -1d}",
        "spec.schedule.beforeExpiry",
        None,
    ),
    (
        "schedule: {every: 30d, jitter: 1.5h}",
        "spec.schedule.jitter",
        None,
    ),
    ("target: {name: Upper}", "spec.target.name", None),
    ("target: {name: a, key: a/b}", "spec.target.key", None),
    (
        "target: {name: a, deletionPolicy: Orphan}",
        "spec.target.deletionPolicy",
        None,
    ),
    (
        "credentials: {secretRef: {name: a_b}}",
        "spec.credentials.secretRef.name",
        None,
    ),
    ("credentials: {}", "spec.credentials.secretRef", None),
    ("externalRotation: Ignore", "spec.externalRotation", None),
];

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

fn examples() -> Vec<PathBuf> {
    let files = std::fs::read_dir(path("examples")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// A good spec with some fields replaced.
fn resource(name: &str, edit: &str) -> Value {
    let mut resource = documents(path("examples/minimal.yaml")).remove(0);
    resource["metadata"]["name"] = name.into();
    let edit: Value = serde_saphyr::from_str(edit).unwrap();
    for (field, value) in edit.as_object().unwrap() {
        resource["spec"][field] = value.clone();
    }
    resource
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

#[test]
fn the_crd_is_generated_from_the_code() {
    let file = path("crds/workspacetokenrotations.yaml");
    let generated = serde_saphyr::to_string(&WorkspaceTokenRotation::crd()).unwrap();
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(file, generated).unwrap();
    } else {
        assert!(read(file) == generated, "run `make crd`");
    }
}

#[test]
fn the_version_is_the_same_everywhere() {
    let container = deployment()
        .spec
        .unwrap()
        .template
        .spec
        .unwrap()
        .containers
        .remove(0);
    assert_eq!(container.image.as_deref(), Some(IMAGE));
    assert!(read(path("Makefile")).contains(&format!("IMAGE ?= {IMAGE}\n")));
    assert!(read(path("README.md")).contains(&format!("/{IMAGE}\n")));
    let kustomization = &documents(path("deploy/kustomization.yaml"))[0];
    let image = json!({"name": NAME, "newName": NAME, "newTag": env!("CARGO_PKG_VERSION")});
    assert_eq!(kustomization["images"], json!([image]));
}

#[test]
fn the_command_line_of_the_deployment_exists_and_leaves_time_to_finish() {
    let spec = deployment().spec.unwrap().template.spec.unwrap();
    let container = &spec.containers[0];
    let arguments = container.args.iter().flatten().map(String::as_str);
    let Command::Run(run) = Cli::parse_from([NAME].into_iter().chain(arguments)).command else {
        panic!("not run");
    };
    let needed = run.vendor_timeout + run.write_budget;
    let grace = spec.termination_grace_period_seconds.unwrap();
    assert!(needed.as_secs() < grace.cast_unsigned(), "{needed:?}");
    assert_eq!(
        container.ports.as_ref().unwrap()[0].container_port,
        i32::from(run.listen.port())
    );

    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let known = |name: &Value| {
        run.get_arguments()
            .any(|a| a.get_env().is_some_and(|env| name == env.to_str().unwrap()))
    };
    let component = documents(path(COMPONENT)).remove(0);
    for container in [
        serde_json::to_value(container).unwrap(),
        component["spec"]["template"]["spec"]["containers"][0].clone(),
    ] {
        for variable in container["env"].as_array().unwrap() {
            assert!(known(&variable["name"]), "{variable}");
        }
    }
}

#[tokio::test]
async fn the_probes_of_the_deployment_are_served() {
    // Even a plain HTTP client of reqwest wants a TLS provider; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Health::new([]);
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, Metrics::new(), health, Vec::new, stop));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let spec = deployment().spec.unwrap().template.spec.unwrap();
    let container = &spec.containers[0];
    for probe in [&container.liveness_probe, &container.readiness_probe] {
        let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        let path = get.unwrap().path.as_deref().unwrap();
        let answer = client.get(format!("http://{address}{path}")).send().await;
        assert_eq!(answer.unwrap().status(), 200, "{path}");
    }
}

#[test]
fn every_example_is_what_the_operator_accepts() {
    for file in examples() {
        for document in documents(&file) {
            if document["kind"] != "WorkspaceTokenRotation" {
                continue;
            }
            let resource: WorkspaceTokenRotation =
                serde_json::from_value(document.clone()).unwrap();
            // A field that does not exist would have been passed over.
            let again = serde_json::to_value(&resource.spec).unwrap();
            assert_eq!(again, document["spec"], "{}", file.display());
            assert_eq!(check_spec(&resource.spec), Ok(()));
            let minimum = SignedDuration::from_mins(5);
            assert_eq!(
                Schedule::parse(&resource.spec.schedule, minimum).err(),
                None
            );
        }
    }
}

#[test]
fn the_rules_of_the_crd_refuse_what_they_should() {
    let crd = serde_json::to_value(WorkspaceTokenRotation::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let check = |edit| Validator::new().validate(schema, &resource("rules", edit), None);
    assert!(check("{}").is_ok());
    for (edit, _, rule) in REFUSED {
        if let Some(message) = rule {
            let errors = check(edit).unwrap_err().to_string();
            assert!(errors.contains(message), "{edit}: {errors}");
        }
    }
}

#[test]
fn kustomize_renders_what_these_tests_apply() {
    let kubectl = |arguments: &[&str]| {
        let output = std::process::Command::new("kubectl")
            .args(arguments)
            .output()
            .ok()?;
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
        eprintln!("skipped: there is no kubectl of version 1.21 or newer");
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

#[tokio::test]
async fn every_example_is_what_the_api_server_accepts() {
    let (_, client) = cluster("examples").await;
    for file in examples() {
        let applied = apply(&client, &read(&file)).await;
        applied.unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
    }
}

#[tokio::test]
async fn the_operator_may_do_no_more_than_it_does() {
    let (plane, _) = cluster("elsewhere").await;
    let account = plane.service_account(NAME, NAME).await.unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(account).unwrap());
    for (namespace, rules) in [
        ("elsewhere", EVERYWHERE.to_vec()),
        (NAME, [EVERYWHERE, AT_HOME].concat()),
    ] {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec {
                namespace: Some(namespace.into()),
            },
            ..SelfSubjectRulesReview::default()
        };
        let review = reviews
            .create(&PostParams::default(), &review)
            .await
            .unwrap();
        let mut allowed = BTreeSet::new();
        for rule in review.status.unwrap().resource_rules {
            let names = rule.resource_names.unwrap_or(vec![String::new()]);
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    for (verb, name) in rule
                        .verbs
                        .iter()
                        .flat_map(|verb| names.iter().map(move |name| (verb, name)))
                    {
                        allowed.insert(
                            format!("{verb} {group}/{resource} {name}")
                                .trim_end()
                                .to_owned(),
                        );
                    }
                }
            }
        }
        // What everybody may ask about themselves.
        allowed.retain(|rule| {
            !rule.contains(" authorization.k8s.io/") && !rule.contains(" authentication.k8s.io/")
        });
        let rules: BTreeSet<_> = rules.into_iter().map(str::to_owned).collect();
        assert_eq!(allowed, rules, "in {namespace}");
    }
}

#[tokio::test]
async fn the_pod_is_admitted_where_pods_are_restricted() {
    let (plane, client) = cluster("pods").await;
    if plane.version() < RULES_SINCE {
        eprintln!(
            "pod security is not checked by an API server of version {:?}",
            plane.version()
        );
    }
    let template = deployment().spec.unwrap().template;
    let mut pod = Pod {
        metadata: template.metadata.unwrap(),
        spec: template.spec,
        ..Pod::default()
    };
    pod.metadata.name = Some(NAME.into());
    // The oldest API servers wait for a token that no controller makes here.
    pod.spec.as_mut().unwrap().automount_service_account_token = Some(false);
    let pods: Api<Pod> = Api::namespaced(client, NAME);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    pods.create(&dry_run, &pod).await.unwrap();
}

#[tokio::test]
async fn the_component_gives_the_deployment_a_credential() {
    let (_, client) = cluster("component").await;
    let deployments: Api<Deployment> = Api::namespaced(client, NAME);
    let patch = Patch::Strategic(documents(path(COMPONENT)).remove(0));
    let dry_run = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patched = deployments.patch(NAME, &dry_run, &patch).await.unwrap();
    let spec = patched.spec.unwrap().template.spec.unwrap();
    let [container] = &spec.containers[..] else {
        panic!("{} containers", spec.containers.len());
    };
    assert_eq!(container.image.as_deref(), Some(IMAGE));
    let variable = |name: &str| {
        let found = container
            .env
            .iter()
            .flatten()
            .find(|variable| variable.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    variable("POD_NAME");
    variable("DEFAULT_CREDENTIALS_NAMESPACES");
    let file = PathBuf::from(variable("ASTRO_API_TOKEN_FILE").value.as_ref().unwrap());
    let mount = &container.volume_mounts.as_ref().unwrap()[0];
    assert_eq!(file.parent(), Some(Path::new(&mount.mount_path)));
    let volume = &spec.volumes.unwrap()[0];
    assert_eq!(volume.name, mount.name);
    let item = &volume.secret.as_ref().unwrap().items.as_ref().unwrap()[0];
    assert_eq!(file.file_name(), Some(item.path.as_ref()));
}

#[tokio::test]
async fn the_api_server_refuses_what_it_should() {
    let (plane, client) = cluster("refused").await;
    let rules = plane.version() >= RULES_SINCE;
    if !rules {
        eprintln!(
            "rules are not checked by an API server of version {:?}",
            plane.version()
        );
    }
    let kind = WorkspaceTokenRotation::api_resource();
    let resources: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    for (number, (edit, field, rule)) in REFUSED.iter().enumerate() {
        if rule.is_some() && !rules {
            continue;
        }
        let object = serde_json::from_value(resource(&format!("r{number}"), edit)).unwrap();
        match resources.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) => {
                let message = &status.message;
                assert_eq!(status.code, 422, "{edit}: {message}");
                assert!(message.contains(field), "{edit}: {message}");
                assert!(
                    message.contains(rule.unwrap_or_default()),
                    "{edit}: {message}"
                );
            }
            other => panic!("{edit}: {other:?}"),
        }
    }
}
