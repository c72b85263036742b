//! Bad input and bad luck: each has its reason and remedy in status, and nothing is lost.

use super::audited as stage;
use crate::stage::{self, Stage};
use astro_token_operator::api::Cause;
use lab::astro::{Damage, Fault, Kind, NewToken, Operation, Reply, Step};
use serde_json::{Value, json};
use std::time::Duration;

/// `Ready=False` for `reason`, with every one of `words` in the message, and not one rotation.
async fn expect(stage: &Stage, name: &str, reason: &str, words: &[&str]) {
    let what = format!("{reason} with {words:?}");
    stage
        .until(name, &what, |resource, status| {
            stage::blocked(resource, status, reason)
                .is_some_and(|message| words.iter().all(|word| message.contains(word)))
        })
        .await;
}

#[tokio::test]
async fn a_token_that_is_not_the_one_is_never_rotated() {
    let stage = stage().await;
    stage.create("unknown", json!({})).await;
    expect(&stage, "unknown", "TokenNotFound", &["named", "check"]).await;
    stage
        .create(
            "no-id",
            json!({"token": {"name": null, "id": "clm0nothing"}}),
        )
        .await;
    expect(&stage, "no-id", "TokenNotFound", &["404"]).await;

    let twins = [stage.token("twin"), stage.token("twin")];
    stage.create("twin", json!({})).await;
    expect(
        &stage,
        "twin",
        "TokenAmbiguous",
        &[&twins[0].id, &twins[1].id, "token.id"],
    )
    .await;

    let other = stage
        .astro
        .create(NewToken::workspace("elsewhere", "clmotherworkspace"));
    let organization = NewToken::organization("whole").also("clmotherworkspace", "WORKSPACE_OWNER");
    let organization = organization.also(&stage.workspace, "WORKSPACE_OWNER");
    let everywhere = stage.astro.create(organization);
    stage
        .put_secret("everywhere", json!({"token": everywhere.value}))
        .await;
    let by_id = |id: &str| json!({"token": {"name": null, "id": id}, "credentials": {"secretRef": {"name": "everywhere"}}});
    stage.create("other", by_id(&other.id)).await;
    expect(&stage, "other", "WrongWorkspace", &[&stage.workspace]).await;

    let wide = NewToken::organization("wide").also(&stage.workspace, "WORKSPACE_MEMBER");
    let wide = stage.astro.create(wide);
    stage
        .create(
            "wide",
            json!({"token": {"name": null, "id": wide.id}, "target": {"name": "w"}}),
        )
        .await;
    expect(&stage, "wide", "WrongScope", &["ORGANIZATION"]).await;

    let direct = NewToken::workspace("direct", &stage.workspace).kind(Kind::DirectAccess);
    let direct = stage.astro.create(direct);
    stage
        .create("direct", json!({"token": {"name": null, "id": direct.id}}))
        .await;
    expect(&stage, "direct", "WrongScope", &["DIRECT_ACCESS"]).await;

    let own = json!({"token": {"name": null, "id": stage.owner.id}, "target": {"name": "s"}});
    stage.create("self", own).await;
    expect(&stage, "self", "SelfRotation", &["another credential"]).await;

    let all = [
        &twins[0].id,
        &twins[1].id,
        &other.id,
        &wide.id,
        &direct.id,
        &stage.owner.id,
    ];
    assert!(all.iter().all(|id| stage.astro.rotations(id) == 0));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_token_of_another_scope_or_deployment_is_never_rotated() {
    let stage = stage().await;
    let (ours, other) = (
        format!("d-{}", stage.namespace),
        format!("e-{}", stage.namespace),
    );
    let token = NewToken::deployment("deployed", &ours, &stage.workspace);
    let token = stage.astro.create(token);
    let of = |scope: &str, deployment: Option<&str>| json!({"token": {"name": null, "id": token.id, "scope": scope, "deploymentId": deployment}});
    let by_name = |scope: &str, deployment: Option<&str>| json!({"token": {"name": "deployed", "scope": scope, "deploymentId": deployment}});
    let rows: [(_, _, _, &[&str]); 5] = [
        (
            "workspace",
            of("Workspace", None),
            "WrongScope",
            &["DEPLOYMENT", "standard Workspace"],
        ),
        (
            "organization",
            of("Organization", None),
            "WrongScope",
            &["DEPLOYMENT"],
        ),
        (
            "another",
            of("Deployment", Some(&other)),
            "WrongScope",
            &[&other, "token.deploymentId"],
        ),
        // Only an owner of the Organization may list its tokens.
        (
            "unseen",
            by_name("Organization", None),
            "Forbidden",
            &["403"],
        ),
        (
            "named",
            by_name("Workspace", None),
            "TokenNotFound",
            &["workspaceId"],
        ),
    ];
    for (name, edit, reason, words) in rows {
        stage.create(name, edit).await;
        expect(&stage, name, reason, words).await;
    }
    // A new API server refuses what contradicts itself, and of an old one the operator does.
    let rows = [
        ("nowhere", of("Deployment", None), "deploymentId"),
        ("both", of("Workspace", Some(&ours)), "deploymentId"),
        ("lost", json!({"workspaceId": null}), "workspaceId"),
    ];
    for (name, edit, word) in rows {
        let resource = json!({"metadata": {"name": name}, "spec": stage.spec(name, edit)});
        match stage.create_raw(resource).await {
            Ok(_) => expect(&stage, name, "InvalidSpec", &[word]).await,
            Err(kube::Error::Api(status)) if status.code == 422 => {
                assert!(status.message.contains(word), "{}", status.message);
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert_eq!(stage.astro.rotations(&token.id), 0);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_bad_credential_is_named_and_mended_without_touching_the_resource() {
    let stage = stage().await;
    let dead = stage
        .astro
        .create(NewToken::owner("dead", &stage.workspace));
    stage.astro.delete(&dead.id);
    let weak = stage
        .astro
        .create(NewToken::workspace("weak", &stage.workspace));
    let large = "x".repeat(500_000);
    let rows: [(&str, Option<&str>, &str, &[&str]); 6] = [
        (
            "missing",
            None,
            "CredentialsMissing",
            &["missing-cred", "key token", "create it"],
        ),
        ("empty", Some(""), "CredentialsMissing", &["empty-cred"]),
        (
            "malformed",
            Some("two words"),
            "CredentialsMissing",
            &["is not an API token"],
        ),
        (
            "large",
            Some(&large),
            "CredentialsMissing",
            &["large-cred", "larger than 256 KiB"],
        ),
        (
            "dead",
            Some(&dead.value),
            "CredentialsRejected",
            &["401", "request "],
        ),
        (
            "weak",
            Some(&weak.value),
            "Forbidden",
            &["403", "Workspace Owner"],
        ),
    ];
    let mut tokens = Vec::new();
    for (name, value, ..) in &rows {
        tokens.push(stage.token(name));
        let secret = format!("{name}-cred");
        if let Some(value) = value {
            stage.put_secret(&secret, json!({"token": value})).await;
        }
        stage
            .create(
                name,
                json!({"credentials": {"secretRef": {"name": secret}}}),
            )
            .await;
    }
    for (name, _, reason, words) in &rows {
        expect(&stage, name, reason, words).await;
        let secret = format!("{name}-cred");
        stage
            .put_secret(&secret, json!({"token": stage.owner.value}))
            .await;
    }
    for ((name, ..), token) in rows.iter().zip(&tokens) {
        stage.until_rotated(name, 1).await;
        assert_eq!(stage.astro.rotations(&token.id), 1);
    }
    stage.token("none");
    stage.create("none", json!({"credentials": null})).await;
    expect(&stage, "none", "CredentialsNotAllowed", &["secretRef"]).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_spec_that_makes_no_sense_is_explained() {
    let stage = stage().await;
    let rows: [(&str, Value, &str, &str); 7] = [
        (
            "cron",
            json!({"schedule": {"every": null, "cron": "61 3 * * *"}}),
            "InvalidSpec",
            "schedule.cron",
        ),
        (
            "never",
            json!({"schedule": {"every": null, "cron": "0 0 31 2 *"}}),
            "InvalidSpec",
            "schedule.cron",
        ),
        (
            "zone",
            json!({"schedule": {"every": null, "cron": "@daily", "timeZone": "Europe/Atlantis"}}),
            "InvalidSpec",
            "timeZone",
        ),
        (
            "often",
            json!({"schedule": {"every": "1s"}}),
            "ScheduleTooFrequent",
            "1s",
        ),
        (
            "label",
            json!({"target": {"labels": {"app.kubernetes.io/managed-by": "me"}}}),
            "InvalidSpec",
            "managed-by",
        ),
        (
            "same",
            json!({"target": {"name": "owner"}}),
            "SelfRotation",
            "same Secret",
        ),
        (
            "forever",
            json!({"schedule": {"every": null, "beforeExpiry": "1d"}}),
            "TokenNeverExpires",
            "schedule.every",
        ),
    ];
    for (name, edit, reason, word) in rows {
        stage.token(name);
        stage.create(name, edit).await;
        expect(&stage, name, reason, &[word]).await;
        if name == "forever" {
            continue;
        }
        stage.edit(name, json!({"spec": {"schedule": {"every": "1d", "cron": null, "timeZone": null}, "target": {"name": format!("{name}-secret"), "labels": null}}})).await;
        stage.until_rotated(name, 1).await;
    }
    stage.assert_no_leak().await;
}

/// Faults of the vendor's on rotate: what is said meanwhile, and how many calls it may cost.
#[tokio::test]
async fn whatever_the_vendor_answers_the_value_lands_in_the_end() {
    let stage = stage().await;
    let answer = |status: u16, body: fn(u16) -> Reply| Step::Answer(body(status));
    let rotate = || Fault::on(Operation::Rotate).once();
    let rows: Vec<(&str, Fault, &str, std::ops::RangeInclusive<usize>)> = vec![
        (
            "bad-request",
            rotate().before(answer(400, Reply::json)),
            "VendorUnavailable",
            1..=1,
        ),
        (
            "not-found",
            rotate().before(answer(404, Reply::json)),
            "TokenNotFound",
            1..=1,
        ),
        (
            "too-many",
            rotate().before(Step::Answer(Reply::json(429).header("retry-after", "3"))),
            "VendorUnavailable",
            1..=1,
        ),
        (
            "too-many-text",
            rotate().before(answer(429, Reply::text)),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "redirect",
            rotate().before(Step::Answer(
                Reply::empty(307).header("location", "/v1/elsewhere"),
            )),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "broken",
            rotate().before(answer(500, Reply::json)),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "gateway-says-no",
            rotate().before(answer(403, Reply::html)),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "done-and-gateway-says-no",
            rotate().after(answer(403, Reply::html)),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "gateway",
            rotate().before(answer(502, Reply::html)),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "done-and-502",
            rotate().after(answer(502, Reply::html)),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "lost-before",
            rotate().before(Step::Close),
            "RotationInDoubt",
            1..=1,
        ),
        (
            "lost-after",
            rotate().after(Step::Close),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "reset-after",
            rotate().after(Step::Reset),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "cut",
            rotate().damage(Damage::Cut),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "truncated",
            rotate().damage(Damage::Truncated),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "no-token",
            rotate().damage(Damage::NoToken),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "html",
            rotate().damage(Damage::Html),
            "RotationInDoubt",
            2..=2,
        ),
        (
            "too-slow",
            rotate().before(Step::Delay(Duration::from_secs(5))),
            "RotationInDoubt",
            1..=3,
        ),
    ];
    let tokens: Vec<_> = rows.iter().map(|(name, ..)| stage.token(name)).collect();
    for ((name, fault, ..), token) in rows.iter().zip(&tokens) {
        stage.astro.fault(fault.clone().token(&token.id));
        // After a 429 the credential pauses, and with it all others that are called with the same one.
        let own = name
            .starts_with("too-many")
            .then(|| format!("{name}-owner"));
        if let Some(own) = &own {
            let owner = NewToken::owner(own, &stage.workspace);
            let value = stage.astro.create(owner).value;
            stage.put_secret(own, json!({"token": value})).await;
        }
        let credential = own.as_deref().unwrap_or("owner");
        let edit = json!({"credentials": {"secretRef": {"name": credential}}});
        stage.create(name, edit).await;
    }
    for (name, _, reason, _) in &rows {
        stage.until_notice(name, reason).await;
    }
    for ((name, .., allowed), token) in rows.iter().zip(&tokens) {
        stage
            .until(name, "healed", |_, status| {
                stage::is_ready(status) && status.pending.is_none()
            })
            .await;
        if *name == "too-slow" {
            // The call that was given up takes effect after the next one: noticed at the look that follows a recovery.
            let live = async || {
                let live = stage.holds_live(name).await;
                Ok(live.then_some(()).ok_or_else(|| "dead".to_owned()))
            };
            let healed = lab::wait::poll("a live value after a late call", stage::DEADLINE, live);
            healed.await.unwrap();
        }
        assert!(stage.holds_live(name).await, "{name} holds a dead value");
        let calls = stage.astro.rotations(&token.id);
        assert!(allowed.contains(&calls), "{name}: {calls} rotations");
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn an_odd_answer_keeps_its_value() {
    let stage = stage().await;
    for (name, damage) in [
        ("no-time", Damage::NoLastRotatedAt),
        ("other-id", Damage::OtherId),
    ] {
        let token = stage.token(name);
        stage.astro.fault(
            Fault::on(Operation::Rotate)
                .token(&token.id)
                .once()
                .damage(damage),
        );
        stage.create(name, json!({})).await;
        stage
            .until(name, "ready", |_, status| {
                // A value of another token is replaced by one of the right one.
                let right = status.token.as_ref().is_some_and(|it| it.id == token.id);
                stage::is_ready(status) && status.pending.is_none() && right
            })
            .await;
        assert!(stage.holds_live(name).await, "{name}");
    }
    stage
        .until_secret("no-time-secret", |secret| {
            let annotations = secret.metadata.annotations.as_ref();
            annotations.is_some_and(|a| a.contains_key("astro-token-operator.io/rotated-at"))
        })
        .await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn reads_that_fail_delay_a_rotation_and_lose_nothing() {
    let stage = stage().await;
    let token = stage.token("reads");
    let reply = Step::Answer(Reply::html(503));
    let fault = stage
        .astro
        .fault(Fault::any().credential(&stage.owner.id).before(reply));
    stage.create("reads", json!({})).await;
    expect(&stage, "reads", "VendorUnavailable", &["503"]).await;
    fault.clear();
    stage.until_rotated("reads", 1).await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
}

#[tokio::test]
async fn an_expired_token_is_renewed_where_that_helps_and_reported_where_not() {
    let stage = stage().await;
    let token = stage.token("old");
    stage.create("old", json!({})).await;
    stage.until_rotated("old", 1).await;
    let past = |seconds: i64| {
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        Some(jiff::Timestamp::from_second(i64::try_from(now).unwrap() + seconds).unwrap())
    };
    stage.astro.set_end(&token.id, past(-86_400));
    expect(&stage, "old", "TokenExpired", &["new token"]).await;
    assert_eq!(
        stage.astro.rotations(&token.id),
        1,
        "rotating had not helped"
    );
    stage.astro.set_end(&token.id, None);
    stage
        .until("old", "ready", |_, status| stage::is_ready(status))
        .await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_target_that_cannot_take_the_value_is_found_out_before_the_call() {
    let stage = stage().await;
    let secret = |name: &str, more: Value| {
        let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        secret
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        secret
    };
    let create = async |secret: Value| {
        let secret = serde_json::from_value(secret).unwrap();
        stage
            .secrets()
            .create(&Default::default(), &secret)
            .await
            .unwrap();
    };
    let consent = |name: &str| json!({"astro-token-operator.io/adopt": name});

    let foreign = stage.token("foreign");
    create(secret(
        "foreign-secret",
        json!({"stringData": {"other": "x"}}),
    ))
    .await;
    stage.create("foreign", json!({})).await;
    expect(
        &stage,
        "foreign",
        "SecretNotOurs",
        &["foreign-secret", "adopt=foreign"],
    )
    .await;

    let frozen = stage.token("frozen");
    let mut immutable = secret(
        "frozen-secret",
        json!({"immutable": true, "stringData": {"token": "x"}}),
    );
    immutable["metadata"]["annotations"] = consent("frozen");
    create(immutable).await;
    stage.create("frozen", json!({})).await;
    expect(&stage, "frozen", "TargetImmutable", &["delete it"]).await;

    let typed = stage.token("typed");
    let mut other = secret(
        "typed-secret",
        json!({"type": "example.com/other", "stringData": {"token": "x"}}),
    );
    other["metadata"]["annotations"] = consent("typed");
    create(other).await;
    stage
        .create("typed", json!({"target": {"type": "Opaque"}}))
        .await;
    expect(&stage, "typed", "TargetTypeDiffers", &["target.type"]).await;

    for token in [&foreign, &frozen, &typed] {
        assert_eq!(stage.astro.rotations(&token.id), 0);
    }
    stage
        .secrets()
        .delete("frozen-secret", &Default::default())
        .await
        .unwrap();
    stage.until_rotated("frozen", 1).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_key_edited_by_hand_is_reported_and_replaced_with_consent() {
    let stage = stage().await;
    let token = stage.token("hand");
    stage.create("hand", json!({})).await;
    stage.until_rotated("hand", 1).await;
    stage
        .edit_secret("hand-secret", json!({"stringData": {"token": "oops"}}))
        .await;
    expect(
        &stage,
        "hand",
        "SecretNotOurs",
        &["kubectl-edit", "adopt=hand"],
    )
    .await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
    let consent = json!({"metadata": {"annotations": {"astro-token-operator.io/adopt": "hand"}}});
    stage.edit_secret("hand-secret", consent).await;
    stage.until_rotated("hand", 2).await;
    assert!(stage.holds_live("hand").await);
    stage.request("hand", "once more").await;
    stage.until_rotated("hand", 3).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_secret_from_another_cluster_is_left_alone_until_a_person_says_so() {
    let stage = stage().await;
    let token = stage.token("clone");
    stage.create("clone", json!({})).await;
    stage.until_rotated("clone", 1).await;
    let annotate = |key: &str, text: &str| {
        let key = format!("astro-token-operator.io/{key}");
        json!({"metadata": {"annotations": {key: text}}})
    };
    stage
        .edit_secret("clone-secret", annotate("cluster", "the-other-one"))
        .await;
    expect(
        &stage,
        "clone",
        "ClusterChanged",
        &["the-other-one", "adopt=clone"],
    )
    .await;
    stage
        .edit_secret("clone-secret", annotate("adopt", "clone"))
        .await;
    stage
        .until("clone", "ready", |_, status| stage::is_ready(status))
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 1, "its value was live");
}

#[tokio::test]
async fn a_full_quota_is_found_out_before_the_call() {
    let stage = stage().await;
    if !stage.has_controllers {
        eprintln!("skipped: no kube-controller-manager, so nothing counts quotas");
        return;
    }
    let token = stage.token("quota");
    stage.limit_secrets(1).await;
    stage.create("quota", json!({})).await;
    expect(&stage, "quota", "TargetRefused", &["exceeded quota"]).await;
    assert_eq!(stage.astro.rotations(&token.id), 0);
    stage.limit_secrets(50).await;
    stage.until_rotated("quota", 1).await;
}

#[tokio::test]
async fn a_resource_deleted_in_the_middle_of_its_rotation_leaves_a_live_value() {
    let stage = stage().await;
    let token = stage.token("mid");
    stage.create("mid", json!({})).await;
    stage.until_rotated("mid", 1).await;
    let held = Fault::on(Operation::Rotate)
        .token(&token.id)
        .once()
        .after(Step::Hold);
    let held = stage.astro.fault(held);
    stage.request("mid", "now").await;
    held.reached().await;
    stage.delete("mid").await;
    held.release();
    let astro = stage.astro.clone();
    stage
        .until_secret("mid-secret", |secret| {
            let value = secret.data.as_ref().and_then(|data| data.get("token"));
            value.is_some_and(|value| astro.is_live(std::str::from_utf8(&value.0).unwrap()))
        })
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 2);
}

#[tokio::test]
async fn a_namespace_that_goes_away_takes_nothing_with_it() {
    let stage = stage().await;
    let rest = super::audited().await;
    stage.token("doomed");
    stage
        .create("doomed", json!({"schedule": {"every": "2s"}}))
        .await;
    stage.until_rotated("doomed", 1).await;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(stage.client.clone());
    namespaces
        .delete(&stage.namespace, &Default::default())
        .await
        .unwrap();
    rest.token("alive");
    rest.create("alive", json!({})).await;
    rest.until_rotated("alive", 1).await;
    rest.assert_no_leak().await;
}

#[tokio::test]
async fn a_rotation_by_somebody_else_is_reclaimed_once() {
    let stage = stage().await;
    let token = stage.token("mine");
    stage.create("mine", json!({})).await;
    stage.until_rotated("mine", 1).await;
    stage.astro.rotate(&token.id);
    let status = stage.until_rotated("mine", 2).await.status.unwrap();
    assert_eq!(status.last_rotation.unwrap().reason, Cause::Reclaimed);
    assert!(stage.holds_live("mine").await);
    stage.until_notice("mine", "Reclaimed").await;
    stage.astro.rotate(&token.id);
    stage.until_blocked("mine", "Contested").await;
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn with_report_a_rotation_by_somebody_else_is_only_reported() {
    let stage = stage().await;
    let token = stage.token("told");
    stage
        .create("told", json!({"externalRotation": "Report"}))
        .await;
    stage.until_rotated("told", 1).await;
    stage.astro.rotate(&token.id);
    let message = stage.until_blocked("told", "RotatedElsewhere").await;
    assert!(
        message.contains("astro-token-operator.io/rotate"),
        "{message}"
    );
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.request("told", "please").await;
    stage.until_rotated("told", 2).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_credential_that_was_replaced_a_moment_ago_is_read_anew_before_it_is_called_refused() {
    let stage = stage().await;
    for name in ["one", "other"] {
        stage.token(name);
        stage.create(name, json!({})).await;
    }
    for name in ["one", "other"] {
        stage.until_rotated(name, 1).await;
    }
    // The credential is shared from here on for a second.
    stage.request("one", "now").await;
    stage.until_rotated("one", 2).await;
    let value = stage.astro.rotate(&stage.owner.id);
    stage.put_secret("owner", json!({"token": value})).await;
    stage.request("other", "now").await;
    stage.until_rotated("other", 2).await;
    let reasons = stage.events("other").await;
    assert!(
        !reasons.iter().any(|it| it == "CredentialsRejected"),
        "{reasons:?}"
    );
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_list_that_is_never_answered_is_reported() {
    let stage = stage().await;
    let token = stage.token("silent");
    let held = Fault::on(Operation::List).before(Step::Hold);
    let held = stage.astro.fault(held.credential(&stage.owner.id));
    stage.create("silent", json!({})).await;
    stage.until_blocked("silent", "VendorUnavailable").await;
    assert_eq!(stage.astro.rotations(&token.id), 0);
    held.clear();
    stage.until_rotated("silent", 1).await;
    stage.assert_no_leak().await;
}
