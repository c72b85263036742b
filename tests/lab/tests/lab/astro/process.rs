//! The server's life, and `astro-sim` with its admin API.

use super::{Lab, soon, status, success};
use lab::astro::{Astro, Fault, Operation, Step};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::test]
async fn it_can_be_down_for_a_while_and_remembers() {
    let lab = Lab::start().await;
    lab.get_token().await;
    let hold = lab.fault(Fault::on(Operation::Rotate).once().before(Step::Hold));
    let call = tokio::spawn(lab.rotate().send());
    soon(hold.reached()).await;

    lab.astro.down().await.unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert!(!error.is_connect() && error.status().is_none());
    assert!(lab.rotate().send().await.unwrap_err().is_connect());
    lab.astro.up().await.unwrap();
    assert!(lab.astro.up().await.is_err());
    lab.rotated().await;
    assert_eq!(lab.rotations(), 1);
}

#[tokio::test]
async fn it_stops_with_its_last_handle() {
    let Lab { astro, http, .. } = Lab::start().await;
    let second = astro.clone();
    let url = format!("{}/organizations", astro.url());
    drop(astro);
    assert_eq!(status(http.get(&url)).await, 401);
    drop(second);
    // It stops in the background.
    let gone = async { while http.get(&url).send().await.is_ok() {} };
    soon(gone).await;
    assert!(Astro::start_on(([0, 0, 0, 0], 0).into()).await.is_err());
}

#[tokio::test]
async fn the_process_is_steered_over_its_admin_api_and_logs_no_value() {
    let sim = Sim::start().await;
    let workspace = sim.workspace.as_str();
    let about = sim.admin(Method::GET, "", ()).await;
    let ids = json!({"organization": sim.organization, "workspace": workspace});
    assert_eq!(about, ids);
    let create = async |role: &str| {
        let body = json!({"name": role, "scope": "WORKSPACE", "entityId": workspace, "role": role});
        sim.admin(Method::POST, "/tokens", body).await
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let owner = create("WORKSPACE_OWNER").await;
    let token = create("WORKSPACE_MEMBER").await;
    let (id, first) = (text(&token["id"]), text(&token["value"]));
    let value = text(&owner["value"]);
    let path = format!("{}/organizations/{}/tokens/{id}", sim.url, sim.organization);
    let rotate = || sim.http.post(format!("{path}/rotate")).bearer_auth(&value);

    let fault = json!({"operation": "rotate", "times": 1, "after": ["close"]});
    let fault = sim.admin(Method::POST, "/faults", fault).await;
    assert_eq!(fault, json!({"id": 1}));
    assert_eq!(rotate().send().await.unwrap_err().status(), None);
    let fault = json!({
        "token": id,
        "before": [{"delay": "1ms"}, "hold", {"answer": {"status": 418, "body": "text"}}],
    });
    sim.admin(Method::POST, "/faults", fault).await;
    let (held, _) = tokio::join!(rotate().send(), async {
        // The log is what another process can wait on.
        while sim
            .admin(Method::GET, "/requests", ())
            .await
            .as_array()
            .unwrap()
            .len()
            < 2
        {}
        sim.admin(Method::POST, "/faults/2/release", ()).await
    });
    assert_eq!(held.unwrap().status(), 418);
    sim.admin(Method::DELETE, "/faults", ()).await;
    assert_eq!(sim.admin(Method::GET, "/faults", ()).await, json!([]));
    let second = text(&success(rotate().send().await.unwrap()).await["token"]);

    let third = sim
        .admin(Method::POST, &format!("/tokens/{id}/rotate"), ())
        .await;
    let third = text(&third["value"]);
    for (value, live) in [(&first, false), (&second, false), (&third, true)] {
        let answer = sim
            .admin(Method::POST, "/live", json!({"value": value}))
            .await;
        assert_eq!(answer, json!({"live": live, "token": id}));
    }
    let tokens = sim.admin(Method::GET, "/tokens", ()).await;
    assert_eq!(
        (&tokens[1]["rotations"], &tokens[1]["live"]),
        (&json!(2), &json!(true))
    );
    let requests = sim.admin(Method::GET, "/requests", ()).await;
    let statuses: Vec<&Value> = requests
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["status"])
        .collect();
    assert_eq!(statuses, [&Value::Null, &json!(418), &json!(200)]);
    sim.admin(Method::DELETE, "/requests", ()).await;
    assert_eq!(sim.admin(Method::GET, "/requests", ()).await, json!([]));

    let settings = sim.admin(Method::GET, "/settings", ()).await;
    assert_eq!(settings["limits"]["post"], 10);
    let patch = json!({"limits": null, "stale": "2s", "clockAhead": "-1h"});
    let settings = sim.admin(Method::PATCH, "/settings", patch).await;
    assert_eq!(
        (&settings["limits"], &settings["stale"]),
        (&Value::Null, &json!("2s"))
    );
    let refused = sim
        .send(Method::PATCH, "/settings", json!({"no such": 1}))
        .await;
    assert_eq!(refused.status(), 400);
    let other = sim
        .admin(Method::DELETE, &format!("/tokens/{id}"), ())
        .await;
    assert_eq!(other, Value::Null);
    let again = sim.send(Method::DELETE, &format!("/tokens/{id}"), ()).await;
    assert_eq!(again.status(), 404);

    let Output { status, stderr, .. } = sim.stop().await;
    assert!(status.success());
    let log = String::from_utf8(stderr).unwrap();
    assert!(log.contains(&format!("token=\"{id}\"")), "{log}");
    let secrets = [first, second, third, value];
    for part in secrets.iter().flat_map(|value| value.split('.').skip(1)) {
        assert!(!log.contains(part));
    }
}

#[tokio::test]
async fn the_process_refuses_other_addresses() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_astro-sim"));
    command.args(["--listen", "0.0.0.0:0"]).kill_on_drop(true);
    let Output { status, stderr, .. } = soon(command.output()).await.unwrap();
    assert!(!status.success());
    assert!(String::from_utf8_lossy(&stderr).contains("not loopback"));
}

/// A running `astro-sim`.
struct Sim {
    process: Child,
    http: Client,
    url: String,
    organization: String,
    workspace: String,
}

impl Sim {
    async fn start() -> Sim {
        let http = Lab::start().await.http;
        let mut process = Command::new(env!("CARGO_BIN_EXE_astro-sim"))
            .args(["--listen", "127.0.0.1:0"])
            .env("RUST_LOG", "trace")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = async |name: &str| {
            let line = soon(lines.next_line()).await.unwrap().unwrap();
            line.strip_prefix(&format!("{name} ")).unwrap().to_owned()
        };
        Sim {
            url: said("url").await,
            organization: said("organization").await,
            workspace: said("workspace").await,
            process,
            http,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl serde::Serialize,
    ) -> reqwest::Response {
        let url = self.url.replace("/v1", "/admin");
        let request = self.http.request(method, url + path).json(&body);
        request.send().await.unwrap()
    }

    /// The body of a successful admin call, null if it has none.
    async fn admin(&self, method: Method, path: &str, body: impl serde::Serialize) -> Value {
        let response = self
            .send(method, path, body)
            .await
            .error_for_status()
            .unwrap();
        match response.status() {
            StatusCode::NO_CONTENT => Value::Null,
            _ => response.json().await.unwrap(),
        }
    }

    async fn stop(self) -> Output {
        self.admin(Method::POST, "/stop", ()).await;
        let ended = self.process.wait_with_output();
        soon(ended).await.unwrap()
    }
}
