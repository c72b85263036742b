//! All resources of a fleet due at one instant.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::measure::{Histogram, Own, Reading};
use super::memory::Watch;
use super::neighbour::Neighbours;
use super::now;
use super::site::Site;
use super::watching::{Watching, is_settled, time};
use crate::astro::Operation;
use crate::operator::Operator;

/// The first reading is taken so long before the due time.
const READ_BEFORE: Duration = Duration::from_secs(2);

/// All tokens of a fleet rotated once by the operator.
pub struct Herd {
    /// From the due time until the last status said that its rotation is done.
    pub elapsed: Duration,
    /// Rotations, those of the neighbours included: what the costs below are for.
    pub rotations: usize,
    /// What that cost the API server.
    pub cost: Reading,
    /// What it cost the operator, seconds of processor time.
    pub operator_cpu: f64,
    /// What the operator counted itself.
    pub own: Own,
    /// Files and connections the operator had open right after.
    pub open_files: usize,
    /// Requests to the vendor: all, lists among them, and those it turned away.
    pub vendor: Calls,
    /// Reads of Secrets with credentials, as the API server's audit log has them.
    pub credential_reads: usize,
    /// From the vendor's answer to the value stored, by the operator's own account.
    pub stored: Histogram,
    /// The most memory it had resident meanwhile, bytes.
    pub most_resident: u64,
    /// What neighbours waited meanwhile.
    pub neighbours: Vec<Duration>,
    /// What must not be: values that are not live, rotations that were not due.
    pub faults: Vec<String>,
}

/// Requests to the vendor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// All of them.
    pub all: usize,
    /// Lists, each page counted.
    pub lists: usize,
    /// Rotations.
    pub rotations: usize,
    /// Answered with 429.
    pub turned_away: usize,
}

impl Calls {
    /// Those since the simulator was asked to forget them.
    pub fn of(site: &Site) -> Self {
        let count = |operation: Operation| {
            site.astro
                .count_requests(|request| request.operation == operation)
        };
        Self {
            all: site.astro.count_requests(|_| true),
            lists: count(Operation::List),
            rotations: count(Operation::Rotate),
            turned_away: site
                .astro
                .count_requests(|request| request.status == Some(429)),
        }
    }
}

/// From `due` until the last status says that its rotation is done, with neighbours who ask meanwhile.
///
/// # Errors
/// When it does not end, or was due before this began.
pub async fn measure(
    site: &Site,
    fleet: &Fleet,
    due: Timestamp,
    operator: &Operator,
    mut neighbours: Option<&mut Neighbours>,
) -> anyhow::Result<Herd> {
    let tokens = fleet.members.len();
    let mut watching = Watching::begin(&site.client, &fleet.label());
    watching.until("settled", tokens, is_settled).await?;
    anyhow::ensure!(
        now() < due,
        "the machine is too busy: not ready at the due time"
    );
    let before = Duration::try_from(due.duration_since(now()))?;
    sleep(before.saturating_sub(READ_BEFORE)).await;
    let asked_before = neighbours.as_ref().map_or(0, |it| it.asked().len());
    let rotated_before = rotations(site, fleet, neighbours.as_deref());
    let (own, stored) = (Own::take(operator).await?, Histogram::take(operator).await?);
    let credential_reads = site.credential_reads()?;
    site.astro.clear_requests();
    let operator_cpu = operator.cpu_seconds()?;
    let memory = Watch::begin(operator);
    let reading = Reading::take(&site.client).await?;

    let is_done =
        |resource: &_| is_settled(resource) && time(resource, "/lastRotation/at") >= Some(due);
    let is_over = AtomicBool::new(false);
    let work = async {
        let worked = watching.until("rotated", tokens, is_done).await;
        let elapsed = now().duration_since(due);
        is_over.store(true, Ordering::Relaxed);
        worked.map(|()| elapsed)
    };
    let asking = async {
        let Some(neighbours) = neighbours.as_deref_mut() else {
            return Ok(Vec::new());
        };
        sleep(Duration::try_from(due.duration_since(now())).unwrap_or_default()).await;
        neighbours
            .ask(usize::MAX, || is_over.load(Ordering::Relaxed))
            .await
    };
    let (elapsed, waits) = tokio::join!(work, asking);
    let (elapsed, waits) = (Duration::try_from(elapsed?)?, waits?);
    let open_files = operator.open_files()?;
    let most_resident = memory.most(operator);

    let cost = Reading::take_when_quiet(&site.client).await? - reading;
    let operator_cpu = operator.cpu_seconds()? - operator_cpu;
    let rotated = rotations(site, fleet, neighbours.as_deref()) - rotated_before;
    let asked = neighbours.as_ref().map_or(0, |it| it.asked().len()) - asked_before;
    Ok(Herd {
        elapsed,
        rotations: tokens + asked,
        cost,
        operator_cpu,
        own: Own::take(operator).await? - own,
        open_files,
        vendor: Calls::of(site),
        credential_reads: site.credential_reads()? - credential_reads,
        stored: Histogram::take(operator).await? - stored,
        most_resident,
        neighbours: waits,
        faults: faults(site, fleet, (rotated, tokens + asked)).await?,
    })
}

fn rotations(site: &Site, fleet: &Fleet, neighbours: Option<&Neighbours>) -> usize {
    let neighbours = neighbours.map_or(0, |it| it.fleet().rotations(&site.astro));
    fleet.rotations(&site.astro) + neighbours
}

/// What must not be after `wanted` rotations, when `rotated` were done.
///
/// # Errors
/// When the API server does not answer.
pub async fn faults(
    site: &Site,
    fleet: &Fleet,
    (rotated, wanted): (usize, usize),
) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    if rotated != wanted {
        faults.push(format!("{rotated} rotations where {wanted} were due"));
    }
    let dead = fleet.dead_secrets(&site.astro).await?;
    if dead > 0 {
        faults.push(format!(
            "{dead} Secrets do not hold their token's live value"
        ));
    }
    Ok(faults)
}
