//! The runs: what is started, what is made due, and what is read before and after.

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, Unit, ZonedRound};
use kube::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::fleet::Fleet;
use super::floor::Floor;
use super::measure::{Histogram, Reading, Requests};
use super::now;
use super::one::{self, Waits};
use super::watching::{Watching, is_settled, status, time};
use crate::astro::Astro;
use crate::control_plane::ControlPlane;
use crate::operator::{ACCOUNT, HOME, Operator, install};

/// Rotations the bare client has in flight; the fastest of these is the floor. The operator bounds its own.
const CONCURRENCIES: [usize; 4] = [8, 16, 64, 256];
/// At the first time, not measured, Secrets are created and connections opened.
const WARM_UP: usize = 64;
/// From the edit that makes all resources due at one instant to that instant: at least so much, and so much for each.
const LEAD: SignedDuration = SignedDuration::from_secs(5);
const LEAD_FOR_EACH: SignedDuration = SignedDuration::from_millis(20);
/// The first reading is taken so long before the due time.
const READ_BEFORE: Duration = Duration::from_secs(1);

/// Everything that was measured.
pub struct Runs {
    /// Resources of the herd, and tokens of the bare client.
    pub tokens: usize,
    /// Kubernetes' major and minor version.
    pub kubernetes: (u32, u32),
    /// One resource alone.
    pub waits: Waits,
    /// Many at once.
    pub herd: Herd,
    /// The operator with nothing due, where that was asked for.
    pub idle: Option<Idle>,
    /// Memory the operator has resident in the end, bytes.
    pub resident: u64,
    /// The bare client, by concurrency.
    pub floor: Vec<FloorRun>,
}

/// All tokens of a fleet rotated once by the operator.
pub struct Herd {
    /// From the due time until the last status said that its rotation is done.
    pub elapsed: Duration,
    /// What that cost the API server.
    pub cost: Reading,
    /// What it cost the operator, seconds of processor time.
    pub operator_cpu: f64,
    /// Files and connections the operator had open right after.
    pub open_files: usize,
    /// Requests to the vendor.
    pub vendor_calls: usize,
    /// From the vendor's answer to the value stored, by the operator's own account.
    pub stored: Histogram,
}

/// All tokens of a fleet rotated once by the bare client.
pub struct FloorRun {
    /// Rotations in flight at a time.
    pub concurrency: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// What that cost the API server.
    pub cost: Reading,
    /// Requests to the vendor.
    pub vendor_calls: usize,
    /// From the vendor's answer to the value stored, for each.
    pub stored: Vec<Duration>,
}

/// The operator with nothing due.
pub struct Idle {
    /// For how long.
    pub watched: Duration,
    /// Requests to the vendor.
    pub vendor_calls: usize,
    /// Requests to the API server.
    pub requests: Requests,
}

/// What runs, but for the operator.
struct Bench {
    plane: ControlPlane,
    client: Client,
    astro: Astro,
}

/// Starts everything, measures the operator with `tokens` resources, and afterwards the bare client; `idle` says for how
/// long to watch the operator doing nothing.
///
/// # Errors
/// When something is not rotated as it should be, with the end of the operator's log.
pub async fn measure(tokens: usize, idle: Option<Duration>) -> anyhow::Result<Runs> {
    let bench = Bench::start().await?;
    let operator = bench.start_operator().await?;
    let operated = async {
        let waits = bench.rotate_one().await?;
        let fleet = bench.make_fleet("herd", tokens).await?;
        let herd = bench.rotate_herd(&fleet, &operator).await?;
        let idle = match idle {
            Some(watched) => Some(bench.rest(watched).await?),
            None => None,
        };
        anyhow::Ok((waits, fleet, herd, idle, operator.resident()?))
    };
    let operated = operated.await;
    let (waits, fleet, herd, idle, resident) =
        operated.map_err(|error| anyhow!("{error:#}\n{}", operator.log_tail()))?;
    // It would rotate the bare client's tokens too.
    operator.kill().await?;
    Ok(Runs {
        tokens,
        kubernetes: bench.plane.version(),
        waits,
        herd,
        idle,
        resident,
        floor: bench.rotate_bare(&fleet).await?,
    })
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        say("starting a control plane and a simulator");
        let plane = ControlPlane::start().await?;
        let client = plane.client();
        install(&client, "deploy").await?;
        Ok(Self {
            plane,
            client,
            astro: Astro::start().await?,
        })
    }

    /// As in production, but for the pace of the vendor.
    async fn start_operator(&self) -> anyhow::Result<Operator> {
        let kubeconfig = self.plane.dir().join("operator.kubeconfig");
        self.plane
            .service_account_kubeconfig(HOME, ACCOUNT, &kubeconfig)
            .await?;
        let flags = [
            format!("--api-url={}", self.astro.url()),
            format!("--minimum-interval={}", one::INTERVAL),
            "--reads-per-second=100000".to_owned(),
            "--rotations-per-second=100000".to_owned(),
            "--pod-name=bench".to_owned(),
        ];
        Operator::start(&kubeconfig, &self.plane.dir().join("operator.log"), &flags)
    }

    async fn rotate_one(&self) -> anyhow::Result<Waits> {
        say("one resource, by request and by schedule");
        one::measure(&self.client, &self.astro).await
    }

    /// Resources with a Secret each, far from due.
    async fn make_fleet(&self, name: &str, tokens: usize) -> anyhow::Result<Fleet> {
        say(&format!("creating {tokens} resources"));
        let far = json!({ "every": "1d" });
        Fleet::create(&self.client, &self.astro, name, tokens, far).await
    }

    /// From an instant at which every resource is due until the last status says that its rotation is done.
    async fn rotate_herd(&self, fleet: &Fleet, operator: &Operator) -> anyhow::Result<Herd> {
        let tokens = fleet.members.len();
        let mut watching = Watching::begin(&self.client, &fleet.label());
        watching.until("rotated first", tokens, is_settled).await?;
        // Of all schedules only cron makes resources due at once that were rotated at different times.
        let due = next_minute(now() + LEAD + LEAD_FOR_EACH * i32::try_from(tokens)?)?;
        say(&format!("all due at {due}"));
        let cron = due.strftime("%-M %-H %-d %-m *").to_string();
        let schedule = json!({ "every": null, "cron": cron });
        fleet
            .edit(json!({ "spec": { "schedule": schedule } }))
            .await?;
        let waits =
            |resource: &_| is_settled(resource) && time(resource, "/nextRotation") == Some(due);
        watching.until("waiting", tokens, waits).await?;
        ensure!(
            now() < due,
            "the machine is too busy: not ready at the due time"
        );

        let before = Duration::try_from(due.duration_since(now()))?;
        sleep(before.saturating_sub(READ_BEFORE)).await;
        let rotations = fleet.rotations(&self.astro);
        self.astro.clear_requests();
        let stored = Histogram::take(operator).await?;
        let operator_cpu = operator.cpu_seconds()?;
        let reading = Reading::take(&self.client).await?;

        let is_done =
            |resource: &_| is_settled(resource) && time(resource, "/lastRotation/at") >= Some(due);
        watching.until("rotated", tokens, is_done).await?;
        let elapsed = now().duration_since(due).try_into()?;
        let open_files = operator.open_files()?;

        let cost = Reading::take_when_quiet(&self.client).await? - reading;
        let rotations = fleet.rotations(&self.astro) - rotations;
        ensure!(
            rotations == tokens,
            "{rotations} rotations for {tokens} due times"
        );
        fleet.check_secrets(&self.astro).await?;
        Ok(Herd {
            elapsed,
            cost,
            open_files,
            operator_cpu: operator.cpu_seconds()? - operator_cpu,
            vendor_calls: self.astro.requests().len(),
            stored: Histogram::take(operator).await? - stored,
        })
    }

    async fn rest(&self, watched: Duration) -> anyhow::Result<Idle> {
        say(&format!("nothing due for {watched:?}"));
        self.astro.clear_requests();
        let before = Reading::take_when_quiet(&self.client).await?;
        sleep(watched).await;
        Ok(Idle {
            watched,
            requests: (Reading::take(&self.client).await? - before).requests,
            vendor_calls: self.astro.requests().len(),
        })
    }

    /// Rotates as many other tokens, several times.
    async fn rotate_bare(&self, operated: &Fleet) -> anyhow::Result<Vec<FloorRun>> {
        let tokens = operated.members.len();
        let fleet = self.make_fleet("floor", tokens).await?;
        let model = operated.resources().await?.pop().context("no model")?;
        let account = self.plane.service_account(HOME, ACCOUNT).await?;
        let mut floor = Floor::new(account, &self.astro, &fleet, &model).await?;
        // What watches the operator watches the bare client too.
        let mut watching = Watching::begin(&self.client, &fleet.label());
        floor.rotate_all(WARM_UP).await?;
        let mut runs = Vec::new();
        for concurrency in CONCURRENCIES {
            say(&format!("the bare client, {concurrency} at a time"));
            let run = floor.run();
            let is_done = |resource: &_| {
                let id = status(resource, "/lastRotation/id").as_str();
                id.is_some_and(|id| id.starts_with(&run))
            };
            self.astro.clear_requests();
            let before = Reading::take_when_quiet(&self.client).await?;
            let begun = Instant::now();
            let (stored, ()) = tokio::try_join!(
                floor.rotate_all(concurrency),
                watching.until("rotated", tokens, is_done)
            )?;
            let elapsed = begun.elapsed();
            let cost = Reading::take_when_quiet(&self.client).await? - before;
            fleet.check_secrets(&self.astro).await?;
            runs.push(FloorRun {
                concurrency,
                elapsed,
                cost,
                vendor_calls: self.astro.requests().len(),
                stored,
            });
        }
        Ok(runs)
    }
}

/// The first whole minute from then on.
fn next_minute(from: Timestamp) -> anyhow::Result<Timestamp> {
    let from = from.to_zoned(TimeZone::UTC);
    let round = ZonedRound::new()
        .smallest(Unit::Minute)
        .mode(RoundMode::Ceil);
    Ok(from.round(round)?.timestamp())
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}
