//! The HTTP server for the kubelet and Prometheus: `/livez`, `/readyz`, `/metrics`.

mod page;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::page::{Ages, Page};
use crate::process::metrics::{self, Metrics, ResourceSample};

/// Most connections at once. One more closes the oldest: a probe is answered, whoever keeps connections busy.
const CONNECTIONS: usize = 16;
/// The pause after a connection could not be accepted: mostly there are too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What has to hold before this process is ready. Clones share the checks.
///
/// A standby is ready: it waits for the lease by design.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, bool>>>);

/// What the handlers answer from.
#[derive(Clone)]
struct Sources {
    health: Health,
    page: Page,
}

/// How long is waited for what.
#[derive(Clone, Copy)]
struct Bounds {
    /// How long a request may be on its way.
    request: Duration,
    /// How long a connection may last, which serves one request: whoever reads slower than this gets part of the answer.
    connection: Duration,
}

impl Bounds {
    const SHIPPED: Self = Self {
        request: Duration::from_secs(5),
        connection: Duration::from_secs(15),
    };
}

impl Health {
    /// Checks by the names that users read; none holds yet.
    pub fn new(checks: impl IntoIterator<Item = &'static str>) -> Self {
        let checks = checks.into_iter().map(|check| (check, false)).collect();
        Self(Arc::new(Mutex::new(checks)))
    }

    /// Says whether `check` holds from now on.
    pub fn set(&self, check: &'static str, holds: bool) {
        self.checks().insert(check, holds);
    }

    /// Whether all checks hold, and a line for each: `[+] name` or `[-] name`.
    pub fn report(&self) -> (bool, String) {
        let checks = self.checks();
        let lines = checks.iter().map(|(check, holds)| {
            let sign = if *holds { '+' } else { '-' };
            format!("[{sign}] {check}\n")
        });
        (checks.values().all(|holds| *holds), lines.collect())
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        // Each change is one insert, so the map is whole even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves on `listener` until `shutdown`, then lets open requests end for as long as `drain` at most.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: Health,
    samples: impl Fn() -> Vec<ResourceSample> + Send + Sync + 'static,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    let page = Page::new(metrics, samples, Ages::SHIPPED);
    serve_within(
        Bounds::SHIPPED,
        listener,
        Sources { health, page },
        shutdown,
        drain,
    )
    .await;
    Ok(())
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    sources: Sources,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(sources);
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            () = shutdown.cancelled() => break,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        open.retain(|it| !it.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let connection = answer(bounds, stream, router.clone(), shutdown.clone());
        open.push_back(connections.spawn(connection));
    }
    drop(listener);
    let _ = timeout(drain, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// Answers one request, and closes the connection.
async fn answer(bounds: Bounds, stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    let builder = builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.request)
        .keep_alive(false);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = async {
        tokio::select! {
            served = &mut connection => return served,
            () = shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(bounds.connection, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "request not answered"),
        Err(_) => debug!("a client was too slow for its answer"),
    }
}

async fn readyz(State(sources): State<Sources>) -> impl IntoResponse {
    let (ready, lines) = sources.health.report();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, lines)
}

async fn render(State(sources): State<Sources>) -> impl IntoResponse {
    match sources.page.text().await {
        Some(text) => Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text)),
        None => Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            "a fault in the operator\n",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::{net::TcpStream, task::JoinHandle};

    const DRAIN: Duration = Duration::from_secs(1);
    const DEADLINE: Duration = Duration::from_secs(20);

    struct Served {
        base: String,
        health: Health,
        shutdown: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn start() -> Served {
        start_with(Bounds::SHIPPED, 1).await
    }

    /// With so many resources.
    async fn start_with(bounds: Bounds, resources: usize) -> Served {
        // Even a plain HTTP client of reqwest wants a TLS provider; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = listener.local_addr().unwrap().to_string();
        let health = Health::new(["API server reachable", "watch synced"]);
        let shutdown = CancellationToken::new();
        let sample = ResourceSample {
            namespace: "data".into(),
            name: "etl".into(),
            ready: false,
            reason: "SecretNotOurs".into(),
            stalled: Some("SecretNotOurs".into()),
            reconciling: None,
            next: Some(0),
            last: None,
            expires: None,
            credential_expires: None,
            lost: 0,
            held_back: false,
        };
        let samples = move || vec![sample.clone(); resources];
        let fresh = DEADLINE * 10;
        let ages = Ages {
            fresh,
            ..Ages::SHIPPED
        };
        let sources = Sources {
            health: health.clone(),
            page: Page::new(Metrics::new(), samples, ages),
        };
        // Written before it is asked for: that takes a while of many.
        assert!(sources.page.text().await.is_some());
        let task = tokio::spawn(serve_within(
            bounds,
            listener,
            sources,
            shutdown.clone(),
            DRAIN,
        ));
        Served {
            base,
            health,
            shutdown,
            task,
        }
    }

    impl Served {
        async fn get(&self, path: &str) -> (u16, String, String) {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let url = format!("http://{}{path}", self.base);
            let answer = client.get(url).send().await.unwrap();
            let kind = answer.headers()["content-type"].to_str().unwrap().into();
            (answer.status().as_u16(), kind, answer.text().await.unwrap())
        }
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_liveness_does_not_care() {
        let served = start().await;
        served.health.set("API server reachable", true);
        let (code, _, body) = served.get("/readyz").await;
        assert_eq!(code, 503);
        assert_eq!(body, "[+] API server reachable\n[-] watch synced\n");
        assert_eq!(served.get("/livez").await.0, 200);

        served.health.set("watch synced", true);
        assert_eq!(served.get("/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn a_scrape_shows_the_resources_of_that_moment() {
        let (code, kind, body) = start().await.get("/metrics").await;
        assert_eq!((code, kind.as_str()), (200, metrics::CONTENT_TYPE));
        assert!(body.contains(
            r#"astro_token_operator_ready{namespace="data",name="etl",reason="SecretNotOurs"} 0"#
        ));
        // Due since 1970, so the clock was read.
        assert!(!body.contains(r#"rotation_overdue_seconds{namespace="data",name="etl"} 0"#));
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_the_shutdown() {
        let served = start().await;
        let mut half = TcpStream::connect(&served.base).await.unwrap();
        half.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        // A whole request after the half one: the server has accepted both.
        served.get("/livez").await;
        served.shutdown.cancel();
        tokio::time::timeout(DRAIN * 5, served.task)
            .await
            .expect("still serving")
            .unwrap();
    }

    /// Reads what comes until the connection is closed, which it has to be.
    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        let _ = tokio::time::timeout(DEADLINE, read).await.expect("open");
        all
    }

    #[tokio::test]
    async fn probes_are_answered_whoever_holds_all_connections() {
        // So long that none of them ends by itself.
        let bounds = Bounds {
            request: DEADLINE * 10,
            connection: DEADLINE * 10,
        };
        let served = start_with(bounds, 30_000).await;
        let mut held = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(&served.base).await.unwrap();
            let whole = number % 2 == 0;
            let request = if whole {
                &b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"[..]
            } else {
                b"GET "
            };
            stream.write_all(request).await.unwrap();
            if whole {
                // It is being answered then, and nobody reads on.
                tokio::time::timeout(DEADLINE, stream.read_exact(&mut [0; 15]))
                    .await
                    .unwrap()
                    .unwrap();
            }
            held.push(stream);
        }
        for probe in ["/livez", "/readyz", "/livez"] {
            assert_ne!(served.get(probe).await.0, 0);
        }
        // The oldest had to make room, and got part of what it asked for; the others are as they were.
        let part = rest(held.remove(0)).await;
        assert!(part.len() < 5_000_000, "{}", part.len());
        let mut last = held.pop().unwrap();
        last.write_all(b"/livez HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = String::from_utf8(rest(last).await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn neither_a_request_nor_the_reading_of_its_answer_takes_for_ever() {
        let (soon, later) = (Duration::from_millis(200), DEADLINE * 10);
        let half = b"GET /livez HTTP/1.1\r\n".as_slice();
        let whole = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".as_slice();
        for (request, request_time, connection) in
            [(half, soon, later), (b"", soon, later), (half, later, soon)]
        {
            let bounds = Bounds {
                request: request_time,
                connection,
            };
            let served = start_with(bounds, 1).await;
            let mut stream = TcpStream::connect(&served.base).await.unwrap();
            stream.write_all(request).await.unwrap();
            assert_eq!(rest(stream).await, b"");
        }
        let bounds = Bounds {
            request: later,
            connection: Duration::from_secs(1),
        };
        let served = start_with(bounds, 30_000).await;
        let mut stream = TcpStream::connect(&served.base).await.unwrap();
        stream.write_all(whole).await.unwrap();
        let mut head = [0; 500];
        stream.read_exact(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head).into_owned();
        let (_, length) = head.split_once("content-length: ").unwrap();
        let length: usize = length.split_once("\r\n").unwrap().0.parse().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < bounds.connection * 2 {
            // It reads, and too slowly.
            let _ = stream.read(&mut [0; 10]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rest = rest(stream).await.len();
        assert!(rest < length - 10_000, "{rest} of {length}");
    }
}
