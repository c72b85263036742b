//! What `make bench-downtime` measures: for how long a consumer of the Secret is refused around a rotation, with one
//! token and with two that take turns, undisturbed and while the operator is killed.
//!
//! Each resource has a namespace, an operator, a consumer and tokens of its own, so that a kill is in the middle of
//! one rotation and delays no other. The resources of an arm are rotated side by side, each a few times in a row.

mod consumer;
pub mod picture;
pub mod table;
mod track;
mod turn;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use fastrand::Rng;
use futures::future::try_join_all;
use tokio_util::task::AbortOnDropHandle;

pub use self::consumer::{Call, gaps};
use self::track::{Record, Track};
pub use self::turn::Turn;
use crate::astro::Astro;
use crate::control_plane::ControlPlane;
use crate::operator::{ACCOUNT, HOME, install};

/// How often a consumer calls.
pub const TICK: Duration = Duration::from_millis(50);
/// How often its copy of the Secret is read again.
pub const REFRESH: Duration = Duration::from_secs(5);
/// The operator's `--minimum-interval`, for which the value before stays valid: a little longer than [`REFRESH`].
pub const OVERLAP: Duration = Duration::from_secs(7);
/// Rotations of one resource: the operator answers no more requests than these in twelve minimum intervals.
const MOST_IN_A_ROW: usize = 10;

/// How many tokens a resource names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tokens {
    /// `token` alone.
    One,
    /// `token` and `alternateToken`.
    Two,
}

/// One of the four ways to rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// How many tokens each resource names.
    pub tokens: Tokens,
    /// Whether the operator is killed at a random request of every second rotation.
    pub crashes: bool,
}

/// What is to be measured.
pub struct Options {
    /// Rotations of each arm.
    pub rotations: usize,
    /// Which arms.
    pub tokens: Vec<Tokens>,
    /// Brings the same choices back, as far as time allows.
    pub seed: u64,
}

/// What an arm brought about.
#[derive(Debug)]
pub struct Outcome {
    /// Which one.
    pub arm: Arm,
    /// Requested rotations that were done.
    pub rotations: usize,
    /// How often an operator was killed.
    pub deaths: usize,
    /// How often of these it was where it was to be: in the middle of a request of the rotation.
    pub cuts: usize,
    /// The calls of all consumers.
    pub calls: usize,
    /// Those that were refused.
    pub refused: usize,
    /// The longest time for which one consumer was refused without a break.
    pub longest_gap: Option<Duration>,
    /// Every change of a value, as its consumer lived through it.
    pub turns: Vec<Turn>,
    /// Around which changes calls were refused, and for how long, in words.
    pub refusals: Vec<String>,
}

/// Measures the arms: those without crashes at the same time, and then those with crashes. `say` is told what begins.
///
/// # Errors
/// When something does not start, a rotation does not come about, or a value is in a log.
pub async fn measure(options: &Options, say: impl Fn(&str)) -> anyhow::Result<Vec<Outcome>> {
    say("starting a control plane");
    let plane = ControlPlane::start().await?;
    install(&plane.client(), "deploy/namespaced").await?;
    let mut outcomes = Vec::new();
    for crashes in [false, true] {
        let arms = options.tokens.iter();
        let arms = arms.map(|tokens| Arm {
            tokens: *tokens,
            crashes,
        });
        let arms: Vec<Arm> = arms.collect();
        for arm in &arms {
            say(&format!("{} rotations: {arm}", options.rotations));
        }
        let measured = arms.iter().map(|arm| arm.measure(&plane, options));
        outcomes.extend(try_join_all(measured).await?);
    }
    Ok(outcomes)
}

/// How many calls were refused although there were two tokens.
pub fn refused_with_two(outcomes: &[Outcome]) -> usize {
    let two = outcomes.iter().filter(|it| it.arm.tokens == Tokens::Two);
    two.map(|outcome| outcome.refused).sum()
}

impl Arm {
    async fn measure(self, plane: &ControlPlane, options: &Options) -> anyhow::Result<Outcome> {
        let astro = Astro::start().await?;
        let account = plane.service_account(HOME, ACCOUNT).await?;
        let mut random = Rng::with_seed(options.seed);
        let shares = shares(options.rotations).into_iter().enumerate();
        let tracks = shares.map(|(number, rotations)| {
            let (astro, random) = (astro.clone(), random.fork());
            let track = Track::lay(plane, &account, astro, self, number);
            async move {
                let track = track.await?;
                spawned(track.run(rotations, self.crashes, random)).await
            }
        });
        let tracks: Vec<_> = tracks.collect();
        Ok(self.sum(try_join_all(tracks).await?))
    }

    fn sum(self, records: Vec<Record>) -> Outcome {
        let calls = || records.iter().flat_map(|record| &record.calls);
        let gaps = records.iter().flat_map(|record| gaps(&record.calls));
        let refusals = records.iter().flat_map(Record::refusals).collect();
        Outcome {
            arm: self,
            refusals,
            rotations: records.iter().map(|record| record.rotations).sum(),
            deaths: records.iter().map(|record| record.deaths).sum(),
            cuts: records.iter().map(|record| record.cuts).sum(),
            calls: calls().count(),
            refused: calls().filter(|call| call.refused).count(),
            longest_gap: gaps.max(),
            turns: records.into_iter().flat_map(|it| it.turns).collect(),
        }
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "one token",
            Self::Two => "two tokens",
        })
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crashes = if self.crashes { "with" } else { "without" };
        write!(f, "{}, {crashes} crashes", self.tokens)
    }
}

/// How many rotations each resource gets: as many resources as are needed, and about as many rotations for each.
fn shares(rotations: usize) -> Vec<usize> {
    let resources = rotations.div_ceil(MOST_IN_A_ROW).max(1);
    let share = |number| rotations / resources + usize::from(number < rotations % resources);
    (0..resources).map(share).collect()
}

/// In a task of its own, which ends with its caller.
async fn spawned<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    task.await.context("a consumer's task broke down")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_shared_out_so_that_no_resource_has_more_than_the_operator_answers() {
        assert_eq!(shares(100), [10; 10]);
        assert_eq!(shares(2), [2]);
        assert_eq!(shares(25), [9, 8, 8]);
    }
}
