//! Reconcile, error policy and wiring.

use super::handles::Handles;
use super::observe::{Granted, Observer};
use super::works::Works;
use super::{rewrite, task};
use crate::api::{Key, Status, WorkspaceTokenRotation};
use crate::clock::{now, until};
use crate::cluster;
use crate::cluster::decode::Item;
use crate::cluster::error::{Error as ClusterError, LONGEST_MESSAGE};
use crate::cluster::events::Publisher;
use crate::cluster::watch::{self, Scope, SecretAccess, Wake};
use crate::decide::evidence::{Held, Live, Observed, Stored};
use crate::decide::notice::{Notice, notice};
use crate::decide::plan::rules::{after_look, plan};
use crate::decide::plan::wake::wake;
use crate::decide::plan::{Plan, Rotation, Setback};
use crate::decide::rivals::Claims;
use crate::decide::status;
use crate::process::metrics::ResourceSample;
use crate::text::{api_error, line};
use futures::{FutureExt, StreamExt, stream};
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Longest text of an event and its log line, characters.
const LONGEST_NOTE: usize = 1000;

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
    let (watched, feeds) = watch::watch(
        &setup.watch_client,
        &setup.scope,
        setup.secret_access,
        claims.clone(),
        wake.clone(),
        handles.settings.pace,
        {
            let metrics = handles.metrics.clone();
            Arc::new(move |kind, count| metrics.unreadable(kind, count))
        },
    );
    let resources = watched.resources.clone();
    let works = Works::default();
    let context = Arc::new(Context {
        events: Publisher::new(
            handles.client.clone(),
            handles.identity.to_string(),
            handles.settings.pace,
        ),
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
    let feeds = async { tokio::join!(feeds, context.clean_up()) };
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
    };
    tokio::select! {
        _ = feeds => {}
        () = work => {}
    }
}

struct Context {
    observer: Observer,
    works: Works,
    events: Publisher,
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
    match written {
        Err(ClusterError::Raced) => {
            return Ok(Action::requeue(pass.seen.pace().raced_retry.unsigned_abs()));
        }
        other => other?,
    }
    if pass.plan == Plan::Settle {
        pass.plan = plan(&pass.seen);
    }
    let at = wake(&pass.seen, &pass.plan, setback.as_ref());
    Ok(Action::requeue(until(at)))
}

fn error_policy(
    resource: Arc<WorkspaceTokenRotation>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let (namespace, name) = (resource.namespace(), resource.name_any());
    match error {
        Error::Stopping => debug!(namespace, name, "not begun: the process is stopping"),
        error => warn!(namespace, name, %error, "reconcile failed, trying again"),
    }
    Action::requeue(context.handles().settings.pace.error_retry)
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
    /// What was done beside a rotation, for an event.
    done: Option<Notice>,
}

impl Context {
    /// Plans on cached evidence, and again on fresh evidence where the plan asks for it.
    async fn decide(&self, resource: &WorkspaceTokenRotation) -> Result<Pass, Error> {
        let work = self.works.get(&resource.uid().unwrap_or_default());
        let mut seen = self.observer.cached(resource, now(), work).await?;
        let (mut planned, mut grant) = (plan(&seen), None);
        let is_known = matches!(seen.live, Live::Token { .. });
        if planned == Plan::Look && !is_known {
            // A turn to rotate is for those whose token is known. Whoever has not shown yet that it can work takes none from
            // them, however many there are.
            (seen, _) = self.look(&seen, false).await?;
            planned = after_look(&seen, plan(&seen));
            self.observer.judge(&seen);
        }
        if planned == Plan::Look && is_known || matches!(planned, Plan::Rotate(_)) {
            (seen, grant) = self.look(&seen, true).await?;
            planned = after_look(&seen, plan(&seen));
        }
        self.observer.judge(&seen);
        Ok(Pass {
            seen,
            plan: planned,
            grant,
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
        let setback = match pass.plan.clone() {
            Plan::Rotate(rotation) => self.rotate(pass, *rotation).await?,
            Plan::Rewrite { from } => self.rewrite(pass, *from).await.err(),
            _ => None,
        };
        Ok(setback)
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
    async fn rewrite(&self, pass: &mut Pass, from: Held) -> Result<(), Setback> {
        let (held, notice) = rewrite::rewrite(&self.handles().client, &pass.seen, &from).await?;
        pass.done = Some(notice);
        pass.seen.stored = Stored::Holds(held);
        pass.plan = match plan(&pass.seen) {
            // Another party undoes what we write: no race with it.
            Plan::Rewrite { .. } => Plan::Wait {
                until: pass.seen.now + pass.seen.pace().audit,
                doubt: None,
            },
            plan => plan,
        };
        Ok(())
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
        let notices = [pass.done.take(), notice(&old, &next)];
        for notice in notices.into_iter().flatten() {
            self.tell(&pass.seen.resource, &notice).await;
        }
        Ok(())
    }

    /// One log line and one event; neither can fail a pass.
    async fn tell(&self, resource: &WorkspaceTokenRotation, notice: &Notice) {
        let (namespace, name) = (resource.namespace(), resource.name_any());
        let notice = Notice {
            // Some of it is the text of other parties.
            message: line(&notice.message, LONGEST_NOTE),
            ..notice.clone()
        };
        let (reason, message) = (&notice.reason, &notice.message);
        let rotation_id = notice.rotation_id.as_deref();
        match notice.warning {
            true => warn!(namespace, name, rotation_id, reason, "{message}"),
            false => info!(namespace, name, rotation_id, reason, "{message}"),
        }
        if let Err(error) = self.events.publish(resource, &notice).await {
            let error = api_error(&error, LONGEST_MESSAGE);
            debug!(namespace, name, error, "event not published");
        }
    }

    async fn clean_up(&self) {
        loop {
            tokio::time::sleep(self.handles().settings.pace.housekeeping).await;
            self.observer.forget_idle();
            let settings = &self.handles().settings;
            let longest = settings.pace.longest_retry.max(settings.minimum_interval);
            self.works.forget_before(now() - longest);
        }
    }

    fn handles(&self) -> &Handles {
        &self.observer.handles
    }
}

/// The per-resource series, as of this moment.
pub fn samples(resources: &Store<WorkspaceTokenRotation>) -> Vec<ResourceSample> {
    let sample = |resource: &Arc<WorkspaceTokenRotation>| {
        let status = resource.status.as_ref();
        let ready = status.and_then(Status::ready);
        let seconds =
            |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.as_second();
        let present = |type_| Some(status?.present(type_)?.reason.clone());
        ResourceSample {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            reason: ready.map_or_else(|| "Unknown".into(), |condition| condition.reason.clone()),
            stalled: present("Stalled"),
            reconciling: present("Reconciling"),
            next: status.and_then(|s| s.next_rotation.as_ref().map(seconds)),
            last: status.and_then(|s| s.last_rotation.as_ref().map(|last| seconds(&last.at))),
            expires: status
                .and_then(|s| s.token.as_ref()?.expires_at.as_ref())
                .map(seconds),
        }
    };
    resources.state().iter().map(sample).collect()
}
