//! A controller of Kubernetes' own that does comparable work: the one that fills Secrets with service-account tokens.

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::memory::resident;
use super::runs::say;
use crate::control_plane::ControlPlane;
use crate::wait::poll;

const CONTROLLER: &str = "serviceaccount-token";
const NAME: &str = "peer";
/// It writes this into each Secret that it fills.
const FILLED: &str = "kubernetes.io/service-account.uid";
const CONCURRENCY: usize = 32;
const WITHIN: Duration = Duration::from_secs(900);
/// From a start to the look at what is resident.
const SETTLING: Duration = Duration::from_secs(15);

/// What it takes.
pub struct Peer {
    /// Secrets that it has filled.
    pub tokens: usize,
    /// From its start until all were filled.
    pub filled: Duration,
    /// Memory resident at rest after another start, bytes.
    pub resident: u64,
}

/// Lets it fill as many Secrets; or says why that cannot be measured.
///
/// # Errors
/// When something does not come about.
pub async fn measure(tokens: usize) -> anyhow::Result<Result<Peer, String>> {
    let plane = ControlPlane::start().await?;
    let client = plane.client();
    if !plane.has_controllers() {
        return Ok(Err("no kube-controller-manager".into()));
    }
    say(&format!("kube-controller-manager with {tokens} Secrets"));
    let post = PostParams::default();
    let named = json!({ "metadata": { "name": NAME } });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&post, &serde_json::from_value(named.clone())?)
        .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAME);
    accounts
        .create(&post, &serde_json::from_value(named)?)
        .await?;
    let secrets: Api<Secret> = Api::namespaced(client, NAME);
    let acts = (0..tokens).map(async |n| {
        let secret = json!({
            "metadata": {
                "name": format!("{NAME}-{n}"),
                "annotations": { "kubernetes.io/service-account.name": NAME },
            },
            "type": "kubernetes.io/service-account-token",
        });
        let secret = serde_json::from_value(secret)?;
        secrets.create(&PostParams::default(), &secret).await?;
        anyhow::Ok(())
    });
    stream::iter(acts)
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;

    let begun = Instant::now();
    let controller = plane.start_controller(CONTROLLER)?;
    let controller = controller.context("it was there")?;
    let filled = poll("all Secrets are filled", WITHIN, async || {
        // What is asked for is large.
        sleep(Duration::from_secs(1)).await;
        let all = secrets.list_metadata(&ListParams::default()).await?;
        let filled = all
            .iter()
            .filter(|it| it.annotations().contains_key(FILLED));
        let filled = filled.count();
        Ok((filled >= tokens)
            .then(|| begun.elapsed())
            .ok_or(format!("{filled} of {tokens}")))
    });
    let filled = filled.await.with_context(|| controller.log_tail())?;
    drop(controller);
    let controller = plane.start_controller(CONTROLLER)?;
    let controller = controller.context("it was there")?;
    sleep(SETTLING).await;
    let resident = resident(controller.id()).with_context(|| controller.log_tail())?;
    Ok(Ok(Peer {
        tokens,
        filled,
        resident,
    }))
}
