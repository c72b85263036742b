//! How long a healthy neighbour waits: a resource of another namespace and credential, requested while others are served.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, watcher};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::fleet::{Fleet, KEY, Member};
use super::model::Model;
use super::now;
use super::settle::settle;
use super::shape::Shape;
use super::site::Site;
use crate::resource::kind;

/// Each is asked for once, so that none is held back for being rotated too often.
const NEIGHBOURS: usize = 40;
const PAUSE: Duration = Duration::from_secs(1);
/// Nobody waits for longer; it counts as this.
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "neighbour";

/// Resources of one namespace that are far from due.
pub struct Neighbours {
    fleet: Fleet,
    client: kube::Client,
    asked: usize,
}

impl Neighbours {
    /// Creates them, as they are after some rotations.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub async fn create(site: &Site, model: &Model) -> anyhow::Result<Self> {
        let kind = (NEIGHBOURS, Shape::OneWorkspace);
        let back = SignedDuration::from_hours(-400 * 24);
        site.astro.settings(|settings| settings.clock_ahead = back);
        let fleet =
            Fleet::create(site, NAME, kind, json!({ "every": super::settle::EVERY })).await?;
        settle(
            site,
            model,
            &fleet,
            now() + SignedDuration::from_hours(24 * 20),
        )
        .await?;
        Ok(Self {
            fleet,
            client: site.client.clone(),
            asked: 0,
        })
    }

    /// The members that were asked for so far.
    pub fn asked(&self) -> &[Member] {
        &self.fleet.members[..self.asked]
    }

    /// All of them.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Asks for one after the other until `over`, at most so many; how long each took until its new value was stored.
    ///
    /// # Errors
    /// When the API server refuses a request.
    pub async fn ask(
        &mut self,
        most: usize,
        over: impl Fn() -> bool,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut waits = Vec::new();
        while waits.len() < most && self.asked < self.fleet.members.len() && !over() {
            let member = self.fleet.members[self.asked].clone();
            self.asked += 1;
            waits.push(self.ask_one(&member).await?);
            sleep(PAUSE).await;
        }
        Ok(waits)
    }

    /// Asks one that has not been asked yet so many times, at most three, but not again when it is not served; how long each
    /// took until its value was stored.
    ///
    /// # Errors
    /// When none is left, or the API server refuses a request.
    pub async fn ask_again_and_again(&mut self, times: usize) -> anyhow::Result<Vec<Duration>> {
        let member = self.next().context("no neighbour is left")?.clone();
        self.asked += 1;
        let mut waits = Vec::new();
        for _ in 0..times {
            sleep(PAUSE).await;
            waits.push(self.ask_one(&member).await?);
            if waits.last() >= Some(&PATIENCE) {
                break;
            }
        }
        Ok(waits)
    }

    /// The one that is asked next.
    pub fn next(&self) -> Option<&Member> {
        self.fleet.members.get(self.asked)
    }

    async fn ask_one(&self, member: &Member) -> anyhow::Result<Duration> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &member.namespace);
        let value = |secret: Secret| secret.data.and_then(|mut data| data.remove(KEY));
        let before = value(secrets.get(&member.name).await?);
        let only = Config::default().fields(&format!("metadata.name={}", member.name));
        let mut changes = watcher(secrets, only)
            .default_backoff()
            .applied_objects()
            .boxed();
        // The first is the Secret as it is: from then on nothing is missed.
        changes.next().await.context("a watch ended")??;
        let resources: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &member.namespace, &kind());
        let annotations = json!({ "astro-token-operator.io/rotate": now().to_string() });
        let edit = json!({ "metadata": { "annotations": annotations } });
        let begun = Instant::now();
        resources
            .patch(&member.name, &PatchParams::default(), &Patch::Merge(&edit))
            .await?;
        let changed = async {
            while let Some(changed) = changes.next().await {
                // An interruption is retried by the watcher itself.
                if changed.is_ok_and(|secret| value(secret) != before) {
                    break;
                }
            }
        };
        let _ = timeout(PATIENCE, changed).await;
        Ok(begun.elapsed())
    }
}
