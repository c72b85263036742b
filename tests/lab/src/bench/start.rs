//! The operator's start with resources that are all settled, and its rest afterwards.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Request};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::fleet::WRITTEN;
use super::herd::Calls;
use super::measure::{Own, Reading, Requests};
use super::memory::Cage;
use super::site::{Pace, Site};
use crate::operator::Operator;
use crate::resource::kind;

/// Between two looks at the processor time: the clock ticks a hundred times a second.
const LOOK: Duration = Duration::from_millis(10);
/// When it has used next to nothing for so long, it may have evaluated all.
const QUIET: Duration = Duration::from_millis(1500);
/// What leadership and the like use meanwhile, seconds.
const NEXT_TO_NOTHING: f64 = 0.025;
/// From then to the look at what is resident, so that what is freed late is freed.
const SETTLING: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(300);
/// Objects of one page of a bare list.
const PAGE: u32 = 500;

/// A start.
pub struct Start {
    /// Until a bare client has read the same lists, without looking at what is in them.
    pub listed: Duration,
    /// Until all were evaluated.
    pub evaluated: Duration,
    /// Seconds of processor time until then.
    pub cpu: f64,
    /// Requests to the vendor.
    pub vendor: Calls,
    /// Requests to the API server.
    pub requests: Requests,
    /// Memory resident some seconds later, before anybody has asked for metrics, bytes.
    pub resident: u64,
    /// The most until then.
    pub most_resident: u64,
    /// The most that its control group was charged with, or why there is no such figure.
    pub charged: Result<u64, String>,
}

/// The operator with nothing due.
pub struct Idle {
    /// For how long.
    pub watched: Duration,
    /// Seconds of processor time.
    pub cpu: f64,
    /// Requests to the vendor.
    pub vendor: Calls,
    /// Requests to the API server, reads of credentials among them.
    pub requests: Requests,
    /// Reads of Secrets with credentials.
    pub credential_reads: usize,
}

/// Starts it where `number` resources are, in a control group of its own where one can be made.
///
/// # Errors
/// When it does not evaluate them in time, with the end of its log.
pub async fn measure(
    site: &Site,
    number: usize,
    pace: Pace,
) -> anyhow::Result<(Start, Operator, Option<Cage>)> {
    let (cage, no_cage) = match Cage::make(None) {
        Ok(cage) => (Some(cage), None),
        Err(why) => (None, Some(why)),
    };
    site.astro.clear_requests();
    let listed = bare_lists(&site.client).await?;
    let before = Reading::take_when_quiet(&site.client).await?;
    let begun = Instant::now();
    let operator = site.operator(pace, cage.as_ref(), &[]).await?;
    let started = watch(&operator, begun, number).await;
    let (evaluated, cpu, resident) = started.with_context(|| operator.log_tail())?;
    let most_resident = operator.most_resident()?;
    let charged = match (&cage, no_cage) {
        (Some(cage), _) => cage.most().ok_or("the control group tells no peak".into()),
        (None, why) => Err(why.unwrap_or_default()),
    };
    let start = Start {
        listed,
        evaluated,
        cpu,
        vendor: Calls::of(site),
        requests: (Reading::take(&site.client).await? - before).requests,
        resident,
        most_resident,
        charged,
    };
    Ok((start, operator, cage))
}

/// How long the lists of a start take at the least: of the resources and of the Secrets' metadata, side by side.
async fn bare_lists(client: &Client) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let resources = Api::<DynamicObject>::all_with(client.clone(), &kind());
    let secrets = Api::<Secret>::all(client.clone());
    tokio::try_join!(
        read_all(client, resources.resource_url(), None),
        read_all(client, secrets.resource_url(), Some(WRITTEN)),
    )?;
    Ok(begun.elapsed())
}

/// With `labels`, only the metadata.
async fn read_all(client: &Client, url: &str, labels: Option<&str>) -> anyhow::Result<()> {
    let request = Request::new(url);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let request = match labels {
            Some(labels) => request.list_metadata(&page.clone().labels(labels)),
            None => request.list(&page),
        };
        let text = client.request_text(request?).await?;
        let list: List = serde_json::from_str(&text)?;
        match list.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => page.continue_token = Some(next),
            None => return Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// When all were evaluated, what that cost, and what was resident at rest. Metrics of many resources cost a lot, so they
/// are only asked for in the end.
async fn watch(
    operator: &Operator,
    begun: Instant,
    number: usize,
) -> anyhow::Result<(Duration, f64, u64)> {
    let mut used = Vec::new();
    loop {
        let (evaluated, cpu) = quiet(operator, begun, &mut used).await?;
        sleep(SETTLING).await;
        let resident = operator.resident()?;
        let passes = Own::take(operator).await?.passes;
        if passes >= number as u64 {
            return Ok((evaluated, cpu, resident));
        }
        ensure!(
            begun.elapsed() < WITHIN,
            "{passes} of {number} evaluated within {WITHIN:?}"
        );
    }
}

/// When it had used all the processor time that it uses before it falls quiet, and how much that is.
async fn quiet(
    operator: &Operator,
    begun: Instant,
    used: &mut Vec<(Duration, f64)>,
) -> anyhow::Result<(Duration, f64)> {
    loop {
        let now = (begun.elapsed(), operator.cpu_seconds()?);
        used.push(now);
        let earlier = used.iter().rev().find(|then| now.0 - then.0 > QUIET);
        let is_quiet = |then: &(Duration, f64)| now.1 > 0.0 && now.1 - then.1 < NEXT_TO_NOTHING;
        if earlier.is_some_and(is_quiet) {
            let all_used = |then: &&(Duration, f64)| then.1 >= now.1 - NEXT_TO_NOTHING;
            let then = used.iter().find(all_used).unwrap_or(&now);
            return Ok(*then);
        }
        sleep(LOOK).await;
    }
}

/// Watches it with nothing due.
///
/// # Errors
/// When it or the API server does not answer.
pub async fn rest(site: &Site, operator: &Operator, watched: Duration) -> anyhow::Result<Idle> {
    let before = Reading::take_when_quiet(&site.client).await?;
    site.astro.clear_requests();
    let credential_reads = site.credential_reads()?;
    let cpu = operator.cpu_seconds()?;
    sleep(watched).await;
    Ok(Idle {
        watched,
        credential_reads: site.credential_reads()? - credential_reads,
        cpu: operator.cpu_seconds()? - cpu,
        vendor: Calls::of(site),
        requests: (Reading::take(&site.client).await? - before).requests,
    })
}
