//! Tenants who share an operator: none reaches into another's namespace, and none can crash, stall or slow the others.

use crate::stage::process::run;
use crate::stage::{
    self, DEADLINE, HOME, Mode, Operator, Shared, Stage, next_second, plane, spoilable,
};
use astro_token_operator::api::Status;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use lab::astro::{Astro, Fault, NewToken, Operation, Reply, Step};
use lab::wait::poll;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Noise of a busy machine that no comparison of times may trip over.
const NOISE: Duration = Duration::from_secs(1);
/// As many as the tests take.
const NAMESPACES: usize = 14;
/// As shipped: many with one bad credential share each failure of its calls for as long. With the vendor's own limits for
/// each credential.
const FLAGS: &[&str] = &[
    "--pace=1",
    "--leader-election=false",
    "--audit-interval=5s",
    "--reads-per-second=25",
    "--rotations-per-second=10",
];

async fn stage() -> Stage {
    static SHARED: Shared = Shared::of_namespaces(Mode::NAMESPACES, FLAGS, NAMESPACES);
    SHARED.stage().await
}

/// Creates several resources, one after the other, each of which is rotated at once: no brake holds them back, as it does
/// one that is rotated again and again. Returns the middle one of the times that they took.
async fn time_to_rotate(stage: &Stage, what: &str) -> Duration {
    let mut times = Vec::new();
    for turn in 0..5 {
        let name = format!("{what}-{turn}");
        // Not by name: a list that was read just before does not have it.
        let token = json!({"token": {"name": null, "id": stage.token(&name).id}});
        let begun = Instant::now();
        stage.create(&name, token).await;
        stage.until_rotated(&name, 1).await;
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Rotations take no longer than `most`. What else the machine does has to disturb three measurements to be taken for a
/// queue that starves, which delays them all.
async fn assert_quick(stage: &Stage, what: &str, most: Duration) {
    let mut all = Vec::new();
    while all.len() < 3 {
        let time = time_to_rotate(stage, &format!("{what}-{}", all.len())).await;
        if time <= most {
            return;
        }
        all.push(time);
    }
    panic!("{what}: {all:?}, at most {most:?} were expected");
}

/// Rotated, or with a reason that says why not.
fn is_decided(status: &Status) -> bool {
    status
        .ready()
        .is_some_and(|it| it.status == "True" || it.reason != "AwaitingFirstRotation")
}

fn is_clean(text: &str) -> bool {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().count() <= 1024 && !text.chars().any(hidden)
}

#[tokio::test]
async fn every_reference_stays_in_its_namespace() {
    let (own, other) = (stage().await, stage().await);
    let token = own.token("mine");
    other
        .put_secret("rich", json!({"token": other.owner.value}))
        .await;
    let cluster = astro_token_operator::cluster::client::cluster_id(&own.client).await;
    let cluster = cluster.unwrap();
    // Looks as if the resource of the other namespace had written it, with the live value.
    let bait = json!({
        "metadata": {
            "labels": {"app.kubernetes.io/managed-by": "astro-token-operator"},
            "annotations": {
                "astro-token-operator.io/owned-by": "mine", "astro-token-operator.io/key": "token",
                "astro-token-operator.io/token-id": token.id, "astro-token-operator.io/cluster": cluster,
                "astro-token-operator.io/adopt": "mine", "astro-token-operator.io/rotation-id": "x",
            },
        },
    });
    other
        .put_secret("mine-secret", json!({"token": token.value}))
        .await;
    other.edit_secret("mine-secret", bait).await;
    let before = other.secret("mine-secret").await.unwrap().metadata;
    let calls = |stage: &Stage| {
        let requests = stage.astro.requests();
        requests
            .iter()
            .filter(|r| r.credential.as_ref() == Some(&stage.owner.id))
            .count()
    };
    let rich = json!({"credentials": {"secretRef": {"name": "rich"}}});
    own.create("mine", rich).await;
    own.until_blocked("mine", "CredentialsMissing").await;
    assert_eq!((calls(&own), calls(&other)), (0, 0));
    let mended = json!({"spec": {"credentials": {"secretRef": {"name": "owner"}}}});
    own.edit("mine", mended).await;
    own.until_rotated("mine", 1).await;
    assert!(own.holds_live("mine").await);
    let after = other.secret("mine-secret").await.unwrap().metadata;
    assert_eq!(before.resource_version, after.resource_version);
    assert_eq!(calls(&other), 0);
    own.assert_no_leak().await;
    other.assert_no_leak().await;
}

/// Specs by which a tenant might hope to do harm; what the API server takes of them is tried.
fn hostile_specs() -> Vec<(&'static str, Value)> {
    let schedule = |edit: Value| json!({"schedule": edit});
    let cron = |text: &str| json!({"schedule": {"every": null, "cron": text}});
    let many = |count: usize, length: usize| -> Value {
        (0..count)
            .map(|i| (format!("example.com/{i}"), Value::from("x".repeat(length))))
            .collect()
    };
    vec![
        (
            "bidi",
            json!({"token": {"name": "\u{202e}gpj.\u{2066}exe\u{200b}\u{feff}"}}),
        ),
        (
            "control",
            json!({"token": {"name": "a\nb\r\t\u{1b}[2J\u{7}\u{9b}1m"}}),
        ),
        ("zero", json!({"token": {"name": "a\u{0}b"}})),
        (
            "skulls",
            json!({"token": {"name": "\u{1f480}".repeat(256)}}),
        ),
        (
            "marks",
            json!({"token": {"name": format!("a{}", "\u{301}".repeat(255))}}),
        ),
        ("long", json!({"token": {"name": "x".repeat(100_000)}})),
        (
            "template",
            json!({"token": {"name": "{{ token }} ${HOME} %s%n $(id) `id` <b>"}}),
        ),
        ("path", json!({"token": {"name": "../../../etc/passwd"}})),
        ("path-id", json!({"token": {"name": null, "id": "../x"}})),
        (
            "path-workspace",
            json!({"workspaceId": "../../organizations"}),
        ),
        ("elsewhere", json!({"workspaceId": "x".repeat(64)})),
        ("organization", json!({"organizationId": "-".repeat(64)})),
        ("rare", cron("0 0 29 2 +1")),
        ("never", cron("0 0 30 2 *")),
        ("minutes", cron("* * * * *")),
        ("five", cron("*/5 * * * *")),
        (
            "list",
            cron(&format!(
                "{} * * * *",
                (0..60).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
            )),
        ),
        ("commas", cron(&",".repeat(256))),
        ("stars", cron(&format!("*{} * * * *", "/1".repeat(100)))),
        ("huge-step", cron("*/99999999999999999999 * * * *")),
        ("range", cron("0-59/59 0-23/23 L-31,1W,LW 1-12 0#5,7L")),
        ("wide", cron("0 \u{ff10} * * *")),
        (
            "zone",
            json!({"schedule": {"every": null, "cron": "@daily", "timeZone": "../../../etc/localtime"}}),
        ),
        ("ages", schedule(json!({"every": "9999999w"}))),
        (
            "overflow",
            schedule(json!({"every": "99999999999999999999999999w"})),
        ),
        (
            "sum",
            schedule(json!({"every": "1w1w1w1w1w1w1w1w1w1w1w1w1w1w1w1w"})),
        ),
        ("delay", schedule(json!({"jitter": "9999999w"}))),
        ("expiry", schedule(json!({"beforeExpiry": "9999999w"}))),
        ("often", schedule(json!({"every": "1s"}))),
        (
            "annotations",
            json!({"target": {"annotations": many(64, 3_900)}}),
        ),
        (
            "too-many",
            json!({"target": {"annotations": many(64, 5_000)}}),
        ),
        (
            "odd-label",
            json!({"target": {"labels": {"a b/\u{202e}": "x\ny"}}}),
        ),
        (
            "long-label",
            json!({"target": {"labels": {"team": "x".repeat(100_000)}}}),
        ),
        (
            "our-label",
            json!({"target": {"annotations": {"astro-token-operator.io/token-id": "x"}}}),
        ),
        ("tls", json!({"target": {"type": "kubernetes.io/tls"}})),
        ("odd-type", json!({"target": {"type": "\u{202e}\n{{x}}"}})),
        (
            "account",
            json!({"target": {
                "type": "kubernetes.io/service-account-token",
                "annotations": {"kubernetes.io/service-account.name": "default"},
            }}),
        ),
        ("dots", json!({"target": {"key": ".."}})),
        ("self", json!({"target": {"name": "owner"}})),
        (
            "no-credential",
            json!({"credentials": {"secretRef": {"name": "x", "key": "."}}}),
        ),
    ]
}

/// Statuses that a person with the right to do so has filled with nonsense.
fn hostile_statuses() -> Vec<(&'static str, Value)> {
    let pending = |at: &str, attempt: i32| {
        json!({"pending": {
            "id": "\u{202e}x\ny", "reason": "Lost", "attempt": attempt, "tokenId": "../x", "startedAt": at,
            "replaces": {"rotatedAt": at}, "holder": "x".repeat(10_000),
        }})
    };
    let entry = json!({
        "id": "x", "reason": "Reclaimed", "at": "9999-12-30T22:00:00Z", "tokenId": "y", "outcome": "Stored",
    });
    vec![
        ("past", pending("0001-01-01T00:00:00Z", i32::MIN)),
        ("future", pending("9999-12-30T22:00:00Z", i32::MAX)),
        (
            "retry",
            json!({"failures": i32::MAX, "retryAt": "9999-12-30T22:00:00Z"}),
        ),
        (
            "negative",
            json!({"failures": i32::MIN, "observedGeneration": i64::MIN}),
        ),
        ("history", json!({"history": vec![entry; 2_000]})),
        (
            "token",
            json!({"token": {"id": "\u{202e}", "name": "x".repeat(100_000)}, "nextRotation": "0001-01-01T00:00:00Z"}),
        ),
        (
            "last",
            json!({"lastRotation": {"id": "x", "reason": "Lost", "at": "9999-12-30T22:00:00Z", "attempts": i32::MAX}}),
        ),
        (
            "conditions",
            json!({"conditions": [{
                "type": "Ready", "status": "False", "reason": "TokenConflict", "message": "\u{1b}".repeat(1_000),
                "lastTransitionTime": "9999-12-30T22:00:00Z",
            }]}),
        ),
    ]
}

#[tokio::test]
async fn dozens_of_hostile_resources_harm_nobody_and_each_gets_its_answer() {
    let (good, bad) = (stage().await, stage().await);
    let token = good.token("good");
    good.create("good", json!({})).await;
    good.until_rotated("good", 1).await;
    let alone = time_to_rotate(&good, "alone").await;

    // Secrets that look like ours, as large as metadata may be.
    let fat: serde_json::Map<String, Value> = (0..6_000)
        .map(|i| (format!("example.com/{i}"), Value::from("x".repeat(20))))
        .collect();
    for index in 0..20 {
        let name = format!("fat-{index}");
        bad.put_secret(&name, json!({"x": "y"})).await;
        let metadata = json!({
            "labels": {"app.kubernetes.io/managed-by": "astro-token-operator"}, "annotations": fat,
        });
        bad.edit_secret(&name, json!({"metadata": metadata})).await;
    }
    let mut taken = Vec::new();
    for (name, edit) in hostile_specs() {
        let mut spec = bad.spec(name, edit);
        let names_itself = spec["token"]["name"].as_str() != Some(&bad.token_name(name));
        if let Some(own) = spec["token"]["name"]
            .as_str()
            .filter(|own| own.chars().count() <= 256)
        {
            let new = NewToken::workspace(own, &bad.workspace);
            bad.astro.create(new);
        }
        if name == "elsewhere" {
            spec["credentials"]["secretRef"]["name"] = "owner".into();
        }
        let huge = json!({"astro-token-operator.io/rotate": format!("{name}\u{202e}\n{}", "x".repeat(100_000))});
        let annotations = if names_itself { huge } else { json!(fat) };
        let resource =
            json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
        match bad.create_raw(resource).await {
            Ok(_) => taken.push(name),
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 422, "{name}: {status:?}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(taken.len() >= 24, "{} taken: {taken:?}", taken.len());
    let spoil = async |(name, status): (&'static str, Value)| {
        let token = bad.token(name);
        bad.create(name, json!({})).await;
        bad.until_rotated(name, 1).await;
        let params = PatchParams::default();
        let patch = Patch::Merge(json!({"status": status}));
        let api = bad.resources();
        api.patch_status(name, &params, &patch).await.unwrap();
        (name, token)
    };
    let spoilt = join_all(hostile_statuses().into_iter().map(|it| Box::pin(spoil(it)))).await;

    assert_quick(&good, "crowded", alone * 5 + NOISE).await;
    for name in &taken {
        let resource = bad
            .until(name, "decided", |resource, status| {
                status.observed_generation == resource.metadata.generation && is_decided(status)
            })
            .await;
        let status = resource.status.unwrap();
        let conditions = status.conditions.iter();
        for condition in conditions {
            assert!(
                is_clean(&condition.message),
                "{name}: {:?} {:?}",
                condition.reason,
                condition.message.chars().take(80).collect::<String>()
            );
        }
        let shown = status.token.map(|token| token.name).unwrap_or_default();
        assert!(is_clean(&shown), "{name}: {shown:?}");
        assert!(status.history.len() <= 2_000);
    }
    // Nonsense in a status is removed, and nothing waits for the year 9999.
    for (name, token) in &spoilt {
        let sane = |_: &_, status: &Status| {
            stage::is_ready(status) && status.pending.is_none() && status.retry_at.is_none()
        };
        bad.until(name, "sane", sane).await;
        bad.astro.rotate(&token.id);
    }
    for (name, token) in &spoilt {
        let reclaimed = |_: &_, status: &Status| {
            let version = status
                .token
                .as_ref()
                .and_then(|token| token.rotated_at.clone());
            stage::is_ready(status) && status.pending.is_none() && version.is_some()
        };
        let twice = bad.astro.until(|world| world.rotations(&token.id) == 2);
        let twice = tokio::time::timeout(DEADLINE, twice).await;
        assert!(twice.is_ok(), "{name}: not reclaimed");
        bad.until(name, "reclaimed", reclaimed).await;
        assert!(bad.holds_live(name).await, "{name}");
    }
    // All of them at rest, the good one still is rotated.
    good.request("good", "afterwards").await;
    good.until_rotated("good", 2).await;
    assert_eq!(good.astro.rotations(&token.id), 2);
    assert!(good.holds_live("good").await);
    good.assert_no_leak().await;
    bad.assert_no_leak().await;
}

#[tokio::test]
async fn a_failing_credential_is_its_tenant_s_own_trouble() {
    /// Rotations that the operator has in flight at once for one credential, and as many as have to wait.
    const IN_FLIGHT: usize = 8;
    let answer = |reply: Reply| Fault::any().before(Step::Answer(reply));
    let pausing = Reply::json(429).header("retry-after", "600");
    // Rotations that take effect, and are answered when nobody waits any more.
    let stuck = Fault::on(Operation::Rotate).after(Step::Hold);
    let rows = [
        ("rejected", 12, answer(Reply::json(401))),
        ("forbidden", 12, answer(Reply::json(403))),
        ("pausing", 12, answer(pausing)),
        ("failing", 12, answer(Reply::html(503))),
        ("hanging", 12, Fault::any().before(Step::Hold)),
        ("stuck", IN_FLIGHT + 8, stuck),
    ];
    let reason = |name| match name {
        "rejected" => Some("CredentialsRejected"),
        "forbidden" => Some("Forbidden"),
        "pausing" | "failing" => Some("VendorUnavailable"),
        // In doubt only once the call has timed out.
        _ => None,
    };
    let astro = Astro::start().await.unwrap();
    let good = Stage::new(&astro).await;
    let mut tenants = Vec::new();
    for (name, count, fault) in rows {
        let tenant = Stage::new(&astro).await;
        let fault = astro.fault(fault.credential(&tenant.owner.id));
        let all: Vec<_> = (0..count).map(|it| format!("{name}-{it}")).collect();
        join_all(all.iter().map(async |name| {
            tenant.token(name);
            tenant.create(name, json!({})).await;
        }))
        .await;
        tenants.push((tenant, reason(name), all, fault));
    }
    let stages = tenants.iter().map(|(tenant, ..)| tenant);
    let stages: Vec<_> = stages.chain([&good]).collect();
    // Longer than ten rotations take on a busy machine.
    let flags: Vec<_> = FLAGS
        .iter()
        .copied()
        .chain(["--vendor-timeout=40s"])
        .collect();
    let operator = Operator::start_in(&stages, &flags).await;
    let (.., stuck) = &tenants[tenants.len() - 1];
    stuck.reached_times(IN_FLIGHT).await;

    time_to_rotate(&good, "beside").await;
    for (tenant, reason, all, _) in &tenants {
        let Some(reason) = reason else { continue };
        join_all(
            all.iter()
                .map(async |name| tenant.until_blocked(name, reason).await),
        )
        .await;
    }
    time_to_rotate(&good, "late").await;
    // Nothing of it had to wait for one that is stuck: the first of them that gives up lets another one in.
    assert_eq!(stuck.hits(), IN_FLIGHT);
    for (tenant, _, _, fault) in &tenants {
        fault.clear();
        tenant.assert_no_leak().await;
    }
    good.assert_no_leak().await;
    operator.kill().await;
}

#[tokio::test]
async fn those_that_cannot_be_worked_on_take_no_turn_to_rotate_from_others() {
    let astro = Astro::start().await.unwrap();
    let stage = Stage::new(&astro).await;
    let flags = ["--leader-election=false", "--rotations-per-second=1"];
    let operator = stage.operator(&flags).await;
    // All with one credential, whose turns they share.
    let crowd = (0..60).map(|number| {
        let name = format!("crowd-{number}");
        let edit = match number % 2 {
            0 => json!({"token": {"name": null, "id": format!("nosuch{number}")}}),
            _ => json!({"workspaceId": "clmelsewhere"}),
        };
        let stage = &stage;
        async move { stage.create(&name, edit).await }
    });
    join_all(crowd).await;
    stage.token("good");
    let begun = Instant::now();
    stage.create("good", json!({})).await;
    stage.until_rotated("good", 1).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    operator.stop().await.unwrap();
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn what_the_vendor_says_in_an_error_is_bounded_and_holds_no_value() {
    let row = async |(name, status, text): (&'static str, u16, &'static str)| {
        let stage = stage().await;
        let token = stage.token(name);
        let values = [&stage.owner.value, &token.value];
        let json = |message: &str, id: &str| {
            let body = json!({"message": message, "requestId": id, "statusCode": status});
            let reply = Reply::text(status).message(body.to_string());
            reply.header("content-type", "application/json")
        };
        let echo = values.map(String::as_str);
        let reply = match text {
            "megabyte" => json(&"very long ".repeat(100_000), "r-1"),
            "one word" => json(&"x".repeat(1_000_000), "r-1"),
            "page" => Reply::html(status).message("\u{1b}[2J\u{202e}sorry".repeat(1_000)),
            "control" => json("a\r\nb\u{0}\u{1b}[31m\u{202e}c\u{200b}", "r-1"),
            "credential" => json(&format!("bad token {}", echo[0]), "r-1"),
            "value" => json(&format!("token=\"{}\" {}", echo[1], &echo[1][..60]), "r-1"),
            "pieces" => {
                let pieces: Vec<_> = echo[1].as_bytes().chunks(40).collect();
                let pieces = pieces.iter().map(|it| String::from_utf8_lossy(it));
                json(&pieces.collect::<Vec<_>>().join("\u{200b}"), "r-1")
            }
            "request id" => json("no", &echo[0][..36]),
            _ => json("no", "\u{202e}../<script>\n"),
        };
        let fault = Fault::on(Operation::Get)
            .credential(&stage.owner.id)
            .before(Step::Answer(reply.clone()));
        let faults = [stage.astro.fault(fault.clone()), {
            let operation = Some(Operation::List);
            stage.astro.fault(Fault { operation, ..fault })
        }];
        stage.create(name, json!({})).await;
        let reason = match status {
            401 => "CredentialsRejected",
            403 => "Forbidden",
            _ => "VendorUnavailable",
        };
        let message = stage.until_blocked(name, reason).await;
        assert!(
            message.chars().count() < 500 && is_clean(&message),
            "{message}"
        );
        stage.until_event(name, 1).await;
        stage.assert_no_leak().await;
        // And of the rotate call itself.
        let fault = Fault::on(Operation::Rotate)
            .credential(&stage.owner.id)
            .once();
        stage.astro.fault(fault.before(Step::Answer(reply)));
        for fault in faults {
            fault.clear();
        }
        stage.until_rotated(name, 1).await;
        assert_eq!(stage.astro.rotations(&token.id), 1);
        stage.assert_no_leak().await;
    };
    let rows = [
        ("megabyte", 403, "megabyte"),
        ("one-word", 401, "one word"),
        ("page", 502, "page"),
        ("control", 403, "control"),
        ("credential", 401, "credential"),
        ("value", 400, "value"),
        ("pieces", 403, "pieces"),
        ("request-id", 401, "request id"),
        ("script", 403, "script"),
    ];
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn the_longest_name_has_events_too() {
    let stage = stage().await;
    let name = "n".repeat(240);
    stage.token(&name);
    stage.create(&name, json!({})).await;
    stage.until_rotated(&name, 1).await;
    stage.until_notice(&name, "Rotated").await;
    stage.assert_no_leak().await;
}

/// What people ask about their resources is answered for all of them.
async fn commands_name_each(stage: &Stage) {
    let kubeconfig = plane().await.kubeconfig();
    let url = stage.astro.url();
    let environment = [
        ("KUBECONFIG", kubeconfig.to_str().unwrap()),
        ("ASTRO_API_URL", &url),
    ];
    for command in ["status", "plan"] {
        let ended = run(&[command, "--namespace", &stage.namespace], &environment).await;
        let said = format!("{}\n{}", ended.stdout, ended.stderr.join("\n"));
        for word in ["plain", "spoilt", "unreadable"] {
            assert!(said.contains(word), "no {word} in {said}");
        }
        assert_eq!(ended.code, Some(0), "{command}: {said}");
    }
    let ended = run(
        &["trigger", "--namespace", &stage.namespace, "spoilt"],
        &environment,
    )
    .await;
    assert_eq!(ended.code, Some(0), "{:?}", ended.stderr);
}

#[tokio::test]
async fn a_resource_as_a_newer_version_may_have_it_is_named_and_left_out() {
    let spoilable = spoilable().await;
    let plane = &spoilable.plane;
    let astro = Astro::start().await.unwrap();
    let stage = Stage::on(plane, &astro).await;
    let mut shipped = Mode::CLUSTER.permissions().into_iter();
    let definition = shipped.find(|it| it["kind"] == "CustomResourceDefinition");
    let definition = definition.unwrap();
    let mut newer = definition.clone();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    *newer.pointer_mut(schema).unwrap() =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    stage::apply(&stage.client, &newer).await;
    let account = plane.service_account(HOME, Mode::CLUSTER.account()).await;
    let operator = Operator::start(account.unwrap(), &astro, &["--leader-election=false"]);
    stage.token("plain");
    stage.create("plain", json!({})).await;
    let mut spec = stage.spec("newer", json!({}));
    spec["schedule"] = json!(5);
    let resource = json!({
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {"name": "newer", "namespace": stage.namespace}, "spec": spec,
    });
    stage::apply(&stage.client, &resource).await;
    stage.until_rotated("plain", 1).await;
    stage.until_notice("newer", "Unreadable").await;
    let (kubeconfig, url) = (plane.kubeconfig(), astro.url());
    let environment = [
        ("KUBECONFIG", kubeconfig.to_str().unwrap()),
        ("ASTRO_API_URL", &url),
    ];
    for (command, code) in [("status", 0), ("plan", 3)] {
        let ended = run(&[command, "--namespace", &stage.namespace], &environment).await;
        let said = format!("{}\n{}", ended.stdout, ended.stderr.join("\n"));
        for word in ["plain", "newer", "spec.schedule"] {
            assert!(said.contains(word), "{command}: no {word} in {said}");
        }
        assert_eq!(ended.code, Some(code), "{command}: {said}");
    }
    operator.stop().await.unwrap();
    stage::apply(&stage.client, &definition).await;
}

/// Patches an object whose answer cannot be read either.
async fn patch(stage: &Stage, path: &str, media: &str, body: Value) {
    let namespace = &stage.namespace;
    let path = match path.strip_prefix("secrets/") {
        Some(name) => format!("/api/v1/namespaces/{namespace}/secrets/{name}"),
        None => format!(
            "/apis/astro-token-operator.io/v1alpha1/namespaces/{namespace}/workspacetokenrotations/{path}"
        ),
    };
    let request = axum::http::Request::patch(path).header("content-type", media);
    let request = request.body(body.to_string().into_bytes()).unwrap();
    stage.client.request_text(request).await.unwrap();
}

/// Adds a managed field with a time that the API server takes and that is too late for a client.
async fn spoil(stage: &Stage, path: &str, version: &str, fields: Value) {
    let entry = json!({
        "manager": "x", "operation": "Update", "apiVersion": version, "time": "9999-12-31T23:59:59Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    let body = json!([{"op": "add", "path": "/metadata/managedFields/-", "value": entry}]);
    patch(stage, path, "application/json-patch+json", body).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_keeps_no_other_from_being_rotated_and_healed() {
    const MERGE: &str = "application/merge-patch+json";
    let astro = Astro::start().await.unwrap();
    let stage = Stage::new(&astro).await;
    let operator = stage.operator(&["--leader-election=false"]).await;
    let mut tokens = Vec::new();
    for name in ["plain", "spoilt", "unreadable"] {
        tokens.push(stage.token(name));
        stage.create(name, json!({})).await;
        stage.until_rotated(name, 1).await;
    }
    let [plain, spoilt, unreadable] = &tokens[..] else {
        unreachable!()
    };
    let until = async |id: &str, times| {
        let rotated = astro.until(|world| world.rotations(id) == times);
        let rotated = tokio::time::timeout(DEADLINE, rotated).await;
        assert!(rotated.is_ok(), "{} rotations", astro.rotations(id));
    };
    // The client cannot read its status.
    let until_stored = async |times| {
        until(&spoilt.id, times).await;
        let live = astro.live_value(&spoilt.id).unwrap().into_bytes();
        let is_live = |secret: &Secret| {
            let mut values = secret.data.iter().flat_map(BTreeMap::values);
            values.any(|value| value.0 == live)
        };
        stage.until_secret("spoilt-secret", is_live).await;
    };

    stage.put_secret("bait", json!({"x": "y"})).await;
    let label = json!({"app.kubernetes.io/managed-by": "astro-token-operator"});
    let label = json!({"metadata": {"labels": label}});
    stage.edit_secret("bait", label).await;
    let deep = (0..200).fold(json!({}), |inner, _| json!({"f:a": inner}));
    let fields = json!({"f:data": {"f:x": deep}});
    spoil(&stage, "secrets/bait", "v1", fields).await;
    let version = "astro-token-operator.io/v1alpha1";
    let fields = json!({"f:spec": {"f:workspaceId": {}}});
    spoil(&stage, "spoilt", version, fields).await;
    let pending = json!({
        "id": "x", "reason": "Scheduled", "attempt": 1, "tokenId": unreadable.id, "holder": "x",
        "startedAt": "9999-12-31T23:59:59Z", "replaces": {},
    });
    let late = "9999-12-31T23:59:59Z";
    let status = json!({"pending": pending, "retryAt": late, "failures": 7, "nextRotation": late});
    let status = json!({"status": status});
    patch(&stage, "unreadable/status", MERGE, status).await;
    operator.stop().await.unwrap();

    let operator = stage.operator(&["--leader-election=false"]).await;
    for name in ["spoilt", "plain"] {
        let request = json!({"astro-token-operator.io/rotate": "now"});
        let request = json!({"metadata": {"annotations": request}});
        patch(&stage, name, MERGE, request).await;
    }
    until_stored(2).await;
    stage.until_rotated("plain", 2).await;
    commands_name_each(&stage).await;
    until_stored(3).await;
    for name in ["plain-secret", "spoilt-secret"] {
        let secrets = stage.secrets();
        secrets.delete(name, &Default::default()).await.unwrap();
    }
    stage.until_rotated("plain", 3).await;
    until_stored(4).await;
    assert_eq!(astro.rotations(&plain.id), 3);

    // An intent that cannot be read is in flight for a while, and then stamp and record decide: nothing is lost.
    let settled = poll("the intent is settled", DEADLINE, async || {
        let status = stage.resources().get("unreadable").await;
        let status = status.map(|it| it.status.unwrap_or_default());
        let is_settled = |status: &Status| {
            stage::is_ready(status)
                && status.pending.is_none()
                && status.retry_at.is_none()
                && status.failures.is_none()
        };
        Ok(match status {
            Ok(status) if is_settled(&status) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    });
    settled.await.unwrap();
    // It keeps its token all the same.
    next_second().await;
    let by_id = json!({"token": {"name": null, "id": unreadable.id}});
    stage.create("younger", by_id).await;
    stage.until_blocked("younger", "TokenConflict").await;
    assert_eq!(astro.rotations(&unreadable.id), 1);
    stage.request("unreadable", "now").await;
    until(&unreadable.id, 2).await;
    stage.until_rotated("unreadable", 2).await;
    operator.stop().await.unwrap();
}
