//! The `run` command: from flags to a controller that leads, serves and stops in order.

use crate::api::WorkspaceTokenRotation;
use crate::args::{AstroArgs, DecisionArgs, RunArgs};
use crate::astro::client::{Astro, Settings as AstroSettings};
use crate::cluster::client;
use crate::cluster::decode::Item;
use crate::cluster::lease::{Candidate, Timing};
use crate::cluster::retry::{HeldBack, Patience, Pause};
use crate::cluster::store::Store;
use crate::cluster::watch::Scope;
use crate::decide::allowed::Allowed;
use crate::decide::evidence::Settings;
use crate::decide::identity::Identity;
use crate::decide::pace::Pace;
use crate::operator::controller::{self, Setup};
use crate::operator::grant::{DefaultCredential, Grants, Source};
use crate::operator::handles::Handles;
use crate::operator::samples::samples;
use crate::process::host;
use crate::process::metrics::Metrics;
use crate::process::server::{self, Health};
use anyhow::{Context, anyhow, bail};
use kube::Client;
use kube::Config;
use kube::api::ListParams;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use uuid::Uuid;

/// Name of the Lease.
const LEASE: &str = "astro-token-operator";
/// Readiness: the watches know everything.
const SYNCED: &str = "watches synced, or standing by";

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting, or that it lost its leadership.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    run_with(args, client::infer().await?, stop).await
}

/// Runs against the cluster of `config` until `stop`.
///
/// # Errors
/// See [`run`].
pub async fn run_with(
    args: RunArgs,
    config: Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let pace = args.decisions.pace(&args.astro);
    let own_credential = own_credential(&args.astro, &args.decisions)?;
    let budgets = (args.reads_per_second, args.rotations_per_second);
    let astro = vendor(&args.astro, budgets, pace, metrics.clone())?;
    let pause = Pause::default();
    let patience = patience(&pace, &metrics, pause.clone());
    let (watch_client, client) = (
        client::for_watches(config.clone(), patience.clone())?,
        client::for_calls(config.clone(), &pace, patience.clone())?,
    );
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("--listen {} cannot be used", args.listen))?;
    let scope = Scope::new(args.namespaces);
    let cluster = tokio::select! {
        cluster = look_around(&client, &scope) => cluster.map_err(|error| {
            let (server, error) = (&config.cluster_url, client::explain(&error));
            anyhow!("the API server at {server} cannot be used: {error}")
        })?,
        () = stop.cancelled() => return Ok(()),
    };
    let identity = Identity::new(args.pod_name.clone(), host::name(), Uuid::new_v4());
    let health = Health::new([SYNCED]);
    let resources = Arc::new(Mutex::new(None));
    let sampled = resources.clone();
    // Served to the very end: what is unsaved while the process stops has to be seen.
    let ended = CancellationToken::new();
    let server = tokio::spawn(server::serve(
        listener,
        metrics.clone(),
        health.clone(),
        move || {
            let shared = sampled.lock().ok();
            let store = shared.as_ref().and_then(|store| store.as_ref());
            store.map(samples).unwrap_or_default()
        },
        ended.clone(),
        pace.drain,
    ));
    info!(version = env!("CARGO_PKG_VERSION"), %identity, api_url = %args.astro.api_url, "started");

    let settings = settings(&args.astro, &args.decisions, cluster);
    let handles = Handles {
        grants: Grants::new(
            client.clone(),
            own_credential,
            args.astro.organization_id,
            &pace,
        ),
        client,
        astro,
        settings: Arc::new(settings),
        identity: identity.clone(),
        metrics: metrics.clone(),
        secrets: Store::default(),
    };
    let setup = Setup {
        handles,
        watch_client,
        scope,
        secret_access: args.decisions.secret_access,
        places: args.concurrent_rotations.get().into(),
        pause,
        resources,
    };
    let outcome = if args.leader_election {
        let candidate = Candidate {
            // Its own connection: no other traffic may delay a renewal.
            client: client::for_calls(config, &pace, patience)?,
            namespace: args.leader_election_namespace,
            name: LEASE.into(),
            identity,
            timing: Timing::from(&pace),
        };
        lead(setup, candidate, &health, &stop).await
    } else {
        metrics.leading(true);
        let synced = || health.set(SYNCED, true);
        controller::run(setup, stop.clone(), synced).await;
        Ok(())
    };
    ended.cancel();
    server.await?.context("the HTTP server failed")?;
    info!("stopped");
    outcome
}

/// How requests are retried that the API server holds back: each is counted, now and then one is logged, and nothing new is
/// begun meanwhile.
fn patience(pace: &Pace, metrics: &Metrics, pause: Pause) -> Patience {
    let (metrics, every) = (metrics.clone(), pace.held_back_log);
    // The answer may ask for a pause of any length.
    let longest = pace.held_back_patience;
    let logged = Mutex::new(None::<Instant>);
    let tell = move |held: &HeldBack| {
        metrics.held_back(held.status.as_u16());
        if !held.is_of_event {
            pause.extend(held.after.min(longest));
        }
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= every) {
            *logged = Some(Instant::now());
            warn!(%held, "the API server holds requests back; they are retried after the pause it asks for");
        }
    };
    Patience {
        left: pace.held_back_patience,
        pause: pace.held_back_retry,
        tell: Arc::new(tell),
    }
}

/// The cluster's identity, once it is clear that resources can be read; of namespaces one is enough, and none where
/// all refuse: they may do so for now, and the watches tell.
async fn look_around(client: &Client, scope: &Scope) -> kube::Result<String> {
    let one = ListParams::default().limit(1);
    for resources in scope.apis::<Item<WorkspaceTokenRotation>>(client) {
        match (resources.list(&one).await, scope) {
            (Ok(_), _) => break,
            (Err(kube::Error::Api(status)), Scope::Namespaces(_)) if status.code == 403 => {}
            (Err(error), _) => return Err(error),
        }
    }
    client::cluster_id(client).await
}

/// Waits for leadership, works while it lasts, and gives it up when asked to stop, as soon as nothing is in flight.
async fn lead(
    setup: Setup,
    candidate: Candidate,
    health: &Health,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = setup.handles.metrics.clone();
    let keep = setup.handles.settings.pace.lease_after_stop;
    // A standby serves, and is ready to take over.
    health.set(SYNCED, true);
    let mut leadership = tokio::select! {
        leadership = candidate.acquire() => leadership,
        () = stop.cancelled() => return Ok(()),
    };
    health.set(SYNCED, false);
    metrics.leading(true);
    // Not a child of `stop`: the work must not be over before the select below is, which would poll it again.
    let work_stop = CancellationToken::new();
    let synced = {
        let health = health.clone();
        move || health.set(SYNCED, true)
    };
    // In a task of its own: hundreds of passes must not delay the end, while which they would go on.
    let work = tokio::spawn(controller::run(setup, work_stop.clone(), synced));
    let mut work = AbortOnDropHandle::new(work);
    let lost = tokio::select! {
        ended = &mut work => return ended.context("the controller ended"),
        () = leadership.lost() => true,
        () = stop.cancelled() => false,
    };
    metrics.leading(false);
    // Nothing new is begun; what is in flight is finished, and its intents keep others away meanwhile.
    work_stop.cancel();
    if lost {
        warn!("leadership lost; finishing what is in flight");
        work.await?;
        bail!("leadership lost");
    }
    // The lease is kept meanwhile, within bounds: another leader could only wait for the intents.
    let bound = async {
        tokio::select! {
            () = leadership.lost() => {}
            () = tokio::time::sleep(keep) => {}
        }
    };
    let is_done = tokio::select! {
        ended = &mut work => {
            ended?;
            true
        }
        () = bound => false,
    };
    leadership.release().await;
    if !is_done {
        work.await?;
    }
    Ok(())
}

/// Settings that decisions depend on.
pub(crate) fn settings(astro: &AstroArgs, args: &DecisionArgs, cluster: String) -> Settings {
    Settings {
        minimum_interval: args.minimum_interval,
        pace: args.pace(astro),
        cluster,
    }
}

/// The operator's own credential, and who may use it.
pub(crate) fn own_credential(
    astro: &AstroArgs,
    args: &DecisionArgs,
) -> anyhow::Result<DefaultCredential> {
    let source = credential_source(astro)?;
    if source.is_none() && !args.default_credentials_namespaces.is_empty() {
        bail!("--default-credentials-namespaces needs ASTRO_API_TOKEN or --api-token-file");
    }
    if source.is_some() && args.default_credentials_namespaces.is_empty() {
        warn!(
            "the operator's own credential is not used: --default-credentials-namespaces is empty"
        );
    }
    let allowed = Allowed::from(args.default_credentials_namespaces.clone());
    let unbound = allowed.unbound();
    if let [first, ..] = unbound[..] {
        warn!(
            namespaces = unbound.join(","),
            "resources of these namespaces may use any Workspace the credential reaches; write NAMESPACE=WORKSPACE in \
             --default-credentials-namespaces, as in {first}=clm8q7f6q000008lcgyougpsk, to bound them"
        );
    }
    Ok(DefaultCredential { source, allowed })
}

/// Where the credential of the command line comes from, if it names one.
pub(crate) fn credential_source(args: &AstroArgs) -> anyhow::Result<Option<Source>> {
    match (&args.api_token, &args.api_token_file) {
        (Some(_), Some(_)) => bail!("give either ASTRO_API_TOKEN or --api-token-file"),
        (Some(value), None) => Ok(Some(Source::Value(value.clone().into()))),
        (None, Some(path)) => {
            std::fs::metadata(path)
                .with_context(|| format!("--api-token-file {} cannot be read", path.display()))?;
            Ok(Some(Source::File(path.clone())))
        }
        (None, None) => Ok(None),
    }
}

/// The vendor's client, for so many reads and rotations a second and credential.
pub(crate) fn vendor(
    args: &AstroArgs,
    (reads, rotations): (NonZeroU32, NonZeroU32),
    pace: Pace,
    metrics: Metrics,
) -> anyhow::Result<Astro> {
    if args.vendor_connect_timeout >= args.vendor_timeout {
        bail!("--vendor-connect-timeout must be shorter than --vendor-timeout");
    }
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path)
            .with_context(|| format!("--ca-bundle {} cannot be read", path.display()))
    };
    let settings = AstroSettings {
        url: args.api_url.clone(),
        ca_bundle: args.ca_bundle.as_ref().map(read).transpose()?,
        pace,
        reads_per_second: reads,
        rotations_per_second: rotations,
    };
    Ok(Astro::new(settings, metrics)?)
}

/// Cancelled by SIGTERM and SIGINT.
pub(crate) fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use std::time::Duration;

    #[test]
    fn nothing_new_is_begun_for_a_while_when_a_request_is_held_back_unless_it_was_about_an_event() {
        let pace = Pace::SHIPPED;
        for (is_of_event, seconds, expected) in [
            (true, 5, None),
            (false, 5, Some(Duration::from_secs(5))),
            (false, u64::MAX, Some(pace.held_back_patience)),
        ] {
            let pause = Pause::default();
            let patience = patience(&pace, &Metrics::new(), pause.clone());
            (patience.tell)(&HeldBack {
                status: StatusCode::TOO_MANY_REQUESTS,
                after: Duration::from_secs(seconds),
                is_of_event,
            });
            let left = pause.left();
            assert_eq!(left.is_some(), expected.is_some());
            assert!(left <= expected, "{left:?}");
        }
    }
}
