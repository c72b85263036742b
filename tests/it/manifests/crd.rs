//! The CRD: generated, and strict.

use super::{RULES_SINCE, cluster, documents, path, read, say};
use astro_token_operator::api::WorkspaceTokenRotation;
use kube::api::{DynamicObject, PostParams};
use kube::core::cel::Validator;
use kube::{Api, CustomResourceExt};
use serde_json::Value;

/// Fields that make a good spec bad, the path that the refusal names, and the message where it is a rule's.
const REFUSED: &[(&str, &str, Option<&str>)] = &[
    (
        "token: {}",
        "spec.token",
        Some("give exactly one of name and id"),
    ),
    (
        "token: {name: a, id: b}",
        "spec.token",
        Some("give exactly one of name and id"),
    ),
    (
        "alternateToken: {}",
        "spec.alternateToken",
        Some("give exactly one of name and id"),
    ),
    (
        "alternateToken: {name: b, scope: Organization}",
        "spec",
        Some("alternateToken must have the scope of token"),
    ),
    (
        "alternateToken: {name: b, scope: Deployment, deploymentId: d}",
        "spec",
        Some("alternateToken must have the scope of token"),
    ),
    (
        "{token: {id: a}, alternateToken: {id: a}}",
        "spec",
        Some("token and alternateToken must be two tokens"),
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

#[tokio::test]
async fn the_api_server_refuses_what_it_should() {
    let (plane, client) = cluster("refused").await;
    let rules = plane.version() >= RULES_SINCE;
    if !rules {
        say("skipped: the CRD's rules, which an API server before 1.25 does not check");
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
