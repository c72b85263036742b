//! A bare client that rotates as cheaply as the promises allow: the requests of a rotation in a row, and nothing else.
//!
//! It watches nothing, decides nothing and handles no failure. What it writes has the shape and size of what the
//! operator wrote, taken from one of its resources.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fleet::{Fleet, Member};
use super::model::{MANAGER, Model, STATUS_MANAGER, Texts};
use super::now;
use crate::astro::Astro;
use crate::resource::kind;

/// Characters of the value of the dry run.
const DUMMY_LENGTH: usize = 1200;

/// Tokens to rotate, and the client that does.
pub struct Floor {
    client: Arc<Bare>,
    candidates: Vec<Candidate>,
    runs: usize,
}

/// What one rotation needs.
struct Bare {
    kubernetes: Client,
    vendor: reqwest::Client,
    tokens: String,
    model: Model,
}

/// A token, and the version of its resource that is remembered from the last answer.
struct Candidate {
    member: Member,
    version: String,
    /// From the vendor's answer until the last value was stored.
    stored_after: Duration,
}

/// The vendor's record of a token. Has no `Debug`: it may hold a value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    short_token: String,
    last_rotated_at: Option<String>,
    token: Option<String>,
}

impl Floor {
    /// For the resources of `fleet`, as whoever `config` is; what is written has the shape of `model`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn new(
        config: Config,
        astro: &Astro,
        fleet: &Fleet,
        model: &Model,
    ) -> anyhow::Result<Self> {
        let kubernetes = Client::try_from(config)?;
        let resources = fleet.resources().await?;
        let versions: HashMap<_, _> = resources
            .iter()
            .map(|resource| (resource.name_any(), resource.resource_version()))
            .collect();
        let version = |member: &Member| versions.get(&member.name).cloned().flatten();
        let candidate = |member: &Member| {
            Ok(Candidate {
                member: member.clone(),
                version: version(member).context("a resource is missing")?,
                stored_after: Duration::ZERO,
            })
        };
        Ok(Self {
            candidates: fleet
                .members
                .iter()
                .map(candidate)
                .collect::<anyhow::Result<_>>()?,
            client: Arc::new(Bare {
                vendor: reqwest::Client::builder().no_proxy().build()?,
                tokens: format!(
                    "{}/organizations/{}/tokens",
                    astro.url(),
                    astro.organization()
                ),
                model: model.clone(),
                kubernetes,
            }),
            runs: 0,
        })
    }

    /// Rotates every token once, so many at a time. Ids of its rotations begin with what [`Floor::run`] says before.
    /// Returns for each how long it took from the vendor's answer until the value was stored.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn rotate_all(&mut self, concurrency: usize) -> anyhow::Result<Vec<Duration>> {
        let run = self.run();
        let rotations = std::mem::take(&mut self.candidates)
            .into_iter()
            .map(|candidate| {
                let (client, run) = (self.client.clone(), run.clone());
                tokio::spawn(async move { client.rotate(candidate, &run).await })
            });
        let done = stream::iter(rotations).buffer_unordered(concurrency);
        self.candidates = done.map(|joined| joined?).try_collect().await?;
        self.runs += 1;
        let stored_after = self.candidates.iter().map(|done| done.stored_after);
        Ok(stored_after.collect())
    }

    /// How the ids of the next run's rotations begin.
    pub fn run(&self) -> String {
        format!("run-{}-", self.runs)
    }
}

impl Bare {
    async fn rotate(&self, candidate: Candidate, run: &str) -> anyhow::Result<Candidate> {
        let Candidate {
            member, version, ..
        } = candidate;
        let namespace = &member.namespace;
        let secrets: Api<Secret> = Api::namespaced(self.kubernetes.clone(), namespace);
        let found = secrets.get_metadata_opt(&member.name).await?;
        let secret_version = found.and_then(|secret| secret.resource_version());
        let before = self.call(&member, Method::GET, &member.token_id).await?;
        let mut texts = Texts {
            name: member.name.clone(),
            token_id: member.token_id.clone(),
            short_token: before.short_token,
            // Before its first rotation a token has no such time, and any will do.
            rotated_at: before
                .last_rotated_at
                .unwrap_or_else(|| self.model.rotated_at().to_owned()),
            rotation_id: format!("{run}{}", Uuid::new_v4()),
        };
        let params = PatchParams::apply(MANAGER).force();

        let dummy = "x".repeat(DUMMY_LENGTH);
        let rehearsal = self
            .model
            .secret(&texts, secret_version.as_deref(), &dummy)?;
        let dry_run = params.clone().dry_run();
        secrets
            .patch_metadata(&member.name, &dry_run, &Patch::Apply(rehearsal))
            .await?;

        let intent = self.model.intent(&texts)?;
        let version = self.write_status(&member, version, intent).await?;

        let rotated = self
            .call(
                &member,
                Method::POST,
                &format!("{}/rotate", member.token_id),
            )
            .await?;
        let value = rotated.token.context("no value")?;
        let answered = Instant::now();
        texts.short_token = rotated.short_token;
        texts.rotated_at = rotated.last_rotated_at.context("no time of rotation")?;

        let secret = self
            .model
            .secret(&texts, secret_version.as_deref(), &value)?;
        secrets
            .patch_metadata(&member.name, &params, &Patch::Apply(secret))
            .await?;
        let stored_after = answered.elapsed();

        let outcome = self.model.outcome(&texts)?;
        let version = self.write_status(&member, version, outcome).await?;

        let events: Api<Event> = Api::namespaced(self.kubernetes.clone(), namespace);
        events
            .create(&PostParams::default(), &event(&member)?)
            .await?;
        Ok(Candidate {
            member,
            version,
            stored_after,
        })
    }

    /// Fenced by `version`; returns the next one.
    async fn write_status(
        &self,
        member: &Member,
        version: String,
        status: Value,
    ) -> anyhow::Result<String> {
        let kind = kind();
        let body = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": { "name": member.name, "resourceVersion": version },
            "status": status,
        });
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.kubernetes.clone(), &member.namespace, &kind);
        let params = PatchParams::apply(STATUS_MANAGER).force();
        let written = api
            .patch_status(&member.name, &params, &Patch::Apply(body))
            .await?;
        written.resource_version().context("no resourceVersion")
    }

    async fn call(&self, member: &Member, method: Method, path: &str) -> anyhow::Result<Record> {
        let request = self
            .vendor
            .request(method, format!("{}/{path}", self.tokens));
        let answer = request.bearer_auth(&member.credential).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}

fn event(member: &Member) -> anyhow::Result<Event> {
    let (
        kind,
        Member {
            namespace, name, ..
        },
    ) = (kind(), member);
    Ok(serde_json::from_value(json!({
        "metadata": { "generateName": format!("{name}-"), "namespace": namespace },
        "type": "Normal",
        "reason": "Rotated",
        "action": "Scheduled",
        "note": format!("token {name} rotated (Scheduled)"),
        "eventTime": now(),
        "reportingController": "floor",
        "reportingInstance": "floor",
        "regarding": {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "namespace": namespace,
            "name": name,
        },
    }))?)
}
