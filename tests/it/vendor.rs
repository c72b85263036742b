//! The vendor's client over real connections: what it reads, what it sends, and what it makes of every failure.

use astro_token_operator::api::Scope;
use astro_token_operator::astro::client::{Astro, Rotated, Settings, SetupError};
use astro_token_operator::astro::credential::Credential;
use astro_token_operator::astro::error::Error;
use astro_token_operator::decide::entity::Entity;
use astro_token_operator::decide::evidence::Token;
use astro_token_operator::decide::pace::Pace;
use astro_token_operator::decide::token::{Listed, Tokens};
use astro_token_operator::process::metrics::Metrics;
use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use lab::astro::{
    Astro as Simulator, Body, Damage, Fault, Issued, Limits, NewToken, Operation, Reply, Request,
    Settings as Switches, Step,
};
use lab::tls::Terminator;
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

/// Longest wait for anything that should happen by itself.
const DEADLINE: Duration = Duration::from_secs(20);
/// Limit for calls that are not answered.
const SHORT: Duration = Duration::from_secs(1);
/// Limit for connections that are not accepted.
const SHORT_CONNECT: Duration = Duration::from_millis(300);

/// A simulator with a token to rotate, and a credential that may.
struct Lab {
    simulator: Simulator,
    owner: Issued,
    credential: Credential,
    token: Issued,
}

impl Lab {
    async fn start() -> Self {
        // An error means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let simulator = Simulator::start().await.unwrap();
        let owner = simulator.create(NewToken::owner("owner", simulator.workspace()));
        let token = NewToken::workspace("ci", simulator.workspace()).expires(30);
        Self {
            credential: credential(&owner),
            owner,
            token: simulator.create(token),
            simulator,
        }
    }

    fn settings(&self) -> Settings {
        settings(&self.simulator.url())
    }

    /// A client without rate limits to speak of.
    fn client(&self) -> Astro {
        client(self.settings())
    }

    /// A client that does not wait long for an answer.
    fn hasty(&self) -> Astro {
        client(Settings {
            pace: pace(SHORT / 2, SHORT),
            ..self.settings()
        })
    }

    fn address(&self) -> SocketAddr {
        let url = self.simulator.url();
        let host = url.trim_start_matches("http://").split('/').next();
        host.unwrap().parse().unwrap()
    }

    async fn list(&self, client: &Astro) -> Result<Vec<Token>, Error> {
        let (organization, workspace) = (self.simulator.organization(), self.simulator.workspace());
        let workspace = entity(workspace);
        let list = client.list(&self.credential, organization, &workspace, keep);
        Ok(soon(list).await?.iter().filter_map(Listed::token).collect())
    }

    async fn get(&self, client: &Astro) -> Result<Token, Error> {
        self.get_as(client, &self.credential).await
    }

    async fn get_as(&self, client: &Astro, credential: &Credential) -> Result<Token, Error> {
        let organization = self.simulator.organization();
        soon(client.get(credential, organization, &self.token.id)).await
    }

    async fn rotate(&self, client: &Astro) -> Result<Rotated, Error> {
        let organization = self.simulator.organization();
        soon(client.rotate(&self.credential, organization, &self.token.id)).await
    }

    /// Whether the vendor says that this value is the live one of the token.
    async fn is_live(&self, client: &Astro, value: &str) -> Result<bool, Error> {
        let candidate = Credential::parse(value).unwrap();
        let record = self.get(client).await?;
        let (organization, workspace) = (self.simulator.organization(), self.simulator.workspace());
        let workspace = entity(workspace);
        soon(client.is_live(&candidate, organization, &workspace, &record)).await
    }

    /// The requests for a rotation that arrived.
    fn calls(&self) -> Vec<Request> {
        let mut requests = self.simulator.requests();
        requests.retain(|request| request.operation == Operation::Rotate);
        requests
    }

    /// No part of any value is in `error`, however it is shown.
    fn assert_no_value(&self, error: &Error) {
        for text in [error.to_string(), format!("{error:?}")] {
            for value in self.simulator.issued() {
                let parts = value.as_bytes().windows(20);
                let shown = parts.filter(|part| text.contains(str::from_utf8(part).unwrap()));
                assert_eq!(shown.count(), 0, "a value is in an error");
            }
        }
    }
}

/// With these limits to connect and for a whole call.
fn pace(vendor_connect_timeout: Duration, vendor_timeout: Duration) -> Pace {
    Pace {
        vendor_connect_timeout,
        vendor_timeout,
        ..Pace::SHIPPED
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.parse().unwrap(),
        ca_bundle: None,
        pace: pace(Duration::from_secs(5), Duration::from_secs(10)),
        reads_per_second: NonZeroU32::new(10_000).unwrap(),
        rotations_per_second: NonZeroU32::new(10_000).unwrap(),
    }
}

fn client(settings: Settings) -> Astro {
    Astro::new(settings, Metrics::new()).unwrap()
}

fn credential(token: &Issued) -> Credential {
    Credential::parse(&token.value).unwrap()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("never ended")
}

fn ids(tokens: &[Token]) -> BTreeSet<&str> {
    tokens.iter().map(|token| token.id.as_str()).collect()
}

/// Serves `router`; returns the base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

// ── reading ──

/// The Workspace of this id.
fn entity(workspace: &str) -> Entity {
    Entity {
        scope: Scope::Workspace,
        id: workspace.into(),
    }
}

/// Keeps all of each token of a list.
fn keep(token: &Token) -> Listed {
    Listed::new(token, true, &Tokens::default())
}

#[tokio::test]
async fn a_list_comes_whole_whatever_the_size_of_its_pages() {
    let lab = Lab::start().await;
    let create = |n| NewToken::workspace(format!("token {n}"), lab.simulator.workspace());
    let mut wanted: Vec<_> = (0..2_500)
        .map(|n| lab.simulator.create(create(n)).id)
        .collect();
    wanted.extend([lab.owner.id.clone(), lab.token.id.clone()]);
    lab.simulator
        .create(NewToken::workspace("not ours", "clmotherworkspace"));
    for (cap, pages) in [(1_000, 3), (100, 26)] {
        lab.simulator.settings(|switches| switches.page_cap = cap);
        lab.simulator.clear_requests();
        let listed = lab.list(&lab.client()).await.unwrap();
        assert_eq!(listed.len(), wanted.len());
        assert_eq!(ids(&listed), wanted.iter().map(String::as_str).collect());
        assert_eq!(lab.simulator.requests().len(), pages);
    }
}

#[tokio::test]
async fn a_token_created_between_two_pages_does_no_harm() {
    let lab = Lab::start().await;
    lab.simulator.settings(|switches| switches.page_cap = 2);
    for n in 0..2 {
        let more = NewToken::workspace(format!("token {n}"), lab.simulator.workspace());
        lab.simulator.create(more);
    }
    lab.simulator.fault(Fault::on(Operation::List).once());
    let second = Fault::on(Operation::List).once().before(Step::Hold);
    let second = lab.simulator.fault(second);
    let client = lab.client();
    let (listed, late) = tokio::join!(lab.list(&client), async {
        soon(second.reached()).await;
        let late = NewToken::workspace("late", lab.simulator.workspace());
        let late = lab.simulator.create(late);
        second.release();
        late
    });
    let listed = listed.unwrap();
    assert!(ids(&listed).contains(late.id.as_str()));
    assert_eq!((listed.len(), ids(&listed).len()), (5, 5));
}

#[tokio::test]
async fn a_list_from_which_tokens_vanish_between_two_pages_is_read_again() {
    // One is deleted; and one is deleted while another one is created, so that the count stays.
    for replaced in [false, true] {
        let lab = Lab::start().await;
        lab.simulator.settings(|switches| switches.page_cap = 2);
        let create = |name| {
            let token = NewToken::workspace(name, lab.simulator.workspace());
            lab.simulator.create(token)
        };
        let (gone, _, twin) = (create("gone"), create("other"), create("twin"));
        lab.simulator.fault(Fault::on(Operation::List).times(2));
        let third = Fault::on(Operation::List).once().before(Step::Hold);
        let third = lab.simulator.fault(third);
        let client = lab.client();
        let (listed, ()) = tokio::join!(lab.list(&client), async {
            soon(third.reached()).await;
            lab.simulator.delete(&gone.id);
            if replaced {
                create("late");
            }
            third.release();
        });
        let listed = listed.unwrap();
        assert!(ids(&listed).contains(twin.id.as_str()), "one was skipped");
        assert!(!ids(&listed).contains(gone.id.as_str()));
        assert_eq!(listed.len(), 4 + usize::from(replaced));
    }
}

/// A vendor whose list changes before each page.
#[tokio::test]
async fn a_list_that_never_adds_up_is_no_list() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = async |Query(query): Query<HashMap<String, String>>| {
        let offset: usize = query["offset"].parse().unwrap();
        let total = 10 + offset / 4;
        let shown = (0..total).rev().skip(offset).take(5);
        let record = |n| json!({"id": format!("token-{n}"), "name": "ci", "scope": "WORKSPACE"});
        let tokens: Vec<_> = shown.map(record).collect();
        axum::Json(json!({"tokens": tokens, "totalCount": total}))
    };
    let url = serve(Router::new().fallback(page)).await;
    let credential = Credential::parse("a-value").unwrap();
    let listed = soon(client(settings(&url)).list(&credential, "o", &entity("w"), keep)).await;
    let error = listed.unwrap_err().to_string();
    assert!(error.contains("does not add up"), "{error}");
}

#[tokio::test]
async fn an_odd_record_costs_no_other() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = json!({"totalCount": 3, "tokens": [
        {"id": "t1", "name": "one", "scope": "WORKSPACE", "roles": {}, "lastRotatedAt": 7},
        {"name": "no id", "scope": "WORKSPACE"},
        {"id": "t2", "name": "two", "scope": "WORKSPACE", "roles": [{"entityType": "WORKSPACE", "entityId": "w"}]},
    ]});
    let url = serve(Router::new().fallback(async move || axum::Json(page))).await;
    let credential = Credential::parse("a-value").unwrap();
    let listed = soon(client(settings(&url)).list(&credential, "o", &entity("w"), keep)).await;
    let listed: Vec<Token> = listed.unwrap().iter().filter_map(Listed::token).collect();
    let odd: Vec<_> = listed.iter().map(|token| token.odd).collect();
    assert_eq!(odd, [Some("lastRotatedAt"), Some("id"), None]);
    assert_eq!(listed[2].entities, ["w"]);
}

#[tokio::test]
async fn only_the_record_that_was_asked_for_is_taken() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let record = json!({"id": "Token-A", "name": "ci", "scope": "WORKSPACE"});
    let url = serve(Router::new().fallback(async move || axum::Json(record))).await;
    let credential = Credential::parse("a-value").unwrap();
    let client = client(settings(&url));
    soon(client.get(&credential, "o", "token-a")).await.unwrap();
    let error = soon(client.get(&credential, "o", "token-b")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another token"), "{error}");
}

#[tokio::test]
async fn a_list_that_never_ends_is_given_up() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let page = r#"{"tokens": [{"id": "again"}], "totalCount": 1000000}"#;
    let url = serve(Router::new().fallback(async move || page)).await;
    let credential = Credential::parse("a-value").unwrap();
    let listed = soon(client(settings(&url)).list(&credential, "o", &entity("w"), keep)).await;
    let error = listed.unwrap_err().to_string();
    assert!(error.contains("does not add up"), "{error}");
}

#[tokio::test]
async fn a_token_is_read_and_a_credential_judged() {
    let lab = Lab::start().await;
    let client = lab.client();
    assert_eq!(client.time(), None);
    let token = lab.get(&client).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test is a caller")]
    let now = Timestamp::now();
    let apart = client.time().unwrap().duration_since(now);
    assert!(apart.abs() < SignedDuration::from_secs(5), "{apart}");
    assert_eq!((&*token.id, &*token.name), (&*lab.token.id, "ci"));
    assert_eq!((&*token.scope, &*token.kind), ("WORKSPACE", "STANDARD"));
    assert_eq!(token.entities, [lab.simulator.workspace()]);
    assert_eq!(token.version.rotated_at, None);
    assert!(token.version.short_token.is_some());
    let days = token.ends.unwrap().duration_since(token.starts.unwrap());
    assert_eq!(days.as_hours(), 30 * 24);

    let organization = lab.simulator.organization();
    let unknown = client.get(&lab.credential, organization, "clm0unknown");
    let error = soon(unknown).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 404, .. }),
        "{error}"
    );
}

/// What Astro, or something before it, answers to a value that is asked whether it is live.
#[tokio::test]
async fn a_value_is_live_only_where_that_is_shown() {
    let lab = Lab::start().await;
    let client = lab.client();
    let (old, new) = (lab.token.value.clone(), lab.simulator.rotate(&lab.token.id));
    assert!(lab.is_live(&client, &new).await.unwrap());
    assert!(!lab.is_live(&client, &old).await.unwrap());
    // Another token's value, and what is no token.
    assert!(!lab.is_live(&client, &lab.owner.value).await.unwrap());
    assert!(!lab.is_live(&client, "a-value").await.unwrap());

    // Its own record is refused to it in each way; then the Workspace tells.
    let by_itself = |operation| Fault::on(operation).credential(&lab.token.id);
    for refusal in [Reply::json(403), Reply::json(404)] {
        let fault = by_itself(Operation::Get).before(Step::Answer(refusal.clone()));
        let fault = lab.simulator.fault(fault);
        assert!(
            lab.is_live(&client, &new).await.unwrap(),
            "{}",
            refusal.status
        );
        fault.clear();
    }

    // And where everything that is not a valid signature gets the same answer, nothing is shown.
    let alike = lab.simulator.fault(
        Fault::any()
            .credential(&lab.token.id)
            .before(Step::Answer(Reply::json(403))),
    );
    assert!(
        lab.is_live(&client, &new).await.unwrap(),
        "the control is told apart"
    );
    alike.clear();

    // No verdict is none.
    let broken = by_itself(Operation::Get).before(Step::Answer(Reply::html(403)));
    lab.simulator.fault(broken);
    lab.is_live(&client, &new).await.unwrap_err();
}

/// Astro answers 403 to a value that was rotated away, and a gateway before it tells a broken signature apart.
#[tokio::test]
async fn a_dead_value_that_is_answered_403_is_not_believed() {
    let lab = Lab::start().await;
    let client = lab.client();
    let refuse = || Step::Answer(Reply::json(403));
    lab.simulator
        .fault(Fault::on(Operation::GetWorkspace).before(refuse()));
    let record = lab.get(&client).await.unwrap();
    let forbidden = Fault::on(Operation::Get).before(refuse());
    lab.simulator.fault(forbidden);
    let candidate = Credential::parse(&lab.token.value).unwrap();
    let ask = async |record: &Token| {
        let (organization, workspace) = (lab.simulator.organization(), lab.simulator.workspace());
        let workspace = entity(workspace);
        soon(client.is_live(&candidate, organization, &workspace, record))
            .await
            .unwrap()
    };
    // The control gets the same answer.
    assert!(!ask(&record).await);
}

// ── rotating ──

/// What the vendor's documentation leaves open about a record, and the switch for it.
type Shape = (&'static str, fn(&mut Switches));

#[tokio::test]
async fn a_rotation_brings_the_live_value_and_the_record_in_whatever_shape() {
    let lab = Lab::start().await;
    let client = lab.client();
    let shapes: [Shape; 7] = [
        ("as documented", |_| {}),
        ("fractional seconds", |s| s.fractional_seconds = true),
        ("nulls", |s| s.nulls = true),
        ("unknown fields", |s| s.extra_fields = true),
        ("no lastRotatedAt", |s| s.tells_last_rotation = false),
        ("no new shortToken", |s| s.short_token_changes = false),
        ("all of it", |s| {
            (s.fractional_seconds, s.nulls, s.extra_fields) = (true, true, true);
            (s.tells_last_rotation, s.short_token_changes) = (false, false);
        }),
    ];
    let mut old = lab.token.value.clone();
    for (number, (shape, switch)) in shapes.into_iter().enumerate() {
        lab.simulator.settings(|switches| {
            *switches = Switches::default();
            switch(switches);
        });
        let rotated = lab.rotate(&client).await;
        let rotated = rotated.unwrap_or_else(|error| panic!("{shape}: {error}"));
        let value = rotated.value.expose_secret();
        assert!(lab.simulator.is_live(value), "{shape}");
        assert!(!lab.simulator.is_live(&old), "{shape}");
        old = value.to_owned();

        let token = rotated.token.unwrap();
        let read = lab.get(&client).await.unwrap();
        assert_eq!(token, read, "{shape}");
        let listed = lab.list(&client).await.unwrap();
        assert!(listed.contains(&read), "{shape}");
        assert!(token.version.short_token.is_some(), "{shape}");
        let called = lab.calls()[number].at;
        let later = lab.simulator.requests().last().unwrap().at;
        match token.version.rotated_at {
            Some(at) => {
                assert_eq!(at.0.subsec_nanosecond(), 0, "{shape}");
                // Cut to seconds, and never ahead of the vendor's own clock.
                assert!(at.0.as_second() >= called.as_second(), "{shape}: {at:?}");
                assert!(at.0 <= later, "{shape}: {at:?}");
            }
            None => assert!(matches!(shape, "no lastRotatedAt" | "all of it")),
        }
    }
    assert_eq!(lab.calls().len(), shapes.len());
}

#[tokio::test]
async fn an_odd_record_does_not_cost_the_value() {
    let lab = Lab::start().await;
    let client = lab.client();
    let damage = async |damage| {
        let fault = Fault::on(Operation::Rotate).once().damage(damage);
        lab.simulator.fault(fault);
        let rotated = lab.rotate(&client).await.unwrap_or_else(|e| panic!("{e}"));
        assert!(lab.simulator.is_live(rotated.value.expose_secret()));
        rotated.token.unwrap()
    };
    assert_ne!(damage(Damage::OtherId).await.id, lab.token.id);
    let token = damage(Damage::NoLastRotatedAt).await;
    assert_eq!(token.version.rotated_at, None);

    let body = r#"{"token": "a-value", "id": 7, "roles": "none"}"#;
    let url = serve(Router::new().fallback(async move || body)).await;
    let rotated = self::client(settings(&url));
    let rotated = soon(rotated.rotate(&lab.credential, "o", "t")).await;
    let rotated = rotated.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rotated.value.expose_secret(), "a-value");
    assert!(rotated.token.is_none());
}

#[tokio::test]
async fn any_success_with_a_value_is_a_value() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let credential = Credential::parse("a-value").unwrap();
    let record = || json!({"id": "t", "name": "ci", "scope": "WORKSPACE", "token": "the-value"});
    for status in [200, 201, 202, 206] {
        let answer = (StatusCode::from_u16(status).unwrap(), axum::Json(record()));
        let url = serve(Router::new().fallback(async move || answer)).await;
        let rotated = soon(client(settings(&url)).rotate(&credential, "o", "t")).await;
        let rotated = rotated.unwrap_or_else(|error| panic!("{status}: {error}"));
        assert_eq!(rotated.value.expose_secret(), "the-value", "{status}");
    }
    let masked = (
        StatusCode::OK,
        axum::Json(json!({"id": "t", "token": "two\nlines"})),
    );
    let url = serve(Router::new().fallback(async move || masked)).await;
    let error = soon(client(settings(&url)).rotate(&credential, "o", "t")).await;
    assert!(!error.err().unwrap().is_definite());
}

/// `{"id": "clm1", "name": "ci", "scope": "WORKSPACE", "token": "a-value"}`, compressed.
const GZIP: &str = "H4sIAAAAAAACA6tWykxRslJQSs7JNVTSUVDKS8xNBfMzQbzi5PwCMDfcP8g7OMDR2RUkWpKfnZoHEk3ULUvMKU1VqgUAHVyOk0YAAAA=";
const DEFLATE: &str =
    "eJyrVspMUbJSUErOyTVU0lFQykvMTQXzM0G84uT8AjA33D/IOzjA0dkVJFqSn52aBxJN1C1LzClNVaoFAKHaE6E=";

#[tokio::test]
async fn an_answer_that_a_gateway_has_compressed_is_decoded_and_a_cut_one_is_in_doubt() {
    use base64::Engine;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let credential = Credential::parse("a-value").unwrap();
    let rotate = async |encoding: &'static str, body: Vec<u8>| {
        let answer = (
            [
                ("content-encoding", encoding),
                ("content-type", "application/json"),
            ],
            body,
        );
        let url = serve(Router::new().fallback(async move || answer)).await;
        soon(client(settings(&url)).rotate(&credential, "o", "clm1")).await
    };
    for (encoding, text) in [("gzip", GZIP), ("deflate", DEFLATE)] {
        let body = base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap();
        let rotated = rotate(encoding, body.clone()).await;
        let rotated = rotated.unwrap_or_else(|error| panic!("{encoding}: {error}"));
        assert_eq!(rotated.value.expose_secret(), "a-value", "{encoding}");
        let cut = rotate(encoding, body[..30].to_vec()).await.err().unwrap();
        assert!(!cut.is_definite(), "{encoding}: {cut}");
    }
    let odd = rotate("zstd", b"anything".to_vec()).await.err().unwrap();
    assert!(
        !odd.is_definite() && odd.to_string().contains("zstd"),
        "{odd}"
    );
}

#[tokio::test]
async fn every_request_says_who_asks() {
    let lab = Lab::start().await;
    let client = lab.client();
    lab.list(&client).await.unwrap();
    lab.get(&client).await.unwrap();
    lab.rotate(&client).await.unwrap_or_else(|e| panic!("{e}"));
    let requests = lab.simulator.requests();
    let operations: Vec<_> = requests.iter().map(|r| r.operation).collect();
    use Operation::{Get, List, Rotate};
    assert_eq!(operations, [List, Get, Rotate]);
    let name = concat!("astro-token-operator/", env!("CARGO_PKG_VERSION"));
    for request in requests {
        assert_eq!(request.user_agent.as_deref(), Some(name));
        assert_eq!(request.credential.as_ref(), Some(&lab.owner.id));
    }
}

// ── failures ──

/// A fault of the rotate call, whether the client may be certain that nothing happened, what it says, and whether
/// the rotation took effect.
type Case = (Fault, bool, &'static str, bool);

fn cases(lab: &Lab) -> Vec<Case> {
    let rotate = || Fault::on(Operation::Rotate);
    let answer = |reply| rotate().before(Step::Answer(reply));
    let url = |path| format!("{}/{path}", lab.simulator.url());
    let there = url(&format!(
        "organizations/{}/tokens/{}/rotate",
        lab.simulator.organization(),
        lab.token.id
    ));
    let redirect = |status| answer(Reply::empty(status).header("location", &there));
    let (lost, no_value) = ("did not answer properly", "it holds no token value");
    let landed = |reply| rotate().after(Step::Answer(reply));
    vec![
        (rotate().before(Step::Close), false, lost, false),
        (rotate().before(Step::Reset), false, lost, false),
        (rotate().before(Step::Hold), false, lost, false),
        (rotate().late(SHORT / 4), false, lost, true),
        (rotate().after(Step::Close), false, lost, true),
        (rotate().after(Step::Reset), false, lost, true),
        (rotate().after(Step::Hold), false, lost, true),
        (rotate().damage(Damage::Cut), false, lost, true),
        (rotate().damage(Damage::Truncated), false, no_value, true),
        (rotate().damage(Damage::NoToken), false, no_value, true),
        (rotate().damage(Damage::Html), false, no_value, true),
        (redirect(301), false, "301", false),
        (redirect(302), false, "302", false),
        (redirect(307), false, "307", false),
        (redirect(308), false, "308", false),
        (answer(Reply::json(400)), true, "400", false),
        (answer(Reply::json(401)), true, "401", false),
        (answer(Reply::json(403)), true, "403", false),
        (answer(Reply::json(404)), true, "404", false),
        (answer(Reply::json(429)), true, "429", false),
        (answer(Reply::text(429)), false, "429", false),
        (answer(Reply::html(403)), false, "403", false),
        (answer(Reply::text(404)), false, "404", false),
        (answer(Reply::empty(401)), false, "401", false),
        // The rotation took effect, and a gateway says no.
        (landed(Reply::html(403)), false, "403", true),
        (landed(Reply::text(401)), false, "401", true),
        (landed(Reply::html(404)), false, "404", true),
        (answer(Reply::empty(204)), false, "204", false),
        (answer(Reply::html(408)), false, "408", false),
        (answer(Reply::json(500)), false, "500", false),
        (answer(Reply::html(502)), false, "502", false),
        (answer(Reply::text(503)), false, "503", false),
        (answer(Reply::empty(504)), false, "504", false),
        (
            rotate().after(Step::Answer(Reply::html(504))),
            false,
            "504",
            true,
        ),
    ]
}

#[tokio::test]
async fn a_rotation_is_sent_once_and_its_failure_is_called_definite_only_when_nothing_happened() {
    let lab = Lab::start().await;
    let cases = cases(&lab);
    let mut effects = 0;
    for (sent, (fault, definite, words, effect)) in cases.iter().enumerate() {
        // For as many requests as come.
        let fault = lab.simulator.fault(fault.clone());
        let what = format!("{:?}", fault.fault());
        let begun = Instant::now();
        let error = lab.rotate(&lab.hasty()).await.err();
        let error = error.unwrap_or_else(|| panic!("no error: {what}"));
        // By its own timeout, and not by the one that is shipped.
        assert!(begun.elapsed() < Pace::SHIPPED.vendor_timeout, "{what}");
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert_eq!(error.is_definite(), *definite, "{what}: {error}");
        lab.assert_no_value(&error);
        assert_eq!(lab.calls().len(), sent + 1, "{what}: sent again");
        effects += usize::from(*effect);
        let landed = |_: &_| lab.simulator.rotations(&lab.token.id) == effects;
        let landed = timeout(DEADLINE, lab.simulator.until(landed)).await;
        assert!(landed.is_ok(), "{what}: {effects} effects were expected");
        // What is held is dropped, not let through.
        if what.contains("before: [Hold]") {
            lab.simulator.down().await.unwrap();
            lab.simulator.up().await.unwrap();
        }
        fault.clear();
    }
    assert_eq!(lab.calls().len(), cases.len());
    assert_eq!(lab.simulator.rotations(&lab.token.id), effects);
}

#[tokio::test]
async fn a_call_that_was_never_sent_is_definite() {
    let lab = Lab::start().await;
    let mut urls = Vec::new();
    // Accepts the connection, and says nothing to the TLS handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    urls.push(format!("https://{}/v1", silent.local_addr().unwrap()));
    // Has no place for a further connection.
    let busy = TcpSocket::new_v4().unwrap();
    busy.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let busy = busy.listen(1).unwrap();
    let address = busy.local_addr().unwrap();
    let connect = || timeout(SHORT_CONNECT, tokio::net::TcpStream::connect(address));
    let waiting = join_all((0..4).map(|_| connect())).await;
    assert!(waiting.iter().any(Result::is_err), "none was kept waiting");
    urls.push(format!("http://{address}/v1"));
    // Nobody is there.
    lab.simulator.down().await.unwrap();
    urls.push(lab.simulator.url());

    for url in &urls {
        let client = client(Settings {
            pace: pace(SHORT_CONNECT, Duration::from_secs(10)),
            ..settings(url)
        });
        let errors = [
            lab.rotate(&client).await.err(),
            lab.get(&client).await.err(),
        ];
        for error in errors {
            let error = error.unwrap();
            assert!(error.is_definite(), "{url}: {error}");
            assert!(error.to_string().contains("cannot be reached"), "{error}");
            lab.assert_no_value(&error);
        }
    }
    assert_eq!(lab.simulator.requests().len(), 0);
}

#[tokio::test]
async fn an_error_names_the_request_and_never_the_credential() {
    let lab = Lab::start().await;
    let value = &lab.owner.value;
    let messages = [
        format!("bad credential {value}"),
        format!("Authorization: Bearer {value}, refused"),
        format!("{{\"token\":\"{value}\"}}"),
        format!("line\n{value}\tx"),
        value.replace('.', " "),
        value.replace('.', "\u{0}\n"),
    ];
    for message in messages {
        let replies = [Reply::json(400), Reply::text(500), Reply::html(403)];
        for reply in replies {
            let json = reply.body == Body::Json;
            let reply = reply.message(message.clone());
            let fault = Fault::any().before(Step::Answer(reply));
            let fault = lab.simulator.fault(fault);
            let client = lab.client();
            let errors = [
                lab.rotate(&client).await.err(),
                lab.get(&client).await.err(),
                lab.list(&client).await.err(),
            ];
            for error in errors {
                let error = error.unwrap();
                lab.assert_no_value(&error);
                let text = error.to_string();
                assert_eq!(text.starts_with("Astro answered "), json, "{text}");
                assert_eq!(text.contains("in no form of Astro's"), !json, "{text}");
                let id = text.split_once("(request ").map(|(_, rest)| &rest[..36]);
                assert_eq!(id.is_some(), json, "{text}");
                assert!(id.is_none_or(|id| uuid::Uuid::parse_str(id).is_ok()));
            }
            fault.clear();
        }
    }
    // One that is too short to look like a value.
    let short = Credential::parse("s3cret").unwrap();
    let echo = json!({"message": "s3cret is bad", "requestId": "r", "statusCode": 400});
    let echo = (StatusCode::BAD_REQUEST, axum::Json(echo));
    let url = serve(Router::new().fallback(async move || echo)).await;
    let error = soon(client(settings(&url)).get(&short, "o", "t")).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("is bad") && !error.contains("s3cret"),
        "{error}"
    );
}

// ── manners ──

#[tokio::test]
async fn a_pause_the_vendor_asks_for_is_kept_for_that_credential_alone() {
    let lab = Lab::start().await;
    let client = lab.client();
    let pause = Reply::text(429).header("retry-after", "1");
    let fault = Fault::on(Operation::Rotate).once();
    lab.simulator.fault(fault.before(Step::Answer(pause)));
    let begun = Instant::now();
    let error = lab.rotate(&client).await.err().unwrap();
    assert_eq!(error.retry_after().unwrap().as_millis(), 1_000);

    for error in [
        lab.rotate(&client).await.err(),
        lab.get(&client).await.err(),
        lab.list(&client).await.err(),
    ] {
        let error = error.unwrap();
        assert!(error.to_string().contains("pausing"), "{error}");
        assert!(error.is_definite());
        assert!((1..=1_000).contains(&error.retry_after().unwrap().as_millis()));
    }
    assert_eq!(lab.simulator.requests().len(), 1, "asked within the pause");
    let other = NewToken::owner("other", lab.simulator.workspace());
    let other = credential(&lab.simulator.create(other));
    lab.get_as(&client, &other).await.unwrap();

    let again = soon(async {
        loop {
            match lab.get(&client).await {
                Ok(token) => return token,
                Err(error) => assert!(error.to_string().contains("pausing"), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(again.await.id, lab.token.id);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(lab.simulator.requests().len(), 3);
}

#[tokio::test]
async fn a_pause_is_read_in_every_form_and_bounded() {
    let lab = Lab::start().await;
    let then = "Wed, 21 Oct 2026 07:28:00 GMT";
    for (text, wanted) in [
        (Some("7"), Some(7)),
        (Some(" 7 "), Some(7)),
        (Some("Wed, 21 Oct 2026 07:28:09 GMT"), Some(9)),
        (Some("99999999999"), Some(600)),
        (Some("Thu, 21 Oct 2027 07:28:00 GMT"), Some(600)),
        (Some("Tue, 20 Oct 2026 07:28:00 GMT"), None),
        (Some("soon"), None),
        (Some("-1"), None),
        (None, None),
    ] {
        let mut reply = Reply::text(429).header("date", then);
        if let Some(text) = text {
            reply = reply.header("retry-after", text);
        }
        let fault = lab
            .simulator
            .fault(Fault::any().before(Step::Answer(reply)));
        let client = lab.client();
        let error = lab.get(&client).await.unwrap_err();
        let told = error.retry_after().map(|pause| pause.as_secs());
        assert_eq!(told, wanted, "{text:?}");
        // Without a usable word it pauses for a while of its own.
        let error = lab.get(&client).await.unwrap_err();
        assert!(error.to_string().contains("pausing"), "{text:?}: {error}");
        fault.clear();
    }
}

#[tokio::test]
async fn the_vendor_s_limits_are_kept_for_each_credential_by_itself() {
    let lab = Lab::start().await;
    let limits = Limits::default();
    let client = client(Settings {
        reads_per_second: NonZeroU32::new(limits.get).unwrap(),
        rotations_per_second: NonZeroU32::new(limits.post).unwrap(),
        ..lab.settings()
    });
    lab.simulator.settings(|s| s.limits = Some(limits));
    let other = NewToken::owner("other", lab.simulator.workspace());
    let other = credential(&lab.simulator.create(other));

    let reads = async { join_all((0..60).map(|_| lab.get(&client))).await };
    let rotations = join_all((0..15).map(|_| async {
        soon(client.turn(&lab.credential)).await;
        lab.rotate(&client).await.map(drop)
    }));
    let mut burst = std::pin::pin!(async { tokio::join!(reads, rotations) });
    let others = async { join_all((0..20).map(|_| lab.get_as(&client, &other))).await };
    let others = tokio::select! {
        biased;
        _ = &mut burst => panic!("80 calls took no time, or another credential waited for them"),
        others = others => others,
    };
    let (reads, rotations) = burst.await;
    for answer in others.into_iter().chain(reads) {
        answer.unwrap();
    }
    for answer in rotations {
        answer.unwrap();
    }
    let statuses = lab.simulator.requests().into_iter().map(|r| r.status);
    assert_eq!(
        statuses.collect::<BTreeSet<_>>(),
        BTreeSet::from([Some(200)])
    );
}

// ── a private authority ──

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_bundle_and_not_without() {
    let lab = Lab::start().await;
    let front = Terminator::open(lab.address()).await.unwrap();
    let stranger = Terminator::open(lab.address()).await.unwrap();
    let url = format!("https://localhost:{}/v1", front.port);
    let with = |bundle: Option<String>, url: &str| {
        client(Settings {
            ca_bundle: bundle.map(String::into_bytes),
            ..settings(url)
        })
    };
    let by_address = format!("https://127.0.0.1:{}/v1", front.port);
    for client in [
        with(None, &url),
        with(Some(stranger.authority.clone()), &url),
        with(Some(front.authority.clone()), &by_address),
    ] {
        for error in [
            lab.rotate(&client).await.err(),
            lab.get(&client).await.err(),
        ] {
            let error = error.unwrap();
            assert!(error.is_definite(), "{error}");
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }
    assert_eq!(lab.simulator.requests().len(), 0);

    let bundle = format!("{}\n{}", stranger.authority, front.authority);
    let client = with(Some(bundle), &url);
    lab.get(&client).await.unwrap();
    let rotated = lab.rotate(&client).await;
    let rotated = rotated.unwrap_or_else(|error| panic!("{error}"));
    assert!(lab.simulator.is_live(rotated.value.expose_secret()));
    assert_eq!(lab.calls().len(), 1);
}

#[tokio::test]
async fn a_bundle_without_a_certificate_is_refused() {
    let lab = Lab::start().await;
    let broken = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    for text in ["", "no certificate", broken] {
        let ca_bundle = Some(text.into());
        let settings = Settings {
            ca_bundle,
            ..lab.settings()
        };
        let error = Astro::new(settings, Metrics::new()).err().unwrap();
        assert!(
            matches!(error, SetupError::CaBundle(_) | SetupError::EmptyCaBundle),
            "{text:?}: {error}"
        );
    }
}
