//! Admission policies: webhooks before the API server, served by the tests.

use crate::stage::{self, Stage};
use crate::whole_cluster::audited as stage;
use axum::Router;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use lab::astro::{Fault, Operation, Step};
use lab::tls::Terminator;
use serde_json::{Value, json};
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// One webhook for the Secrets whose label `policy` is the namespace, so that no other test meets it.
fn webhook(stage: &Stage, client: Value) -> Value {
    json!({
        "metadata": {"name": format!("{}.example.com", stage.namespace)},
        "webhooks": [{
            "name": format!("{}.example.com", stage.namespace),
            "clientConfig": client,
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"],
            }],
            "objectSelector": {"matchLabels": {"policy": stage.namespace}},
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, "failurePolicy": "Fail",
        }],
    })
}

/// Serves a policy; `answer` makes its response to a request.
async fn serve(answer: impl Fn(&Value) -> Value + Clone + Send + Sync + 'static) -> Value {
    let review = move |axum::Json(review): axum::Json<Value>| async move {
        let mut response = answer(&review["request"]);
        response["uid"] = review["request"]["uid"].clone();
        axum::Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
        }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = Terminator::open(listener.local_addr().unwrap())
        .await
        .unwrap();
    let router = Router::new().fallback(post(review));
    tokio::spawn(axum::serve(listener, router).into_future());
    json!({
        "url": format!("https://localhost:{}/", front.port), "caBundle": STANDARD.encode(&front.authority),
    })
}

/// What a policy was asked for.
struct Reviews {
    name: String,
    /// Writes that are no dry runs.
    written: Arc<AtomicUsize>,
}

impl Reviews {
    /// Takes the policy away.
    async fn remove(&self, stage: &Stage) {
        let policies: Api<MutatingWebhookConfiguration> = Api::all(stage.client.clone());
        let params = DeleteParams::default();
        policies.delete(&self.name, &params).await.unwrap();
    }
}

/// A policy that makes these changes to every Secret.
async fn changing(stage: &Stage, changes: Value) -> Reviews {
    let patch = STANDARD.encode(changes.to_string());
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let client = serve(move |request| {
        if request["dryRun"] != true {
            count.fetch_add(1, Ordering::Relaxed);
        }
        json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
    });
    let policy = serde_json::from_value(webhook(stage, client.await)).unwrap();
    let policies: Api<MutatingWebhookConfiguration> = Api::all(stage.client.clone());
    let created = policies.create(&PostParams::default(), &policy).await;
    Reviews {
        name: created.unwrap().metadata.name.unwrap(),
        written,
    }
}

/// A policy by which no Secret may hold a JWT; returns its name.
async fn without_tokens(stage: &Stage) -> String {
    let client = serve(|request| {
        let data = request["object"]["data"].as_object();
        let mut values = data.into_iter().flatten().filter_map(|(_, it)| it.as_str());
        let is_token = |value: &str| {
            let value = STANDARD.decode(value).unwrap();
            value.starts_with(b"eyJ") && value.split(|byte| *byte == b'.').count() == 3
        };
        let message = "a Secret must not hold a JWT";
        json!({"allowed": !values.any(is_token), "status": {"message": message}})
    });
    refuse(stage, client.await).await
}

async fn refuse(stage: &Stage, client: Value) -> String {
    let policy: ValidatingWebhookConfiguration =
        serde_json::from_value(webhook(stage, client)).unwrap();
    let policies: Api<ValidatingWebhookConfiguration> = Api::all(stage.client.clone());
    let params = PostParams::default();
    let created = policies.create(&params, &policy).await.unwrap();
    created.metadata.name.unwrap()
}

async fn allow(stage: &Stage, policy: &str) {
    let policies: Api<ValidatingWebhookConfiguration> = Api::all(stage.client.clone());
    let params = DeleteParams::default();
    policies.delete(policy, &params).await.unwrap();
}

fn under_policy(stage: &Stage) -> Value {
    json!({"target": {"labels": {"policy": stage.namespace}}})
}

#[tokio::test]
async fn a_policy_that_changes_what_the_operator_depends_on_is_named_and_nothing_is_rotated() {
    let annotation = |name: &str| format!("/metadata/annotations/astro-token-operator.io~1{name}");
    let rows = [
        (
            "metadata.labels[app.kubernetes.io/managed-by]",
            json!([{"op": "add", "path": "/metadata/labels/app.kubernetes.io~1managed-by", "value": "the-policy"}]),
        ),
        (
            "metadata.annotations[astro-token-operator.io/rotation-id]",
            json!([{"op": "remove", "path": annotation("rotation-id")}]),
        ),
        (
            "metadata.annotations[astro-token-operator.io/token-id]",
            json!([{"op": "add", "path": annotation("token-id"), "value": "another"}]),
        ),
        (
            "data[token]",
            json!([{"op": "add", "path": "/data/token", "value": "RVlK"}]),
        ),
        (
            "data[token]",
            json!([{"op": "move", "from": "/data/token", "path": "/data/TOKEN"}]),
        ),
    ];
    for (field, changes) in rows {
        let stage = stage().await;
        changing(&stage, changes).await;
        let token = stage.token("ci");
        stage.create("ci", under_policy(&stage)).await;
        let message = stage.until_blocked("ci", "TargetRefused").await;
        assert!(message.contains(field), "{message}");
        assert_eq!(stage.astro.rotations(&token.id), 0, "{field}");
        stage.assert_no_leak().await;
    }
}

#[tokio::test]
async fn a_policy_that_is_down_is_told_and_rotates_nothing_until_it_is_back() {
    let stage = stage().await;
    let down = refuse(&stage, json!({"url": "https://127.0.0.1:1/"})).await;
    let token = stage.token("ci");
    stage.create("ci", under_policy(&stage)).await;
    let message = stage.until_blocked("ci", "KubernetesUnavailable").await;
    assert!(message.contains("webhook"), "{message}");
    assert_eq!(stage.astro.rotations(&token.id), 0);
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(status.failures >= Some(1) && status.retry_at.is_some());

    allow(&stage, &down).await;
    stage.until_rotated("ci", 1).await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_policy_against_what_looks_like_a_token_is_met_before_the_rotation() {
    let stage = stage().await;
    let policy = without_tokens(&stage).await;
    let token = stage.token("ci");
    stage.create("ci", under_policy(&stage)).await;
    let message = stage.until_blocked("ci", "TargetRefused").await;
    assert!(message.contains("must not hold a JWT"), "{message}");
    assert_eq!(stage.astro.rotations(&token.id), 0);

    allow(&stage, &policy).await;
    stage.until_rotated("ci", 1).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_secret_without_room_for_a_longer_value_is_found_full_before_the_rotation() {
    /// Of all data of a Secret, bytes.
    const LIMIT: usize = 1024 * 1024;
    const LEFT: usize = 4 * 1024;
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let value = stage.value("ci-secret", "token").await.unwrap();
    let others = "x".repeat(LIMIT - LEFT - value.len());
    let others = json!({"data": {"others": STANDARD.encode(others)}});
    stage.edit_secret("ci-secret", others).await;
    stage.request("ci", "now").await;
    let message = stage.until_blocked("ci", "TargetRefused").await;
    assert!(message.contains("1048576"), "{message}");
    assert_eq!(stage.astro.rotations(&token.id), 1);
    assert!(stage.holds_live("ci").await);

    let room = json!({"data": {"others": null}});
    stage.edit_secret("ci-secret", room).await;
    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_secret_that_is_being_deleted_is_not_written_and_then_replaced_once() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let keep = json!({"metadata": {"finalizers": ["example.com/keep"]}});
    stage.edit_secret("ci-secret", keep).await;
    let (secrets, params) = (stage.secrets(), DeleteParams::default());
    secrets.delete("ci-secret", &params).await.unwrap();
    stage.request("ci", "now").await;
    stage.until_blocked("ci", "TargetTerminating").await;
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(stage::is_ready(&status), "its value is live: {status:?}");
    assert_eq!(stage.astro.rotations(&token.id), 1);

    let release = json!({"metadata": {"finalizers": null}});
    stage.edit_secret("ci-secret", release).await;
    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn what_a_policy_would_take_off_is_not_written_and_the_value_stays_as_it_is() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", under_policy(&stage)).await;
    stage.until_rotated("ci", 1).await;
    let label = "/metadata/labels/app.kubernetes.io~1managed-by";
    let changes = json!([{"op": "remove", "path": label}]);
    let reviews = changing(&stage, changes).await;
    // Only now does the policy see a write, in which nothing of it is needed.
    let edit = json!({"spec": {"target": {"annotations": {"edited": "yes"}}}});
    stage.edit("ci", edit).await;
    let message = stage.until_blocked("ci", "TargetRefused").await;
    assert!(message.contains("managed-by"), "{message}");
    let asked = |reviews: &Reviews| reviews.written.load(Ordering::Relaxed);
    let before = stage.astro.requests().len();
    tokio::time::sleep(Duration::from_secs(6)).await;
    // A dry run tells what would be written.
    assert_eq!(asked(&reviews), 0, "written");
    assert!(stage.astro.requests().len() - before < 60);
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(stage::is_ready(&status), "its value is live: {status:?}");

    reviews.remove(&stage).await;
    let at_rest = |_: &_, status: &astro_token_operator::api::Status| {
        stage::is_ready(status) && status.present("Stalled").is_none()
    };
    stage.until("ci", "free of the policy", at_rest).await;
    stage
        .until_secret("ci-secret", |secret| {
            let labels = json!(secret.metadata.labels);
            labels["app.kubernetes.io/managed-by"] == "astro-token-operator"
        })
        .await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.assert_no_leak().await;
}

/// A request that cannot be answered is tried with pauses, though each failure wakes the resource.
#[tokio::test]
async fn a_request_under_a_policy_that_is_down_is_tried_a_few_times_and_calls_nobody() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", under_policy(&stage)).await;
    stage.until_rotated("ci", 1).await;
    let policies: Api<ValidatingWebhookConfiguration> = Api::all(stage.client.clone());
    let down = webhook(&stage, json!({"url": "https://127.0.0.1:1/"}));
    let down: ValidatingWebhookConfiguration = serde_json::from_value(down).unwrap();
    let params = PostParams::default();
    policies.create(&params, &down).await.unwrap();
    // The first dry run is the one that tells; it may take a moment until the policy is asked.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.request("ci", "now").await;
    stage.until_blocked("ci", "KubernetesUnavailable").await;
    let gets = || {
        stage.astro.count_requests(|request| {
            request.operation == Operation::Get && request.token_id.as_ref() == Some(&token.id)
        })
    };
    let before = gets();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(stage::is_ready(&status), "its value is live: {status:?}");
    // After 2, 4, 8 seconds of this pace.
    assert!(status.failures <= Some(4), "{:?}", status.failures);
    assert_eq!(gets(), before, "the vendor was asked");
    assert_eq!(stage.astro.rotations(&token.id), 1);

    let name = down.metadata.name.unwrap();
    let params = DeleteParams::default();
    policies.delete(&name, &params).await.unwrap();
    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_value_that_a_policy_changes_as_it_lands_is_kept_and_stored_once_the_policy_is_gone() {
    let label = "/metadata/labels/app.kubernetes.io~1managed-by";
    for changes in [
        json!([{"op": "add", "path": "/data/token", "value": "RVlK"}]),
        json!([{"op": "move", "from": "/data/token", "path": "/data/TOKEN"}]),
        json!([{"op": "remove", "path": label}]),
    ] {
        let stage = stage().await;
        let token = stage.token("ci");
        stage.create("ci", under_policy(&stage)).await;
        stage.until_rotated("ci", 1).await;
        let called = Fault::on(Operation::Rotate).token(&token.id).once();
        let called = stage.astro.fault(called.after(Step::Hold));
        stage.request("ci", "now").await;
        called.reached().await;
        let reviews = changing(&stage, changes.clone()).await;
        let rotations = stage.astro.rotations(&token.id);
        until_changed(&stage).await;
        called.release();
        let message = stage.until_blocked("ci", "ValueNotStored").await;
        assert!(message.contains("kept in memory"), "{changes}: {message}");
        let status = stage.resources().get("ci").await.unwrap().status.unwrap();
        assert!(!stage::is_ready(&status), "{changes}: {status:?}");

        reviews.remove(&stage).await;
        stage.until_rotated("ci", 2).await;
        assert!(stage.holds_live("ci").await, "{changes}");
        assert_eq!(stage.astro.rotations(&token.id), rotations, "{changes}");
        stage.assert_no_leak().await;
    }
}

/// Waits until the API server asks the policy: a dry run comes back other than it was sent.
async fn until_changed(stage: &Stage) {
    let label = "app.kubernetes.io/managed-by";
    let sent = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "probe", "labels": {label: "probe", "policy": stage.namespace}},
        "data": {"token": "cHJvYmU="},
    });
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::apply("a-person").force()
    };
    let deadline = Instant::now() + stage::DEADLINE;
    loop {
        let secrets = stage.secrets();
        let patch = Patch::Apply(sent.clone());
        let answer = secrets.patch("probe", &params, &patch);
        let answer = json!(answer.await.unwrap());
        if answer["data"] != sent["data"] || answer["metadata"]["labels"][label].is_null() {
            return;
        }
        assert!(Instant::now() < deadline, "the policy is not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
