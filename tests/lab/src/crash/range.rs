//! The proving range: one control plane with several lanes, so that the waits of one are used by the others.

use std::sync::{Mutex, PoisonError};

use futures::future::try_join_all;

use super::lane::Lane;
use super::plan::{Plan, Trouble};
use super::report::Report;
use crate::control_plane::ControlPlane;
use crate::operator::install;

/// More would have to share the processor for longer than what lands late may take.
const LANES: usize = 3;

/// Everything but the operators.
pub struct Range {
    lanes: Vec<Lane>,
    plane: ControlPlane,
}

impl Range {
    /// Starts everything but the operators.
    ///
    /// # Errors
    /// When something does not start, or the operator's binary was not built.
    pub async fn start() -> anyhow::Result<Self> {
        let plane = ControlPlane::start().await?;
        install(&plane.client(), "deploy/namespaced").await?;
        let lanes = (1..=LANES).map(|number| Lane::start(&plane, number));
        Ok(Self {
            lanes: try_join_all(lanes).await?,
            plane,
        })
    }

    /// Kubernetes' major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.plane.version()
    }

    /// Lets plans happen in batches of at most this size, each to a resource of its own, and reports on each. Together
    /// are those that come to their traps at about the same time: what lands late has to land before the operator takes
    /// it for lost.
    ///
    /// # Errors
    /// When the API server refuses what is to be set up, or something went wrong that belongs to no one case:
    /// a leak, a write where nothing was to be written.
    pub async fn run_all(
        &mut self,
        mut plans: Vec<Plan>,
        batch: usize,
    ) -> anyhow::Result<Vec<Report>> {
        let pace = |plan: &Plan| {
            let retried = plan.traps.iter().any(|trap| trap.site.rotates > 0);
            let is_slow = plan.trouble != Trouble::None && retried;
            (plan.traps.len(), plan.task.takes_turns(), is_slow)
        };
        plans.sort_by_key(pace);
        let mut batches = Vec::new();
        for alike in plans.chunk_by(|one, other| pace(one) == pace(other)) {
            // As large as each other, so that no lane waits for the last one.
            let number = alike.len().div_ceil(batch);
            let size = alike.len().div_ceil(number);
            batches.extend(alike.chunks(size).map(<[Plan]>::to_vec));
        }
        self.play(batches, false).await
    }

    /// Lets plans happen with the whole last life in the trace, up to the event: each batch at once.
    ///
    /// # Errors
    /// See [`Range::run_all`].
    pub async fn learn(&mut self, batches: Vec<Vec<Plan>>) -> anyhow::Result<Vec<Report>> {
        self.play(batches, true).await
    }

    /// Each lane takes the next batch as soon as it is free; the reports come in the order of the batches.
    async fn play(&mut self, batches: Vec<Vec<Plan>>, whole: bool) -> anyhow::Result<Vec<Report>> {
        let queue = Mutex::new(batches.into_iter().enumerate());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let play = async |lane: &mut Lane| {
            let mut played = Vec::new();
            while let Some((number, plans)) = next() {
                played.push((number, lane.play(plans, whole).await?));
            }
            anyhow::Ok(played)
        };
        let played = try_join_all(self.lanes.iter_mut().map(play)).await?;
        let mut played: Vec<_> = played.into_iter().flatten().collect();
        played.sort_by_key(|(number, _)| *number);
        Ok(played
            .into_iter()
            .flat_map(|(_, reports)| reports)
            .collect())
    }
}
