//! Objects of a tenant who means harm: what they do to memory and to a neighbour.
//!
//! The operator runs under the shipped memory limit where a control group can be made, and is started again when it ends, as
//! a kubelet would.

mod harm;

use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::harm::Tenant;
use super::memory::{Cage, SHIPPED_LIMIT, Watch};
use super::model::Model;
use super::neighbour::Neighbours;
use super::runs::say;
use super::settle;
use super::shape::Shape;
use super::site::{Pace, Site};

pub use self::harm::Harm;

/// The fleet beside them is not due before all is over.
const FAR: Duration = Duration::from_secs(24 * 3600);
/// Before a neighbour asks the operator is given so long to know everything.
const START: Duration = Duration::from_secs(20);
/// A neighbour may be asked for so often in a row.
const REQUESTS: usize = 3;
/// Between two looks whether the operator has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Longest time for one kind of harm, restarts included.
const WITHIN: Duration = Duration::from_secs(600);
/// Scrapers that read slowly, and how slowly.
const SCRAPERS: usize = 16;
const SIP: Duration = Duration::from_millis(100);

/// What one kind of them did.
pub struct Attack {
    /// What they were.
    pub what: String,
    /// The most memory that the operator had resident, bytes.
    pub most_resident: u64,
    /// How often it was killed because of the shipped limit, or ended in another way; without a control group never.
    pub ended: usize,
    /// Whether the limit was the reason.
    pub killed: bool,
    /// What neighbours waited.
    pub neighbours: Vec<Duration>,
}

/// Measures all of them, one kind after the other and all together, beside a fleet at rest. Returns what must not be.
///
/// # Errors
/// When something cannot be set up.
pub async fn measure(
    site: &Site,
    model: &Model,
    kind: (usize, Shape),
    harm: &[Harm],
    attacks: &mut Vec<Attack>,
) -> anyhow::Result<Vec<String>> {
    let mut neighbours = Neighbours::create(site, model).await?;
    let (fleet, _) = settle::create(site, model, "beside", kind, FAR).await?;
    let tenant = Tenant::create(site).await?;
    let alone = harm.iter().map(|harm| vec![*harm]);
    let together = (harm.len() > 1).then(|| harm.to_vec());
    for set in [Vec::new()].into_iter().chain(alone).chain(together) {
        let mut what = match set.as_slice() {
            [] => "nothing yet".to_owned(),
            [harm] => harm.to_string(),
            _ => "all together".to_owned(),
        };
        say(&format!("hostile: {what}"));
        let victim = neighbours.next().context("no neighbour is left")?.clone();
        for harm in &set {
            if let Some(refusal) = tenant.plant(site, *harm, &victim).await? {
                what += &format!(" ({refusal})");
            }
        }
        let attack = suffer(site, &tenant, &set, &mut neighbours).await;
        let attack = attack.with_context(|| what.clone())?;
        say(&format!(
            "hostile: {what}: at most {} MiB, ended {} times, a neighbour waits {:?}",
            attack.most_resident >> 20,
            attack.ended,
            attack.neighbours
        ));
        attacks.push(Attack { what, ..attack });
        for harm in &set {
            tenant.uproot(*harm).await?;
        }
    }
    let dead = [
        fleet.dead_secrets(&site.astro),
        neighbours.fleet().dead_secrets(&site.astro),
    ];
    let mut faults = Vec::new();
    for dead in join_all(dead).await {
        match dead? {
            0 => {}
            dead => faults.push(format!("beside hostile objects {dead} values are not live")),
        }
    }
    Ok(faults)
}

/// Runs the operator among them until a neighbour has been served.
async fn suffer(
    site: &Site,
    tenant: &Tenant,
    set: &[Harm],
    neighbours: &mut Neighbours,
) -> anyhow::Result<Attack> {
    let cage = Cage::make(Some(SHIPPED_LIMIT));
    if let Err(why) = &cage {
        say(&format!("no memory limit: {why}"));
    }
    let mut attack = Attack {
        what: String::new(),
        most_resident: 0,
        ended: 0,
        killed: false,
        neighbours: Vec::new(),
    };
    let asked = async {
        sleep(START).await;
        let (asked, harmed) =
            tokio::join!(neighbours.ask_again_and_again(REQUESTS), tenant.act(set));
        harmed?;
        asked
    };
    let asked = {
        let kept = keep_running(site, cage.as_ref().ok(), set, &mut attack);
        tokio::select! {
            asked = timeout(WITHIN, asked) => asked,
            error = kept => return Err(error),
        }
    };
    attack.neighbours = asked.context("it takes too long")??;
    attack.killed = cage.is_ok_and(|cage| cage.has_killed());
    Ok(attack)
}

/// Starts the operator, and again whenever it ends. Returns only when it cannot be started.
async fn keep_running(
    site: &Site,
    cage: Option<&Cage>,
    set: &[Harm],
    attack: &mut Attack,
) -> anyhow::Error {
    loop {
        let mut operator = match site.operator(Pace::Unlimited, cage, &[]).await {
            Ok(operator) => operator,
            Err(error) => return error,
        };
        let memory = Watch::begin(&operator);
        let _scrapers = set
            .contains(&Harm::Scrapers)
            .then(|| scrape(operator.port()));
        while operator.has_ended().is_ok_and(|ended| !ended) {
            attack.most_resident = attack.most_resident.max(memory.most(&operator));
            sleep(LOOK).await;
        }
        attack.most_resident = attack.most_resident.max(memory.most(&operator));
        attack.ended += 1;
        // A kubelet waits longer and longer.
        sleep(Duration::from_secs(1)).await;
    }
}

/// Asks for metrics again and again, and reads the answers byte by byte.
fn scrape(port: u16) -> Vec<AbortOnDropHandle<()>> {
    let scraper = || {
        AbortOnDropHandle::new(tokio::spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < WITHIN {
                // Before it listens, and when it hangs up.
                let _ = sip(port).await;
                sleep(SIP).await;
            }
        }))
    };
    std::iter::repeat_with(scraper).take(SCRAPERS).collect()
}

async fn sip(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: operator\r\n\r\n")
        .await?;
    let mut byte = [0];
    while stream.read(&mut byte).await? > 0 {
        sleep(SIP).await;
    }
    Ok(())
}
