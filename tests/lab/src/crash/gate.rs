//! The gate between the operator and the world: every request of the operator to the API server and to the vendor passes
//! it, is counted, held against the rules, and can be stopped as if its sender had died there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::site::{About, End, Site, Trap, What, of_cluster, of_vendor};
use crate::astro::wire::{Line, Port};

/// Longest request body that is passed on, bytes.
const LONGEST_BODY: usize = 4 * 1024 * 1024;

/// Two servers on loopback, gone when dropped.
pub struct Gate {
    shared: Arc<Shared>,
    cluster_port: u16,
    vendor_port: u16,
    _servers: [AbortOnDropHandle<()>; 2],
}

struct Shared {
    cluster: Client,
    vendor: reqwest::Client,
    vendor_url: String,
    state: Mutex<Passing>,
    changed: watch::Sender<()>,
    /// How many deaths there were: what was to land late lands when it rises.
    deaths: watch::Sender<usize>,
    /// Whether answers that are held may go.
    released: watch::Sender<bool>,
}

#[derive(Default)]
struct Passing {
    /// Token ids, and whose they are.
    aliases: HashMap<String, String>,
    subjects: BTreeMap<String, Subject>,
    /// Writes that no case asked for.
    strange: Vec<String>,
}

/// What is known of one resource's requests.
#[derive(Default)]
struct Subject {
    trap: Option<Trap>,
    frozen: Frozen,
    /// What was answered with 409, because its sender was too late, is not in it.
    trace: Vec<Site>,
    /// Rotations whose intent was sent, in any life.
    sent: HashSet<String>,
    recorded: usize,
    rotates: usize,
    /// Rotate calls that were not stopped, and whose caller did not wait for the answer.
    given_up: usize,
    broken: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Frozen {
    #[default]
    No,
    /// Nothing more passes, and the request in the trap is on its way still.
    Closing,
    Yes,
}

/// A rotate call on its way; dropped before its answer when its caller has gone.
struct OnItsWay<'a> {
    shared: &'a Shared,
    subject: String,
    answered: bool,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let mut state = self.shared.state();
            let subject = state.subjects.entry(std::mem::take(&mut self.subject));
            subject.or_default().given_up += 1;
        }
    }
}

/// What becomes of a request.
enum Fate {
    Pass,
    Stop,
    Trapped(End),
}

impl Gate {
    /// Opens the way to the API server of `config`, as whoever `config` is, and to the vendor at `vendor_url`.
    ///
    /// # Errors
    /// When no port is free or `config` makes no client.
    pub async fn open(config: Config, vendor_url: &str) -> anyhow::Result<Self> {
        let vendor = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()?;
        let shared = Arc::new(Shared {
            cluster: Client::try_from(config)?,
            vendor,
            vendor_url: vendor_url.trim_end_matches("/v1").to_owned(),
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            deaths: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let cluster = Router::new()
            .fallback(to_cluster)
            .with_state(shared.clone());
        let vendor = Router::new().fallback(to_vendor).with_state(shared.clone());
        let (cluster_port, cluster) = serve(cluster).await?;
        let (vendor_port, vendor) = serve(vendor).await?;
        Ok(Self {
            shared,
            cluster_port,
            vendor_port,
            _servers: [cluster, vendor],
        })
    }

    /// Writes a kubeconfig whose requests go through the gate; it needs no credentials.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let server = format!("http://127.0.0.1:{}", self.cluster_port);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "gate",
            "contexts": [{"name": "gate", "context": {"cluster": "gate", "user": "gate"}}],
            "clusters": [{"name": "gate", "cluster": {"server": server}}],
            "users": [{"name": "gate", "user": {}}],
        });
        Ok(std::fs::write(path, kubeconfig.to_string())?)
    }

    /// Where the vendor is for whoever goes through the gate.
    pub fn vendor_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.vendor_port)
    }

    /// Takes requests about a token for the resource's.
    pub fn alias(&self, token_id: &str, resource: &str) {
        let (token_id, resource) = (token_id.to_owned(), resource.to_owned());
        self.shared.state().aliases.insert(token_id, resource);
    }

    /// A new life begins: nothing is frozen, each resource has the trap given here or none, and counts start anew.
    pub fn arm(&self, traps: impl IntoIterator<Item = (String, Trap)>) {
        self.shared.released.send_replace(false);
        let mut state = self.shared.state();
        for subject in state.subjects.values_mut() {
            (subject.trap, subject.frozen) = (None, Frozen::No);
            subject.trace.clear();
        }
        for (resource, trap) in traps {
            state.subjects.entry(resource).or_default().trap = Some(trap);
        }
    }

    /// Whether the resource's trap has sprung: the world is as it is when the operator dies there.
    pub fn is_frozen(&self, resource: &str) -> bool {
        self.of(resource, |subject| subject.frozen == Frozen::Yes)
    }

    /// Whether the resource's requests still pass.
    pub fn is_open(&self, resource: &str) -> bool {
        self.of(resource, |subject| subject.frozen == Frozen::No)
    }

    /// The operator is dead: what was to land late lands now.
    pub fn bury(&self) {
        self.shared.deaths.send_modify(|deaths| *deaths += 1);
    }

    /// Lets go the answers that are held.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Tells of every request that came.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The resource's requests in this life, in their order.
    pub fn trace(&self, resource: &str) -> Vec<Site> {
        self.of(resource, |subject| subject.trace.clone())
    }

    /// Rotate calls, in any life, that were not stopped, and whose caller did not wait for the answer: on a busy machine an
    /// answer can take longer than the operator waits.
    pub fn given_up(&self, resource: &str) -> usize {
        self.of(resource, |subject| subject.given_up)
    }

    /// Rotations that were asked for although no intent was recorded for them, in any life.
    pub fn broken(&self, resource: &str) -> Vec<String> {
        self.of(resource, |subject| subject.broken.clone())
    }

    /// Writes that no resource has anything to do with, in any life; none that are right.
    pub fn strange(&self) -> Vec<String> {
        self.shared.state().strange.clone()
    }

    /// What is known of a resource; it may not have been heard of yet.
    fn of<T>(&self, resource: &str, read: impl FnOnce(&Subject) -> T) -> T {
        let state = self.shared.state();
        match state.subjects.get(resource) {
            Some(subject) => read(subject),
            None => read(&Subject::default()),
        }
    }

    /// Forgets all resources.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.aliases.clear();
        state.subjects.clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Passing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request, and says what becomes of it.
    fn note(&self, about: &mut About) -> Fate {
        let mut state = self.state();
        if let Some(resource) = state.aliases.get(&about.subject) {
            about.subject.clone_from(resource);
        }
        let subject = state.subjects.entry(about.subject.clone()).or_default();
        // Of a frozen one nothing more counts: its sender is as good as dead.
        if subject.frozen != Frozen::No {
            return Fate::Stop;
        }
        if about
            .intent
            .as_ref()
            .is_some_and(|id| subject.sent.insert(id.clone()))
        {
            about.what = What::RecordIntent;
        }
        if about.what == What::Rotate {
            subject.rotates += 1;
            if subject.rotates > subject.recorded {
                let (rotates, recorded) = (subject.rotates, subject.recorded);
                let problem = format!("rotate call {rotates} after {recorded} recorded intents");
                subject.broken.push(problem);
            }
        }
        let site = next(&subject.trace, about.what);
        subject.trace.push(site);
        let end = subject
            .trap
            .filter(|trap| trap.site == site)
            .map(|trap| trap.end);
        subject.frozen = match end {
            None | Some(End::Held) => Frozen::No,
            Some(End::After) => Frozen::Closing,
            Some(End::Before | End::Late) => Frozen::Yes,
        };
        drop(state);
        self.changed.send_replace(());
        end.map_or(Fate::Pass, Fate::Trapped)
    }

    /// Takes note of an answer.
    fn conclude(&self, about: &About, status: StatusCode, trapped: bool) {
        let mut state = self.state();
        let subject = state.subjects.entry(about.subject.clone()).or_default();
        if about.what == What::RecordIntent && status.is_success() {
            subject.recorded += 1;
        }
        if trapped && subject.frozen == Frozen::Closing {
            subject.frozen = Frozen::Yes;
        }
        if status == StatusCode::CONFLICT
            && let Some(place) = subject.trace.iter().rposition(|it| it.what == about.what)
        {
            subject.trace.remove(place);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Passes a request on, holds it, or stops it. A request that was sent is done even if its sender is gone.
    async fn handle(
        self: Arc<Self>,
        about: Option<About>,
        forward: impl Future<Output = Option<Response>> + Send + 'static,
    ) -> Option<Response> {
        let Some(mut about) = about else {
            return tokio::spawn(forward).await.ok().flatten();
        };
        let fate = self.note(&mut about);
        let (subject, is_rotate) = (about.subject.clone(), about.what == What::Rotate);
        let shared = self.clone();
        let mut deaths = self.deaths.subscribe();
        deaths.mark_unchanged();
        let mut released = self.released.subscribe();
        let (late, trapped) = (
            matches!(fate, Fate::Trapped(End::Late)),
            matches!(fate, Fate::Trapped(_)),
        );
        let forward = async move {
            if late {
                // Cannot fail: the sender is ours.
                let _ = deaths.changed().await;
            }
            let answer = forward.await;
            let status = answer
                .as_ref()
                .map_or(StatusCode::BAD_GATEWAY, |it| it.status());
            shared.conclude(&about, status, trapped);
            answer
        };
        let mut call = OnItsWay {
            shared: &self,
            subject,
            answered: !is_rotate || trapped || matches!(fate, Fate::Stop),
        };
        let answer = match fate {
            Fate::Stop | Fate::Trapped(End::Before) => std::future::pending().await,
            Fate::Pass | Fate::Trapped(End::Late | End::After | End::Held) => {
                tokio::spawn(forward).await
            }
        };
        if let Fate::Trapped(End::Held) = fate {
            // Cannot fail: the sender is ours.
            let _ = released.wait_for(|released| *released).await;
        }
        call.answered = true;
        match fate {
            Fate::Pass | Fate::Trapped(End::Held) => answer.ok().flatten(),
            _ => std::future::pending().await,
        }
    }
}

/// The site of a request after those of `trace`.
fn next(trace: &[Site], what: What) -> Site {
    let rotates = trace
        .iter()
        .filter(|site| site.what == What::Rotate)
        .count();
    let alike = |site: &&Site| site.rotates == rotates && site.what == what;
    Site {
        rotates,
        what,
        nth: trace.iter().filter(alike).count(),
    }
}

async fn serve(router: Router) -> anyhow::Result<(u16, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let router = router.into_make_service_with_connect_info::<Line>();
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(Port(listener), router).await {
            tracing::error!(%error, "the gate broke down");
        }
    });
    Ok((port, AbortOnDropHandle::new(server)))
}

async fn to_cluster(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let Some((parts, body)) = read(request).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let about = of_cluster(method, path, parts.uri.query().unwrap_or_default(), &body);
    // Nobody is named by a list, a watch and a look at the cluster; the Lease is the operator's own.
    if about.is_none() && method != "GET" && !path.contains("/leases") {
        let strange = format!("{method} {path}");
        shared.state().strange.push(strange);
    }
    let client = shared.cluster.clone();
    let forward = async move {
        let mut request = axum::http::Request::new(kube::client::Body::from(body));
        (*request.method_mut(), *request.headers_mut()) = (parts.method, parts.headers);
        *request.uri_mut() = parts.uri.path_and_query()?.as_str().parse().ok()?;
        request.headers_mut().remove("host");
        let (parts, body) = client.send(request).await.ok()?.into_parts();
        Some(Response::from_parts(parts, Body::new(body)))
    };
    answer(shared.handle(about, forward).await, &line).await
}

async fn to_vendor(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let Some((parts, body)) = read(request).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let query = parts.uri.query().unwrap_or_default();
    let about = of_vendor(parts.method.as_str(), parts.uri.path(), query);
    let url = format!("{}{}", shared.vendor_url, parts.uri);
    let client = shared.vendor.clone();
    let forward = async move {
        let mut headers = parts.headers;
        headers.remove("host");
        let request = client
            .request(parts.method, url)
            .headers(headers)
            .body(body);
        let mut response = request.send().await.ok()?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut answer = response.bytes().await.ok()?.into_response();
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Some(answer)
    };
    answer(shared.handle(about, forward).await, &line).await
}

/// What was answered; who got none gets none.
async fn answer(answer: Option<Response>, line: &Line) -> Response {
    match answer {
        Some(answer) => answer,
        None => {
            line.cut(false);
            std::future::pending().await
        }
    }
}

async fn read(request: Request) -> Option<(Parts, Bytes)> {
    let (parts, body) = request.into_parts();
    Some((parts, to_bytes(body, LONGEST_BODY).await.ok()?))
}
