//! Reconcile, error policy and wiring.

use crate::api::{Key, Status, WorkspaceTokenRotation};
use crate::astro::listing::Listings;
use crate::astro::{Astro, Turn};
use crate::clock::{now, until};
use crate::cluster;
use crate::cluster::secret::{self, Draft};
use crate::cluster::watch::SecretAccess;
use crate::cluster::watch::{self, Scope, Wake};
use crate::decide::evidence::{Held, Live, Observed, Settings, Stored};
use crate::decide::identity::Identity;
use crate::decide::plan::{Plan, Rotation, Setback, plan, wake};
use crate::decide::rivals::Claims;
use crate::decide::status::{self, Notice, notice, ready};
use crate::operator::grant::{DefaultCredential, Grant};
use crate::operator::observe::{self, Observer};
use crate::operator::rotate::{Rotator, Works};
use crate::process::metrics::{Metrics, ResourceSample};
use futures::{FutureExt, StreamExt, stream};
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, Error as ControllerError};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// Longest note of an event, bytes; the API server's limit is 1024.
const LONGEST_NOTE: usize = 1000;

/// Everything the controller is made of.
pub struct Setup {
    /// For watches: no read timeout.
    pub watch_client: Client,
    /// Where to work.
    pub scope: Scope,
    /// How to learn what Secrets hold.
    pub secret_access: SecretAccess,
    /// For single calls.
    pub client: Client,
    /// The vendor.
    pub astro: Astro,
    /// The operator's own credential.
    pub own_credential: DefaultCredential,
    /// The operator's `--organization-id`.
    pub organization: Option<String>,
    /// Settings that decisions depend on.
    pub settings: Settings,
    /// This process.
    pub identity: Identity,
    /// Counters.
    pub metrics: Metrics,
    /// Set once the resources are known, for the per-resource series.
    pub resources: Arc<Mutex<Option<Store<WorkspaceTokenRotation>>>>,
}

/// Reconciles until `shutdown`; `synced` is called once everything is known. Returns when nothing is in flight any more.
pub async fn run(setup: Setup, shutdown: CancellationToken, synced: impl FnOnce()) {
    let pace = setup.settings.pace;
    let (wake, mut receiver) = Wake::channel();
    let claims: Arc<Mutex<Claims>> = Arc::default();
    let (watched, feeds) = watch::watch(
        &setup.watch_client,
        &setup.scope,
        setup.secret_access,
        claims.clone(),
        wake.clone(),
        pace,
    );
    let resources = watched.resources.clone();
    let works = Works::default();
    let context = Arc::new(Context {
        observer: Observer {
            client: setup.client.clone(),
            astro: setup.astro.clone(),
            own_credential: setup.own_credential,
            organization: setup.organization,
            settings: Arc::new(setup.settings),
            identity: setup.identity.clone(),
            resources: resources.clone(),
            secrets: watched.secrets.clone(),
            listings: Listings::new(&pace),
            claims,
            wake: wake.clone(),
        },
        rotator: Rotator {
            client: setup.client.clone(),
            astro: setup.astro,
            identity: setup.identity.clone(),
            metrics: setup.metrics.clone(),
            works,
        },
        recorder: Recorder::new(
            setup.client,
            Reporter {
                controller: "astro-token-operator".into(),
                instance: Some(setup.identity.to_string()),
            },
        ),
        metrics: setup.metrics,
        wake,
        tasks: TaskTracker::new(),
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
    rotator: Rotator,
    recorder: Recorder,
    metrics: Metrics,
    wake: Wake,
    tasks: TaskTracker,
}

/// No verdict: the API server does not answer. The next try starts from scratch.
#[derive(thiserror::Error, Debug)]
enum Error {
    #[error(transparent)]
    Observe(#[from] observe::Error),
    #[error(transparent)]
    Store(#[from] cluster::status::Error),
    #[error("{0}")]
    Act(String),
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
    context.metrics.reconciled(begun.elapsed());
    match written {
        Err(cluster::status::Error::Raced) => {
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
    warn!(namespace, name, %error, "reconcile failed, trying again");
    Action::requeue(context.observer.settings.pace.error_retry)
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
    grant: Option<(Grant, Turn)>,
    /// What was done beside a rotation, for an event.
    done: Option<Notice>,
}

impl Context {
    /// Plans on cached evidence, and again on fresh evidence where the plan asks for it.
    async fn decide(&self, resource: &WorkspaceTokenRotation) -> Result<Pass, Error> {
        let work = self.rotator.works.get(&resource.uid().unwrap_or_default());
        let seen = self.observer.cached(resource, now(), work).await?;
        let plan = plan(&seen);
        let pass = Pass {
            seen,
            plan,
            grant: None,
            done: None,
        };
        if pass.plan != Plan::Look {
            self.observer.judge(&pass.seen);
            return Ok(pass);
        }
        let (seen, grant) = self.observer.live(&pass.seen, now).await?;
        self.observer.judge(&seen);
        let plan = after_look(&seen, crate::decide::plan::plan(&seen));
        Ok(Pass {
            seen,
            plan,
            grant,
            done: None,
        })
    }

    /// Carries the plan out; afterwards the pass holds what is then known and planned.
    async fn act(&self, pass: &mut Pass) -> Result<Option<Setback>, Error> {
        let setback = match pass.plan.clone() {
            Plan::Rotate(rotation) => self.rotate(pass, *rotation).await?,
            Plan::Rewrite { from } => self.rewrite(pass, *from).await.err(),
            _ => None,
        };
        match setback {
            Some(Setback::Unavailable(why)) => Err(Error::Act(why)),
            setback => Ok(setback),
        }
    }

    async fn rotate(&self, pass: &mut Pass, rotation: Rotation) -> Result<Option<Setback>, Error> {
        // Only fresh evidence makes this plan, and fresh evidence comes with its grant.
        let Some((grant, turn)) = pass.grant.take() else {
            return Ok(Some(Setback::Raced));
        };
        let (rotator, seen) = (self.rotator.clone(), pass.seen.clone());
        let pace = self.observer.settings.pace;
        let stuck = Arc::new(Notify::new());
        let notified = stuck.clone();
        let mut task = self
            .tasks
            .spawn(async move { rotator.run(&seen, &rotation, &grant, turn, &notified).await });
        let ended = tokio::select! {
            ended = &mut task => Some(ended),
            () = stuck.notified() => None,
            () = tokio::time::sleep(pace.vendor_timeout + pace.pass_patience) => None,
        };
        match ended {
            Some(Ok(Ok(done))) => {
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
                    let _ = task.await;
                    wake.send([resource]);
                });
                self.refresh(pass).await?;
                let uid = pass.seen.resource.uid().unwrap_or_default();
                pass.seen.work = self.rotator.works.get(&uid);
                pass.plan = plan(&pass.seen);
                Ok(None)
            }
        }
    }

    async fn refresh(&self, pass: &mut Pass) -> Result<(), Error> {
        let resource = &pass.seen.resource;
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<WorkspaceTokenRotation> =
            Api::namespaced(self.rotator.client.clone(), &namespace);
        let found = api.get_opt(&resource.name_any()).await;
        if let Some(found) = found.map_err(cluster::status::Error::Api)? {
            pass.seen.resource = found;
        }
        Ok(())
    }

    /// Writes the Secret anew from the value that is already in the cluster.
    async fn rewrite(&self, pass: &mut Pass, from: Held) -> Result<(), Setback> {
        let client = &self.rotator.client;
        let resource = pass.seen.resource.clone();
        let target = resource.spec.target.name.clone();
        let found = secret::value(client, &resource, &from.secret, &from.key).await?;
        let Some((value, version)) = found else {
            return Err(Setback::Raced);
        };
        // The evidence is of the Secret as it was seen; a newer one may hold another value.
        if version != from.resource_version {
            return Err(Setback::Raced);
        }
        let adopted = matches!(pass.seen.stored, Stored::Consented { .. });
        let draft = Draft {
            owner: &resource,
            held: Held {
                resource_version: version.filter(|_| from.secret == target),
                cluster: pass.seen.settings.cluster.clone(),
                secret: target.clone(),
                ..from.clone()
            },
            force: true,
        };
        let held = secret::write(client, &draft, &value).await?;
        let what = match (adopted, from.secret == target) {
            (true, _) => (
                "Adopted",
                format!("Secret {target} was taken over with its live value"),
            ),
            (_, false) => (
                "Moved",
                format!(
                    "the live value was copied from Secret {} to {target}; the former is no longer kept up and may be deleted",
                    from.secret
                ),
            ),
            (_, true) => (
                "Rewritten",
                format!("Secret {target} was brought in line with the spec; its value stays"),
            ),
        };
        pass.done = Some(Notice {
            reason: what.0.into(),
            message: what.1,
            action: "Rewrite".into(),
            rotation_id: None,
            warning: false,
        });
        pass.seen.stored = Stored::Holds(held);
        pass.plan = match plan(&pass.seen) {
            // Somebody undoes what we write: no race with them.
            Plan::Rewrite { .. } => Plan::Wait {
                until: pass.seen.now + pass.seen.pace().audit,
                doubt: None,
            },
            plan => plan,
        };
        Ok(())
    }

    /// Writes the status when it differs, and tells of what a person should hear.
    async fn record(&self, pass: &mut Pass, next: Status) -> Result<(), cluster::status::Error> {
        let old = pass.seen.resource.status.clone().unwrap_or_default();
        if next != old {
            let written =
                cluster::status::write(&self.rotator.client, &pass.seen.resource, &next).await?;
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
        let (reason, message) = (&notice.reason, &notice.message);
        let rotation_id = notice.rotation_id.as_deref();
        match notice.warning {
            true => warn!(namespace, name, rotation_id, reason, "{message}"),
            false => info!(namespace, name, rotation_id, reason, "{message}"),
        }
        let event = Event {
            type_: match notice.warning {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: reason.clone(),
            note: Some(cut(message, LONGEST_NOTE).into()),
            action: notice.action.clone(),
            secondary: None,
        };
        let reference = resource.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            debug!(namespace, name, %error, "event not published");
        }
    }

    async fn clean_up(&self) {
        loop {
            let pace = &self.observer.settings.pace;
            tokio::time::sleep(pace.housekeeping).await;
            let idle = (pace.audit * 3).unsigned_abs();
            self.observer.listings.forget_older_than(idle);
            self.observer.astro.forget_idle();
        }
    }
}

/// The per-resource series, as of this moment.
pub fn samples(resources: &Store<WorkspaceTokenRotation>) -> Vec<ResourceSample> {
    let sample = |resource: &Arc<WorkspaceTokenRotation>| {
        let status = resource.status.as_ref();
        let ready = status.and_then(ready);
        let seconds =
            |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.as_second();
        ResourceSample {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            ready: ready.is_some_and(|condition| condition.status == "True"),
            reason: ready.map_or_else(|| "Unknown".into(), |condition| condition.reason.clone()),
            next: status.and_then(|s| s.next_rotation.as_ref().map(seconds)),
            last: status.and_then(|s| s.last_rotation.as_ref().map(|last| seconds(&last.at))),
            expires: status
                .and_then(|s| s.token.as_ref()?.expires_at.as_ref())
                .map(seconds),
        }
    };
    resources.state().iter().map(sample).collect()
}

/// The plan on fresh evidence. Nothing fresher is to be had: a pause instead of a spin.
pub(crate) fn after_look(seen: &Observed, plan: Plan) -> Plan {
    match plan {
        Plan::Look => Plan::Wait {
            until: seen.now + seen.pace().look_retry,
            doubt: None,
        },
        plan => plan,
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
