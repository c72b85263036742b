//! The API server will not take a value that is already issued: it is kept, told of, and stored as soon as it can be.

use crate::stage::net::http;
use crate::stage::process::{Process, free_port};
use crate::stage::{self, DEADLINE, HOME, PACE, Stage, plane, spoilable};
use astro_token_operator::api::Status;
use axum::{Json, Router, routing::post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use lab::astro::{Astro, Fault, FaultHandle, Operation, Step};
use lab::control_plane::ControlPlane;
use lab::tls::Terminator;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for a step of a process.
const SOON: Duration = Duration::from_secs(30);
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["get", "list", "watch", "create", "patch"];
const UNSAVED: &str = "astro_token_operator_unsaved_values";

/// A simulator, a namespace, and an operator with an account of its own.
struct Refusal {
    stage: Stage,
    operator: Process,
    kubeconfig: PathBuf,
    port: u16,
    /// A client with the operator's account.
    account: Client,
}

impl Refusal {
    async fn start() -> Self {
        Self::start_on(plane().await).await
    }

    async fn start_on(plane: &ControlPlane) -> Self {
        let stage = Stage::on(plane, &Astro::start().await.unwrap()).await;
        let name = account(&stage);
        permit(&stage, &WRITE).await;
        let account = plane.service_account(HOME, &name).await.unwrap();
        let kubeconfig = stage.kubeconfig(plane, &name).await;
        let port = free_port();
        let mut operator = start(&stage, &kubeconfig, port, &[]);
        operator.until("watching", SOON).await;
        Self {
            stage,
            operator,
            kubeconfig,
            port,
            account: Client::try_from(account).unwrap(),
        }
    }

    /// A resource with a live value, and its token's id.
    async fn create(&self, name: &str) -> String {
        let token = self.stage.token(name);
        self.stage.create(name, json!({})).await;
        self.stage.until_rotated(name, 1).await;
        token.id
    }

    /// Asks for a rotation and waits until the vendor has made it; its answer is held back.
    async fn rotate(&self, name: &str, token: &str) -> FaultHandle {
        let held = self.hold(token);
        self.stage.request(name, "now").await;
        reached(&held).await;
        held
    }

    fn hold(&self, token: &str) -> FaultHandle {
        let held = Fault::on(Operation::Rotate).token(token).once();
        self.stage.astro.fault(held.after(Step::Hold))
    }

    /// Waits until the operator's account cannot write a Secret into the namespace.
    async fn until_refused(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.account.clone(), &self.stage.namespace);
        let probe = json!({"metadata": {"generateName": "probe-"}});
        let probe: Secret = serde_json::from_value(probe).unwrap();
        let params = PostParams::default();
        until("writes are refused", async || {
            secrets.create(&params, &probe).await.is_err()
        })
        .await;
    }

    /// The value is kept: the gauge and the log say so.
    async fn assert_kept(&mut self) {
        self.until_unsaved(1).await;
        let words = "the new value cannot be stored; trying until it can";
        self.operator.until(words, SOON).await;
    }

    /// The value is kept: status (with every one of `words`), an event, the gauge and the log say so.
    async fn assert_told(&mut self, name: &str, words: &[&str]) {
        self.assert_kept().await;
        let message = self.stage.until_blocked(name, "ValueNotStored").await;
        let remedy = ["kept in memory", "do not restart the operator"];
        for word in words.iter().chain(&remedy) {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
        self.stage.until_notice(name, "ValueNotStored").await;
    }

    /// The value has landed, and it took so many rotations in all.
    async fn assert_landed(&mut self, name: &str, token: &str, rotations: usize) {
        self.stage.until_rotated(name, rotations).await;
        assert!(self.stage.holds_live(name).await, "a dead value");
        self.until_unsaved(0).await;
        assert_eq!(self.stage.astro.rotations(token), rotations);
        self.operator.log();
        self.stage.assert_no_leak().await;
    }

    async fn until_unsaved(&self, values: usize) {
        let line = format!("{UNSAVED} {values}");
        until(&line, async || {
            metrics(self.port).await.lines().any(|it| it == line)
        })
        .await;
    }
}

/// An operator that works in the namespace, and in these besides.
fn start(stage: &Stage, kubeconfig: &Path, port: u16, others: &[&Stage]) -> Process {
    let url = format!("--api-url={}", stage.astro.url());
    let listen = format!("--listen=127.0.0.1:{port}");
    let stages = [stage].into_iter().chain(others.iter().copied());
    let namespaces: Vec<_> = stages.map(|stage| stage.namespace.as_str()).collect();
    let namespaces = format!("--namespaces={}", namespaces.join(","));
    let flags = [
        "run",
        &url,
        &listen,
        &namespaces,
        PACE,
        "--leader-election=false",
        // A successor knows that its predecessor is dead.
        "--pod-name=pod",
        "--vendor-timeout=60s",
        "--write-budget=2s",
        "--landing-time=1s",
        "--audit-interval=1h",
    ];
    Process::start(&flags, &[("KUBECONFIG", kubeconfig.to_str().unwrap())])
}

/// The operator's service account: with the shipped permissions, but verbs on Secrets that the test changes.
fn account(stage: &Stage) -> String {
    format!("refusable-{}", stage.namespace)
}

/// Lets the operator's account do this with Secrets.
async fn permit(stage: &Stage, verbs: &[&str]) {
    let permissions = stage::permissions(&account(stage), json!(verbs));
    let applied = lab::control_plane::apply(&stage.client, &permissions);
    applied.await.unwrap();
}

async fn reached(held: &FaultHandle) {
    let reached = timeout(SOON, held.reached()).await;
    reached.expect("no rotation");
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What the operator serves to Prometheus.
async fn metrics(port: u16) -> String {
    let client = http();
    let url = format!("http://127.0.0.1:{port}/metrics");
    match client.get(url).send().await {
        Ok(answer) => answer.text().await.unwrap(),
        Err(error) => panic!("no metrics: {error}"),
    }
}

// ── what people do meanwhile ──

#[tokio::test]
async fn a_secret_of_another_party_that_appears_during_the_call_is_not_overwritten() {
    let mut refusal = Refusal::start().await;
    let stage = &refusal.stage;
    let token = stage.token("ci");
    let held = refusal.hold(&token.id);
    stage.create("ci", json!({})).await;
    reached(&held).await;
    stage
        .put_secret("ci-secret", json!({"token": "theirs"}))
        .await;
    held.release();
    refusal.assert_told("ci", &["ci-secret"]).await;
    let stage = &refusal.stage;
    let theirs = stage.value("ci-secret", "token").await;
    assert_eq!(theirs.as_deref(), Some("theirs"));
    let secrets = stage.secrets();
    secrets
        .delete("ci-secret", &DeleteParams::default())
        .await
        .unwrap();
    refusal.assert_landed("ci", &token.id, 1).await;
}

#[tokio::test]
async fn a_resource_created_again_during_its_first_rotation_ends_with_the_live_value() {
    let refusal = Refusal::start().await;
    let stage = &refusal.stage;
    let token = stage.token("ci");
    let held = refusal.hold(&token.id);
    stage.create("ci", json!({})).await;
    reached(&held).await;
    stage.delete("ci").await;
    stage.create("ci", json!({})).await;
    held.release();
    let ready = |_: &_, status: &Status| stage::is_ready(status);
    stage.until("ci", "ready", ready).await;
    assert!(stage.holds_live("ci").await, "a dead value");
    let rotations = stage.astro.rotations(&token.id);
    assert!(rotations <= 2, "{rotations} rotations");
    refusal.until_unsaved(0).await;
    assert!(refusal.stage.holds_live("ci").await, "a dead value");
    refusal.operator.log();
}

// ── refusals of the API server ──

#[tokio::test]
async fn without_permission_the_value_waits_until_it_is_given_back() {
    let mut refusal = Refusal::start().await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    permit(&refusal.stage, &READ).await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_told("ci", &["cannot patch resource"]).await;
    permit(&refusal.stage, &WRITE).await;
    refusal.assert_landed("ci", &token, 2).await;
}

#[tokio::test]
async fn with_a_full_quota_the_first_value_waits_until_there_is_room() {
    let mut refusal = Refusal::start().await;
    if !refusal.stage.has_controllers {
        eprintln!("skipped: no kube-controller-manager, so nothing counts quotas");
        return;
    }
    let token = refusal.stage.token("ci");
    let held = refusal.hold(&token.id);
    refusal.stage.create("ci", json!({})).await;
    reached(&held).await;
    refusal.stage.limit_secrets(1).await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_told("ci", &["exceeded quota"]).await;
    refusal.stage.limit_secrets(50).await;
    refusal.assert_landed("ci", &token.id, 1).await;
}

#[tokio::test]
async fn what_an_admission_webhook_refuses_waits_and_is_not_quoted() {
    let mut refusal = Refusal::start().await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    let (port, authority) = policy().await;
    install(&refusal.stage, port, &authority).await;
    refusal.until_refused().await;
    held.release();
    let words = ["denied the request", "a policy says no to"];
    refusal.assert_told("ci", &words).await;
    uninstall(&refusal.stage).await;
    refusal.assert_landed("ci", &token, 2).await;
}

#[tokio::test]
async fn while_an_admission_webhook_cannot_be_reached_the_value_waits() {
    let mut refusal = Refusal::start().await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    let (_, authority) = policy().await;
    install(&refusal.stage, free_port(), &authority).await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_told("ci", &["failed calling webhook"]).await;
    uninstall(&refusal.stage).await;
    refusal.assert_landed("ci", &token, 2).await;
}

#[tokio::test]
async fn with_its_namespace_a_value_goes_and_the_log_says_so() {
    let mut refusal = Refusal::start().await;
    if !refusal.stage.has_controllers {
        eprintln!("skipped: no kube-controller-manager, so no namespace ends");
        return;
    }
    let (client, namespace) = (
        refusal.stage.client.clone(),
        refusal.stage.namespace.clone(),
    );
    let rest = Stage::new(&refusal.stage.astro).await;
    // One that works in both instead.
    refusal.operator.signal("TERM").await;
    refusal.port = free_port();
    let next = start(&refusal.stage, &refusal.kubeconfig, refusal.port, &[&rest]);
    let former = std::mem::replace(&mut refusal.operator, next);
    former.end(SOON).await;
    refusal.operator.until("watching", SOON).await;
    // Keeps the namespace in its end until it is removed.
    let anchors: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let anchor = json!({"metadata": {"name": "anchor", "finalizers": ["example.com/anchor"]}});
    let anchor = serde_json::from_value(anchor).unwrap();
    anchors
        .create(&PostParams::default(), &anchor)
        .await
        .unwrap();
    let token = refusal.stage.token("ci");
    let held = refusal.hold(&token.id);
    refusal.stage.create("ci", json!({})).await;
    reached(&held).await;

    let namespaces: Api<Namespace> = Api::all(client);
    let params = DeleteParams::default();
    namespaces.delete(&namespace, &params).await.unwrap();
    refusal.until_refused().await;
    held.release();
    refusal.assert_kept().await;
    let log = refusal.operator.log().concat();
    assert!(log.contains("being terminated"), "{log}");

    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let params = PatchParams::default();
    anchors.patch("anchor", &params, &free).await.unwrap();
    let gone = await_condition(namespaces, &namespace, |it: Option<&Namespace>| {
        it.is_none()
    });
    timeout(DEADLINE, gone).await.unwrap().unwrap();
    refusal.operator.until("was dropped", SOON).await;
    refusal.operator.until("the namespace is gone", SOON).await;
    refusal.until_unsaved(0).await;
    let lost = r#"rotations_total{reason="Initial",outcome="lost"} 1"#;
    // The text is shared by all who ask within a second.
    until(lost, async || metrics(refusal.port).await.contains(lost)).await;
    assert_eq!(refusal.stage.astro.rotations(&token.id), 1);

    rest.token("alive");
    rest.create("alive", json!({})).await;
    rest.until_rotated("alive", 1).await;
    let log = refusal.operator.log();
    assert!(!log.concat().contains("panicked"), "{log:#?}");
    rest.assert_no_leak().await;
}

// ── failures of the cluster ──

#[tokio::test]
async fn while_etcd_takes_no_writes_log_and_gauge_tell_and_the_value_waits() {
    let spoilable = spoilable().await;
    let etcd = spoilable.plane.etcd_url();
    // A test that failed may have left it.
    alarm(etcd, "DEACTIVATE").await;
    let mut refusal = Refusal::start_on(&spoilable.plane).await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    alarm(etcd, "ACTIVATE").await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_kept().await;
    let log = refusal.operator.log().concat();
    assert!(log.contains("database space exceeded"), "{log}");
    alarm(etcd, "DEACTIVATE").await;
    refusal.assert_landed("ci", &token, 2).await;
}

#[tokio::test]
async fn while_the_api_server_is_down_log_and_gauge_tell_and_the_value_waits() {
    let mut spoilable = spoilable().await;
    let mut refusal = Refusal::start_on(&spoilable.plane).await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    spoilable.plane.stop_api_server();
    held.release();
    refusal.assert_kept().await;
    spoilable.plane.start_api_server().await.unwrap();
    refusal.assert_landed("ci", &token, 2).await;
}

// ── ends of the process ──

#[tokio::test]
async fn a_value_that_dies_with_the_process_is_replaced_by_one_more_rotation() {
    let mut refusal = Refusal::start().await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    permit(&refusal.stage, &READ).await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_told("ci", &["cannot patch resource"]).await;
    let next = start(&refusal.stage, &refusal.kubeconfig, free_port(), &[]);
    refusal.operator.signal("KILL").await;
    let killed = std::mem::replace(&mut refusal.operator, next);
    killed.end(SOON).await;

    // Nothing is rotated for as long as nothing can be stored.
    let message = refusal.stage.until_blocked("ci", "TargetRefused").await;
    assert!(message.contains("cannot patch resource"), "{message}");
    assert_eq!(refusal.stage.astro.rotations(&token), 2);
    permit(&refusal.stage, &WRITE).await;
    refusal.stage.until_notice("ci", "Recovered").await;
    refusal.stage.until_rotated("ci", 2).await;
    assert!(refusal.stage.holds_live("ci").await);
    assert_eq!(refusal.stage.astro.rotations(&token), 3);
    refusal.operator.log();
    refusal.stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_value_is_not_given_up_when_the_process_is_told_to_end() {
    let mut refusal = Refusal::start().await;
    let token = refusal.create("ci").await;
    let held = refusal.rotate("ci", &token).await;
    permit(&refusal.stage, &READ).await;
    refusal.until_refused().await;
    held.release();
    refusal.assert_told("ci", &["cannot patch resource"]).await;
    refusal.operator.signal("TERM").await;
    refusal.operator.until("stopping", SOON).await;
    // Longer than all that is done at the end: its server has a second.
    sleep(Duration::from_secs(2)).await;
    assert!(
        refusal.operator.is_running(),
        "{:#?}",
        refusal.operator.log()
    );
    refusal.until_unsaved(1).await;

    permit(&refusal.stage, &WRITE).await;
    let (code, log) = refusal.operator.end(SOON).await;
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(refusal.stage.holds_live("ci").await, "{log:#?}");
    assert_eq!(refusal.stage.astro.rotations(&token), 2);
    refusal.operator = start(&refusal.stage, &refusal.kubeconfig, refusal.port, &[]);
    refusal.assert_landed("ci", &token, 2).await;
}

// ── what refuses ──

/// Asks for the end of all writes to etcd, or for its end.
async fn alarm(etcd: &str, action: &str) {
    let client = http();
    let ask = async |path: &str, body: Value| {
        let url = format!("{etcd}/v3/maintenance/{path}");
        let answer = client.post(url).json(&body).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    };
    let status: Value = ask("status", json!({})).await;
    let member = &status["header"]["member_id"];
    let alarm = json!({"action": action, "alarm": "NOSPACE", "memberID": member});
    let _: Value = ask("alarm", alarm).await;
}

/// A webhook's server that refuses everything and quotes what it refuses; port and authority.
async fn policy() -> (u16, String) {
    let refuse = async |Json(review): Json<Value>| {
        let request = &review["request"];
        let message = format!("a policy says no to {}", request["object"]);
        Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": request["uid"], "allowed": false, "status": {"message": message}},
        }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().fallback(post(refuse))).into_future());
    let front = Terminator::open(server).await.unwrap();
    (front.port, front.authority)
}

type Webhook = k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;

/// Has a webhook asked for each Secret of the test's namespace.
async fn install(stage: &Stage, port: u16, authority: &str) {
    let name = stage.namespace.as_str();
    // Older API servers do not label namespaces with their names.
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"policy": name}}}));
    let params = PatchParams::default();
    namespaces.patch(name, &params, &label).await.unwrap();
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "policy.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"policy": name}},
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"],
                "operations": ["CREATE", "UPDATE"],
            }],
            "clientConfig": {
                "url": format!("https://localhost:{port}/"),
                "caBundle": STANDARD.encode(authority),
            },
        }],
    });
    let webhook = webhook.to_string();
    let applied = lab::control_plane::apply(&stage.client, &webhook);
    applied.await.unwrap();
}

async fn uninstall(stage: &Stage) {
    let webhooks: Api<Webhook> = Api::all(stage.client.clone());
    let params = DeleteParams::default();
    webhooks.delete(&stage.namespace, &params).await.unwrap();
}
