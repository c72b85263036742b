//! What integration tests share: a control plane, a simulator, an operator with the shipped permissions, and questions to ask.

mod install;
mod janitor;
mod log;
pub mod net;
mod operator;
mod planes;
pub mod process;

pub use self::install::{Mode, apply, install, permissions, permit, permit_to_lead};
pub use self::operator::{Operator, PACE};
pub use self::planes::{Shared, plane, spoilable};

use astro_token_operator::api::{Status, WorkspaceTokenRotation};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, CustomResourceExt};
use lab::astro::{Astro, Issued, NewToken};
use lab::control_plane::ControlPlane;
use lab::leak::has_value;
use memchr::memmem;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for anything that should happen by itself.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Where the operator lives, by `deploy/`.
pub const HOME: &str = "astro-token-operator";

/// A namespace of a test's own, with a credential in it.
pub struct Stage {
    /// The administrator's.
    pub client: Client,
    /// Whether quotas are counted and namespaces end.
    pub has_controllers: bool,
    config: Config,
    dir: PathBuf,
    pub astro: Astro,
    pub namespace: String,
    pub workspace: String,
    /// Workspace Owner, in the Secret `owner`.
    pub owner: Issued,
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
    /// A fresh namespace on the control plane that tests share, which the account of [`Mode::NAMESPACES`] may work in.
    pub async fn new(astro: &Astro) -> Self {
        let plane = plane().await;
        let stage = Self::on(plane, astro).await;
        permit(plane, Mode::NAMESPACES, &stage.namespace).await;
        stage
    }

    /// An operator that works here, with further flags.
    pub async fn operator(&self, flags: &[&str]) -> Operator {
        Operator::start_in(&[self], flags).await
    }

    /// A folder for files of the test's own.
    pub fn dir(&self) -> PathBuf {
        std::fs::create_dir_all(&self.dir).unwrap();
        self.dir.clone()
    }

    /// Writes the kubeconfig of a service account in the operator's namespace.
    pub async fn kubeconfig(&self, plane: &ControlPlane, account: &str) -> PathBuf {
        let path = self.dir().join(format!("{account}.kubeconfig"));
        let written = plane.service_account_kubeconfig(HOME, account, &path);
        written.await.unwrap();
        path
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
            has_controllers: plane.has_controllers(),
            config: plane.config(),
            dir: plane.dir().join(format!("of-{namespace}")),
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
        self.until_secret_of(name, "as wanted", wanted).await;
    }

    /// The same, with words for what is wanted.
    pub async fn until_secret_of(&self, name: &str, what: &str, wanted: impl Fn(&Secret) -> bool) {
        let condition = |secret: Option<&Secret>| secret.is_some_and(&wanted);
        let met = await_condition(self.secrets(), name, condition);
        match tokio::time::timeout(DEADLINE, met).await {
            Ok(met) => drop(met.unwrap()),
            Err(_) => {
                let secret = self.secret(name).await.map(|secret| secret.metadata);
                panic!("Secret {name}: not {what} in {DEADLINE:?}; it is {secret:#?}");
            }
        }
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

    /// Waits until it is not ready or held up for this reason; returns the message.
    pub async fn until_blocked(&self, name: &str, reason: &str) -> String {
        let resource = self
            .until(name, reason, |resource, status| {
                blocked(resource, status, reason).is_some()
            })
            .await;
        let status = resource.status.clone().unwrap();
        blocked(&resource, &status, reason).unwrap().to_owned()
    }

    /// Waits until there was an event of this reason: a state that may be over before a test looks at it.
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
        assert!(!log::has_leaked(), "a value was logged");
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        let resources = self.resources().list(&ListParams::default()).await.unwrap();
        for text in [
            serde_json::to_string(&events.items).unwrap(),
            serde_json::to_string(&resources.items).unwrap(),
        ] {
            for value in self.astro.issued() {
                let found = memmem::find(text.as_bytes(), value.as_bytes());
                assert!(found.is_none(), "a value is in events or status");
            }
            assert!(
                !has_value(text.as_bytes()),
                "part of a value is in events or status"
            );
        }
    }
}

impl Drop for Stage {
    /// Operators that tests share have no more work with it.
    fn drop(&mut self) {
        janitor::clear(self.config.clone(), self.namespace.clone());
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

/// The message of the condition that has this reason, `Stalled`, `Reconciling` or `Ready=False`, if that is how this
/// generation of the resource is.
pub fn blocked<'s>(
    resource: &WorkspaceTokenRotation,
    status: &'s Status,
    reason: &str,
) -> Option<&'s str> {
    let is_so = |condition: &&Condition| {
        condition.reason == reason && condition.observed_generation == resource.metadata.generation
    };
    Some(&status.obstacles().find(is_so)?.message)
}

pub fn is_ready(status: &Status) -> bool {
    status.ready().is_some_and(|ready| ready.status == "True")
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
