//! `plan` as a process, on a real API server: what it says of every state, with what code it ends, and that it writes nothing.
//!
//! No operator runs here: states are made by hand, with the evidence and the status that an operator would have written.

use crate::stage::process::{self, BINARY, Ended, run};
use crate::stage::{self, HOME, Stage, fresh_name, merge, next_second, plane};
use astro_token_operator::api::Version;
use astro_token_operator::astro::client as astro;
use astro_token_operator::astro::credential::Credential;
use astro_token_operator::astro::record::Details;
use astro_token_operator::decide::pace::Pace;
use astro_token_operator::decide::stamp::rotation_id;
use astro_token_operator::process::metrics::Metrics;
use astro_token_operator::reason::EXPLANATIONS;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use lab::astro::{Astro, Fault, Issued, NewToken, Operation, Reply, Step};
use lab::control_plane::apply;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A namespace, a simulator, and what tests do with them.
struct Planner(Stage);

impl Planner {
    async fn start() -> Self {
        // An error means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let astro = Astro::start().await.unwrap();
        Self(Stage::new(&astro).await)
    }

    /// Runs `plan` as the administrator, in this namespace.
    async fn plan(&self, arguments: &[&str]) -> Ended {
        let kubeconfig = plane().await.kubeconfig();
        self.plan_as(kubeconfig, arguments).await
    }

    async fn plan_as(&self, kubeconfig: PathBuf, arguments: &[&str]) -> Ended {
        let url = format!("--api-url={}", self.0.astro.url());
        let mut all = vec!["plan", &url, "--namespace", &self.0.namespace];
        all.extend(arguments);
        let ended = run(&all, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]).await;
        for text in [&ended.stdout, &ended.stderr.concat()] {
            let shown = self
                .0
                .astro
                .issued()
                .iter()
                .any(|value| text.contains(value));
            assert!(!shown, "a value was shown");
        }
        ended
    }

    /// The facts of one resource, and the exit code.
    async fn facts(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        let ended = self.plan(&[arguments, &["-o", "json"]].concat()).await;
        let facts = facts(&ended);
        assert_eq!(facts.len(), 1, "{facts:?}");
        (facts[0].clone(), ended.code)
    }

    /// Writes a file of a name of its own.
    fn file(&self, text: &str) -> String {
        temporary(&format!("plan-{}.yaml", fresh_name()), text)
    }

    async fn details(&self, token: &str) -> Details {
        let settings = astro::Settings {
            url: self.0.astro.url().parse().unwrap(),
            ca_bundle: None,
            pace: Pace::SHIPPED,
            reads_per_second: NonZeroU32::MAX,
            rotations_per_second: NonZeroU32::MAX,
        };
        let astro = astro::Astro::new(settings, Metrics::new()).unwrap();
        let owner = Credential::parse(&self.0.owner.value);
        let owner = owner.unwrap_or_else(|problem| panic!("{problem}"));
        let organization = self.0.astro.organization().to_owned();
        astro.details(&owner, &organization, token).await.unwrap()
    }

    /// A token that was rotated once, and its version.
    async fn rotated(&self, name: &str) -> (Issued, Version) {
        let token = self.0.token(name);
        self.0.astro.rotate(&token.id);
        let version = self.details(&token.id).await.token.version;
        (token, version)
    }

    /// The Secret as an operator leaves it after a rotation so long ago; `edit` is merged into its annotations.
    async fn hold(
        &self,
        name: &str,
        token: &Issued,
        version: &Version,
        ago: SignedDuration,
        edit: Value,
    ) {
        let key = |name: &str| format!("astro-token-operator.io/{name}");
        let mut annotations = json!({
            key("owned-by"): name, key("key"): "token", key("token-id"): token.id,
            key("cluster"): cluster(&self.0.client).await,
            key("rotation-id"): rotation_id(now() - ago, 1),
            key("rotated-at"): version.rotated_at.as_ref().map(|at| at.0.to_string()),
            key("short-token"): version.short_token,
        });
        merge(&mut annotations, edit);
        let secret = format!("{name}-secret");
        let body = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": secret, "annotations": annotations,
                "labels": {"app.kubernetes.io/managed-by": "astro-token-operator"},
            },
            "stringData": null, "data": {"token": "eA=="},
        });
        let params = PatchParams::apply("astro-token-operator").force();
        let secrets = self.0.secrets();
        secrets
            .patch(&secret, &params, &Patch::Apply(body))
            .await
            .unwrap();
    }

    /// Merges into the status, as an operator that ran before.
    async fn status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let resources = self.0.resources();
        resources
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn secret(&self, name: &str, more: Value) {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        merge(&mut secret, more);
        let secret: Secret = serde_json::from_value(secret).unwrap();
        self.0
            .secrets()
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
    }

    /// Everything in the namespace that an operator might write, and where it stands.
    async fn versions(&self) -> BTreeMap<String, String> {
        let params = ListParams::default();
        let namespace = &self.0.namespace;
        let events: Api<Event> = Api::namespaced(self.0.client.clone(), namespace);
        let leases: Api<Lease> = Api::namespaced(self.0.client.clone(), namespace);
        let mut all = BTreeMap::new();
        macro_rules! note {
            ($kind:literal, $api:expr) => {
                for it in $api.list(&params).await.unwrap() {
                    let name = format!("{} {}", $kind, it.name_any());
                    all.insert(name, it.resource_version().unwrap());
                }
            };
        }
        note!("resource", self.0.resources());
        note!("secret", self.0.secrets());
        note!("event", events);
        note!("lease", leases);
        all
    }

    /// No more than reads ever came to the vendor.
    fn assert_only_read(&self) {
        let requests = self.0.astro.requests();
        assert!(!requests.is_empty());
        for request in requests {
            let is_read = matches!(request.operation, Operation::Get | Operation::List);
            assert!(is_read, "{:?}", request.operation);
        }
    }
}

/// Writes a file in the folder that Cargo has for tests.
fn temporary(name: &str, text: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, text).unwrap();
    path
}

async fn cluster(client: &Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.get("kube-system").await.unwrap().uid().unwrap()
}

fn facts(ended: &Ended) -> Vec<Value> {
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:#?}", ended.stderr))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no caller to take the time from"
)]
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

/// Names of the checks that say this.
fn checks(facts: &Value, result: &str) -> Vec<String> {
    let all = facts["checks"].as_array().unwrap().iter();
    let of = all.filter(|check| check["result"] == result);
    of.map(|check| check["name"].as_str().unwrap().to_owned())
        .collect()
}

fn pending(token: &Issued, replaces: &Version, ago: SignedDuration) -> Value {
    json!({"pending": {
        "id": rotation_id(now() - ago, 2), "reason": "Scheduled", "attempt": 1, "tokenId": token.id,
        "startedAt": now() - ago, "replaces": replaces, "holder": "pod/process",
    }})
}

/// Each reason of `Ready=False` that needs no running operator. The other two: a template that fails is in no spec yet,
/// and a value that cannot be stored is in an operator's memory and nowhere else.
const NOT_PRODUCED: [&str; 4] = [
    "KubernetesUnavailable",
    "PreviousInUse",
    "TemplateFailed",
    "ValueNotStored",
];

#[tokio::test]
async fn each_reason_is_told_with_its_rule_and_code_and_nothing_is_written() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    let by_id = |id: &str| json!({"token": {"name": null, "id": id}});
    let with = |mut spec: Value, secret: &str| {
        merge(
            &mut spec,
            json!({"credentials": {"secretRef": {"name": secret}}}),
        );
        spec
    };
    let credential =
        async |name: &str, value: &str| stage.put_secret(name, json!({"token": value})).await;
    let adopt = |name: &str| json!({"annotations": {"astro-token-operator.io/adopt": name}});
    let owner = |name: &str| stage.astro.create(NewToken::owner(name, &stage.workspace));
    // Name, rule and reason; 3 is the code of all that are not told to wait.
    let mut rows: Vec<(&str, &str, &str)> = Vec::new();

    stage.token("first");
    stage.create("first", json!({"suspend": true})).await;
    rows.push(("first", "suspended", "AwaitingFirstRotation"));

    let (token, version) = planner.rotated("clone").await;
    let other = json!({"astro-token-operator.io/cluster": "the-other-one"});
    planner.hold("clone", &token, &version, DAY, other).await;
    stage.create("clone", json!({})).await;
    rows.push(("clone", "not-our-secret", "ClusterChanged"));

    let (token, version) = planner.rotated("contested").await;
    planner
        .hold("contested", &token, &version, DAY, json!({}))
        .await;
    next_second().await;
    stage.astro.rotate(&token.id);
    stage.create("contested", json!({})).await;
    let reclaimed = json!({"id": "r", "reason": "Reclaimed", "at": now(), "tokenId": token.id, "outcome": "Stored"});
    planner
        .status("contested", json!({"history": [reclaimed]}))
        .await;
    rows.push(("contested", "drift", "Contested"));

    stage.token("missing");
    stage.create("missing", with(json!({}), "nothing")).await;
    rows.push(("missing", "no-access", "CredentialsMissing"));

    stage.token("none");
    stage.create("none", json!({"credentials": null})).await;
    rows.push(("none", "no-access", "CredentialsNotAllowed"));

    let dead = owner("dead");
    stage.astro.delete(&dead.id);
    credential("dead", &dead.value).await;
    stage.token("rejected");
    stage.create("rejected", with(json!({}), "dead")).await;
    rows.push(("rejected", "refused", "CredentialsRejected"));

    let weak = stage
        .astro
        .create(NewToken::workspace("weak", &stage.workspace));
    credential("weak", &weak.value).await;
    stage.token("forbidden");
    stage.create("forbidden", with(json!({}), "weak")).await;
    rows.push(("forbidden", "refused", "Forbidden"));

    stage
        .create(
            "invalid",
            json!({"schedule": {"every": null, "cron": "61 3 * * *"}}),
        )
        .await;
    rows.push(("invalid", "invalid-spec", "InvalidSpec"));

    credential("opaque", "no-claims-in-it").await;
    stage.token("nowhere");
    stage.create("nowhere", with(json!({}), "opaque")).await;
    rows.push(("nowhere", "no-access", "OrganizationUnknown"));

    let (token, version) = planner.rotated("elsewhere").await;
    planner
        .hold("elsewhere", &token, &version, DAY, json!({}))
        .await;
    next_second().await;
    stage.astro.rotate(&token.id);
    stage
        .create("elsewhere", json!({"externalRotation": "Report"}))
        .await;
    rows.push(("elsewhere", "drift", "RotatedElsewhere"));

    let (token, version) = planner.rotated("doubt").await;
    planner
        .hold("doubt", &token, &version, DAY, json!({}))
        .await;
    stage.create("doubt", json!({})).await;
    let mut recorded = pending(&token, &version, SignedDuration::ZERO);
    // The pause grows with each attempt: this one is not over before the test is.
    recorded["pending"]["attempt"] = 8.into();
    planner.status("doubt", recorded).await;
    rows.push(("doubt", "in-flight", "RotationInDoubt"));

    stage
        .create("often", json!({"schedule": {"every": "1s"}}))
        .await;
    rows.push(("often", "invalid-spec", "ScheduleTooFrequent"));

    stage.token("foreign");
    planner
        .secret("foreign-secret", json!({"stringData": {"other": "x"}}))
        .await;
    stage.create("foreign", json!({})).await;
    rows.push(("foreign", "not-our-secret", "SecretNotOurs"));

    stage.create("self", by_id(&stage.owner.id)).await;
    rows.push(("self", "unsuitable-token", "SelfRotation"));

    stage.token("frozen");
    let frozen =
        json!({"immutable": true, "stringData": {"token": "x"}, "metadata": adopt("frozen")});
    planner.secret("frozen-secret", frozen).await;
    stage.create("frozen", json!({})).await;
    rows.push(("frozen", "no-value", "TargetImmutable"));

    stage.token("refused");
    stage
        .create(
            "refused",
            json!({"target": {"type": "kubernetes.io/dockerconfigjson"}}),
        )
        .await;
    rows.push(("refused", "no-value", "TargetRefused"));

    let (token, version) = planner.rotated("leaving").await;
    planner
        .hold("leaving", &token, &version, DAY, json!({}))
        .await;
    let keep = json!({"metadata": {"finalizers": ["example.com/keep"]}});
    stage.edit_secret("leaving-secret", keep).await;
    let (secrets, params) = (stage.secrets(), DeleteParams::default());
    secrets.delete("leaving-secret", &params).await.unwrap();
    stage.create("leaving", json!({})).await;
    rows.push(("leaving", "target-terminating", "TargetTerminating"));

    stage.token("typed");
    let typed = json!({"type": "example.com/other", "stringData": {"token": "x"}, "metadata": adopt("typed")});
    planner.secret("typed-secret", typed).await;
    stage
        .create("typed", json!({"target": {"type": "Opaque"}}))
        .await;
    rows.push(("typed", "no-value", "TargetTypeDiffers"));

    stage.token("twin");
    stage.token("twin");
    stage.create("twin", json!({})).await;
    rows.push(("twin", "refused", "TokenAmbiguous"));

    let (token, version) = planner.rotated("expired").await;
    planner
        .hold("expired", &token, &version, SignedDuration::ZERO, json!({}))
        .await;
    stage.astro.set_end(&token.id, Some(now() - DAY));
    stage.create("expired", json!({})).await;
    rows.push(("expired", "expired", "TokenExpired"));

    let (token, version) = planner.rotated("forever").await;
    planner
        .hold("forever", &token, &version, DAY, json!({}))
        .await;
    stage
        .create(
            "forever",
            json!({"schedule": {"every": null, "beforeExpiry": "1d"}}),
        )
        .await;
    rows.push(("forever", "scheduled", "TokenNeverExpires"));

    let entry = |token: &str, reason: &str, at: Timestamp| json!({"id": "r", "reason": reason, "at": at, "tokenId": token, "outcome": "Stored"});
    let token = stage.token("unstable");
    stage.create("unstable", json!({})).await;
    // So often that the pause is longer than this test, and not within one minimum interval.
    let before = |times: i32| now() - SignedDuration::from_mins(6) * times;
    let again = (0..4).map(|times| entry(&token.id, "Initial", before(times)));
    let again: Vec<_> = again.collect();
    planner.status("unstable", json!({"history": again})).await;
    rows.push(("unstable", "no-value", "TargetUnstable"));

    let (token, version) = planner.rotated("busy").await;
    planner
        .hold("busy", &token, &version, DAY * 2, json!({}))
        .await;
    stage.create("busy", json!({})).await;
    let again = vec![entry(&token.id, "Requested", now()); 3];
    planner.status("busy", json!({"history": again})).await;
    rows.push(("busy", "scheduled", "TooManyRotations"));

    stage.create("unknown", json!({})).await;
    rows.push(("unknown", "refused", "TokenNotFound"));

    let (token, version) = planner.rotated("lost").await;
    planner.hold("lost", &token, &version, DAY, json!({})).await;
    next_second().await;
    stage.astro.rotate(&token.id);
    stage.create("lost", json!({"suspend": true})).await;
    planner.status("lost", pending(&token, &version, DAY)).await;
    rows.push(("lost", "suspended", "ValueLost"));

    let unheard = owner("unheard");
    credential("unheard", &unheard.value).await;
    let gone = Fault::any()
        .credential(&unheard.id)
        .before(Step::Answer(Reply::html(503)));
    stage.astro.fault(gone);
    stage.token("unheard");
    stage.create("unheard", with(json!({}), "unheard")).await;
    rows.push(("unheard", "no-value", "VendorUnavailable"));

    let wide = NewToken::organization("wide").also(&stage.workspace, "WORKSPACE_MEMBER");
    let wide = stage.astro.create(wide);
    stage.create("wide", by_id(&wide.id)).await;
    rows.push(("wide", "unsuitable-token", "WrongScope"));

    let moved = stage
        .astro
        .create(NewToken::workspace("moved", "clmotherworkspace"));
    let everywhere = NewToken::organization("whole").role("ORGANIZATION_OWNER");
    let everywhere = everywhere.also("clmotherworkspace", "WORKSPACE_OWNER");
    credential("everywhere", &stage.astro.create(everywhere).value).await;
    stage
        .create("moved", with(by_id(&moved.id), "everywhere"))
        .await;
    rows.push(("moved", "unsuitable-token", "WrongWorkspace"));

    // The younger of two; the older ones are not planned for, and are looked at all the same.
    stage.token("shared");
    stage.create("shared", json!({})).await;
    next_second().await;
    stage
        .create(
            "token-rival",
            // What else may be wrong with it, the operator does not look at.
            json!({"token": {"name": stage.token_name("shared")}, "credentials": {"secretRef": {"name": "nosuch"}}}),
        )
        .await;
    rows.push(("token-rival", "rival", "TokenConflict"));
    stage.token("secret-rival");
    stage
        .create("secret-rival", json!({"target": {"name": "shared-secret"}}))
        .await;
    rows.push(("secret-rival", "rival", "TargetConflict"));

    let told: Vec<_> = rows.iter().map(|(.., reason)| *reason).collect();
    for row in EXPLANATIONS {
        let reason = row.reason.to_string();
        let once = told.iter().filter(|it| **it == reason).count();
        assert_eq!(
            once,
            usize::from(!NOT_PRODUCED.contains(&&*reason)),
            "{reason}"
        );
    }

    let before = planner.versions().await;
    stage.astro.clear_requests();
    for (name, rule, reason) in &rows {
        let ended = planner.plan(&[name]).await;
        let text = &ended.stdout;
        let (headline, rest) = text.split_once('\n').unwrap();
        let title = format!("{}/{name}: ", stage.namespace);
        let said = headline
            .strip_prefix(&title)
            .unwrap_or_else(|| panic!("{name}: {headline}"));
        let waits = ["RotationInDoubt", "TargetUnstable", "TooManyRotations"];
        if waits.contains(reason) {
            assert!(
                said.starts_with("waits until") && said.ends_with(&format!(": {reason}")),
                "{said}"
            );
            assert_eq!(ended.code, Some(0), "{text}");
        } else {
            assert_eq!(said, format!("blocked: {reason}"), "{text}");
            assert_eq!(ended.code, Some(3), "{text}");
        }
        assert!(rest.contains(&format!("why       {rule}: ")), "{text}");
        let explained = EXPLANATIONS
            .iter()
            .find(|it| it.reason.to_string() == *reason);
        assert!(rest.contains(explained.unwrap().remedy), "{text}");
    }
    let ended = planner.plan(&["-o", "json"]).await;
    assert_eq!(ended.code, Some(3));
    let all = facts(&ended);
    for (name, rule, reason) in &rows {
        let facts = all.iter().find(|facts| facts["name"] == *name).unwrap();
        assert_eq!(facts["reason"], *reason, "{facts}");
        assert_eq!(facts["rules"][0]["rule"], *rule, "{facts}");
        let rivals = "no other resource has a better claim to the token or the Secret".to_owned();
        let is_rival = *rule == "rival";
        assert_eq!(checks(facts, "no").contains(&rivals), is_rival, "{facts}");
        assert!(!facts["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(planner.versions().await, before, "something was written");
    planner.assert_only_read();
}

#[tokio::test]
async fn what_can_be_worked_on_is_told_with_what_comes_next() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    stage.token("new");
    stage.create("new", json!({})).await;

    let (token, version) = planner.rotated("idle").await;
    planner.hold("idle", &token, &version, DAY, json!({})).await;
    let berlin =
        json!({"schedule": {"every": null, "cron": "0 3 1 * *", "timeZone": "Europe/Berlin"}});
    stage.create("idle", berlin).await;

    let (token, version) = planner.rotated("due").await;
    planner
        .hold("due", &token, &version, DAY * 2, json!({}))
        .await;
    stage.create("due", json!({})).await;

    let (token, version) = planner.rotated("asked").await;
    planner
        .hold("asked", &token, &version, SignedDuration::ZERO, json!({}))
        .await;
    stage.create("asked", json!({})).await;
    stage.request("asked", "please").await;
    // Without any status the operator has not looked yet, and a request is no news.
    planner.status("asked", json!({"failures": 0})).await;

    let (token, version) = planner.rotated("moved").await;
    planner
        .hold("moved", &token, &version, SignedDuration::ZERO, json!({}))
        .await;
    stage
        .create("moved", json!({"target": {"name": "elsewhere"}}))
        .await;
    planner
        .status("moved", json!({"binding": {"name": "moved-secret"}}))
        .await;

    let (token, version) = planner.rotated("booked").await;
    planner
        .hold("booked", &token, &version, SignedDuration::ZERO, json!({}))
        .await;
    stage.create("booked", json!({})).await;
    let before = Version {
        rotated_at: Some(Time(now() - DAY * 2)),
        short_token: None,
    };
    planner
        .status("booked", pending(&token, &before, DAY))
        .await;

    let (token, version) = planner.rotated("resting").await;
    planner
        .hold("resting", &token, &version, DAY, json!({}))
        .await;
    stage.create("resting", json!({"suspend": true})).await;

    let before = planner.versions().await;
    stage.astro.clear_requests();
    let ended = planner.plan(&["-o", "json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    for (name, verdict, cause, rules, state, times) in [
        (
            "new",
            "rotates",
            json!("Initial"),
            vec!["no-value"],
            "absent",
            5,
        ),
        ("idle", "idle", Value::Null, vec!["idle"], "held", 5),
        (
            "due",
            "rotates",
            json!("Scheduled"),
            vec!["scheduled"],
            "held",
            5,
        ),
        (
            "asked",
            "rotates",
            json!("Requested"),
            vec!["requested"],
            "held",
            5,
        ),
        ("moved", "writes", Value::Null, vec!["adopt"], "absent", 5),
        (
            "booked",
            "idle",
            Value::Null,
            vec!["settle", "idle"],
            "held",
            5,
        ),
        ("resting", "idle", Value::Null, vec!["suspended"], "held", 0),
    ] {
        let facts = facts(&ended)
            .into_iter()
            .find(|facts| facts["name"] == name);
        let facts = facts.unwrap();
        assert_eq!(facts["verdict"], verdict, "{facts}");
        assert_eq!(facts["cause"], cause, "{facts}");
        let spoken = facts["rules"].as_array().unwrap().iter();
        let spoken: Vec<_> = spoken.map(|it| it["rule"].as_str().unwrap()).collect();
        assert_eq!(spoken, rules, "{name}");
        assert_eq!(facts["secret"]["state"], state, "{facts}");
        assert_eq!(facts["next"].as_array().unwrap().len(), times, "{facts}");
        assert!(
            checks(&facts, "no").is_empty() && checks(&facts, "not checked").is_empty(),
            "{facts}"
        );
        if name == "idle" {
            assert_eq!(facts["until"], facts["next"][0]["at"]);
            let local = facts["next"][0]["local"].as_str().unwrap();
            assert!(local.contains("-01 03:00:00 +0"), "{local}");
        }
    }
    let text = planner.plan(&[]).await.stdout;
    let idle = text.lines().find(|line| line.contains("/idle: ")).unwrap();
    assert!(
        idle.contains(": idle until ") && idle.contains("(in "),
        "{idle}"
    );
    assert!(text.contains("/due: rotates now (Scheduled)\n"), "{text}");
    assert_eq!(planner.versions().await, before, "something was written");
    planner.assert_only_read();
}

#[tokio::test]
async fn the_shipped_examples_are_planned_before_they_are_applied() {
    let planner = Planner::start().await;
    let workspace = "clm8q7f6q000008lcgyougpsk";
    let owner = planner.0.astro.create(NewToken::owner("boss", workspace));
    planner
        .0
        .put_secret("astro-owner", json!({"token": owner.value}))
        .await;
    for (name, days) in [
        ("CI deployer", None),
        ("Nightly ETL", None),
        ("Reporting", Some(90)),
        ("ETL blue", None),
        ("ETL green", None),
    ] {
        let token = NewToken::workspace(name, workspace);
        planner.0.astro.create(match days {
            Some(days) => token.expires(days),
            None => token,
        });
    }
    let before = planner.versions().await;
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let files: Vec<_> = files
        .map(|it| it.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    let mut arguments = vec!["-o", "json"];
    for file in &files {
        arguments.extend(["-f", file]);
    }
    let ended = planner.plan(&arguments).await;
    assert_eq!(ended.code, Some(3), "those by id are not there");
    let skipped = ended
        .stderr
        .iter()
        .find(|line| line.contains("skipped, a Deployment"));
    assert!(skipped.is_some_and(|line| line.contains("consumer.yaml, document 1")));
    let mut said: Vec<_> = facts(&ended)
        .iter()
        .map(|facts| {
            assert_eq!(facts["namespace"], planner.0.namespace);
            let text = |field: &str| facts[field].as_str().unwrap_or_default().to_owned();
            (text("name"), text("verdict"), text("reason"))
        })
        .collect();
    said.sort();
    let rotates = |name: &str| (name.to_owned(), "rotates".to_owned(), String::new());
    let blocked = |name: &str, why: &str| (name.to_owned(), "blocked".to_owned(), why.to_owned());
    let expected = [
        blocked("airflow", "TokenNotFound"),
        // The Secret was not given to it.
        blocked("astro-owner", "SecretNotOurs"),
        blocked("auditor", "CredentialsMissing"),
        rotates("ci-deployer"),
        // The simulator has no such Deployment.
        blocked("dag-deployer", "Forbidden"),
        rotates("etl"),
        rotates("nightly-etl"),
        blocked("preview", "TokenNotFound"),
        rotates("reporting"),
    ];
    assert_eq!(said, expected);
    let notes = |name: &str| {
        let facts = facts(&ended)
            .into_iter()
            .find(|it| it["name"] == name)
            .unwrap();
        facts["notes"].to_string()
    };
    assert!(notes("ci-deployer").contains("not in the cluster yet"));
    assert!(notes("reporting").contains("validity anew"));
    assert!(!notes("ci-deployer").contains("validity anew"));
    assert!(notes("nightly-etl").contains("jitter"));
    assert_eq!(planner.versions().await, before, "something was written");
    planner.assert_only_read();
}

#[tokio::test]
async fn a_file_is_planned_as_if_it_were_applied() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    let (token, version) = planner.rotated("edit").await;
    planner
        .hold("edit", &token, &version, DAY * 2, json!({}))
        .await;
    let created = stage
        .create("edit", json!({"schedule": {"every": "30d"}}))
        .await;
    let (facts, code) = planner.facts(&["edit"]).await;
    assert_eq!(
        (&facts["verdict"], code),
        (&json!("idle"), Some(0)),
        "{facts}"
    );

    let mut file = serde_json::to_value(&created).unwrap();
    file["metadata"] = json!({"name": "edit"});
    let (facts, _) = planner
        .facts(&["-f", &planner.file(&file.to_string())])
        .await;
    assert_eq!(facts["verdict"], "idle", "the same as before: {facts}");
    file["spec"]["schedule"]["every"] = "1d".into();
    let (facts, code) = planner
        .facts(&["-f", &planner.file(&file.to_string())])
        .await;
    assert_eq!(
        (&facts["cause"], code),
        (&json!("Scheduled"), Some(0)),
        "{facts}"
    );
    assert!(
        !facts["notes"].to_string().contains("not in the cluster"),
        "{facts}"
    );

    // From any namespace, where no other has one of that name.
    let url = format!("--api-url={}", stage.astro.url());
    let admin = plane().await.kubeconfig();
    let everywhere = ["plan", &url, "-A", "-o", "json", "edit"];
    let ended = run(&everywhere, &[("KUBECONFIG", admin.to_str().unwrap())]).await;
    let found = self::facts(&ended);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["namespace"], stage.namespace);

    // Also through the standard input, and without those that were not named.
    let mut other = file.clone();
    other["metadata"]["name"] = "other".into();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [file, other]});
    let mut child = tokio::process::Command::new(BINARY)
        .args([
            "plan",
            &url,
            "-n",
            &stage.namespace,
            "-f",
            "-",
            "-o",
            "json",
            "edit",
        ])
        .env_clear()
        .env("KUBECONFIG", plane().await.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(list.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = process::rest(child).await;
    let said: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["file"], "the standard input, document 1, item 1");
    assert_eq!(said[0]["cause"], "Scheduled");
}

#[tokio::test]
async fn a_missing_permission_is_found_for_whoever_is_asked_about() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    stage.token("any");
    stage.create("any", json!({})).await;
    let account = fresh_name();
    let reader = stage::permissions(&account, json!(["get", "list", "watch"]));
    apply(&stage.client, &reader).await.unwrap();
    let of = |name: &str| format!("system:serviceaccount:{HOME}:{name}");
    let missing = [
        format!("may create secrets in {}", stage.namespace),
        format!("may patch secrets in {}", stage.namespace),
        "the Secret would take a new value".to_owned(),
    ];

    let (facts, code) = planner.facts(&["any", "--as", &of(&account)]).await;
    assert_eq!(
        (checks(&facts, "no"), code),
        (missing.to_vec(), Some(3)),
        "{facts}"
    );
    assert_eq!(facts["reason"], "TargetRefused");

    // The same by its own kubeconfig, as text.
    let plane = plane().await;
    let kubeconfig = plane.dir().join(format!("{account}.kubeconfig"));
    plane
        .service_account_kubeconfig(HOME, &account, &kubeconfig)
        .await
        .unwrap();
    let ended = planner.plan_as(kubeconfig, &["any"]).await;
    let words = format!(
        "{}; {}: not permitted: apply deploy",
        missing[0], missing[1]
    );
    assert!(ended.stdout.contains(&words), "{}", ended.stdout);
    assert_eq!(ended.code, Some(3));

    let (facts, code) = planner
        .facts(&["any", "--as", &of("astro-token-operator")])
        .await;
    assert_eq!((checks(&facts, "no").len(), code), (0, Some(0)), "{facts}");
    assert_eq!(checks(&facts, "not checked"), [""; 0], "{facts}");

    // Without a list of Secrets none is asked for.
    let get = stage::permissions(&account, json!(["get", "create", "patch"]));
    apply(&stage.client, &get).await.unwrap();
    let (facts, code) = planner.facts(&["any", "--as", &of(&account)]).await;
    assert_eq!((checks(&facts, "no").len(), code), (2, Some(3)), "{facts}");
    let (facts, code) = planner
        .facts(&["any", "--as", &of(&account), "--secret-access=get"])
        .await;
    assert_eq!((checks(&facts, "no").len(), code), (0, Some(0)), "{facts}");
}

#[tokio::test]
async fn where_the_cluster_s_id_may_not_be_read_no_cluster_is_called_another() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    let (token, version) = planner.rotated("clone").await;
    let other = json!({"astro-token-operator.io/cluster": "the-other-one"});
    planner
        .hold("clone", &token, &version, DAY / 2, other)
        .await;
    stage.create("clone", json!({})).await;
    // No more than the Role of a namespace, and no other namespace to be seen.
    let account = fresh_name();
    let role = include_str!("../../deploy/tenant/rbac.yaml");
    let role = role.split("---").next().unwrap();
    let role = format!("{role}\n").replace(
        "name: astro-token-operator-tenant",
        &format!("name: {account}\n  namespace: {}", stage.namespace),
    );
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": stage.namespace});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": account, "namespace": stage.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [subject],
    });
    let serviced = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": stage.namespace}});
    let all = format!("{role}---\n{binding}\n---\n{serviced}\n");
    apply(&stage.client, &all).await.unwrap();

    let user = format!("system:serviceaccount:{}:{account}", stage.namespace);
    let (facts, code) = planner.facts(&["--as", &user]).await;
    assert_eq!(facts["verdict"], "idle", "{facts}");
    assert_eq!(checks(&facts, "no"), ["may get namespaces kube-system"]);
    let unchecked = [
        "the Secret was written in this cluster",
        "no other resource has a better claim to the token or the Secret",
    ];
    assert_eq!(checks(&facts, "not checked"), unchecked);
    assert_eq!(code, Some(3), "the operator needs it");

    let ended = planner.plan_as(plane().await.kubeconfig(), &[]).await;
    assert!(
        ended.stdout.contains("blocked: ClusterChanged"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_credential_that_is_no_owner_s_is_told() {
    let planner = Planner::start().await;
    let stage = &planner.0;
    stage.token("any");
    stage.create("any", json!({})).await;
    let owns = "the credential may rotate the token";
    let (facts, _) = planner.facts(&["any"]).await;
    assert!(checks(&facts, "ok").contains(&owns.to_owned()), "{facts}");
    // It reads everything here, and is still no owner by its record.
    let other = NewToken::organization("wide").also(&stage.workspace, "WORKSPACE_OPERATOR");
    let other = stage
        .astro
        .create(other.also("clmother", "WORKSPACE_OWNER"));
    stage
        .put_secret("owner", json!({"token": other.value}))
        .await;
    let (facts, code) = planner.facts(&["any"]).await;
    let told = [checks(&facts, "no"), checks(&facts, "not checked")].concat();
    assert!(told.contains(&owns.to_owned()), "{facts}");
    assert_eq!(code, Some(3), "{facts}");
}

#[tokio::test]
async fn without_a_cluster_a_file_is_judged_by_itself() {
    let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/minimal.yaml");
    let closed = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": format!("http://127.0.0.1:{}", process::free_port())}}],
        "users": [{"name": "x", "user": {}}],
    });
    let closed = temporary("plan-closed.kubeconfig", &closed.to_string());
    let nowhere = "/nonexistent/kubeconfig".to_owned();
    for (kubeconfig, words) in [(&nowhere, "no cluster"), (&closed, "127.0.0.1")] {
        let environment = [("KUBECONFIG", kubeconfig.as_str())];
        let ended = run(&["plan", "-f", minimal], &environment).await;
        assert_eq!(ended.code, Some(0), "{:#?}", ended.stderr);
        let text = &ended.stdout;
        assert!(
            text.starts_with("default/ci-deployer: rotates now (Initial)\n"),
            "{text}"
        );
        assert_eq!(text.matches(", Scheduled\n").count(), 4, "{text}");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flat.contains("assumes that neither the resource nor its Secret is there"),
            "{text}"
        );
        assert!(flat.contains("checks 1 ok, 10 not checked"), "{text}");
        assert!(flat.contains(words), "{text}");
        // Without a file there is nothing to say.
        let ended = run(&["plan"], &environment).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(1), ""),
            "{:?}",
            ended.stderr
        );
    }
    let text = std::fs::read_to_string(minimal)
        .unwrap()
        .replace("every: 30d", "cron: \"0 0 31 2 *\"");
    let ended = run(
        &["plan", "-f", &temporary("plan-never.yaml", &text)],
        &[("KUBECONFIG", &nowhere)],
    )
    .await;
    assert_eq!(ended.code, Some(3), "{}", ended.stdout);
    assert!(
        ended
            .stdout
            .starts_with("default/ci-deployer: blocked: InvalidSpec\n"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("no rotation is foreseen"),
        "{}",
        ended.stdout
    );
    // A cluster that was named is meant.
    let ended = run(&["plan", "-f", minimal, "--kubeconfig", &nowhere], &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
}

#[tokio::test]
async fn what_cannot_be_planned_ends_with_a_code_of_its_own() {
    let planner = Planner::start().await;
    let misspelt = "apiVersion: astro-token-operator.io/v1alpha1\nkind: WorkspaceTokenRotation\nmetadata: {name: x}\nspec: {workspaceId: w, token: {name: t}, schedule: {evry: 1d}, target: {name: s}}\n";
    let misspelt = planner.file(misspelt);
    let twice = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/minimal.yaml"
    ))
    .unwrap();
    let elsewhere = twice.replace("metadata:", "metadata:\n  namespace: elsewhere");
    let elsewhere = planner.file(&elsewhere);
    let twice = planner.file(&format!("{twice}---\n{twice}"));
    for (arguments, code, words) in [
        (
            vec!["nobody"],
            1,
            "no WorkspaceTokenRotation nobody in the namespace",
        ),
        (
            vec!["-f", "/nonexistent.yaml"],
            1,
            "/nonexistent.yaml cannot be read",
        ),
        (
            vec!["-f", &misspelt],
            1,
            "document 1: spec.schedule.evry: unknown field",
        ),
        (
            vec!["-f", &twice],
            1,
            "document 2: metadata.name: the same resource as in",
        ),
        (vec!["-f", &twice, "nobody"], 1, "named nobody"),
        (
            vec!["-f", &elsewhere],
            1,
            "document 1: metadata.namespace: it is elsewhere",
        ),
        (
            vec!["--default-credentials-namespaces=x"],
            1,
            "needs ASTRO_API_TOKEN",
        ),
        (vec!["--minimum-interval=never"], 2, "--minimum-interval"),
        (vec!["-A"], 2, "cannot be used with"),
    ] {
        let ended = planner.plan(&arguments).await;
        let said = ended.stderr.join("\n");
        assert_eq!(ended.code, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(ended.stdout, "");
    }
    let ended = planner.plan(&[]).await;
    assert_eq!(ended.code, Some(0), "nothing is blocked");
}
