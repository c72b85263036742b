//! A storm: several replicas with leader election are killed, ended, paused and cut off at random, the API server and
//! etcd are restarted, and all the while many resources are rotated on schedule.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::ledger::{Ledger, median};
use crate::astro::{Astro, Fault, NewToken, Operation, Step};
use crate::control_plane::ControlPlane;
use crate::leak::has_value;
use crate::link::{Link, Weather};
use crate::operator::{ACCOUNT, HOME, Operator, install};
use crate::resource::{kind, status};

const NAMESPACE: &str = "storm";
/// Longest wait for the first rotations, and for the end of all trouble after the storm.
const PATIENCE: Duration = Duration::from_secs(180);
/// From the vendor's front door to a rotation's effect, and back: time for accidents.
const LATENCY: Duration = Duration::from_millis(150);
/// Longest time a replica may take to end in good order: the grace period of the Deployment.
const GRACE: Duration = Duration::from_secs(60);

/// How it blows.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Replicas of the operator.
    pub replicas: usize,
    /// Resources.
    pub resources: usize,
    /// The schedule of each, whole seconds.
    pub every: Duration,
    /// For how long.
    pub lasts: Duration,
    /// By what factor the operator's waits are scaled.
    pub pace: f64,
    /// Brings the same accidents back, as far as time allows.
    pub seed: u64,
}

/// What is left of it.
#[derive(Default)]
pub struct Aftermath {
    /// What happened, and how often.
    pub accidents: BTreeMap<&'static str, usize>,
    /// Rotations that were due and whose value was stored.
    pub done: usize,
    /// Of these, those that took a second call because the first was in doubt, or its value lost.
    pub recovered: usize,
    /// Rotations because of a call that landed after it had been given up.
    pub reclaimed: usize,
    /// Values that never reached their Secret.
    pub lost: usize,
    /// Rotations too soon after one that was stored: there must be none.
    pub doubled: Vec<String>,
    /// Resources that are not well: there must be none.
    pub unhealed: Vec<String>,
    /// How long after their due time values were stored, in seconds.
    pub late: Vec<i64>,
    /// For how long Secrets held a dead value, each time.
    pub dead: Vec<Duration>,
}

/// One replica's place: its way to the world outlives its processes.
struct Berth {
    kubeconfig: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
    cluster: Link,
    vendor: Link,
}

impl Storm {
    /// Lets it blow, waits until all is well again, and takes stock.
    ///
    /// # Errors
    /// When something does not start, a replica does not end in time, or a value is in a log.
    pub async fn blow(self) -> anyhow::Result<Aftermath> {
        let mut plane = ControlPlane::start().await?;
        let client = plane.client();
        install(&client, "deploy").await?;
        let astro = Astro::start().await?;
        let tokens = self.populate(&client, &astro).await?;
        let slow = Fault::on(Operation::Rotate);
        astro.fault(
            slow.before(Step::Delay(LATENCY))
                .after(Step::Delay(LATENCY)),
        );
        let ledger = Ledger::begin(&client, NAMESPACE);
        let mut random = Rng::with_seed(self.seed);
        let mut berths = Vec::new();
        for number in 0..self.replicas {
            berths.push(self.berth(&plane, &astro, number).await?);
        }
        let names: Vec<_> = tokens.keys().map(String::as_str).collect();
        let last = |name: &str| {
            let resource = ledger.resource(name)?;
            let status = status(&resource);
            let rested = status.is_at_rest(resource.metadata.generation);
            status.last_rotation.filter(|_| rested).map(|last| last.at)
        };
        let begun = berths.iter().map(Berth::start);
        let begun = begun.collect::<anyhow::Result<Vec<_>>>()?;
        wait(&ledger, &names, |name| last(name).is_some()).await?;

        let end = Instant::now() + self.lasts;
        let servers = restart_servers(&mut plane, end, random.fork());
        let replicas = berths.iter().zip(begun).map(|(berth, operator)| {
            let random = random.fork();
            berth.weather_the_storm(operator, end, random)
        });
        let (replicas, servers) = tokio::try_join!(try_join_all(replicas), servers)?;
        let (mut operators, accidents): (Vec<_>, Vec<_>) = replicas.into_iter().unzip();

        let calm = async {
            // All is well when each has been rotated once more.
            let begun = crate::bench::now();
            wait(&ledger, &names, |name| {
                last(name).is_some_and(|at| at > begun)
            })
            .await?;
            suspend(&client, &names).await?;
            wait(&ledger, &names, |name| {
                let resource = ledger.resource(name);
                resource.is_some_and(|it| {
                    let status = status(&it);
                    status.is_at_rest(it.metadata.generation)
                        && status.conditions.iter().any(|it| it.type_ == "Suspended")
                })
            })
            .await
        };
        tokio::select! {
            calm = calm => calm?,
            tended = tend(&berths, &mut operators) => tended?,
        }
        for operator in &mut operators {
            if !operator.has_ended()? {
                operator.signal("TERM").await?;
                operator.end(GRACE).await?;
            }
        }
        for berth in &berths {
            let log = std::fs::read(&berth.log)?;
            ensure!(!has_value(&log), "a value is in {}", berth.log.display());
        }
        let mut aftermath = self.take_stock(&ledger, &astro, &tokens);
        for (what, times) in accidents.into_iter().flatten().chain(servers) {
            *aftermath.accidents.entry(what).or_default() += times;
        }
        Ok(aftermath)
    }

    /// Resources, each with a token, a Workspace and a credential of its own; by name, with the token's id.
    async fn populate(
        &self,
        client: &Client,
        astro: &Astro,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        let resources: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), NAMESPACE, &kind());
        let mut tokens = BTreeMap::new();
        for number in 0..self.resources {
            let name = format!("s{number:03}");
            let token = astro.create(NewToken::workspace(&name, &name));
            let owner = astro.create(NewToken::owner(format!("{name}-owner"), &name));
            let owner = json!({
                "metadata": {"name": format!("{name}-owner")}, "stringData": {"token": owner.value},
            });
            secrets
                .create(&PostParams::default(), &serde_json::from_value(owner)?)
                .await?;
            let resource = json!({
                "apiVersion": kind().api_version,
                "kind": kind().kind,
                "metadata": {"name": name},
                "spec": {
                    "workspaceId": name,
                    "token": {"name": name},
                    "schedule": {"every": format!("{}s", self.every.as_secs())},
                    "credentials": {"secretRef": {"name": format!("{name}-owner")}},
                    "target": {"name": format!("{name}-secret")},
                },
            });
            resources
                .create(&PostParams::default(), &serde_json::from_value(resource)?)
                .await?;
            tokens.insert(name, token.id);
        }
        Ok(tokens)
    }

    async fn berth(
        &self,
        plane: &ControlPlane,
        astro: &Astro,
        number: usize,
    ) -> anyhow::Result<Berth> {
        let address = |url: &str| -> anyhow::Result<SocketAddr> {
            let host = url.split("//").nth(1).and_then(|it| it.split('/').next());
            Ok(host.context("no address")?.parse()?)
        };
        let cluster = Link::open(address(&plane.url())?).await?;
        let vendor = Link::open(address(&astro.url())?).await?;
        let kubeconfig = plane.dir().join(format!("replica-{number}.kubeconfig"));
        plane
            .service_account_kubeconfig_by(cluster.port(), HOME, ACCOUNT, &kubeconfig)
            .await?;
        Ok(Berth {
            kubeconfig,
            log: plane.dir().join(format!("replica-{number}.log")),
            flags: vec![
                format!("--api-url=http://127.0.0.1:{}/v1", vendor.port()),
                // A container that starts again in the same pod.
                format!("--pod-name=replica-{number}"),
                format!("--pace={}", self.pace),
                "--minimum-interval=2s".into(),
                "--vendor-timeout=5s".into(),
                "--vendor-connect-timeout=2s".into(),
                "--write-budget=10s".into(),
                "--audit-interval=30s".into(),
                "--log-filter=trace".into(),
            ],
            cluster,
            vendor,
        })
    }

    fn take_stock(
        &self,
        ledger: &Ledger,
        astro: &Astro,
        tokens: &BTreeMap<String, String>,
    ) -> Aftermath {
        let every = i64::try_from(self.every.as_secs()).unwrap_or(i64::MAX);
        let mut all = Aftermath::default();
        for (name, id) in tokens {
            let secret = format!("{name}-secret");
            let account = ledger.account(&secret, &secret, &[astro.issues(id)]);
            if !account.live {
                all.unhealed.push(name.clone());
            }
            all.lost += account.lost;
            all.dead.extend(account.dead);
            let rotations = ledger.rotations(&secret);
            for pair in rotations.windows(2) {
                let [before, after] = [&pair[0], &pair[1]];
                let apart = seconds(after) - seconds(before);
                let cause = ledger.cause(after).unwrap_or_default();
                if cause.reason == "Reclaimed" {
                    all.reclaimed += 1;
                    continue;
                }
                if apart < every {
                    all.doubled.push(format!(
                        "{name}: {before} and {apart} s later {after} ({})",
                        cause.reason
                    ));
                }
                all.done += 1;
                all.recovered += usize::from(cause.reason == "Lost" || cause.attempts > 1);
                all.late.push(apart - every);
            }
        }
        all.dead.sort();
        all.late.sort_unstable();
        all
    }
}

impl Berth {
    fn start(&self) -> anyhow::Result<Operator> {
        Operator::start(&self.kubeconfig, &self.log, &self.flags)
    }

    /// One accident after the other until `end`; then it runs, under a fair sky.
    async fn weather_the_storm(
        &self,
        mut operator: Operator,
        end: Instant,
        mut random: Rng,
    ) -> anyhow::Result<(Operator, BTreeMap<&'static str, usize>)> {
        let mut accidents = BTreeMap::new();
        loop {
            let next = Instant::now() + seconds_of(&mut random, 4..15);
            if next > end {
                sleep_until(end).await;
                break;
            }
            sleep_until(next).await;
            if operator.has_ended()? {
                // It gave up its leadership; a kubelet starts it again.
                *accidents.entry("leadership lost").or_default() += 1;
                operator = self.start()?;
            }
            let what = match random.u8(..8) {
                0 | 1 => {
                    operator.kill().await?;
                    sleep(seconds_of(&mut random, 0..4)).await;
                    operator = self.start()?;
                    "SIGKILL"
                }
                2 => {
                    operator.signal("TERM").await?;
                    operator.end(GRACE).await?;
                    operator = self.start()?;
                    "SIGTERM"
                }
                3 => {
                    operator.signal("STOP").await?;
                    sleep(seconds_of(&mut random, 2..25)).await;
                    operator.signal("CONT").await?;
                    "SIGSTOP, SIGCONT"
                }
                4 | 5 => {
                    bad_weather(&self.cluster, &mut random).await;
                    "bad way to the API server"
                }
                _ => {
                    bad_weather(&self.vendor, &mut random).await;
                    "bad way to the vendor"
                }
            };
            *accidents.entry(what).or_default() += 1;
        }
        if operator.has_ended()? {
            operator = self.start()?;
        }
        Ok((operator, accidents))
    }
}

/// Starts again what ends, as a kubelet does: on a busy machine a replica may lose its leadership at any time.
async fn tend(berths: &[Berth], operators: &mut [Operator]) -> anyhow::Result<()> {
    loop {
        sleep(Duration::from_secs(1)).await;
        for (berth, operator) in berths.iter().zip(operators.iter_mut()) {
            if operator.has_ended()? {
                *operator = berth.start()?;
            }
        }
    }
}

async fn bad_weather(link: &Link, random: &mut Rng) {
    link.set(match random.u8(..3) {
        0 => Weather::Down,
        1 => Weather::Silent,
        _ => Weather::Slow(Duration::from_millis(random.u64(10..2_000))),
    });
    sleep(seconds_of(random, 1..15)).await;
    link.set(Weather::Fair);
}

async fn restart_servers(
    plane: &mut ControlPlane,
    end: Instant,
    mut random: Rng,
) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let mut accidents = BTreeMap::new();
    loop {
        let next = Instant::now() + seconds_of(&mut random, 20..60);
        if next > end {
            return Ok(accidents);
        }
        sleep_until(next).await;
        let what = if random.bool() {
            plane.stop_api_server();
            sleep(seconds_of(&mut random, 1..5)).await;
            plane.start_api_server().await?;
            "API server stopped and started"
        } else {
            plane.restart_etcd().await?;
            "etcd stopped and started"
        };
        *accidents.entry(what).or_default() += 1;
    }
}

async fn suspend(client: &Client, names: &[&str]) -> anyhow::Result<()> {
    let resources: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind());
    for name in names {
        let patch = Patch::Merge(json!({"spec": {"suspend": true}}));
        resources
            .patch(name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}

/// Waits until each of them was seen as `wanted`.
async fn wait(
    ledger: &Ledger,
    names: &[&str],
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let mut changes = ledger.changes();
    let mut waiting = names.to_vec();
    let arrived = timeout(PATIENCE, async {
        loop {
            waiting.retain(|name| !wanted(name));
            if waiting.is_empty() {
                return;
            }
            // Cannot fail: the ledger is there.
            let _ = changes.changed().await;
        }
    });
    if arrived.await.is_err() {
        let how = waiting.iter().map(|name| match ledger.resource(name) {
            Some(resource) => format!("{name}: {}", status(&resource).summary()),
            None => format!("{name}: gone"),
        });
        bail!(
            "not well after {PATIENCE:?}:\n{}",
            how.collect::<Vec<_>>().join("\n")
        );
    }
    Ok(())
}

fn seconds_of(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range.start * 1000..range.end * 1000))
}

/// The time that a rotation id carries, seconds.
fn seconds(rotation: &str) -> i64 {
    let id = Uuid::parse_str(rotation).ok();
    let time = id
        .and_then(|id| id.get_timestamp())
        .map(|it| it.to_unix().0);
    time.and_then(|time| i64::try_from(time).ok())
        .unwrap_or_default()
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times) in &self.accidents {
            writeln!(f, "{times:>7}  {what}")?;
        }
        let Self {
            done,
            recovered,
            reclaimed,
            lost,
            ..
        } = self;
        writeln!(f, "{done:>7}  rotations due, and done")?;
        writeln!(f, "{recovered:>7}  of them recovered by a second call")?;
        writeln!(
            f,
            "{reclaimed:>7}  further ones: a call landed after it was given up"
        )?;
        writeln!(f, "{lost:>7}  values lost and replaced")?;
        writeln!(f, "{:>7}  doubled", self.doubled.len())?;
        writeln!(f, "{:>7}  unhealed", self.unhealed.len())?;
        if let (Some(middle), Some(longest)) =
            (self.late.get(self.late.len() / 2), self.late.last())
        {
            writeln!(
                f,
                "stored after the due time: median {middle} s, longest {longest} s"
            )?;
        }
        if let Some((middle, longest)) = median(&self.dead) {
            let times = self.dead.len();
            writeln!(
                f,
                "a Secret held a dead value {times} times: median {middle:.1?}, longest {longest:.1?}"
            )?;
        }
        Ok(())
    }
}
