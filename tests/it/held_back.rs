//! An API server that asks to retry later: with 429 as priority and fairness and a new CRD do, or while it shuts down.

use crate::stage::process::run;
use crate::stage::{HOME, Mode, Operator, Stage, plane};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use kube::{Client, Config};
use lab::astro::Astro;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// The way to an API server, on which requests are held back; gone with the runtime it was opened on.
struct Door {
    url: String,
    held: Arc<Held>,
}

struct Held {
    cluster: Client,
    /// Answered so often to each kind of request, and with which header.
    most: usize,
    answer: (StatusCode, Option<&'static str>),
    /// How often each kind was held back.
    count: Mutex<BTreeMap<String, usize>>,
}

impl Door {
    async fn open(config: Config, most: usize, answer: (u16, Option<&'static str>)) -> Self {
        let held = Arc::new(Held {
            cluster: Client::try_from(config).unwrap(),
            most,
            answer: (StatusCode::from_u16(answer.0).unwrap(), answer.1),
            count: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(held.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, held }
    }

    /// The kinds of requests that were held back, by method and resource.
    fn kinds(&self) -> Vec<String> {
        self.held.count.lock().unwrap().keys().cloned().collect()
    }

    fn config(&self) -> Config {
        Config::new(self.url.parse().unwrap())
    }

    fn kubeconfig(&self, stage: &Stage) -> PathBuf {
        let path = stage.dir().join("door.kubeconfig");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "door",
            "contexts": [{"name": "door", "context": {"cluster": "door", "user": "door"}}],
            "clusters": [{"name": "door", "cluster": {"server": self.url}}],
            "users": [{"name": "door", "user": {}}],
        });
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        path
    }
}

/// Holds the first requests of each kind back, and passes the others on.
async fn pass(State(held): State<Arc<Held>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 4 << 20).await.unwrap();
    {
        let mut count = held.count.lock().unwrap();
        let count = count
            .entry(kind(&parts.method, parts.uri.path()))
            .or_default();
        if *count < held.most {
            *count += 1;
            // Plain text, as priority and fairness answers.
            let mut answer = "Too many requests, please try again later.".into_response();
            *answer.status_mut() = held.answer.0;
            if let Some(after) = held.answer.1 {
                answer
                    .headers_mut()
                    .insert("retry-after", after.parse().unwrap());
            }
            return answer;
        }
    }
    let mut request = axum::http::Request::new(kube::client::Body::from(body));
    (*request.method_mut(), *request.headers_mut()) = (parts.method, parts.headers);
    *request.uri_mut() = parts
        .uri
        .path_and_query()
        .unwrap()
        .as_str()
        .parse()
        .unwrap();
    request.headers_mut().remove("host");
    match held.cluster.send(request).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            Response::from_parts(parts, Body::new(body))
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// Of a request for one object or for all of a kind.
fn kind(method: &Method, path: &str) -> String {
    let words: Vec<_> = path.trim_matches('/').split('/').collect();
    let group = if words[0] == "api" { 2 } else { 3 };
    let rest = words.get(group..).unwrap_or_default();
    let (resource, sub) = match rest {
        ["namespaces", _, resource, rest @ ..] => (resource, rest.get(1)),
        [resource, rest @ ..] => (resource, rest.get(1)),
        [] => (&"discovery", None),
    };
    format!(
        "{method} {resource}{}",
        sub.map_or_else(String::new, |sub| format!("/{sub}"))
    )
}

#[tokio::test]
async fn an_operator_that_is_held_back_at_every_step_rotates_once() {
    let rows = [(429, Some("1")), (429, None), (503, Some("1"))];
    join_all(rows.map(rotates_once)).await;
}

/// Each kind of request is answered so at first.
async fn rotates_once(answer: (u16, Option<&'static str>)) {
    let astro = Astro::start().await.unwrap();
    let stage = Stage::new(&astro).await;
    let mode = Mode::NAMESPACES;
    let account = plane().await.service_account(HOME, mode.account()).await;
    let door = Door::open(account.unwrap(), 1, answer).await;
    let scope = mode.flags(std::slice::from_ref(&stage.namespace));
    let scope = scope.iter().map(String::as_str);
    let flags: Vec<_> = scope.chain(["--leader-election=false"]).collect();
    let operator = Operator::start(door.config(), &astro, &flags);
    let token = stage.token("r");
    stage.create("r", json!({})).await;
    stage.until_rotated("r", 1).await;
    assert!(stage.holds_live("r").await);
    assert_eq!(astro.rotations(&token.id), 1, "{answer:?}");
    let kinds = door.kinds();
    for step in [
        "GET secrets",
        "PATCH secrets",
        "PATCH workspacetokenrotations/status",
        "GET workspacetokenrotations",
    ] {
        assert!(
            kinds.iter().any(|kind| kind == step),
            "no {step} in {kinds:?}"
        );
    }
    operator.stop().await.unwrap();
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_command_that_is_held_back_says_so_in_one_line_and_does_its_work() {
    let astro = Astro::start().await.unwrap();
    let stage = Stage::new(&astro).await;
    let token = stage.token("by hand");
    // "storage is (re)initializing", right after a CRD was installed.
    let door = Door::open(plane().await.config(), 1, (429, Some("1"))).await;
    let kubeconfig = door.kubeconfig(&stage);
    let url = astro.url();
    let environment = [
        ("ASTRO_API_TOKEN", stage.owner.value.as_str()),
        ("ASTRO_API_URL", &url),
        ("KUBECONFIG", kubeconfig.to_str().unwrap()),
    ];
    let place = format!("{}/s", stage.namespace);
    let words = ["rotate", &token.id, "--force", "--into-secret", &place];
    let ended = run(&words, &environment).await;
    let said = ended.stderr.join("\n");
    assert_eq!(ended.code, Some(0), "{said}");
    assert_eq!(said.matches("429 Too Many Requests").count(), 1, "{said}");
    assert_eq!(astro.rotations(&token.id), 1);
    let value = stage.value("s", "token").await.unwrap();
    assert!(astro.is_live(&value));
    let words = ["status", "--namespace", &stage.namespace];
    let ended = run(&words, &environment).await;
    assert_eq!(ended.code, Some(0), "{:?}", ended.stderr);
}

#[tokio::test]
async fn a_command_that_is_held_back_for_longer_than_a_minute_says_for_how_long() {
    let stage = Stage::new(&Astro::start().await.unwrap()).await;
    let door = Door::open(plane().await.config(), 1, (429, Some("120"))).await;
    let kubeconfig = door.kubeconfig(&stage);
    let environment = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let ended = run(&["status", "--namespace", &stage.namespace], &environment).await;
    let said = ended.stderr.join("\n");
    assert_ne!(ended.code, Some(0));
    assert!(said.contains("asks to retry after 120 s"), "{said}");
}
