//! The runs: what is started, what is made due, and what is read before and after.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::encrypted;
use super::fleet::Fleet;
use super::floor::Floor;
use super::herd::{self, Herd};
use super::hostile::{self, Attack, Harm};
use super::limits::{self, Limited};
use super::measure::Reading;
use super::model::Model;
use super::neighbour::Neighbours;
use super::peer::{self, Peer};
use super::settle::{self, make_model};
use super::shape::Shape;
use super::single::{self, Waits};
use super::site::{Pace, Site};
use super::start::{self, Idle, Start};
use super::watching::{Watching, status};

/// Rotations the bare client has in flight; the fastest of these is the floor. The operator bounds its own.
const CONCURRENCIES: [usize; 4] = [8, 16, 64, 256];
/// From this number on the extremes are left out: they take minutes, and no longer win.
const MANY: usize = 2000;
/// From the end of the writing to the due time: for the start, and for the look at the memory at rest.
const LEAD: Duration = Duration::from_secs(45);
const LEAD_FOR_EACH: Duration = Duration::from_millis(4);
/// From the end of a herd to the last look at the memory.
const AFTERWARDS: Duration = Duration::from_secs(60);
const NAME: &str = "herd";

/// A part that can be measured without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// One resource alone, by request and by schedule.
    Single,
    /// The operator's start with all resources settled.
    Start,
    /// All due at once.
    Herd,
    /// The bare client with as many tokens.
    Floor,
    /// Memory at rest, at the height of the herd, and a minute after it.
    Memory,
    /// A neighbour who asks while the herd is served.
    Fairness,
    /// Nothing due, with the largest number.
    Idle,
    /// Memory at rest in each shape, with the largest number.
    Shapes,
    /// A herd with the shipped limits, against the vendor's own.
    Vendor,
    /// A herd with the vendor over TLS, with the smallest number.
    Tls,
    /// Objects that are made to hurt, with the largest number of resources beside them.
    Hostile,
    /// kube-controller-manager's service-account token controller, with as many.
    Peer,
}

/// What is measured.
pub struct Options {
    /// Numbers of resources.
    pub sizes: Vec<usize>,
    /// The parts.
    pub parts: BTreeSet<Part>,
    /// How resources are spread.
    pub shape: Shape,
    /// For how long the operator is watched at rest.
    pub idle: Duration,
    /// Kinds of harm that are done.
    pub harm: Vec<Harm>,
}

/// Everything that was measured.
#[derive(Default)]
pub struct Runs {
    /// Kubernetes' major and minor version.
    pub kubernetes: (u32, u32),
    /// One resource alone.
    pub waits: Option<Waits>,
    /// By number of resources.
    pub sizes: Vec<Size>,
    /// What is resident at rest, by shape, with the largest number.
    pub shapes: Vec<(Shape, Start)>,
    /// At the vendor's pace.
    pub limited: Option<Limited>,
    /// With the vendor over TLS, and so many resources.
    pub encrypted: Option<(usize, Herd)>,
    /// What objects made to hurt do, one kind after the other and all together.
    pub attacks: Vec<Attack>,
    /// The peer, or why there is none.
    pub peer: Option<Result<Peer, String>>,
    /// What must not be: values that are not live, rotations that were not due.
    pub faults: Vec<String>,
    /// What did not come about.
    pub failures: Vec<String>,
}

/// What was measured with so many resources.
pub struct Size {
    /// So many.
    pub tokens: usize,
    /// Namespaces they are in.
    pub namespaces: usize,
    /// Workspaces their tokens are in.
    pub workspaces: usize,
    /// The start.
    pub start: Option<Start>,
    /// The herd.
    pub herd: Option<Herd>,
    /// What is resident a minute after the herd, bytes.
    pub afterwards: Option<u64>,
    /// The most the control group was charged with, herd included, bytes.
    pub charged: Option<u64>,
    /// Nothing due.
    pub idle: Option<Idle>,
    /// The bare client, by concurrency.
    pub floor: Vec<FloorRun>,
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

/// Measures what is asked for. Whatever fails is among the failures, and the rest is measured all the same.
pub async fn measure(options: &Options) -> Runs {
    let mut runs = Runs::default();
    let largest = options.sizes.iter().copied().max().unwrap_or_default();
    if options.has(&[Part::Single]) {
        let single = async { single::measure(&begin(&mut runs).await?).await };
        say("one resource, by request and by schedule");
        match single.await {
            Ok(waits) => runs.waits = Some(waits),
            Err(error) => runs.failed("one resource", &error),
        }
    }
    let at_a_size = [
        Part::Start,
        Part::Herd,
        Part::Floor,
        Part::Memory,
        Part::Fairness,
        Part::Idle,
    ];
    for &tokens in options.sizes.iter().filter(|_| options.has(&at_a_size)) {
        if let Err(error) = measure_size(&mut runs, options, (tokens, largest)).await {
            runs.failed(&format!("{tokens} resources"), &error);
        }
    }
    for shape in Shape::ALL
        .into_iter()
        .filter(|_| options.has(&[Part::Shapes]))
    {
        if let Err(error) = measure_shape(&mut runs, (largest, shape)).await {
            runs.failed(&shape.to_string(), &error);
        }
    }
    if options.has(&[Part::Vendor]) {
        say("a herd at the vendor's pace");
        match measure_limited(&mut runs, largest).await {
            Ok(limited) => runs.limited = Some(limited),
            Err(error) => runs.failed("the vendor's pace", &error),
        }
    }
    if options.has(&[Part::Tls]) {
        let smallest = options.sizes.iter().copied().min().unwrap_or_default();
        match measure_encrypted(&mut runs, (smallest, options.shape)).await {
            Ok(herd) => runs.encrypted = Some((smallest, herd)),
            Err(error) => runs.failed("over TLS", &error),
        }
    }
    if options.has(&[Part::Peer]) {
        match peer::measure(largest).await {
            Ok(peer) => runs.peer = Some(peer),
            Err(error) => runs.failed("the peer", &error),
        }
    }
    if options.has(&[Part::Hostile])
        && let Err(error) =
            measure_attacks(&mut runs, (largest, options.shape), &options.harm).await
    {
        runs.failed("objects made to hurt", &error);
    }
    runs
}

async fn begin(runs: &mut Runs) -> anyhow::Result<Site> {
    let site = Site::start().await?;
    runs.kubernetes = site.plane.version();
    Ok(site)
}

async fn measure_size(
    runs: &mut Runs,
    options: &Options,
    (tokens, largest): (usize, usize),
) -> anyhow::Result<()> {
    say(&format!("{tokens} resources: creating them"));
    let site = begin(runs).await?;
    let model = make_model(&site).await?;
    let mut neighbours = match options.has(&[Part::Fairness]) {
        true => Some(Neighbours::create(&site, &model).await?),
        false => None,
    };
    let lead = LEAD + LEAD_FOR_EACH * u32::try_from(tokens)?;
    let kind = (tokens, options.shape);
    let (fleet, due) = settle::create(&site, &model, NAME, kind, lead).await?;
    runs.sizes.push(Size {
        tokens,
        namespaces: fleet.namespaces(),
        workspaces: fleet.workspaces(),
        start: None,
        herd: None,
        afterwards: None,
        charged: None,
        idle: None,
        floor: Vec::new(),
    });
    let mut size = runs.sizes.pop().context("just pushed")?;
    let all = tokens + neighbours.as_ref().map_or(0, |it| it.fleet().members.len());
    let operated = async {
        say(&format!("{tokens} resources: the operator's start"));
        let (start, operator, cage) = start::measure(&site, all, Pace::Unlimited).await?;
        say(&format!(
            "{tokens} resources: evaluated in {:.1} s, {} MiB resident",
            start.evaluated.as_secs_f64(),
            start.resident >> 20
        ));
        size.start = Some(start);
        let worked = async {
            if options.has(&[Part::Herd, Part::Memory, Part::Fairness]) {
                say(&format!("{tokens} resources: all due at {due}"));
                let herd =
                    herd::measure(&site, &fleet, due, &operator, neighbours.as_mut()).await?;
                say(&format!(
                    "{tokens} resources: rotated in {:.1} s, {:.1} ms of processor time each, at most {} MiB resident",
                    herd.elapsed.as_secs_f64(),
                    1000.0 * herd.operator_cpu / herd.rotations as f64,
                    herd.most_resident >> 20
                ));
                size.herd = Some(herd);
                size.charged = cage.as_ref().and_then(|cage| cage.most());
                if options.has(&[Part::Memory]) {
                    sleep(AFTERWARDS).await;
                    size.afterwards = Some(operator.resident()?);
                }
            }
            if options.has(&[Part::Idle]) && tokens == largest {
                say(&format!(
                    "{tokens} resources: nothing due for {:?}",
                    options.idle
                ));
                size.idle = Some(start::rest(&site, &operator, options.idle).await?);
            }
            anyhow::Ok(())
        };
        let worked = worked.await.with_context(|| operator.log_tail());
        // It would rotate the bare client's tokens too.
        operator.kill().await?;
        worked
    };
    let operated = operated.await;
    if operated.is_ok() && options.has(&[Part::Floor]) {
        match rotate_bare(&site, &fleet, &model).await {
            Ok(floor) => size.floor = floor,
            Err(error) => runs.failed(&format!("the bare client with {tokens}"), &error),
        }
    }
    let faults = size
        .herd
        .iter_mut()
        .flat_map(|herd| std::mem::take(&mut herd.faults));
    let faults: Vec<_> = faults
        .map(|fault| format!("{tokens} resources: {fault}"))
        .collect();
    runs.faults.extend(faults);
    runs.sizes.push(size);
    operated
}

/// Rotates the same tokens, several times.
async fn rotate_bare(site: &Site, fleet: &Fleet, model: &Model) -> anyhow::Result<Vec<FloorRun>> {
    let tokens = fleet.members.len();
    let mut floor = Floor::new(site.account().await?, &site.astro, fleet, model).await?;
    // What watches the operator watches the bare client too.
    let mut watching = Watching::begin(&site.client, &fleet.label());
    watching.until("known", tokens, |_| true).await?;
    let tries = match tokens < MANY {
        true => &CONCURRENCIES[..],
        false => &CONCURRENCIES[1..3],
    };
    let mut runs = Vec::new();
    for &concurrency in tries {
        say(&format!(
            "{tokens} tokens: the bare client, {concurrency} at a time"
        ));
        let run = floor.run();
        let is_done = |resource: &_| {
            let id = status(resource, "/lastRotation/id").as_str();
            id.is_some_and(|id| id.starts_with(&run))
        };
        site.astro.clear_requests();
        let before = Reading::take_when_quiet(&site.client).await?;
        let begun = Instant::now();
        let (stored, ()) = tokio::try_join!(
            floor.rotate_all(concurrency),
            watching.until("rotated", tokens, is_done)
        )?;
        let elapsed = begun.elapsed();
        let cost = Reading::take_when_quiet(&site.client).await? - before;
        runs.push(FloorRun {
            concurrency,
            elapsed,
            cost,
            vendor_calls: site.astro.count_requests(|_| true),
            stored,
        });
    }
    Ok(runs)
}

async fn measure_shape(runs: &mut Runs, (tokens, shape): (usize, Shape)) -> anyhow::Result<()> {
    say(&format!("{tokens} resources at rest: {shape}"));
    let site = begin(runs).await?;
    let model = make_model(&site).await?;
    let far = Duration::from_secs(24 * 3600);
    settle::create(&site, &model, NAME, (tokens, shape), far).await?;
    let (start, operator, _cage) = start::measure(&site, tokens, Pace::Unlimited).await?;
    operator.kill().await?;
    runs.shapes.push((shape, start));
    Ok(())
}

async fn measure_limited(runs: &mut Runs, tokens: usize) -> anyhow::Result<Limited> {
    let site = begin(runs).await?;
    let model = make_model(&site).await?;
    let mut limited = limits::measure(&site, &model, tokens).await?;
    let faults = std::mem::take(&mut limited.herd.faults);
    let faults = faults.into_iter();
    runs.faults
        .extend(faults.map(|fault| format!("at the vendor's pace: {fault}")));
    Ok(limited)
}

async fn measure_encrypted(runs: &mut Runs, kind: (usize, Shape)) -> anyhow::Result<Herd> {
    say(&format!("{} resources, and Astro over TLS", kind.0));
    let mut site = begin(runs).await?;
    let model = make_model(&site).await?;
    let mut herd = encrypted::measure(&mut site, &model, kind).await?;
    let faults = std::mem::take(&mut herd.faults).into_iter();
    let faults = faults.map(|fault| format!("over TLS: {fault}"));
    runs.faults.extend(faults);
    Ok(herd)
}

async fn measure_attacks(
    runs: &mut Runs,
    kind: (usize, Shape),
    harm: &[Harm],
) -> anyhow::Result<()> {
    say(&format!(
        "{} resources, and objects made to hurt: creating them",
        kind.0
    ));
    let site = begin(runs).await?;
    let model = make_model(&site).await?;
    let faults = hostile::measure(&site, &model, kind, harm, &mut runs.attacks).await?;
    runs.faults.extend(faults);
    Ok(())
}

impl Options {
    fn has(&self, parts: &[Part]) -> bool {
        parts.iter().any(|part| self.parts.contains(part))
    }
}

impl Runs {
    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        self.failures.push(format!("{what}: {error:#}"));
    }
}

/// Says on stderr what is being done: some of it takes minutes.
pub fn say(what: &str) {
    eprintln!("bench: {what}");
}
