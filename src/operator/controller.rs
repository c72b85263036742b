//! Reconcile, error policy and wiring.

use super::handles::Handles;
use super::observe::{Granted, Observer};
use super::rewrite::{self, Rewrite};
use super::rotate::rehearse_first;
use super::task;
use super::teller::{self, Teller};
use super::works::Works;
use crate::api::{Key, Status, WorkspaceTokenRotation};
use crate::clock::{self, now};
use crate::cluster;
use crate::cluster::decode::Item;
use crate::cluster::error::Error as ClusterError;
use crate::cluster::retry::HeldBack;
use crate::cluster::watch::{self, Scope, SecretAccess, Wake};
use crate::decide::evidence::{Held, Live, Observed, Stored};
use crate::decide::notice::{Notice, expiring, notice};
use crate::decide::plan::brake::tries::{doubted, purpose, racing};
use crate::decide::plan::rules::{after_look, plan, rehearses_first};
use crate::decide::plan::wake::{after_race, wake};
use crate::decide::plan::{Plan, Rotation, Setback};
use crate::decide::rivals::Claims;
use crate::decide::status;
use crate::decide::tries::{Came, Rewritten, Tries};
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Everything the controller is made of.
pub struct Setup {
    /// What everything is done with.
    pub handles: Handles,
    /// For watches: no read timeout.
    pub watch_client: Client,
    /// Where to work.
    pub scope: Scope,
    /// How to learn what Secrets hold.
    pub secret_access: SecretAccess,
    /// Set once the resources are known, for the per-resource series.
    pub resources: Arc<Mutex<Option<Store<WorkspaceTokenRotation>>>>,
}

/// Reconciles until `shutdown`; `synced` is called once everything is known. Returns when nothing is in flight any more.
pub async fn run(setup: Setup, shutdown: CancellationToken, synced: impl FnOnce()) {
    let handles = setup.handles;
    let (wake, mut receiver) = Wake::channel();
    let claims: Arc<Mutex<Claims>> = Arc::default();
    let (on_unreadable, unreadable) = teller::unreadable(&handles.metrics);
    let (watched, feeds) = watch::watch(
        &setup.watch_client,
        &setup.scope,
        setup.secret_access,
        claims.clone(),
        wake.clone(),
        handles.settings.pace,
        on_unreadable,
    );
    let resources = watched.resources.clone();
    let works = Works::default();
    let context = Arc::new(Context {
        teller: Teller::new(&handles),
        observer: Observer::new(
            handles,
            resources.clone(),
            watched.secrets.clone(),
            claims,
            wake.clone(),
            works.clone(),
        ),
        works,
        wake,
        tasks: TaskTracker::new(),
        stop: shutdown.clone(),
    });
    let feeds = async {
        tokio::join!(
            feeds,
            context.clean_up(),
            context.teller.tell_of_unreadable(unreadable)
        )
    };
    let work = async {
        tokio::select! {
            () = watched.synced() => {}
            () = shutdown.cancelled() => return,
        }
        if let Ok(mut shared) = setup.resources.lock() {
            *shared = Some(resources.clone());
        }
        synced();
        info!(resources = resources.len(), "watching");
        let queue = stream::poll_fn(move |cx| receiver.poll_recv(cx))
            .take_until(shutdown.cancelled_owned())
            .map(Ok::<_, std::convert::Infallible>);
        let store = resources.clone();
        let reconcile = |resource, context| {
            // A panic ends one pass, not the operator; the hook has logged its place.
            let pass = AssertUnwindSafe(reconcile(resource, context)).catch_unwind();
            pass.map(|outcome| outcome.unwrap_or(Err(Error::Panicked)))
                .boxed()
        };
        applier(
            reconcile,
            error_policy,
            context.clone(),
            store,
            queue,
            Config::default(),
        )
        .for_each(async |result| report(result))
        .await;
        context.tasks.close();
        context.tasks.wait().await;
        context.teller.finish().await;
    };
    tokio::select! {
        _ = feeds => {}
        () = work => {}
    }
}

struct Context {
    observer: Observer,
    works: Works,
    teller: Teller,
    wake: Wake,
    tasks: TaskTracker,
    /// Nothing is begun any more.
    stop: CancellationToken,
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

/// One pass: observe, plan, act, write status, come back when something can have changed.
async fn reconcile(
    resource: Arc<WorkspaceTokenRotation>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let begun = Instant::now();
    let mut pass = context.decide(&resource).await?;
    let setback = context.act(&mut pass).await?;
    let next = status::next(&pass.seen, &pass.plan, setback.as_ref());
    let written = context.record(&mut pass, next).await;
    context.handles().metrics.reconciled(begun.elapsed());
    if setback == Some(Setback::Raced) || matches!(written, Err(ClusterError::Raced)) {
        return Ok(Action::requeue(clock::until(context.raced(&mut pass))));
    }
    written?;
    context
        .works
        .pass_done(&pass.seen.resource.uid().unwrap_or_default());
    if setback.is_some() || matches!(pass.plan, Plan::Retry { .. }) {
        context.failed(&pass);
    }
    context.went_well(&pass);
    if pass.plan == Plan::Settle {
        pass.plan = plan(&pass.seen);
    }
    let at = wake(&pass.seen, &pass.plan, setback.as_ref());
    Ok(Action::requeue(clock::until(at)))
}

fn error_policy(
    resource: Arc<WorkspaceTokenRotation>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let (namespace, name) = (resource.namespace(), resource.name_any());
    let errors = context
        .works
        .pass_failed(&resource.uid().unwrap_or_default());
    let pace = &context.handles().settings.pace;
    let pause = error.retry_after().max(pace.after_errors(errors));
    match error {
        Error::Stopping => debug!(namespace, name, "not begun: the process is stopping"),
        error => warn!(namespace, name, %error, ?pause, "reconcile failed, trying again"),
    }
    Action::requeue(pause)
}

fn report<Q: std::error::Error>(
    result: Result<(ObjectRef<WorkspaceTokenRotation>, Action), ControllerError<Error, Q>>,
) {
    match result {
        Ok((resource, action)) => debug!(%resource, ?action, "reconciled"),
        // Reported by the error policy.
        Err(ControllerError::ReconcilerFailed(..)) => {}
        Err(error) => debug!(%error, "not reconciled"),
    }
}

/// One pass over one resource.
struct Pass {
    seen: Observed,
    plan: Plan,
    grant: Option<Granted>,
    /// Why the plan cannot be carried out, where that is known already.
    setback: Option<Setback>,
    /// What was done beside a rotation, for an event.
    done: Option<Notice>,
}

impl Context {
    /// Plans on cached evidence, and again on fresh evidence where the plan asks for it.
    async fn decide(&self, resource: &WorkspaceTokenRotation) -> Result<Pass, Error> {
        let work = self.works.get(&resource.uid().unwrap_or_default());
        let mut seen = self.observer.cached(resource, now(), work).await?;
        let (mut planned, mut grant, mut setback) = (plan(&seen), None, None);
        if planned == Plan::Look && rehearses_first(&seen) {
            setback = rehearse_first(&self.handles().client, &seen).await;
        }
        let (may_look, is_known) = (setback.is_none(), matches!(seen.live, Live::Token { .. }));
        if planned == Plan::Look && may_look && !is_known {
            // A turn to rotate is for those whose token is known. Whoever has not shown yet that it can work takes none from
            // them, however many there are.
            (seen, _) = self.look(&seen, false).await?;
            planned = after_look(&seen, plan(&seen));
            self.observer.judge(&seen);
        }
        if planned == Plan::Look && may_look && is_known || matches!(planned, Plan::Rotate(_)) {
            (seen, grant) = self.look(&seen, true).await?;
            planned = after_look(&seen, plan(&seen));
        }
        self.observer.judge(&seen);
        Ok(Pass {
            seen,
            plan: planned,
            grant,
            setback,
            done: None,
        })
    }

    /// Looks now. Hundreds may wait for their turn: none of them begins after the end has.
    async fn look(
        &self,
        seen: &Observed,
        takes_turn: bool,
    ) -> Result<(Observed, Option<Granted>), Error> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Error::Stopping),
            live = self.observer.live(seen, now, takes_turn) => Ok(live?),
        }
    }

    /// Carries the plan out; afterwards the pass holds what is then known and planned.
    async fn act(&self, pass: &mut Pass) -> Result<Option<Setback>, Error> {
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

    async fn rotate(&self, pass: &mut Pass, rotation: Rotation) -> Result<Option<Setback>, Error> {
        // Only fresh evidence makes this plan, and fresh evidence comes with its grant.
        let Some((grant, Some(turn))) = pass.grant.take() else {
            return Ok(Some(Setback::Raced));
        };
        let stuck = Arc::new(Notify::new());
        let mut running = {
            let (handles, works) = (self.handles().clone(), self.works.clone());
            let (seen, stuck) = (pass.seen.clone(), stuck.clone());
            let stop = self.stop.clone();
            self.tasks.spawn(async move {
                let granted = (grant, turn);
                task::run(&handles, &works, &seen, &rotation, granted, (&stuck, &stop)).await
            })
        };
        let pace = pass.seen.pace();
        let ended = tokio::select! {
            ended = &mut running => Some(ended),
            () = stuck.notified() => None,
            () = tokio::time::sleep(pace.vendor_timeout + pace.pass_patience) => None,
        };
        match ended {
            Some(Ok(Ok(done))) => {
                self.observer.book(&done.resource);
                pass.seen.resource = done.resource;
                pass.seen.stored = Stored::Holds(done.held);
                pass.seen.live = Live::Token {
                    token: done.token,
                    fresh: true,
                };
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
        let (came, stored) = match rewrite::rewrite(&self.handles().client, seen, &from).await {
            Rewrite::Done(held, notice) => {
                pass.done = Some(notice);
                (Came::Written, Some(held))
            }
            Rewrite::Tried(came) => (came, None),
            Rewrite::Failed(setback) => return Some(setback),
        };
        let rewritten = Rewritten {
            at: now(),
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
            let written =
                cluster::status::write(&self.handles().client, &pass.seen.resource, &next).await?;
            self.observer.book(&written);
            pass.seen.resource = written;
        }
        let notices = [pass.done.take(), notice(&old, &next), expiring(&old, &next)];
        for notice in notices.into_iter().flatten() {
            self.teller.tell(&pass.seen.resource, &notice);
        }
        Ok(())
    }

    async fn clean_up(&self) {
        loop {
            tokio::time::sleep(self.handles().settings.pace.housekeeping).await;
            self.observer.forget_idle();
            let settings = &self.handles().settings;
            let pace = &settings.pace;
            let longest = pace.longest_retry.max(pace.undone_quiet);
            let longest = longest.max(settings.minimum_interval);
            self.works.forget_before(now() - longest);
        }
    }

    fn handles(&self) -> &Handles {
        &self.observer.handles
    }
}
