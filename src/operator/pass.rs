//! One pass over one resource: observe, plan, act, write the status. It waits neither for a list nor for its turn: it ends,
//! and another one begins when there is what it lacks.

use super::admission::{Admission, Kind, Permit};
use super::grant::Grant;
use super::handles::Handles;
use super::observe::{Known, List, Observer, list_key};
use super::places::Places;
use super::rewrite::{self, Rewrite};
use super::rotate::rehearse_first;
use super::runner::Next;
use super::task;
use super::teller::Teller;
use super::waiting::Waiting;
use super::works::Works;
use crate::api::{Key, Status, WorkspaceTokenRotation};
use crate::clock::{self, now};
use crate::cluster;
use crate::cluster::decode::Item;
use crate::cluster::error::Error as ClusterError;
use crate::cluster::retry::HeldBack;
use crate::cluster::store::Store;
use crate::cluster::watch::Wake;
use crate::decide::evidence::{Held, Observed, Stored};
use crate::decide::notice::{Notice, expiring, notice};
use crate::decide::plan::brake::tries::{doubted, purpose, racing};
use crate::decide::plan::rules::{after_look, leads_to_rotation, plan, rehearses_first};
use crate::decide::plan::wake::{after_race, wake};
use crate::decide::plan::{Plan, Rotation, Setback};
use crate::decide::status;
use crate::decide::tries::{Came, Rewritten, Tries};
use futures::FutureExt;
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Outcomes that are written at a time. A large resource keeps the API server busy for long, and a tenant may have many that
/// change at once: whatever is more urgent, such as a value to be stored, must not wait behind all of them.
pub(super) const OUTCOMES: usize = 8;

/// What passes are made with.
pub(super) struct Context {
    pub(super) resources: Store<WorkspaceTokenRotation>,
    pub(super) observer: Observer,
    pub(super) works: Works,
    pub(super) teller: Teller,
    pub(super) wake: Wake,
    pub(super) admission: Admission,
    pub(super) waiting: Waiting,
    /// For outcomes to be written.
    pub(super) outcomes: Places,
    pub(super) tasks: TaskTracker,
    /// Nothing is begun any more.
    pub(super) stop: CancellationToken,
}

/// Nothing was begun, as far as is known; the next try starts from scratch.
#[derive(thiserror::Error, Debug)]
enum Error {
    #[error("the API server gives no evidence: {0}")]
    Cluster(#[from] ClusterError),
    #[error("the process is stopping")]
    Stopping,
    #[error("a fault in the operator; please report the place that was logged")]
    Panicked,
}

impl Error {
    /// The pause that the API server asked for.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Cluster(ClusterError::Unavailable(error)) => {
                HeldBack::of(error).map_or(Duration::ZERO, |held| held.after)
            }
            _ => Duration::ZERO,
        }
    }
}

/// One pass over one resource.
struct Pass {
    seen: Observed,
    plan: Plan,
    grant: Option<Grant>,
    permit: Option<Permit>,
    /// Why the plan cannot be carried out, where that is known already.
    setback: Option<Setback>,
    /// What was done beside a rotation, for an event.
    done: Option<Notice>,
}

/// What a pass over a resource with a `permit` brought, and when the next one is due.
pub(super) async fn pass(context: Arc<Context>, key: Arc<Key>, permit: Option<Permit>) -> Next {
    let waited = context.waiting.served(&key);
    let Some(resource) = context.resources.get(&key) else {
        return Next::Woken;
    };
    // A panic ends one pass, not the operator; the hook has logged its place.
    let pass = AssertUnwindSafe(context.pass(&key, &resource, (permit, waited))).catch_unwind();
    match pass.await.unwrap_or(Err(Error::Panicked)) {
        Ok(next) => {
            let (namespace, name) = (&key.namespace, &key.name);
            debug!(namespace, name, ?next, "reconciled");
            next
        }
        Err(error) => Next::After(context.pause(&resource, &error)),
    }
}

impl Context {
    async fn pass(
        self: &Arc<Self>,
        key: &Arc<Key>,
        resource: &WorkspaceTokenRotation,
        given: (Option<Permit>, Option<Instant>),
    ) -> Result<Next, Error> {
        let begun = Instant::now();
        let Some(mut pass) = self.decide(key, resource, given).await? else {
            return Ok(Next::Woken);
        };
        let setback = self.act(&mut pass).await?;
        let next = status::next(&pass.seen, &pass.plan, setback.as_ref());
        let written = self.record(&mut pass, next).await;
        self.handles().metrics.reconciled(begun.elapsed());
        if setback == Some(Setback::Raced) || matches!(written, Err(ClusterError::Raced)) {
            return Ok(Next::After(clock::until(self.raced(&mut pass))));
        }
        written?;
        let uid = pass.seen.resource.uid().unwrap_or_default();
        self.works.pass_done(&uid);
        if setback.is_some() || matches!(pass.plan, Plan::Retry { .. }) {
            self.failed(&pass);
        }
        self.went_well(&pass);
        if pass.plan == Plan::Settle {
            pass.plan = plan(&pass.seen);
        }
        let at = wake(&pass.seen, &pass.plan, setback.as_ref());
        Ok(Next::After(clock::until(at)))
    }

    /// How long to wait after a pass that had no evidence.
    fn pause(&self, resource: &WorkspaceTokenRotation, error: &Error) -> Duration {
        let (namespace, name) = (resource.namespace(), resource.name_any());
        let errors = self.works.pass_failed(&resource.uid().unwrap_or_default());
        let pace = &self.handles().settings.pace;
        let pause = error.retry_after().max(pace.after_errors(errors));
        match error {
            Error::Stopping => debug!(namespace, name, "not begun: the process is stopping"),
            error => warn!(namespace, name, %error, ?pause, "reconcile failed, trying again"),
        }
        pause
    }

    /// Plans on cached evidence, and again on fresh evidence where the plan asks for it; `None` when something is lacking that
    /// wakes the resource once it is there.
    async fn decide(
        self: &Arc<Self>,
        key: &Arc<Key>,
        resource: &WorkspaceTokenRotation,
        (permit, waited): (Option<Permit>, Option<Instant>),
    ) -> Result<Option<Pass>, Error> {
        let work = self.works.get(&resource.uid().unwrap_or_default());
        let list = match (&permit, waited) {
            // One that has its turn does not wait again.
            (Some(_), _) => List::Any,
            (None, Some(asked)) => List::Since(asked),
            (None, None) => List::Young,
        };
        let seen = match self.observer.cached(resource, now(), work, list).await? {
            Known::Seen(seen) => *seen,
            Known::Lacks(not_before) => {
                self.wait_for_list(key, resource, not_before);
                return Ok(None);
            }
        };
        let mut pass = Pass {
            plan: plan(&seen),
            seen,
            grant: None,
            permit,
            setback: None,
            done: None,
        };
        let may_go_on = pass.plan != Plan::Look || self.look(key, &mut pass).await?;
        self.observer.judge(&pass.seen);
        Ok(may_go_on.then_some(pass))
    }

    /// Looks now, if the pass has a permit that is good for what is to follow; otherwise it asks for one and returns `false`.
    async fn look(&self, key: &Arc<Key>, pass: &mut Pass) -> Result<bool, Error> {
        let kind = match leads_to_rotation(&pass.seen) {
            true => Kind::Rotation,
            false => Kind::Look,
        };
        if pass.permit.is_none() && rehearses_first(&pass.seen) {
            pass.setback = rehearse_first(&self.handles().client, &pass.seen).await;
            if pass.setback.is_some() {
                return Ok(true);
            }
        }
        if !self.is_permitted(key, kind, pass).await? {
            return Ok(false);
        }
        // None begins after the end has.
        (pass.seen, pass.grant) = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Error::Stopping),
            live = self.observer.live(&pass.seen, now) => live?,
        };
        pass.plan = after_look(&pass.seen, plan(&pass.seen));
        match pass.plan {
            Plan::Rotate(_) => self.is_permitted(key, Kind::Rotation, pass).await,
            _ => Ok(true),
        }
    }

    /// Whether the pass has a permit for this with the resource's credential; otherwise it asks for one. Without a credential
    /// none is needed, since nothing will be asked.
    async fn is_permitted(
        &self,
        key: &Arc<Key>,
        kind: Kind,
        pass: &mut Pass,
    ) -> Result<bool, Error> {
        let grant = self.handles().grants.of(&pass.seen.resource).await;
        let credential = match grant {
            Ok(grant) => grant.credential.fingerprint(),
            Err(ClusterError::Refused(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let is_good = |permit: &Permit| permit.is_for(kind, credential);
        if pass.permit.as_ref().is_some_and(is_good) {
            return Ok(true);
        }
        // One that is of no use must not keep others waiting.
        pass.permit = None;
        self.admission.ask(kind, credential, key);
        Ok(false)
    }

    /// Reads a list and wakes the resource, and all others that came for the same list meanwhile.
    fn wait_for_list(
        self: &Arc<Self>,
        key: &Arc<Key>,
        resource: &WorkspaceTokenRotation,
        not_before: Option<Instant>,
    ) {
        let list = list_key(resource);
        if !self.waiting.join(&list, key) {
            return;
        }
        let (context, key) = (self.clone(), key.clone());
        self.tasks.spawn(async move {
            let fetched = context.waiting.read(async {
                // Only now, because thousands may wait for a place.
                if let Some(resource) = context.resources.get(&key) {
                    let fetch = context.observer.fetch_list(&resource, not_before);
                    // Whatever becomes of it, those who wait have to look again.
                    let _ = Box::pin(AssertUnwindSafe(fetch).catch_unwind()).await;
                }
            });
            tokio::select! {
                () = context.stop.cancelled() => {}
                () = fetched => {}
            }
            let waited = context.waiting.end(&list);
            context.wake.send(waited.iter().map(|key| (**key).clone()));
        });
    }

    /// Carries the plan out; afterwards the pass holds what is then known and planned.
    async fn act(self: &Arc<Self>, pass: &mut Pass) -> Result<Option<Setback>, Error> {
        if matches!(pass.plan, Plan::Rotate(_) | Plan::Rewrite { .. }) {
            // Whatever comes of it, the Secret is another one then.
            let uid = pass.seen.resource.uid().unwrap_or_default();
            self.works.prove(&uid, None);
        }
        Ok(match pass.plan.clone() {
            Plan::Rotate(rotation) => self.rotate(pass, *rotation).await?,
            Plan::Rewrite { from } => self.rewrite(pass, *from).await,
            _ => pass.setback.take(),
        })
    }

    async fn rotate(
        self: &Arc<Self>,
        pass: &mut Pass,
        rotation: Rotation,
    ) -> Result<Option<Setback>, Error> {
        // Only fresh evidence makes this plan, and fresh evidence comes with its grant.
        let (Some(grant), Some(permit)) = (pass.grant.take(), pass.permit.take()) else {
            return Ok(Some(Setback::Raced));
        };
        let stuck = Arc::new(Notify::new());
        let rotated = rotation.token.id.clone();
        let mut running = {
            let (context, seen, stuck) = (self.clone(), pass.seen.clone(), stuck.clone());
            self.tasks.spawn(async move {
                let (observer, works) = (&context.observer, &context.works);
                let granted = (grant, permit);
                let signals = (&*stuck, &context.stop);
                task::run(observer, works, &seen, &rotation, granted, signals).await
            })
        };
        let pace = pass.seen.pace();
        let ended = tokio::select! {
            ended = &mut running => Some(ended),
            () = stuck.notified() => None,
            () = tokio::time::sleep(pace.vendor_timeout + pace.pass_patience) => None,
        };
        // What was stored is from after the look: as of the look it would be from the future, which counts for nothing.
        pass.seen.now = now();
        match ended {
            Some(Ok(Ok(done))) => {
                // The status is written before the next rotation is begun: its write must not delay that of a value.
                pass.permit = done.permit;
                pass.seen.resource = done.resource;
                if let Some(held) = done.held {
                    pass.seen.stored = Stored::Holds(held);
                }
                pass.seen.records.put(&rotated, done.token);
                pass.plan = plan(&pass.seen);
                Ok(None)
            }
            Some(Ok(Err(setback))) => {
                // The intent may have been recorded since: what follows is fenced by the newest status.
                self.refresh(pass).await?;
                Ok(Some(setback))
            }
            // A panic says nothing of what was done: the intent stays, and evidence decides.
            Some(Err(_)) => Ok(Some(Setback::Raced)),
            // The task goes on alone; meanwhile status says what it is at.
            None => {
                let resource = Key::from(&pass.seen.resource);
                let wake = self.wake.clone();
                self.tasks.spawn(async move {
                    let _ = running.await;
                    wake.send([resource]);
                });
                self.refresh(pass).await?;
                let uid = pass.seen.resource.uid().unwrap_or_default();
                pass.seen.work = self.works.get(&uid);
                pass.plan = plan(&pass.seen);
                Ok(None)
            }
        }
    }

    async fn refresh(&self, pass: &mut Pass) -> Result<(), ClusterError> {
        let resource = &pass.seen.resource;
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<Item<WorkspaceTokenRotation>> =
            Api::namespaced(self.handles().client.clone(), &namespace);
        if let Some(found) = api.get_opt(&resource.name_any()).await? {
            pass.seen.resource = found.read()?;
        }
        Ok(())
    }

    /// Writes the Secret anew from the value that is already in the cluster.
    async fn rewrite(&self, pass: &mut Pass, from: Held) -> Option<Setback> {
        let seen = &mut pass.seen;
        let uid = seen.resource.uid().unwrap_or_default();
        let (came, stored) = match rewrite::rewrite(self.handles(), seen, &from).await {
            Rewrite::Done(held, notice) => {
                pass.done = Some(notice);
                (Came::Written, Some(held))
            }
            Rewrite::Tried(came) => (came, None),
            Rewrite::Failed(setback) => return Some(setback),
        };
        seen.now = now();
        let rewritten = Rewritten {
            at: seen.now,
            purpose: purpose(seen, &from),
            came: came.clone(),
        };
        let quiet = seen.pace().undone_quiet;
        let note = |tries: &mut Tries| tries.rewrote(rewritten, quiet);
        let (tries, is_undone) = self.works.note(&uid, note);
        if is_undone {
            self.handles().metrics.target_write_undone();
        }
        seen.tries = tries;
        seen.stored = match (came, stored) {
            (Came::Changed(blocked) | Came::Refused(blocked), _) => {
                return Some(Setback::Refused(blocked));
            }
            (_, Some(held)) => Stored::Holds(*held),
            (_, None) => doubted(seen, Stored::Holds(from)),
        };
        pass.plan = plan(seen);
        None
    }

    /// Remembers that something was changed while this pass worked; returns when to come back.
    fn raced(&self, pass: &mut Pass) -> Timestamp {
        if let Some((until, _)) = racing(&pass.seen) {
            // It only meant to say so.
            return until;
        }
        let uid = pass.seen.resource.uid().unwrap_or_default();
        let note = |tries: &mut Tries| tries.raced(now());
        (pass.seen.tries, ()) = self.works.note(&uid, note);
        after_race(&pass.seen)
    }

    fn failed(&self, pass: &Pass) {
        let uid = pass.seen.resource.uid().unwrap_or_default();
        let note = |tries: &mut Tries| tries.failed(pass.seen.requests(), now());
        self.works.note(&uid, note);
    }

    fn went_well(&self, pass: &Pass) {
        if pass.seen.tries.races > 0 && racing(&pass.seen).is_none() {
            let uid = pass.seen.resource.uid().unwrap_or_default();
            self.works.note(&uid, Tries::went_well);
        }
    }

    /// Writes the status when it differs, and tells of what a person should hear.
    async fn record(&self, pass: &mut Pass, next: Status) -> Result<(), ClusterError> {
        let old = pass.seen.resource.status.clone().unwrap_or_default();
        if next != old {
            let write = cluster::status::write(&self.handles().client, &pass.seen.resource, &next);
            let written = match pass.permit {
                // Of these there are few.
                Some(_) => write.await?,
                None => self.outcomes.run(write).await?,
            };
            self.observer.book(&written);
            pass.seen.resource = written;
        }
        let notices = [pass.done.take(), notice(&old, &next), expiring(&old, &next)];
        for notice in notices.into_iter().flatten() {
            self.teller.tell(&pass.seen.resource, &notice);
        }
        Ok(())
    }

    pub(super) fn handles(&self) -> &Handles {
        &self.observer.handles
    }
}
