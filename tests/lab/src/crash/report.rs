//! What became of plans, the counts of it, and the plans that follow from what was learned.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::ledger::{Account, median};
use super::plan::{Plan, Task, Trouble};
use super::range::Range;
use super::site::{End, Site, Trap, What};

/// Requests of a kind between two calls that are told apart. While the operator waits until a call can no longer land, there are
/// as many of them as the time of that life allows, and the later ones are like the earlier.
const MOST_ALIKE: usize = 3;

/// What became of one resource.
#[derive(Debug)]
pub struct Report {
    /// What was to happen to it.
    pub plan: Plan,
    /// In how many lives its trap sprang: so often was it in the middle of something when the operator was killed.
    pub deaths: usize,
    /// Its requests in the last life.
    pub trace: Vec<Site>,
    /// What became of its values.
    pub account: Account,
    /// How often its token was rotated by the operator.
    pub rotations: usize,
    /// The promise that was broken.
    pub broken: Option<String>,
}

/// Reports, added up by task and trouble.
#[derive(Default)]
pub struct Count {
    rows: BTreeMap<(Task, Trouble), Row>,
    dead: Vec<Duration>,
}

#[derive(Default)]
struct Row {
    plans: usize,
    deaths: usize,
    rotations: usize,
    lost: usize,
    unhealed: usize,
}

impl Report {
    /// The plan with a further death at each request of the last life, in each way that differs.
    pub fn cuts(&self) -> impl Iterator<Item = Plan> {
        let sites = self.trace.iter().filter(|site| site.nth < MOST_ALIKE);
        sites.flat_map(move |site| {
            site.what.ends().iter().map(move |end| {
                let (mut plan, trap) = (
                    self.plan.clone(),
                    Trap {
                        site: *site,
                        end: *end,
                    },
                );
                plan.traps.push(trap);
                plan
            })
        })
    }

    /// Whether all its traps sprang.
    pub fn was_cut_everywhere(&self) -> bool {
        self.deaths == self.plan.traps.len()
    }
}

/// Lets everything happen whose requests are to be cut: every task, every trouble with a requested rotation, and the
/// recovery of a value that died with its process.
///
/// # Errors
/// See [`Range::run_all`].
pub async fn learn(range: &mut Range) -> anyhow::Result<Vec<Report>> {
    let plan = |task, trouble, traps: &[Trap]| Plan {
        task,
        trouble,
        traps: traps.to_vec(),
    };
    let lost = Trap {
        site: Site {
            rotates: 0,
            what: What::Rotate,
            nth: 0,
        },
        end: End::After,
    };
    let calm = Task::ALL.map(|task| plan(task, Trouble::None, &[]));
    let troubles = Trouble::ALL.into_iter().skip(1);
    let tasks = [Task::Requested, Task::Turn];
    let troubled = tasks.map(|task| troubles.clone().map(move |trouble| (task, trouble)));
    let troubled = troubled.into_iter().flatten();
    let troubled = troubled.map(|(task, trouble)| plan(task, trouble, &[]));
    let recovery = [
        plan(Task::First, Trouble::None, &[lost]),
        plan(Task::Requested, Trouble::None, &[lost]),
        plan(Task::Requested, Trouble::Stale, &[lost]),
        plan(Task::Turn, Trouble::None, &[lost]),
        plan(Task::SelfTurn, Trouble::None, &[lost]),
        plan(Task::TurnReclaimed, Trouble::None, &[lost]),
    ];
    let undisturbed = calm.into_iter().chain(troubled).collect();
    range.learn(vec![undisturbed, recovery.into()]).await
}

/// So many plans with two deaths each, made of what was learned; the same for the same seed.
pub fn sample(learned: &[Report], number: usize, seed: u64) -> Vec<Plan> {
    let mut random = Rng::with_seed(seed);
    let choose = |random: &mut Rng, from: &Report| {
        let site = from.trace[random.usize(..from.trace.len())];
        let ends = site.what.ends();
        Trap {
            site,
            end: ends[random.usize(..ends.len())],
        }
    };
    let lives = |deaths| move |report: &&Report| report.plan.traps.len() == deaths;
    let first: Vec<_> = learned.iter().filter(lives(0)).collect();
    let second: Vec<_> = learned.iter().filter(lives(1)).collect();
    let plan = |_| {
        let begun = first[random.usize(..first.len())];
        let healing = second[random.usize(..second.len())];
        let traps = [choose(&mut random, begun), choose(&mut random, healing)];
        Plan {
            traps: traps.into(),
            ..begun.plan.clone()
        }
    };
    (0..number).map(plan).collect()
}

impl Count {
    /// Adds reports.
    pub fn add(&mut self, reports: &[Report]) {
        for report in reports {
            let row = self.rows.entry((report.plan.task, report.plan.trouble));
            let row = row.or_default();
            row.plans += 1;
            row.deaths += report.deaths;
            row.rotations += report.rotations;
            row.lost += report.account.lost;
            row.unhealed += usize::from(report.broken.is_some());
            self.dead.extend(&report.account.dead);
        }
        self.dead.sort();
    }

    /// How often something was in the middle of being done when the operator was killed.
    pub fn deaths(&self) -> usize {
        self.rows.values().map(|row| row.deaths).sum()
    }

    /// Resources that did not end as promised.
    pub fn unhealed(&self) -> usize {
        self.rows.values().map(|row| row.unhealed).sum()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["plans", "cuts", "rotations", "lost", "unhealed"];
        let [plans, deaths, rotations, lost, unhealed] = head;
        writeln!(
            f,
            "{:<26}{plans:>8}{deaths:>8}{rotations:>11}{lost:>8}{unhealed:>10}",
            ""
        )?;
        let mut all = Row::default();
        let line = |f: &mut fmt::Formatter, name: &str, row: &Row| {
            let Row {
                plans,
                deaths,
                rotations,
                lost,
                unhealed,
            } = row;
            writeln!(
                f,
                "{name:<26}{plans:>8}{deaths:>8}{rotations:>11}{lost:>8}{unhealed:>10}"
            )
        };
        for ((task, trouble), row) in &self.rows {
            let name = match trouble {
                Trouble::None => format!("{task:?}"),
                trouble => format!("{task:?}, {trouble:?}"),
            };
            line(f, &name, row)?;
            all.plans += row.plans;
            all.deaths += row.deaths;
            all.rotations += row.rotations;
            all.lost += row.lost;
            all.unhealed += row.unhealed;
        }
        line(f, "all", &all)?;
        if let Some((median, longest)) = median(&self.dead) {
            let times = self.dead.len();
            writeln!(
                f,
                "a Secret held a dead value {times} times: median {median:.1?}, longest {longest:.1?}"
            )?;
        }
        Ok(())
    }
}
