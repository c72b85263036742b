//! The HTTP server for the kubelet and Prometheus: `/livez`, `/readyz`, `/metrics`.

use std::{
    collections::BTreeMap,
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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::process::metrics::{self, Metrics, ResourceSample};

/// What has to hold before this process is ready. Clones share the checks.
///
/// A standby is ready: it waits for the lease by design.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, bool>>>);

/// What the handlers answer from.
#[derive(Clone)]
struct Sources {
    metrics: Metrics,
    health: Health,
    samples: Arc<dyn Fn() -> Vec<ResourceSample> + Send + Sync>,
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
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Sources {
            metrics,
            health,
            samples: Arc::new(samples),
        });
    let drained = {
        let shutdown = shutdown.clone();
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(drain).await;
        }
    };
    tokio::select! {
        served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown.cancelled_owned())
            .into_future() => served,
        () = drained => Ok(()),
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
    let text = sources
        .metrics
        .render((sources.samples)(), now().as_second());
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinHandle};

    const DRAIN: Duration = Duration::from_secs(1);

    struct Served {
        base: String,
        health: Health,
        shutdown: CancellationToken,
        task: JoinHandle<io::Result<()>>,
    }

    async fn start() -> Served {
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
        let task = tokio::spawn(serve(
            listener,
            Metrics::new(),
            health.clone(),
            move || vec![sample.clone()],
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
            .unwrap()
            .unwrap();
    }
}
