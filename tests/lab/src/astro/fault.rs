//! What can go wrong with a request, as a list of faults of which the first that fits is used.

use super::Operation;
use super::answer::{Damage, Reply};
use super::wire::Line;
use axum::response::{IntoResponse, Response};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for a hit.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong with which requests. Of several that fit, the one added first is used.
///
/// What a request does once it has arrived goes on whether or not its client is still there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fault {
    /// Only this operation.
    pub operation: Option<Operation>,
    /// Only requests about the token of this id.
    pub token: Option<String>,
    /// Only requests made with a value of the token of this id.
    pub credential: Option<String>,
    /// Only so many requests; `None`: until cleared.
    pub times: Option<usize>,
    /// What happens before the request takes effect.
    pub before: Vec<Step>,
    /// What happens after it took effect, before it is answered.
    pub after: Vec<Step>,
    /// What is wrong with the answer, if that would be a 200.
    pub damage: Option<Damage>,
}

/// One thing that happens to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// It waits.
    Delay(#[serde(with = "duration")] Duration),
    /// It waits until [`FaultHandle::release`].
    Hold,
    /// It is answered so; nothing further happens to it, the effect included.
    Answer(Reply),
    /// The connection is closed without an answer; nothing further happens, the effect included.
    Close,
    /// Like `Close`, with a TCP reset.
    Reset,
    /// The connection is closed without an answer, and the rest happens all the same.
    HangUp,
}

/// A fault that was added. Dropping it changes nothing.
#[derive(Clone)]
pub struct FaultHandle(Arc<Armed>);

impl Fault {
    /// For every request.
    pub fn any() -> Fault {
        Fault::default()
    }

    /// For requests of one operation.
    pub fn on(operation: Operation) -> Fault {
        Fault {
            operation: Some(operation),
            ..Fault::default()
        }
    }

    /// Only about this token.
    pub fn token(mut self, id: impl Into<String>) -> Fault {
        self.token = Some(id.into());
        self
    }

    /// Only with this token as credential.
    pub fn credential(mut self, id: impl Into<String>) -> Fault {
        self.credential = Some(id.into());
        self
    }

    /// Only for the next `n` requests.
    pub fn times(mut self, n: usize) -> Fault {
        self.times = Some(n);
        self
    }

    /// Only for the next request.
    pub fn once(self) -> Fault {
        self.times(1)
    }

    /// A further step before the effect.
    pub fn before(mut self, step: Step) -> Fault {
        self.before.push(step);
        self
    }

    /// A further step after the effect.
    pub fn after(mut self, step: Step) -> Fault {
        self.after.push(step);
        self
    }

    /// The client loses its connection at once, the effect lands `delay` later.
    pub fn late(self, delay: Duration) -> Fault {
        self.before(Step::HangUp).before(Step::Delay(delay))
    }

    /// A spoilt answer.
    pub fn damage(mut self, damage: Damage) -> Fault {
        self.damage = Some(damage);
        self
    }

    fn holds(&self) -> bool {
        let mut steps = self.before.iter().chain(&self.after);
        steps.any(|step| matches!(step, Step::Hold))
    }
}

impl FaultHandle {
    /// Number of the fault, for the admin API.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// As it was added.
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// How many requests came to its hold, or met it at all if it has none.
    pub fn hits(&self) -> usize {
        *self.0.hits.borrow()
    }

    /// Waits for the first hit.
    ///
    /// # Panics
    /// See [`FaultHandle::reached_times`].
    pub async fn reached(&self) {
        self.reached_times(1).await;
    }

    /// Waits for the n-th hit.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn reached_times(&self, n: usize) {
        let mut hits = self.0.hits.subscribe();
        let reached = timeout(PATIENCE, hits.wait_for(|hits| *hits >= n)).await;
        if reached.is_err() {
            let (hits, fault) = (self.hits(), &self.0.fault);
            panic!("{hits} of {n} hits after {PATIENCE:?} of {fault:?}");
        }
    }

    /// Lets all held requests go on, and those to come.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// Meets no further requests, and releases those held.
    pub fn clear(&self) {
        *self.0.left() = Some(0);
        self.release();
    }
}

/// All faults, in the order they were added.
#[derive(Default)]
pub(super) struct Faults(Mutex<(u64, Vec<Arc<Armed>>)>);

/// A fault and what has become of it.
pub(super) struct Armed {
    id: u64,
    pub fault: Fault,
    left: Mutex<Option<usize>>,
    hits: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

impl Faults {
    /// Adds one.
    pub fn add(&self, fault: Fault) -> FaultHandle {
        let mut faults = self.lock();
        let (last, list) = &mut *faults;
        *last += 1;
        // Spent, and nothing is left that could ask for it: no request, no handle.
        list.retain(|armed| *armed.left() != Some(0) || Arc::strong_count(armed) > 1);
        let armed = Arc::new(Armed {
            id: *last,
            left: Mutex::new(fault.times),
            fault,
            hits: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        list.push(armed.clone());
        FaultHandle(armed)
    }

    /// Removes all and releases what they hold.
    pub fn clear(&self) {
        for armed in self.lock().1.drain(..) {
            FaultHandle(armed).clear();
        }
    }

    /// All that were not cleared, the spent ones only while they matter.
    pub fn handles(&self) -> Vec<FaultHandle> {
        self.lock().1.iter().cloned().map(FaultHandle).collect()
    }

    /// The first that fits, used up by one.
    pub fn meet(
        &self,
        operation: Operation,
        token: Option<&str>,
        credential: Option<&str>,
    ) -> Option<Arc<Armed>> {
        let fits = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|w| is == Some(w))
        };
        let faults = self.lock();
        let armed = faults.1.iter().find(|armed| {
            let fault = &armed.fault;
            fault.operation.is_none_or(|o| o == operation)
                && fits(&fault.token, token)
                && fits(&fault.credential, credential)
                && *armed.left() != Some(0)
        })?;
        let mut left = armed.left();
        *left = left.map(|n| n - 1);
        if !armed.fault.holds() {
            armed.hits.send_modify(|hits| *hits += 1);
        }
        Some(armed.clone())
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Arc<Armed>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Armed {
    /// Does the steps one after the other; breaks with the answer, or with none for a dead line.
    pub async fn walk(&self, steps: &[Step], line: &Line) -> ControlFlow<Option<Response>> {
        for step in steps {
            match step {
                Step::Delay(delay) => tokio::time::sleep(*delay).await,
                Step::Hold => {
                    self.hits.send_modify(|hits| *hits += 1);
                    let mut released = self.released.subscribe();
                    // Cannot fail: the sender is ours.
                    let _ = released.wait_for(|released| *released).await;
                }
                Step::Answer(reply) => {
                    return ControlFlow::Break(Some(reply.clone().into_response()));
                }
                Step::Close | Step::Reset => {
                    line.cut(matches!(step, Step::Reset));
                    return ControlFlow::Break(None);
                }
                Step::HangUp => line.cut(false),
            }
        }
        ControlFlow::Continue(())
    }

    fn left(&self) -> MutexGuard<'_, Option<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
