//! A gate between the operator and the API server: it sees every request, and can hold one for ever.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Longest request body that is passed on, bytes.
const LONGEST_BODY: usize = 4 * 1024 * 1024;

/// When a held request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The API server never sees it.
    Before,
    /// The API server has done it, and the answer never arrives.
    After,
}

/// A gate, closed when dropped.
pub struct Gate {
    shared: Arc<Shared>,
    port: u16,
    server: AbortHandle,
}

struct Shared {
    client: Client,
    state: Mutex<Passing>,
    sprung: watch::Sender<bool>,
}

#[derive(Default)]
struct Passing {
    seen: Vec<String>,
    /// Hold the request of this number, counted from when the trap was set.
    trap: Option<(usize, End)>,
    counted: usize,
}

impl Gate {
    /// Opens a gate to the API server of `config`, as whoever `config` is.
    ///
    /// # Errors
    /// When no port is free or `config` makes no client.
    pub async fn open(config: Config) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            client: Client::try_from(config)?,
            state: Mutex::default(),
            sprung: watch::Sender::new(false),
        });
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the gate broke down");
            }
        });
        Ok(Self {
            shared,
            port,
            server: server.abort_handle(),
        })
    }

    /// A configuration whose requests go through the gate.
    ///
    /// # Panics
    /// Never: the address is well-formed.
    pub fn config(&self) -> Config {
        let address = format!("http://127.0.0.1:{}", self.port);
        let mut config = Config::new(address.parse().expect("a well-formed address"));
        config.proxy_url = None;
        config
    }

    /// Holds the `n`th request from now (0 is the next); watches and leases do not count. Forgets what was seen.
    pub fn trap(&self, n: usize, end: End) {
        let mut state = self.shared.state();
        *state = Passing {
            trap: Some((n, end)),
            ..Passing::default()
        };
        self.shared.sprung.send_replace(false);
    }

    /// Lets everything pass from now on; what is held stays held. Forgets what was seen.
    pub fn disarm(&self) {
        *self.shared.state() = Passing::default();
    }

    /// Waits until the trap holds a request.
    pub async fn sprung(&self) {
        // Cannot fail: the sender is ours.
        let _ = self.shared.sprung.subscribe().wait_for(|s| *s).await;
    }

    /// What has passed or was held since the last `trap` or `disarm`: method and path, watches and leases left out.
    pub fn seen(&self) -> Vec<String> {
        self.shared.state().seen.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Passing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request; says whether it is to be held.
    fn note(&self, what: String) -> Option<End> {
        let mut state = self.state();
        let number = state.counted;
        state.counted += 1;
        state.seen.push(what);
        state.trap.filter(|(n, _)| *n == number).map(|(_, end)| end)
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
    let counts =
        !query.contains("watch=") && !query.contains("limit=") && !path.contains("/leases");
    let dry = if query.contains("dryRun") {
        " (dry run)"
    } else {
        ""
    };
    let what = format!("{} {path}{dry}", request.method());
    let hold = if counts { shared.note(what) } else { None };
    if hold == Some(End::Before) {
        return forever(&shared).await;
    }
    let answer = forward(&shared.client, request).await;
    if hold == Some(End::After) {
        return forever(&shared).await;
    }
    answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

async fn forever(shared: &Shared) -> Response {
    shared.sprung.send_replace(true);
    std::future::pending().await
}

async fn forward(client: &Client, request: Request) -> anyhow::Result<Response> {
    let (mut parts, body) = request.into_parts();
    parts.uri = parts
        .uri
        .path_and_query()
        .map_or("/", |it| it.as_str())
        .parse()?;
    parts.headers.remove("host");
    let body = axum::body::to_bytes(body, LONGEST_BODY).await?;
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    let (parts, body) = client.send(request).await?.into_parts();
    Ok(Response::from_parts(parts, Body::new(body)))
}
