//! How long one resource waits: from its request or its due time until a watch shows the new value in the Secret.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, watcher};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Fleet, KEY};
use super::now;
use super::shape::Shape;
use super::site::{Pace, Site};
use super::watching::{Watching, is_settled, status, time};

/// Rotations of either kind.
const RUNS: usize = 10;
/// The schedule, and the shortest that the operator is told to accept.
const INTERVAL: &str = "2s";
/// Between two requests, so that none is held back for being one too many.
const PAUSE: Duration = Duration::from_secs(1);
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How long each rotation took.
pub struct Waits {
    /// From sending the request annotation.
    pub requested: Vec<Duration>,
    /// From `status.nextRotation`.
    pub scheduled: Vec<Duration>,
}

/// One resource, with a watch on it and one on its Secret.
struct Subject {
    fleet: Fleet,
    resources: Watching,
    secrets: BoxStream<'static, Result<Secret, Error>>,
    value: Option<ByteString>,
}

/// Has one resource rotated by request and another by schedule, and deletes both.
///
/// # Errors
/// When a rotation does not come, or more came than were asked for.
pub async fn measure(site: &Site) -> anyhow::Result<Waits> {
    let often = format!("--minimum-interval={INTERVAL}");
    let operator = site.operator(Pace::Unlimited, None, &[&often]).await?;
    let measured = async {
        Ok(Waits {
            requested: request(site).await?,
            scheduled: schedule(site).await?,
        })
    };
    let measured: anyhow::Result<Waits> = measured.await;
    let measured = measured.with_context(|| operator.log_tail());
    operator.kill().await?;
    measured
}

async fn request(site: &Site) -> anyhow::Result<Vec<Duration>> {
    let mut subject = Subject::create(site, "requested", "1d").await?;
    let mut waits = Vec::new();
    for run in 0..RUNS {
        sleep(PAUSE).await;
        subject.resources.until("settled", 1, is_settled).await?;
        let text = format!("run {run}");
        let annotations = json!({ "astro-token-operator.io/rotate": text });
        let begun = Instant::now();
        let edit = json!({ "metadata": { "annotations": annotations } });
        subject.fleet.edit(edit).await?;
        subject.next_value().await?;
        waits.push(begun.elapsed());
        let is_handled = |resource: &_| status(resource, "/handledRequest") == text.as_str();
        subject.resources.until("handled", 1, is_handled).await?;
    }
    let rotations = subject.fleet.rotations(&site.astro);
    ensure!(
        rotations == RUNS + 1,
        "{rotations} rotations for a first one and {RUNS} requests"
    );
    subject.fleet.delete().await?;
    Ok(waits)
}

async fn schedule(site: &Site) -> anyhow::Result<Vec<Duration>> {
    let mut subject = Subject::create(site, "scheduled", INTERVAL).await?;
    let (mut waits, mut last) = (Vec::new(), None);
    for _ in 0..RUNS {
        let due = |resource: &_| time(resource, "/nextRotation").filter(|_| is_settled(resource));
        let is_next = |resource: &_| due(resource).is_some_and(|due| Some(due) != last);
        subject.resources.until("due again", 1, is_next).await?;
        last = subject.resources.all().find_map(due);
        subject.next_value().await?;
        let waited = now().duration_since(last.context("no due time")?);
        waits.push(waited.try_into().context("rotated before it was due")?);
    }
    subject.fleet.delete().await?;
    Ok(waits)
}

impl Subject {
    /// Creates the resource and waits for its first value.
    async fn create(site: &Site, name: &str, every: &str) -> anyhow::Result<Self> {
        let one = (1, Shape::OneWorkspace);
        let fleet = Fleet::create(site, name, one, json!({ "every": every })).await?;
        let member = fleet.members.first().context("an empty fleet")?;
        let secrets: Api<Secret> = Api::namespaced(site.client.clone(), &member.namespace);
        let only = Config::default().fields(&format!("metadata.name={}", member.name));
        let secrets = watcher(secrets, only).default_backoff().applied_objects();
        let mut subject = Self {
            resources: Watching::begin(&site.client, &fleet.label()),
            secrets: secrets.boxed(),
            fleet,
            value: None,
        };
        subject.next_value().await?;
        Ok(subject)
    }

    /// Waits until the watch shows another value than the one before.
    async fn next_value(&mut self) -> anyhow::Result<()> {
        let changed = async {
            loop {
                // An interruption is retried by the watcher itself.
                let Ok(secret) = self.secrets.next().await.context("a watch ended")? else {
                    continue;
                };
                let value = secret.data.and_then(|mut data| data.remove(KEY));
                if value.is_some() && value != self.value {
                    self.value = value;
                    return Ok(());
                }
            }
        };
        let stored = timeout(STORED_WITHIN, changed).await;
        stored.context("no new value was stored in time")?
    }
}
