//! What integration tests share: a control plane, a simulator, an operator with the shipped permissions, and questions to ask.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test may panic, and no test uses everything"
)]

use astro_token_operator::api::{Status, WorkspaceTokenRotation};
use astro_token_operator::cli::{Cli, Command};
use astro_token_operator::operator::run as operator;
use astro_token_operator::process::telemetry;
use clap::Parser;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, CustomResourceExt};
use lab::astro::{Astro, Issued, NewToken};
use lab::control_plane::ControlPlane;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

/// Longest wait for anything that should happen by itself.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Where the operator lives, by `deploy/`.
pub const HOME: &str = "astro-token-operator";

/// A namespace of its own on the shared control plane, with a credential in it.
pub struct Stage {
    pub client: Client,
    pub astro: Astro,
    pub namespace: String,
    pub workspace: String,
    /// Workspace Owner, in the Secret `owner`.
    pub owner: Issued,
}

/// How the operator is installed: what it may see of the cluster.
#[derive(Clone, Copy)]
pub struct Mode {
    /// In some namespaces, by Roles.
    pub namespaced: bool,
    /// Without list and watch of Secrets.
    pub get_secrets: bool,
}

impl Mode {
    pub const CLUSTER: Self = Self {
        namespaced: false,
        get_secrets: false,
    };
    pub const CLUSTER_GET: Self = Self {
        get_secrets: true,
        ..Self::CLUSTER
    };
    pub const NAMESPACES: Self = Self {
        namespaced: true,
        ..Self::CLUSTER
    };
    pub const NAMESPACES_GET: Self = Self {
        get_secrets: true,
        ..Self::NAMESPACES
    };

    /// Everything that is installed once, but the workload.
    pub fn permissions(self) -> Vec<Value> {
        let install = match self.namespaced {
            true => "deploy/namespaced",
            false => "deploy",
        };
        lab::manifests::permissions(install, self.components()).unwrap()
    }

    /// What is applied to a namespace that is to be served.
    pub fn tenant_permissions(self) -> Vec<Value> {
        match self.namespaced {
            true => lab::manifests::permissions("deploy/tenant", self.components()).unwrap(),
            false => Vec::new(),
        }
    }

    pub fn name(self) -> String {
        let place = match self.namespaced {
            true => "some namespaces",
            false => "the whole cluster",
        };
        format!("in {place}, {:?}", self.components())
    }

    fn components(self) -> &'static [&'static str] {
        match self.get_secrets {
            true => &["get-secrets"],
            false => &[],
        }
    }

    /// Flags for an operator that works in these namespaces, which only counts where it has to be told.
    pub fn flags(self, namespaces: &[String]) -> Vec<String> {
        let namespaces = format!("--namespaces={}", namespaces.join(","));
        let namespaces = self.namespaced.then_some(namespaces);
        let access = self.get_secrets.then(|| "--secret-access=get".to_owned());
        namespaces.into_iter().chain(access).collect()
    }
}

/// One operator for all tests of a file, and a namespace for each.
pub struct Shared(OnceCell<Running>);

struct Running {
    astro: Astro,
    _operator: Operator,
    /// Those the operator was told of, and no test has taken yet.
    namespaces: Mutex<Vec<String>>,
}

/// As many namespaces as a file has tests, and some more.
const NAMESPACES: usize = 24;

impl Shared {
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }

    /// A namespace of its own for a test, and the operator, which the first one starts with `flags`.
    pub async fn stage(&self, mode: Mode, flags: &[&str]) -> Stage {
        let start = async || {
            let astro = Astro::start().await.unwrap();
            let plane = plane_for(mode).await;
            let mut namespaces = Vec::new();
            if mode.namespaced {
                namespaces.extend((0..NAMESPACES).map(|_| fresh_name()));
            }
            for name in &namespaces {
                create_namespace(plane, name).await;
                permit(plane, mode, name).await;
            }
            let account = plane.service_account(HOME, HOME).await.unwrap();
            let scope = mode.flags(&namespaces);
            let flags: Vec<_> = flags
                .iter()
                .copied()
                .chain(scope.iter().map(String::as_str))
                .collect();
            Running {
                _operator: Operator::start(account, &astro, &flags),
                astro,
                namespaces: Mutex::new(namespaces),
            }
        };
        let running = self.0.get_or_init(start).await;
        if !mode.namespaced {
            return Stage::new(&running.astro).await;
        }
        let namespace = running.namespaces.lock().unwrap().pop();
        let namespace = namespace.expect("more namespaces than NAMESPACES are needed");
        Stage::in_namespace(plane_for(mode).await, &running.astro, namespace).await
    }
}

/// The control plane with the CRD and the permissions for a whole cluster.
pub async fn plane() -> &'static ControlPlane {
    plane_for(Mode::CLUSTER).await
}

/// The control plane with the CRD and the permissions that the first caller asks for.
pub async fn plane_for(mode: Mode) -> &'static ControlPlane {
    static READY: OnceCell<()> = OnceCell::const_new();
    watch_logs();
    let plane = ControlPlane::shared().await.unwrap();
    READY.get_or_init(async || furnish(plane, mode).await).await;
    plane
}

/// Brings the CRD and the permissions into a cluster.
pub async fn furnish(plane: &ControlPlane, mode: Mode) {
    for object in mode.permissions() {
        apply(&plane.client(), &object).await;
    }
}

/// Installs the operator, but for the workload, on a control plane of a test's own, with one namespace to work in;
/// returns what that took.
pub async fn install(plane: &ControlPlane, mode: Mode, namespace: &str) -> Vec<Value> {
    watch_logs();
    furnish(plane, mode).await;
    create_namespace(plane, namespace).await;
    permit(plane, mode, namespace).await;
    [mode.permissions(), mode.tenant_permissions()].concat()
}

/// Lets the operator work in a namespace, as `kubectl apply -k deploy/tenant` does.
pub async fn permit(plane: &ControlPlane, mode: Mode, namespace: &str) {
    let mut config = plane.config();
    config.default_namespace = namespace.into();
    let client = Client::try_from(config).unwrap();
    for object in mode.tenant_permissions() {
        apply(&client, &object).await;
    }
}

async fn apply(client: &Client, object: &Value) {
    let applied = lab::control_plane::apply(client, &object.to_string()).await;
    applied.unwrap();
}

pub fn fresh_name() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("t-{}", &id[..12])
}

pub async fn create_namespace(plane: &ControlPlane, name: &str) {
    let namespaces: Api<Namespace> = Api::all(plane.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let params = PostParams::default();
    namespaces.create(&params, &namespace).await.unwrap();
}

impl Stage {
    /// A fresh namespace, for an operator that works in all.
    pub async fn new(astro: &Astro) -> Self {
        Self::on(plane().await, astro).await
    }

    /// A fresh namespace on this control plane.
    pub async fn on(plane: &ControlPlane, astro: &Astro) -> Self {
        let namespace = fresh_name();
        create_namespace(plane, &namespace).await;
        Self::in_namespace(plane, astro, namespace).await
    }

    /// A namespace that exists, and holds nothing yet.
    pub async fn in_namespace(plane: &ControlPlane, astro: &Astro, namespace: String) -> Self {
        let workspace = astro.workspace().to_owned();
        let owner = astro.create(NewToken::owner(format!("owner {namespace}"), &workspace));
        let stage = Self {
            client: plane.client(),
            astro: astro.clone(),
            namespace,
            workspace,
            owner,
        };
        let value = stage.owner.value.clone();
        stage.put_secret("owner", json!({"token": value})).await;
        stage
    }

    /// A Workspace token with a name of its own.
    pub fn token(&self, name: &str) -> Issued {
        let name = self.token_name(name);
        self.astro
            .create(NewToken::workspace(name, &self.workspace))
    }

    /// Names are shared with other tests, so each namespace has its own.
    pub fn token_name(&self, name: &str) -> String {
        format!("{name} {}", self.namespace)
    }

    pub fn resources(&self) -> Api<WorkspaceTokenRotation> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A spec for the token `name`, due in a day; `edit` is merged into it.
    pub fn spec(&self, name: &str, edit: Value) -> Value {
        let mut spec = json!({
            "workspaceId": self.workspace,
            "token": {"name": self.token_name(name)},
            "schedule": {"every": "1d"},
            "credentials": {"secretRef": {"name": "owner"}},
            "target": {"name": format!("{name}-secret")},
        });
        merge(&mut spec, edit);
        spec
    }

    /// Creates a resource `name` with [`Stage::spec`].
    pub async fn create(&self, name: &str, edit: Value) -> WorkspaceTokenRotation {
        let spec = self.spec(name, edit);
        let resource = json!({"metadata": {"name": name}, "spec": spec});
        self.create_raw(resource).await.unwrap()
    }

    pub async fn create_raw(&self, mut resource: Value) -> kube::Result<WorkspaceTokenRotation> {
        let kind = WorkspaceTokenRotation::api_resource();
        merge(
            &mut resource,
            json!({"apiVersion": kind.api_version, "kind": kind.kind}),
        );
        let resource = serde_json::from_value(resource).map_err(kube::Error::SerdeError)?;
        self.resources()
            .create(&PostParams::default(), &resource)
            .await
    }

    /// Merges `edit` into the resource.
    pub async fn edit(&self, name: &str, edit: Value) -> WorkspaceTokenRotation {
        let patch = Patch::Merge(edit);
        let params = PatchParams::default();
        self.resources().patch(name, &params, &patch).await.unwrap()
    }

    /// Asks for a rotation.
    pub async fn request(&self, name: &str, text: &str) {
        let key = "astro-token-operator.io/rotate";
        self.edit(name, json!({"metadata": {"annotations": {key: text}}}))
            .await;
    }

    pub async fn delete(&self, name: &str) {
        self.resources()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        let absent = |resource: Option<&WorkspaceTokenRotation>| resource.is_none();
        let gone = await_condition(self.resources(), name, absent);
        tokio::time::timeout(DEADLINE, gone).await.unwrap().unwrap();
    }

    pub async fn put_secret(&self, name: &str, data: Value) -> Secret {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let params = PatchParams::apply("a-person").force();
        let patch = Patch::Apply(secret);
        self.secrets().patch(name, &params, &patch).await.unwrap()
    }

    pub async fn secret(&self, name: &str) -> Option<Secret> {
        self.secrets().get_opt(name).await.unwrap()
    }

    /// The value under `key` of a Secret.
    pub async fn value(&self, name: &str, key: &str) -> Option<String> {
        let data = self.secret(name).await?.data?;
        String::from_utf8(data.get(key)?.0.clone()).ok()
    }

    /// Whether the resource's Secret holds the live value right now.
    pub async fn holds_live(&self, name: &str) -> bool {
        match self.value(&format!("{name}-secret"), "token").await {
            Some(value) => self.astro.is_live(&value),
            None => false,
        }
    }

    /// Waits until the resource's status is as `wanted` says.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&WorkspaceTokenRotation, &Status) -> bool,
    ) -> WorkspaceTokenRotation {
        let condition = |resource: Option<&WorkspaceTokenRotation>| {
            resource.is_some_and(|r| r.status.as_ref().is_some_and(|s| wanted(r, s)))
        };
        let met = await_condition(self.resources(), name, condition);
        match tokio::time::timeout(DEADLINE, met).await {
            Ok(met) => met.unwrap().unwrap(),
            Err(_) => {
                let status = self.resources().get_opt(name).await.unwrap();
                let status = status.and_then(|resource| resource.status);
                let status = serde_json::to_string_pretty(&status).unwrap();
                panic!("{name}: not {what} in {DEADLINE:?}; status: {status}");
            }
        }
    }

    /// Waits until the resource is ready with nothing in flight and this many rotations stored.
    pub async fn until_rotated(&self, name: &str, times: usize) -> WorkspaceTokenRotation {
        let stored = |status: &Status| {
            use astro_token_operator::api::RotationOutcome::Stored;
            status
                .history
                .iter()
                .filter(|h| h.outcome == Stored)
                .count()
        };
        self.until(name, &format!("rotated {times} times"), |_, status| {
            is_ready(status) && status.pending.is_none() && stored(status) == times
        })
        .await
    }

    /// Waits until a Secret is as `wanted` says.
    pub async fn until_secret(&self, name: &str, wanted: impl Fn(&Secret) -> bool) {
        let condition = |secret: Option<&Secret>| secret.is_some_and(&wanted);
        let met = await_condition(self.secrets(), name, condition);
        let met = tokio::time::timeout(DEADLINE, met).await;
        met.unwrap_or_else(|_| panic!("Secret {name} is not as wanted"))
            .unwrap();
    }

    /// Merges `edit` into a Secret, as a person.
    pub async fn edit_secret(&self, name: &str, edit: Value) {
        let params = PatchParams {
            field_manager: Some("kubectl-edit".into()),
            ..PatchParams::default()
        };
        self.secrets()
            .patch(name, &params, &Patch::Merge(edit))
            .await
            .unwrap();
    }

    /// Waits until `Ready=False` for this reason; returns the message.
    pub async fn until_blocked(&self, name: &str, reason: &str) -> String {
        let resource = self
            .until(name, reason, |resource, status| {
                let generation = resource.metadata.generation;
                status.ready().is_some_and(|ready| {
                    ready.status == "False"
                        && ready.reason == reason
                        && ready.observed_generation == generation
                })
            })
            .await;
        resource.status.unwrap().ready().unwrap().message.clone()
    }

    /// Waits until there was an event of this reason: a state that may be over before anybody looks at it.
    pub async fn until_notice(&self, name: &str, reason: &str) {
        self.until_events(name, |reasons| reasons.iter().any(|r| r == reason))
            .await;
    }

    /// Waits until there are this many events.
    pub async fn until_event(&self, name: &str, count: usize) {
        self.until_events(name, |reasons| reasons.len() >= count)
            .await;
    }

    async fn until_events(&self, name: &str, wanted: impl Fn(&[String]) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let reasons = self.events(name).await;
            if wanted(&reasons) {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{name}: only events {reasons:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Allows this many Secrets in the namespace, and waits until that is enforced.
    pub async fn limit_secrets(&self, most: usize) {
        use k8s_openapi::api::core::v1::ResourceQuota;
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &self.namespace);
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
            "spec": {"hard": {"count/secrets": most.to_string()}},
        });
        let params = PatchParams::apply("a-person").force();
        quotas
            .patch("few", &params, &Patch::Apply(quota))
            .await
            .unwrap();
        let counted = await_condition(quotas, "few", |quota: Option<&ResourceQuota>| {
            let status = quota.and_then(|quota| quota.status.as_ref());
            let hard = status.and_then(|s| s.hard.as_ref()?.get("count/secrets"));
            hard.is_some_and(|hard| hard.0 == most.to_string())
        });
        tokio::time::timeout(DEADLINE, counted)
            .await
            .unwrap()
            .unwrap();
    }

    /// Reasons of the events about a resource.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.unwrap();
        let about = |event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|it| it.name.as_deref());
            regarding == Some(name)
        };
        let about = all.into_iter().filter(about);
        about.filter_map(|event| event.reason).collect()
    }

    /// No value that was ever issued is anywhere but in Secrets. To be asked at the end of each test.
    pub async fn assert_no_leak(&self) {
        assert!(!LEAKED.load(Ordering::Relaxed), "a value was logged");
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        let resources = self.resources().list(&ListParams::default()).await.unwrap();
        for text in [
            serde_json::to_string(&events.items).unwrap(),
            serde_json::to_string(&resources.items).unwrap(),
        ] {
            for value in self.astro.issued() {
                assert!(!text.contains(&value), "a value is in events or status");
            }
            assert!(
                !has_value(text.as_bytes()),
                "part of a value is in events or status"
            );
        }
    }
}

/// Waits for the next whole second: creation times have no fractions, and age decides who is first.
pub async fn next_second() {
    let into = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .subsec_nanos();
    tokio::time::sleep(Duration::from_secs(1) - Duration::from_nanos(into.into())).await;
}

pub fn is_ready(status: &Status) -> bool {
    status.ready().is_some_and(|ready| ready.status == "True")
}

/// An operator in this process, on a runtime of its own, so that it can be killed as a whole.
pub struct Operator {
    runtime: Option<Runtime>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    /// Starts one with the flags of `run` that tests want, and `more`.
    pub fn start(config: Config, astro: &Astro, more: &[&str]) -> Self {
        let url = format!("--api-url={}", astro.url());
        let common = [
            "astro-token-operator",
            "run",
            &url,
            "--listen=127.0.0.1:0",
            "--minimum-interval=2s",
            "--vendor-timeout=2s",
            "--vendor-connect-timeout=1s",
            "--write-budget=2s",
            "--landing-time=1s",
            "--audit-interval=2s",
            "--rotations-per-second=1000",
            "--reads-per-second=1000",
        ];
        let given = |flag: &&&str| {
            let name = flag.split('=').next().unwrap();
            more.iter().any(|it| it.starts_with(name))
        };
        let flags = common.iter().filter(|flag| !given(flag));
        let flags = flags.chain(more);
        let cli = Cli::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}"));
        let Command::Run(args) = cli.command else {
            panic!("not run");
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let ended = runtime.spawn(operator::run_with(*args, config, stop.clone()));
        Self {
            runtime: Some(runtime),
            stop,
            ended,
        }
    }

    /// As SIGKILL does: nothing of it runs any more when this returns, and nothing was cleaned up.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        let limit = Duration::from_secs(5);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(limit))
            .await
            .unwrap();
    }

    /// As SIGTERM does.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = (&mut self.ended).await.unwrap();
        self.kill().await;
        ended
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The operator's ServiceAccount, with exactly the permissions in `deploy/`.
pub async fn service_account() -> Config {
    let account = plane().await.service_account(HOME, "astro-token-operator");
    account.await.unwrap()
}

/// A service account with the operator's ClusterRole, but these verbs on Secrets; as YAML.
pub fn permissions(name: &str, verbs: Value) -> String {
    let shipped = lab::manifests::permissions("deploy", &[]).unwrap();
    let mut role = shipped
        .into_iter()
        .find(|it| it["kind"] == "ClusterRole")
        .unwrap();
    role["metadata"]["name"] = name.into();
    let rules = role["rules"].as_array_mut().unwrap().iter_mut();
    let mut secrets = rules.filter(|rule| rule["resources"] == json!(["secrets"]));
    secrets.next().unwrap()["verbs"] = verbs;
    assert!(secrets.next().is_none());
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": HOME},
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": HOME}],
    });
    [account, role, binding]
        .map(|it| it.to_string())
        .join("\n---\n")
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

// ── the leak test: every line that is logged, at trace, passes here ──

static LEAKED: AtomicBool = AtomicBool::new(false);

/// How every simulated value begins: as text, as bytes in a Debug, and in base64.
fn has_value(text: &[u8]) -> bool {
    let forms: [&[u8]; 3] = [b"eyJhbGci", b"101, 121, 74, 104", b"ZXlKaGJHY2"];
    forms
        .iter()
        .any(|form| text.windows(form.len()).any(|window| window == *form))
}

struct Watcher;

impl Write for Watcher {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if has_value(line) {
            LEAKED.store(true, Ordering::Relaxed);
        }
        if std::env::var_os("SHOW_LOGS").is_some() {
            std::io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Watcher {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        Self
    }
}

fn watch_logs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let level = std::env::var("SHOW_LOGS").unwrap_or_else(|_| "trace".into());
        telemetry::init_to(&level, Watcher).unwrap();
    });
}
