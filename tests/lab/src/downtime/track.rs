//! One resource with everything of its own: a namespace, tokens, a gate, an operator behind it, and a consumer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::consumer::{Call, Consumer, Diary};
use super::turn::{Issues, Turn, turns};
use super::{Arm, OVERLAP, REFRESH, Tokens};
use crate::astro::{Astro, NewToken};
use crate::control_plane::{ControlPlane, apply};
use crate::crash::{Gate, Ledger, Site, Trap};
use crate::leak::has_value;
use crate::manifests::permissions;
use crate::operator::Operator;
use crate::resource::{kind, status};

/// Longest wait for one rotation, recovery included.
const PATIENCE: Duration = Duration::from_secs(180);
const REQUEST: &str = "astro-token-operator.io/rotate";

/// What became of one resource.
pub(super) struct Record {
    pub name: String,
    pub rotations: usize,
    pub deaths: usize,
    pub cuts: usize,
    pub calls: Vec<Call>,
    pub turns: Vec<Turn>,
}

impl Record {
    /// Each change around which calls were refused, in words.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        let numbered = self.turns.iter().enumerate();
        numbered.filter_map(|(number, turn)| {
            let refusal = turn.refusal()?;
            Some(format!("{}, value {}: {refusal}", self.name, number + 2))
        })
    }
}

/// Everything but the operator and the consumer. The name is that of the namespace, the Workspace, the token and the
/// resource, and all other names begin with it.
pub(super) struct Track {
    name: String,
    astro: Astro,
    gate: Gate,
    ledger: Ledger,
    client: Client,
    kubeconfig: PathBuf,
    log: PathBuf,
    /// Ids of the tokens that the resource names.
    tokens: Vec<String>,
}

/// The rotations of a track while its consumer calls.
struct Rotations<'a> {
    track: &'a Track,
    diary: &'a Diary,
    /// `None` between two lives.
    operator: Option<Operator>,
    deaths: usize,
    /// Those of the deaths that were in a trap.
    cuts: usize,
    /// The requests of the last rotation that was not disturbed.
    requests: Vec<Site>,
    random: Rng,
}

impl Track {
    /// Sets everything up on a control plane where the operator is installed for some namespaces.
    pub async fn lay(
        plane: &ControlPlane,
        account: &Config,
        astro: Astro,
        arm: Arm,
        number: usize,
    ) -> anyhow::Result<Self> {
        let tokens = format!("{:?}", arm.tokens).to_lowercase();
        let crashes = if arm.crashes { "crashes" } else { "calm" };
        let name = format!("{tokens}{crashes}{number}");
        let client = plane.client();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
        let mut config = plane.config();
        config.default_namespace.clone_from(&name);
        let own = Client::try_from(config)?;
        for object in permissions("deploy/tenant", &[])? {
            apply(&own, &object.to_string()).await?;
        }
        let gate = Gate::open(account.clone(), &astro.url()).await?;
        let kubeconfig = plane.dir().join(format!("{name}.kubeconfig"));
        gate.write_kubeconfig(&kubeconfig)?;
        let mut track = Self {
            ledger: Ledger::begin(&client, &name),
            log: plane.dir().join(format!("{name}.log")),
            tokens: Vec::new(),
            name,
            astro,
            gate,
            client,
            kubeconfig,
        };
        track.furnish(arm.tokens).await?;
        Ok(track)
    }

    /// Creates the tokens, the credential and the resource.
    async fn furnish(&mut self, tokens: Tokens) -> anyhow::Result<()> {
        let name = self.name.clone();
        let mut spec = json!({
            "workspaceId": name,
            "token": {"name": name},
            "schedule": {"every": "1d"},
            "credentials": {"secretRef": {"name": format!("{name}-owner")}},
            "target": {"name": self.secret()},
        });
        self.create_token(&name);
        if tokens == Tokens::Two {
            let alternate = format!("{name}-alternate");
            self.create_token(&alternate);
            spec["alternateToken"] = json!({"name": alternate});
        }
        let owner = self
            .astro
            .create(NewToken::owner(format!("{name}-owner"), &name));
        let owner = json!({
            "metadata": {"name": format!("{name}-owner")}, "stringData": {"token": owner.value},
        });
        let post = PostParams::default();
        self.secrets()
            .create(&post, &serde_json::from_value(owner)?)
            .await?;
        let resource = json!({
            "apiVersion": kind().api_version,
            "kind": kind().kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        self.resources()
            .create(&post, &serde_json::from_value(resource)?)
            .await?;
        Ok(())
    }

    fn create_token(&mut self, name: &str) {
        let token = self.astro.create(NewToken::workspace(name, &self.name));
        self.gate.alias(&token.id, &self.name);
        self.tokens.push(token.id);
    }

    /// Has the token rotated so often, one rotation after the other, while a consumer calls.
    ///
    /// # Errors
    /// When a rotation does not come about, or a value is in the operator's log.
    pub async fn run(self, rotations: usize, crashes: bool, random: Rng) -> anyhow::Result<Record> {
        let diary = Diary::new();
        let mut all = Rotations {
            operator: Some(self.start()?),
            track: &self,
            diary: &diary,
            deaths: 0,
            cuts: 0,
            requests: Vec::new(),
            random,
        };
        all.wait("the first value", || self.is_at_rest()).await?;
        let consumer = Consumer::new(self.secrets(), self.secret(), self.consumed())?;
        tokio::select! {
            done = all.request_all(rotations, crashes) => done?,
            broken = consumer.live(&diary) => match broken? {},
        }
        let (deaths, cuts) = (all.deaths, all.cuts);
        if let Some(operator) = all.operator.take() {
            operator.kill().await?;
        }
        let log = std::fs::read(&self.log)?;
        ensure!(!has_value(&log), "a value is in {}", self.log.display());
        let issues = self.tokens.iter().map(|id| self.astro.issues(id));
        let issues: Vec<Issues> = issues.collect();
        let mut pages = diary.pages();
        Ok(Record {
            name: self.name.clone(),
            rotations,
            deaths,
            cuts,
            turns: turns(&pages, &issues),
            calls: std::mem::take(&mut pages.calls),
        })
    }

    /// Starts the operator with a tenth of the waits that are shipped: for a call that may still land it waits ten minutes with
    /// two tokens. What its predecessor has sent lands now.
    fn start(&self) -> anyhow::Result<Operator> {
        self.gate.arm([]);
        let flags = [
            format!("--api-url={}", self.gate.vendor_url()),
            format!("--namespaces={}", self.name),
            format!("--minimum-interval={}s", OVERLAP.as_secs()),
            "--pace=0.1".into(),
            // The successor in the same pod knows that its predecessor is dead.
            "--pod-name=pod".into(),
            "--leader-election=false".into(),
        ];
        let operator = Operator::start(&self.kubeconfig, &self.log, &flags)?;
        self.gate.bury();
        Ok(operator)
    }

    /// Ready, with nothing in flight and a valid value in the Secret.
    fn is_at_rest(&self) -> bool {
        let resource = self.ledger.resource(&self.name);
        let rests = resource.is_some_and(|it| status(&it).is_at_rest(it.metadata.generation));
        rests && self.value().is_some_and(|value| self.astro.is_live(&value))
    }

    /// Asks for a rotation as a person does.
    async fn request(&self, request: &str) -> anyhow::Result<()> {
        let edit = Patch::Merge(json!({"metadata": {"annotations": {REQUEST: request}}}));
        let params = PatchParams::default();
        self.resources().patch(&self.name, &params, &edit).await?;
        Ok(())
    }

    fn has_handled(&self, request: &str) -> bool {
        let resource = self.ledger.resource(&self.name);
        let handled = resource.and_then(|it| status(&it).handled_request);
        handled.as_deref() == Some(request)
    }

    /// The value in the Secret.
    fn value(&self) -> Option<String> {
        self.ledger.value(&self.secret())
    }

    fn secret(&self) -> String {
        format!("{}-secret", self.name)
    }

    /// What the consumer looks at: the Workspace of its token.
    fn consumed(&self) -> String {
        let (url, organization) = (self.astro.url(), self.astro.organization());
        format!(
            "{url}/organizations/{organization}/workspaces/{}",
            self.name
        )
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    fn resources(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.name, &kind())
    }
}

impl Rotations<'_> {
    async fn request_all(&mut self, rotations: usize, crashes: bool) -> anyhow::Result<()> {
        let works = || self.is_consumed();
        self.wait("the consumer works with the first value", works)
            .await?;
        for number in 0..rotations {
            // So that a rotation may be at any time between two readings of the copy.
            sleep(REFRESH.mul_f32(self.random.f32())).await;
            let request = format!("request-{number}");
            let rotated = self.rotate(&request, crashes && number % 2 == 1).await;
            rotated.with_context(|| format!("{}, {request}", self.track.name))?;
        }
        Ok(())
    }

    /// Asks for a rotation, and waits until the consumer works with its value.
    async fn rotate(&mut self, request: &str, crashes: bool) -> anyhow::Result<()> {
        let track = self.track;
        let before = track.value();
        let trap = if crashes { self.choose_trap() } else { None };
        track.gate.arm(trap.map(|trap| (track.name.clone(), trap)));
        track.request(request).await?;
        let is_done = |all: &Self| all.is_done(request, before.as_deref());
        if crashes {
            let is_trapped = || track.gate.is_frozen(&track.name);
            // A trap on a way that was not taken does not spring: then the death is after the last request.
            self.wait("a death", || is_trapped() || is_done(self))
                .await?;
            self.die().await?;
        }
        self.wait("the consumer works with a new value", || is_done(self))
            .await?;
        if !crashes {
            self.requests = track.gate.trace(&track.name);
        }
        Ok(())
    }

    /// A request of the last rotation that was not disturbed, and how far it gets.
    fn choose_trap(&mut self) -> Option<Trap> {
        let site = *self.random.choice(&self.requests)?;
        let end = *self.random.choice(site.what.ends())?;
        Some(Trap { site, end })
    }

    /// Kills the operator, and starts it again at once.
    async fn die(&mut self) -> anyhow::Result<()> {
        self.cuts += usize::from(self.track.gate.is_frozen(&self.track.name));
        if let Some(operator) = self.operator.take() {
            operator.kill().await?;
            self.deaths += 1;
        }
        self.operator = Some(self.track.start()?);
        Ok(())
    }

    /// Whether the request was answered by a new value, which the consumer has.
    fn is_done(&self, request: &str, before: Option<&str>) -> bool {
        self.track.has_handled(request)
            && self.track.is_at_rest()
            && self.track.value().as_deref() != before
            && self.is_consumed()
    }

    /// Whether the consumer works with the value that is in the Secret.
    fn is_consumed(&self) -> bool {
        let value = self.track.value();
        value.is_some_and(|value| self.diary.works_with(&value))
    }

    /// Waits until a condition holds.
    async fn wait(&self, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        let track = self.track;
        let (mut requests, mut objects) = (track.gate.changes(), track.ledger.changes());
        let mut calls = self.diary.changes();
        let arrived = timeout(PATIENCE, async {
            while !holds() {
                // Cannot fail: the senders are ours.
                tokio::select! {
                    _ = requests.changed() => {}
                    _ = objects.changed() => {}
                    _ = calls.changed() => {}
                }
            }
        });
        if arrived.await.is_err() {
            let resource = track.ledger.resource(&track.name);
            let state = resource.map_or("no resource".into(), |it| status(&it).summary());
            let tail = self.operator.as_ref().map(Operator::log_tail);
            let tail = tail.unwrap_or_default();
            bail!("not within {PATIENCE:?}: {what}; {state}; read the operator's log: {tail}");
        }
        Ok(())
    }
}
