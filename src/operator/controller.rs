//! The wiring: what feeds passes, what they are made with, and how all of it ends.

use super::admission::Admission;
use super::handles::Handles;
use super::observe::Observer;
use super::pass::{Context, OUTCOMES, pass};
use super::places::Places;
use super::runner;
use super::teller::{self, Teller};
use super::waiting::Waiting;
use super::works::Works;
use crate::api::WorkspaceTokenRotation;
use crate::clock::now;
use crate::cluster::retry::Pause;
use crate::cluster::store::Store;
use crate::cluster::watch::{self, Scope, SecretAccess, Wake};
use crate::decide::rivals::Claims;
use kube::Client;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

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
    /// Looks, and rotations, at the same time.
    pub places: usize,
    /// Kept before each pass.
    pub pause: Pause,
    /// Set once the resources are known, for the per-resource series.
    pub resources: Arc<Mutex<Option<Store<WorkspaceTokenRotation>>>>,
}

/// Reconciles until `shutdown`; `synced` is called once everything is known. Returns when nothing is in flight any more.
pub async fn run(setup: Setup, shutdown: CancellationToken, synced: impl FnOnce()) {
    let handles = setup.handles;
    let (wake, woken) = Wake::channel();
    let (admitted, admissions) = mpsc::unbounded_channel();
    let claims: Arc<Mutex<Claims>> = Arc::default();
    let (on_unreadable, unreadable) = teller::unreadable(&handles.metrics);
    let (watched, feeds) = watch::watch(
        &setup.watch_client,
        &setup.scope,
        (setup.secret_access, handles.secrets.clone()),
        claims.clone(),
        wake.clone(),
        handles.settings.pace,
        on_unreadable,
    );
    let resources = watched.resources.clone();
    let works = Works::default();
    let context = Arc::new(Context {
        resources: resources.clone(),
        teller: Teller::new(&handles),
        admission: Admission::new(handles.astro.clone(), setup.places),
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
        waiting: Waiting::new(),
        outcomes: Places::new(OUTCOMES),
        tasks: TaskTracker::new(),
        stop: shutdown.clone(),
    });
    let feeds = async {
        tokio::join!(
            feeds,
            clean_up(&context),
            context.teller.tell_of_unreadable(unreadable),
            async {
                shutdown
                    .run_until_cancelled(context.admission.run(admitted))
                    .await
            }
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
        let stop = shutdown.clone();
        let begin = |key, permit| pass(context.clone(), key, permit);
        runner::run((woken, admissions), setup.pause, stop, begin).await;
        context.tasks.close();
        context.tasks.wait().await;
        context.teller.finish().await;
    };
    tokio::select! {
        _ = feeds => {}
        () = work => {}
    }
}

async fn clean_up(context: &Context) {
    loop {
        tokio::time::sleep(context.handles().settings.pace.housekeeping).await;
        context.observer.forget_idle();
        let settings = &context.handles().settings;
        let pace = &settings.pace;
        let longest = pace.longest_retry.max(pace.undone_quiet);
        let longest = longest.max(settings.minimum_interval);
        context.works.forget_before(now() - longest);
    }
}
