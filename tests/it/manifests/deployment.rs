//! The Deployment starts the operator as the operator wants to be started, with or without a credential of its own.

use super::{IMAGE, NAME, RULES_SINCE, cluster, deployment, deployment_of, documents, path, say};
use crate::stage::net::http;
use astro_token_operator::cli::{Cli, Command};
use astro_token_operator::cluster::watch::SecretAccess;
use astro_token_operator::decide::pace::Pace;
use astro_token_operator::process::metrics::Metrics;
use astro_token_operator::process::server::{Health, serve};
use clap::{CommandFactory, Parser};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Every install, with what it may have.
const INSTALLS: [(&str, &[&str]); 4] = [
    ("deploy", &[]),
    ("deploy/namespaced", &[]),
    ("deploy", &["get-secrets", "own-credential"]),
    ("deploy/namespaced", &["get-secrets", "own-credential"]),
];
const COMPONENT: &str = "deploy/components/own-credential/deployment.yaml";

#[test]
fn the_command_line_exists_and_leaves_time_to_finish() {
    let spec = pod();
    let container = &spec.containers[0];
    let arguments = container.args.iter().flatten().map(String::as_str);
    let parsed = Cli::try_parse_from([NAME].into_iter().chain(arguments));
    let Command::Run(run) = parsed.unwrap_or_else(|error| panic!("{error}")).command else {
        panic!("not run");
    };
    let needed = run.decisions.pace(&run.astro).in_flight();
    let grace = spec.termination_grace_period_seconds.unwrap();
    assert!(needed.as_secs() < grace, "{needed:?}");
    let port = container.ports.as_ref().unwrap()[0].container_port;
    assert_eq!(port, i32::from(run.listen.port()));
}

#[test]
fn every_variable_is_one_that_the_operator_reads() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let known: Vec<_> = run
        .get_arguments()
        .filter_map(|flag| flag.get_env())
        .collect();
    for (install, components) in INSTALLS {
        let spec = deployment_of(install, components).spec.unwrap().template;
        for variable in spec.spec.unwrap().containers[0].env.iter().flatten() {
            assert!(known.contains(&variable.name.as_ref()), "{}", variable.name);
        }
    }
}

#[test]
fn namespaces_and_access_are_as_the_install_says() {
    for (install, components) in INSTALLS {
        let spec = deployment_of(install, components).spec.unwrap().template;
        let container = spec.spec.unwrap().containers.remove(0);
        let variables = container.env.unwrap().into_iter();
        let flags = variables.filter_map(|variable| {
            let value = variable.value?;
            let flag = match variable.name.as_str() {
                "NAMESPACES" => "namespaces",
                "SECRET_ACCESS" => "secret-access",
                _ => return None,
            };
            Some(format!("--{flag}={value}"))
        });
        let arguments = container.args.unwrap().into_iter().chain(flags);
        let parsed = Cli::try_parse_from([NAME.to_owned()].into_iter().chain(arguments));
        let Command::Run(run) = parsed.unwrap_or_else(|error| panic!("{error}")).command else {
            panic!("not run");
        };
        let some = install == "deploy/namespaced";
        assert_eq!(!run.namespaces.is_empty(), some, "{install}");
        let get = components.contains(&"get-secrets");
        assert_eq!(
            run.decisions.secret_access == SecretAccess::Get,
            get,
            "{install}"
        );
    }
}

#[tokio::test]
async fn the_probes_are_served() {
    // Even a plain HTTP client of reqwest wants a TLS provider; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Health::new([]);
    let (stop, drain) = (CancellationToken::new(), Pace::SHIPPED.drain);
    tokio::spawn(serve(
        listener,
        Metrics::new(),
        health,
        Vec::new,
        stop,
        drain,
    ));
    let client = http();
    let spec = pod();
    let container = &spec.containers[0];
    for probe in [&container.liveness_probe, &container.readiness_probe] {
        let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        let path = get.unwrap().path.as_deref().unwrap();
        let answer = client.get(format!("http://{address}{path}")).send().await;
        assert_eq!(answer.unwrap().status(), 200, "{path}");
    }
}

#[tokio::test]
async fn the_pod_is_admitted_where_pods_are_restricted() {
    let (plane, client) = cluster("pods").await;
    if plane.version() < RULES_SINCE {
        say("skipped: pod security, which an API server before 1.25 does not check");
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

fn pod() -> PodSpec {
    deployment().spec.unwrap().template.spec.unwrap()
}
