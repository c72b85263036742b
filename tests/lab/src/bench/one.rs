//! How long one resource waits: from its request or its due time until a watch shows the new value in the Secret.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{Stream, StreamExt as _};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::fleet::{Fleet, KEY};
use super::now;
use super::watching::{Watching, is_settled, status, time};
use crate::astro::Astro;

/// Rotations of either kind.
pub const RUNS: usize = 10;

/// Shortest schedule that the operator is told to accept.
pub const INTERVAL: &str = "2s";
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// How long each rotation took.
pub struct Waits {
    /// From sending the request annotation.
    pub requested: Vec<Duration>,
    /// From `status.nextRotation`.
    pub scheduled: Vec<Duration>,
}

/// Has one resource rotated by request and by schedule, and deletes it.
///
/// # Errors
/// When a rotation does not come, or more came than were asked for.
pub async fn measure(client: &Client, astro: &Astro) -> anyhow::Result<Waits> {
    let fleet = Fleet::create(client, astro, "one", 1, json!({ "every": "1d" })).await?;
    let member = &fleet.members[0];
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &member.namespace);
    let only = Config::default().fields(&format!("metadata.name={}", member.name));
    let secrets = watcher(secrets, only).default_backoff().applied_objects();
    let mut secrets = pin!(secrets);
    let mut resources = Watching::begin(client, &fleet.label());
    let mut value = next_value(&mut secrets, None).await?;

    let mut requested = Vec::new();
    for run in 0..RUNS {
        let text = format!("run {run}");
        resources.until("settled", 1, is_settled).await?;
        let begun = Instant::now();
        let annotations = json!({ "astro-token-operator.io/rotate": text });
        let edit = json!({ "metadata": { "annotations": annotations } });
        fleet.edit(edit).await?;
        value = next_value(&mut secrets, Some(value)).await?;
        requested.push(begun.elapsed());
        let is_handled = |resource: &_| status(resource, "/handledRequest") == text.as_str();
        resources.until("handled", 1, is_handled).await?;
    }
    ensure!(
        fleet.rotations(astro) == RUNS + 1,
        "a request was not rotated once"
    );

    let mut scheduled = Vec::new();
    let mut last = time(
        resources.all().next().context("no resource")?,
        "/nextRotation",
    );
    let schedule = json!({ "every": INTERVAL });
    fleet
        .edit(json!({ "spec": { "schedule": schedule } }))
        .await?;
    // The edit makes it due at once: that rotation shows how soon an edit is seen, not how soon a due time.
    value = next_value(&mut secrets, Some(value)).await?;
    for _ in 0..RUNS {
        let is_next =
            |resource: &_| is_settled(resource) && time(resource, "/nextRotation") != last;
        resources.until("due", 1, is_next).await?;
        last = time(
            resources.all().next().context("no resource")?,
            "/nextRotation",
        );
        value = next_value(&mut secrets, Some(value)).await?;
        let waited = now().duration_since(last.context("no due time")?);
        scheduled.push(waited.try_into().context("rotated before it was due")?);
    }
    fleet.delete().await?;
    Ok(Waits {
        requested,
        scheduled,
    })
}

/// Waits for a Secret with another value than the one before.
async fn next_value(
    secrets: &mut (impl Stream<Item = Result<Secret, Error>> + Unpin),
    before: Option<ByteString>,
) -> anyhow::Result<ByteString> {
    let changed = async {
        loop {
            // An interruption is retried by the watcher itself.
            let Ok(secret) = secrets.next().await.context("a watch ended")? else {
                continue;
            };
            let value = secret.data.and_then(|mut data| data.remove(KEY));
            if let Some(value) = value.filter(|value| before.as_ref() != Some(value)) {
                return Ok(value);
            }
        }
    };
    let stored = timeout(STORED_WITHIN, changed).await;
    stored.context("no new value was stored in time")?
}
