//! One token with its resource, its Secret and the operator, and questions about them that any user could ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio::time::{interval, sleep, timeout};

use super::cluster::Cluster;
use super::example::Example;
use crate::astro::{Astro, Issued, NewToken};
use crate::operator::Operator;
use crate::resource::{Resource, Status, kind, status};

/// Where the resource and its Secrets are.
pub const NAMESPACE: &str = "astro-demo";

const SHORT_TOKEN: &str = "astro-token-operator.io/short-token";
/// Longest wait for anything that should happen by itself.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The actors.
pub struct Stage {
    client: Client,
    pub astro: Astro,
    pub token: Issued,
    /// The one that takes turns with it in the end, and its name.
    pub second: (Issued, String),
    pub example: Example,
    operator: Option<Operator>,
    kubeconfig: PathBuf,
    flags: Vec<String>,
    /// Of the operator, of all its processes.
    pub log: PathBuf,
}

/// What the target Secret holds. Has no `Debug`: there is a value in it.
pub struct Held {
    pub value: String,
    /// The vendor's display form of the value.
    pub short: String,
}

impl Stage {
    /// A simulator with the example's token, and the credential in the cluster. No operator runs yet.
    pub async fn set(cluster: &Cluster, log: &Path) -> anyhow::Result<Self> {
        let example = Example::read()?;
        let astro = Astro::start().await?;
        let workspace = astro.workspace();
        let token = astro.create(NewToken::workspace(&example.token, workspace));
        let name = format!("{} 2", example.token);
        let second = astro.create(NewToken::workspace(&name, workspace));
        let owner = astro.create(NewToken::owner("operator", workspace));
        let (kubeconfig, mut flags) = cluster.operator_access().await?;
        flags.push(format!("--api-url={}", astro.url()));
        let stage = Self {
            client: cluster.client.clone(),
            astro,
            token,
            second: (second, name),
            example,
            operator: None,
            kubeconfig,
            flags,
            log: log.to_owned(),
        };
        let mut secret = Secret::default();
        secret.metadata.name = Some(stage.example.credentials.clone());
        secret.string_data = Some([("token".into(), owner.value)].into());
        let params = PostParams::default();
        stage.secrets().create(&params, &secret).await?;
        Ok(stage)
    }

    /// Starts the operator and waits until it leads.
    pub async fn start_operator(&mut self) -> anyhow::Result<()> {
        let common = [
            "--pod-name=demo",
            "--minimum-interval=5s",
            "--audit-interval=5s",
            "--vendor-timeout=5s",
            "--vendor-connect-timeout=1s",
            "--log-filter=trace",
        ];
        let flags = common.map(str::to_owned).into_iter();
        let flags: Vec<String> = flags.chain(self.flags.clone()).collect();
        let operator = Operator::start(&self.kubeconfig, &self.log, &flags)?;
        let operator = self.operator.insert(operator);
        let leading = async {
            // It may not serve yet.
            while !operator.metrics().await.is_ok_and(|it| leads(&it)) {
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            led = timeout(PATIENCE, leading) => led.context("the operator does not lead in time"),
            () = ended(operator) => bail!("the operator ended at once"),
        }
    }

    /// Kills the operator as SIGKILL does; returns when it is gone.
    pub async fn kill_operator(&mut self) -> anyhow::Result<()> {
        let operator = self.operator.take().context("no operator runs")?;
        operator.resident()?;
        operator.kill().await
    }

    /// The text of the operator's `/metrics`.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let operator = self.operator.as_ref().context("no operator runs")?;
        operator.metrics().await
    }

    /// Completes when the operator has ended by itself, not while there is none.
    pub async fn operator_ended(&self) {
        match &self.operator {
            Some(operator) => ended(operator).await,
            None => std::future::pending().await,
        }
    }

    /// Applies the example for the simulator's Workspace, with a rotation every so often.
    pub async fn apply_example(&self, every: &str) -> anyhow::Result<()> {
        let params = PatchParams::apply("demo");
        let patch = Patch::Apply(self.example.resource(self.astro.workspace(), every));
        self.resources()
            .patch(&self.example.name, &params, &patch)
            .await?;
        Ok(())
    }

    /// Merges `edit` into the resource.
    pub async fn edit(&self, edit: Value) -> anyhow::Result<()> {
        let params = PatchParams::default();
        let patch = Patch::Merge(edit);
        self.resources()
            .patch(&self.example.name, &params, &patch)
            .await?;
        Ok(())
    }

    /// Waits until the resource is at rest after a rotation for this reason.
    pub async fn until_rotated(&self, cause: &str) -> anyhow::Result<Status> {
        let goal = format!("Ready=True, the last rotation for the reason {cause}");
        self.until(&goal, |resource, status| {
            status.is_at_rest(resource.metadata.generation) && status.cause() == cause
        })
        .await
    }

    /// Waits until the resource is as `wanted`; `goal` says so in words.
    pub async fn until(
        &self,
        goal: &str,
        wanted: impl Fn(&Resource, &Status) -> bool,
    ) -> anyhow::Result<Status> {
        let wanted = |it: Option<&Resource>| it.is_some_and(|it| wanted(it, &status(it)));
        let met = await_condition(self.resources(), &self.example.name, wanted);
        let met = self.patiently(goal, met).await??;
        Ok(met.as_ref().map(status).unwrap_or_default())
    }

    /// Waits until the target Secret is there.
    pub async fn until_secret(&self) -> anyhow::Result<()> {
        let goal = format!("a Secret {}", self.example.target);
        let present = |it: Option<&Secret>| it.is_some();
        let met = await_condition(self.secrets(), &self.example.target, present);
        self.patiently(&goal, met).await??;
        Ok(())
    }

    /// Waits until the resource has an event about a rotation for this cause.
    pub async fn until_event(&self, cause: &str) -> anyhow::Result<()> {
        let events = watcher(self.events(), watcher::Config::default()).applied_objects();
        let mut met = events
            .try_filter(|it| std::future::ready(it.action.as_deref() == Some(cause)))
            .boxed();
        let goal = format!("an event about a rotation for the reason {cause}");
        self.patiently(&goal, met.try_next()).await??;
        Ok(())
    }

    /// Waits for `event`, while the operator runs.
    pub async fn patiently<T>(
        &self,
        goal: &str,
        event: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            event = timeout(PATIENCE, event) => match event {
                Ok(event) => Ok(event),
                Err(_) => bail!("expected: {goal}, within {PATIENCE:?}\nfound:    {}", self.found().await?),
            },
            () = self.operator_ended() => bail!("expected: {goal}\nfound:    the operator has ended"),
        }
    }

    /// What the target Secret holds.
    pub async fn held(&self) -> anyhow::Result<Held> {
        let secret = self.secrets().get(&self.example.target).await?;
        let short = secret.annotations().get(SHORT_TOKEN).cloned();
        let value = secret.data.unwrap_or_default().remove("token");
        let value = value.context("the Secret has no key token")?;
        Ok(Held {
            value: String::from_utf8(value.0).ok().context("no text")?,
            short: short.context("the Secret does not tell which value it holds")?,
        })
    }

    /// What the target Secret holds, which must be the token's live value and the one that the status tells of.
    pub async fn held_live(&self, status: &Status) -> anyhow::Result<Held> {
        self.held_live_of(&self.token, status).await
    }

    /// The same of another token.
    pub async fn held_live_of(&self, token: &Issued, status: &Status) -> anyhow::Result<Held> {
        let held = self.held().await?;
        let found = match self.astro.token_of(&held.value) {
            _ if self.astro.is_live(&held.value) => "the live value of another token",
            Some(_) => "a dead value",
            None => "a value Astro never issued",
        };
        let live = self.astro.live_value(&token.id);
        ensure!(
            live.as_ref() == Some(&held.value),
            "expected: the live value of token {} in Secret {}\nfound:    {found}",
            token.id,
            self.example.target
        );
        let told = status.token.as_ref().map(|it| it.short_token.as_str());
        ensure!(
            told == Some(&held.short),
            "expected: short token {} in the status\nfound:    {told:?}",
            held.short
        );
        Ok(held)
    }

    /// How often the operator has rotated the token, by Astro's own count, must be `times`.
    pub fn check_rotations(&self, times: usize) -> anyhow::Result<()> {
        let found = self.astro.rotations(&self.token.id);
        ensure!(
            found == times,
            "expected: {times} rotations so far\nfound:    {found}"
        );
        Ok(())
    }

    /// A value must be live.
    pub fn check_live(&self, which: &str, value: &str) -> anyhow::Result<()> {
        ensure!(
            self.astro.is_live(value),
            "expected: {which} value is live\nfound:    Astro refuses it"
        );
        Ok(())
    }

    /// A value must be dead.
    pub fn check_dead(&self, which: &str, value: &str) -> anyhow::Result<()> {
        ensure!(
            !self.astro.is_live(value),
            "expected: {which} value is dead\nfound:    Astro accepts it"
        );
        Ok(())
    }

    /// The whole text of all resources of the namespace, JSON.
    pub async fn resources_text(&self) -> anyhow::Result<String> {
        let all: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), NAMESPACE, &kind());
        let all = all.list(&ListParams::default()).await?;
        Ok(serde_json::to_string(&all.items)?)
    }

    /// The Secrets of the namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The events of the namespace.
    pub fn events(&self) -> Api<Event> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn resources(&self) -> Api<Resource> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &kind())
    }

    /// How things are, for a person who expected something else.
    async fn found(&self) -> anyhow::Result<String> {
        let Some(resource) = self.resources().get_opt(&self.example.name).await? else {
            return Ok("no such resource".into());
        };
        let rotations = self.astro.rotations(&self.token.id);
        let secrets = self.secrets().list_metadata(&ListParams::default()).await?;
        let secrets: Vec<String> = secrets.iter().map(|it| it.name_any()).collect();
        Ok(format!(
            "{}, rotations: {rotations}, Secrets: {}",
            status(&resource).summary(),
            secrets.join(" ")
        ))
    }
}

fn leads(metrics: &str) -> bool {
    metrics
        .lines()
        .any(|line| line == "astro_token_operator_leader 1")
}

/// Completes when the process has ended: it has no memory then.
async fn ended(operator: &Operator) {
    let mut look = interval(LOOK_EVERY);
    while operator.resident().is_ok() {
        look.tick().await;
    }
}
