//! `bench`: the operator's speed and cost on the local control plane, beside a bare client that does the least.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::Parser;
use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, Unit, ZonedRound};
use kube::Client;
use lab::astro::Astro;
use lab::bench::fleet::Fleet;
use lab::bench::floor::Floor;
use lab::bench::measure::{Histogram, Reading, Requests};
use lab::bench::now;
use lab::bench::one::{self, Waits};
use lab::bench::report::{Report, Row, median_and_worst};
use lab::bench::watching::{Watching, is_settled, status, time};
use lab::control_plane::ControlPlane;
use lab::operator::{self, ACCOUNT, HOME, Operator};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Measures the operator on a local control plane, with a simulator without rate limits in Astro's place.
///
/// Fails when a request was one too many or a Secret is not as it should be; never because of a time.
#[derive(Parser)]
struct Args {
    /// Resources that are due at one instant
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    resources: u16,
    /// For how long the operator is watched doing nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
    /// Do not watch it doing nothing
    #[arg(long)]
    skip_idle: bool,
}

/// Rotations the bare client has in flight; the fastest of these is the floor. The operator has no bound.
const CONCURRENCIES: [usize; 4] = [16, 64, 128, 256];
/// At the first time, not measured, Secrets are created and connections opened.
const WARM_UP: usize = 64;
/// From the edit that makes all resources due at one instant to that instant: at least so much, and so much for each.
const LEAD: SignedDuration = SignedDuration::from_secs(5);
const LEAD_FOR_EACH: SignedDuration = SignedDuration::from_millis(20);
/// The first reading is taken so long before the due time.
const READ_BEFORE: Duration = Duration::from_secs(1);
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// What runs, but for the operator.
struct Bench {
    plane: ControlPlane,
    client: Client,
    astro: Astro,
}

/// All tokens of a fleet rotated once by the operator.
struct Herd {
    tokens: usize,
    elapsed: Duration,
    cost: Reading,
    operator_cpu: f64,
    vendor_calls: usize,
    stored: Histogram,
}

/// The same by the bare client.
struct FloorRun {
    concurrency: usize,
    elapsed: Duration,
    cost: Reading,
}

/// The operator with nothing due.
struct Idle {
    watched: Duration,
    vendor_calls: usize,
    requests: Requests,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(report) if report.is_right() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything and prints it.
async fn run(args: &Args) -> anyhow::Result<Report> {
    let tokens = usize::from(args.resources);
    let bench = Bench::start().await?;
    let operator = bench.start_operator().await?;
    let at_work = async {
        let waits = bench.rotate_one().await?;
        let fleet = bench.make_fleet("herd", tokens).await?;
        let herd = bench.rotate_herd(&fleet, &operator).await?;
        let idle = match args.skip_idle {
            true => None,
            false => Some(bench.rest(Duration::from_secs(args.idle)).await?),
        };
        anyhow::Ok((waits, fleet, herd, idle, operator.resident()?))
    };
    let figures = at_work.await;
    let (waits, fleet, herd, idle, resident) =
        figures.map_err(|error| anyhow!("{error:#}\n{}", operator.log_tail()))?;
    // It would rotate the bare client's tokens too.
    operator.kill().await?;
    let floor = bench.measure_floor(&fleet).await?;

    let version = bench.plane.version();
    println!(
        "\n{tokens} resources, Kubernetes {}.{}, {} processors{}\n",
        version.0,
        version.1,
        std::thread::available_parallelism()?,
        if cfg!(debug_assertions) {
            ", a debug build"
        } else {
            ""
        },
    );
    let mut report = Report::default();
    add_waits(&mut report, waits);
    add_herd(&mut report, &herd, &floor);
    if let Some(idle) = &idle {
        add_idle(&mut report, idle, tokens);
    }
    add_size(&mut report, resident)?;
    println!("{report}");
    print_requests(&herd);
    print_floor(&floor, tokens);
    Ok(report)
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        say("starting a control plane and a simulator");
        let plane = ControlPlane::start().await?;
        let client = plane.client();
        operator::install(&client).await?;
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

        let cost = Reading::take_when_quiet(&self.client).await? - reading;
        let rotations = fleet.rotations(&self.astro) - rotations;
        ensure!(
            rotations == tokens,
            "{rotations} rotations for {tokens} due times"
        );
        fleet.check_secrets(&self.astro).await?;
        Ok(Herd {
            tokens,
            elapsed,
            cost,
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
    async fn measure_floor(&self, operated: &Fleet) -> anyhow::Result<Vec<FloorRun>> {
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
            let before = Reading::take_when_quiet(&self.client).await?;
            let begun = Instant::now();
            tokio::try_join!(
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
            });
        }
        Ok(runs)
    }
}

fn add_waits(report: &mut Report, waits: Waits) {
    let second = Duration::from_secs(1);
    for (what, times) in [("requested", waits.requested), ("due", waits.scheduled)] {
        let met = times.iter().all(|time| *time < second);
        let what = format!("one resource, {what} → stored, median / worst");
        report.add(Row::new(what, median_and_worst(times)).goal("< 1 s", met));
    }
}

fn add_herd(report: &mut Report, herd: &Herd, floor: &[FloorRun]) {
    let tokens = herd.tokens as f64;
    let Some(best) = floor.iter().min_by_key(|run| run.elapsed) else {
        return;
    };
    let (own, least) = (
        tokens / herd.elapsed.as_secs_f64(),
        tokens / best.elapsed.as_secs_f64(),
    );
    let elapsed = format!("{:.1} s", herd.elapsed.as_secs_f64());
    report.add(
        Row::new(format!("{tokens} due at once, all rotated"), elapsed)
            .floor(format!("{:.1} s", best.elapsed.as_secs_f64())),
    );
    report.add(
        Row::new("rotations per second", format!("{own:.0}"))
            .floor(format!("{least:.0}"))
            .goal(
                format!("≥ 0.8 of it: {:.2}", own / least),
                own >= 0.8 * least,
            ),
    );
    let (own, least) = (
        1000.0 * herd.cost.cpu_seconds / tokens,
        1000.0 * best.cost.cpu_seconds / tokens,
    );
    report.add(
        Row::new(
            "API server's processor time per rotation",
            format!("{own:.1} ms"),
        )
        .floor(format!("{least:.1} ms"))
        .goal(
            format!("≤ 1.15 of it: {:.2}", own / least),
            own <= 1.15 * least,
        ),
    );
    let own = 1000.0 * herd.operator_cpu / tokens;
    report.add(Row::new(
        "operator's processor time per rotation",
        format!("{own:.1} ms"),
    ));
    for (what, own, least, most) in [
        (
            "API server writes per rotation",
            herd.cost.requests.writes(),
            best.cost.requests.writes(),
            4.0,
        ),
        (
            "events per rotation",
            herd.cost.requests.events(),
            best.cost.requests.events(),
            1.0,
        ),
    ] {
        let (own, least) = (own as f64 / tokens, least as f64 / tokens);
        report.add(
            Row::new(what, format!("{own:.2}"))
                .floor(format!("{least:.2}"))
                .goal(format!("≤ {most}"), own <= most)
                .required(),
        );
    }
    let calls = herd.vendor_calls as f64 / tokens;
    report.add(
        Row::new("vendor calls per rotation", format!("{calls:.2}"))
            .floor("2.00")
            .goal("≤ 2", calls <= 2.0)
            .required(),
    );
    let bound = |share| herd.stored.quantile(share).unwrap_or(f64::INFINITY) * 1000.0;
    let bounds = [0.5, 0.99, 1.0].map(bound);
    report.add(
        Row::new(
            "vendor's answer → stored, p50 / p99 / worst",
            format!("≤ {} / {} / {} ms", bounds[0], bounds[1], bounds[2]),
        )
        .goal("p99 < 100 ms", bounds[1] < 100.0),
    );
}

fn add_idle(report: &mut Report, idle: &Idle, tokens: usize) {
    let requests = idle.requests.at_work();
    let what = format!(
        "{} s with nothing due, {tokens} resources:",
        idle.watched.as_secs()
    );
    for (kind, number) in [
        ("vendor calls", idle.vendor_calls as u64),
        ("API server requests but watches and the lease", requests),
    ] {
        report.add(
            Row::new(format!("{what} {kind}"), number)
                .goal("0", number == 0)
                .required(),
        );
    }
}

fn add_size(report: &mut Report, resident: u64) -> anyhow::Result<()> {
    let binary = std::fs::metadata(operator::binary()?)?.len();
    for (what, bytes, most) in [
        ("operator's resident memory", resident, 64.0),
        ("operator's binary", binary, 15.0),
    ] {
        let size = bytes as f64 / MEBIBYTE;
        report.add(
            Row::new(what, format!("{size:.1} MiB")).goal(format!("< {most} MiB"), size < most),
        );
    }
    Ok(())
}

fn print_requests(herd: &Herd) {
    println!("Requests to the API server while all were rotated, as it counted them:");
    for (kind, number) in &herd.cost.requests.0 {
        let dry_run = if kind.dry_run { " (dry run)" } else { "" };
        let each = *number as f64 / herd.tokens as f64;
        let what = format!("{} {}{dry_run}", kind.verb, kind.resource);
        println!("  {what:<45} {number:>7} {each:>7.2} per rotation");
    }
    let elapsed = herd.elapsed.as_secs_f64();
    println!(
        "Processors in use meanwhile: API server {:.2}, operator {:.2}.",
        herd.cost.cpu_seconds / elapsed,
        herd.operator_cpu / elapsed
    );
}

fn print_floor(floor: &[FloorRun], tokens: usize) {
    println!("The bare client, by rotations at a time:");
    for run in floor {
        let (elapsed, tokens) = (run.elapsed.as_secs_f64(), tokens as f64);
        println!(
            "  {:>4}: {:>4.0} per second, {:.1} ms of the API server's processor time each",
            run.concurrency,
            tokens / elapsed,
            1000.0 * run.cost.cpu_seconds / tokens
        );
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
