//! The simulator as its clients see it: the vendor's contract, every fault, every switch.

#![allow(clippy::disallowed_methods, reason = "the simulator runs in real time")]

mod contract;
mod faults;
mod process;
mod switches;

use lab::astro::{Astro, Fault, FaultHandle, Issued, NewToken, World};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// Everything here takes less, by far.
const DEADLINE: Duration = Duration::from_secs(10);

/// A simulator, an owner's credential and a token to rotate, in one Workspace.
struct Lab {
    astro: Astro,
    http: Client,
    workspace: String,
    owner: Issued,
    token: Issued,
}

impl Lab {
    async fn start() -> Lab {
        // Fails when another test was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let astro = Astro::start().await.unwrap();
        let workspace = astro.workspace().to_owned();
        Lab {
            http: Client::builder()
                .redirect(Policy::none())
                .retry(reqwest::retry::never())
                .user_agent("lab/1")
                .timeout(DEADLINE)
                .build()
                .unwrap(),
            owner: astro.create(NewToken::owner("owner", &workspace)),
            token: astro.create(NewToken::workspace("ci", &workspace)),
            workspace,
            astro,
        }
    }

    /// A request below the organization, as the owner.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_as(&self.owner.value, method, path)
    }

    fn request_as(&self, value: &str, method: Method, path: &str) -> RequestBuilder {
        let (url, organization) = (self.astro.url(), self.astro.organization());
        let url = format!("{url}/organizations/{organization}{path}");
        self.http.request(method, url).bearer_auth(value)
    }

    async fn get(&self, path: &str) -> Value {
        success(self.request(Method::GET, path).send().await.unwrap()).await
    }

    async fn list(&self, query: &str) -> Value {
        let workspace = &self.workspace;
        self.get(&format!("/tokens?workspaceId={workspace}{query}"))
            .await
    }

    async fn get_token(&self) -> Value {
        self.get(&format!("/tokens/{}", self.token.id)).await
    }

    fn rotate(&self) -> RequestBuilder {
        self.rotate_id(&self.token.id)
    }

    fn rotate_id(&self, id: &str) -> RequestBuilder {
        self.request(Method::POST, &format!("/tokens/{id}/rotate"))
    }

    async fn rotated(&self) -> Value {
        success(self.rotate().send().await.unwrap()).await
    }

    fn rotations(&self) -> usize {
        self.astro.rotations(&self.token.id)
    }

    /// Waits until the token was rotated n times.
    async fn rotated_times(&self, n: usize) {
        let landed = |astro: &World| astro.rotations(&self.token.id) == n;
        soon(self.astro.until(landed)).await;
    }

    fn fault(&self, fault: Fault) -> FaultHandle {
        self.astro.fault(fault)
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(DEADLINE, future).await;
    result.expect("in time")
}

async fn success(response: Response) -> Value {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    response.json().await.unwrap()
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

/// The names in a list, in its order.
fn names(list: &Value) -> Vec<&str> {
    let tokens = list["tokens"].as_array().unwrap().iter();
    tokens.map(|t| t["name"].as_str().unwrap()).collect()
}
