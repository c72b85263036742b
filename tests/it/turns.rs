//! Two tokens that take turns: which one is rotated, what stays valid, and what an edit costs.

use crate::stage::{Mode, Shared, Stage, is_ready, merge};
use astro_token_operator::api::{Cause, RotationOutcome, Status, WorkspaceTokenRotation};
use lab::astro::{Fault, Issued, NewToken, Operation, Reply, Step};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// As many as there are tests, and one more.
const NAMESPACES: usize = 18;

async fn stage() -> Stage {
    const FLAGS: &[&str] = &["--leader-election=false"];
    static SHARED: Shared = Shared::of_namespaces(Mode::NAMESPACES, FLAGS, NAMESPACES);
    SHARED.stage().await
}

/// A resource `ci` with two tokens, and these.
async fn pair(stage: &Stage, edit: Value) -> [Issued; 2] {
    let tokens = ["a", "b"].map(|name| stage.token(name));
    let mut spec = alternate(stage, "b");
    spec["token"] = json!({"name": stage.token_name("a")});
    merge(&mut spec, edit);
    stage.create("ci", spec).await;
    tokens
}

fn alternate(stage: &Stage, name: &str) -> Value {
    json!({"alternateToken": {"name": stage.token_name(name)}})
}

async fn value(stage: &Stage) -> String {
    stage.value("ci-secret", "token").await.unwrap()
}

fn held(status: &Status) -> &str {
    status.token.as_ref().map_or("", |token| &token.id)
}

fn rotations(stage: &Stage, tokens: &[Issued; 2]) -> (usize, usize) {
    let [a, b] = tokens;
    (stage.astro.rotations(&a.id), stage.astro.rotations(&b.id))
}

/// Waits until the resource is at rest, and the Secret holds a value of this token.
async fn until_held(stage: &Stage, token: &Issued) -> WorkspaceTokenRotation {
    let is_it = |_: &WorkspaceTokenRotation, status: &Status| {
        is_ready(status) && status.pending.is_none() && held(status) == token.id
    };
    let resource = stage.until("ci", "holds the other token", is_it).await;
    assert!(stage.holds_live("ci").await);
    resource
}

#[tokio::test]
async fn each_rotation_takes_the_token_that_the_secret_does_not_hold() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    assert_eq!(rotations(&stage, &tokens), (1, 0));
    let mut before = value(&stage).await;
    for turn in 1..=3 {
        stage.request("ci", &format!("turn {turn}")).await;
        let resource = until_held(&stage, &tokens[turn % 2]).await;
        assert!(
            stage.astro.is_live(&before),
            "turn {turn} took the value before"
        );
        let status = resource.status.unwrap();
        let previous = status.previous_token.unwrap();
        assert_eq!(previous.id, tokens[(turn + 1) % 2].id);
        before = value(&stage).await;
    }
    assert_eq!(rotations(&stage, &tokens), (2, 2));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_turn_waits_until_consumers_have_left_the_value_before() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let mut times = Vec::new();
    for turn in 1..=3 {
        // As soon as the one before is stored.
        stage.request("ci", &format!("turn {turn}")).await;
        let status = until_held(&stage, &tokens[turn % 2]).await.status.unwrap();
        times.push(status.last_rotation.unwrap().at.0);
    }
    for pair in times.windows(2) {
        let apart = pair[1].duration_since(pair[0]).as_secs();
        assert!(apart >= 2, "the value before was valid for {apart} s only");
    }
    assert_eq!(rotations(&stage, &tokens), (2, 2));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn what_another_party_ends_is_replaced_by_the_token_with_the_fewest_users() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({"externalRotation": "Reclaim"})).await;
    until_held(&stage, &tokens[0]).await;
    stage.request("ci", "one").await;
    until_held(&stage, &tokens[1]).await;
    // The value that the Secret does not hold: it has lost nothing.
    stage.astro.rotate(&tokens[0].id);
    let is_told = |_: &_, status: &Status| status.previous_token.is_none() && is_ready(status);
    stage.until("ci", "without a value before", is_told).await;
    assert_eq!(rotations(&stage, &tokens), (1, 1));
    // The one that it holds, long after it was stored.
    stage.astro.rotate(&tokens[1].id);
    let resource = until_held(&stage, &tokens[0]).await;
    let last = resource.status.unwrap().last_rotation.unwrap();
    assert_eq!(last.reason, Cause::Reclaimed);
    assert_eq!(rotations(&stage, &tokens), (2, 1));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_token_that_is_gone_is_replaced_by_the_other_and_with_both_a_person_has_to_act() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    stage.astro.delete(&tokens[0].id);
    until_held(&stage, &tokens[1]).await;
    let message = stage.until_blocked("ci", "TokenNotFound").await;
    assert!(message.starts_with("token: "), "{message}");
    assert_eq!(stage.astro.rotations(&tokens[1].id), 1);
    stage.astro.delete(&tokens[1].id);
    let is_false = |_: &_, status: &Status| !is_ready(status);
    let resource = stage.until("ci", "not ready", is_false).await;
    let ready = resource.status.unwrap().ready().cloned().unwrap();
    assert_eq!(ready.reason, "TokenNotFound", "{}", ready.message);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn trouble_with_the_token_that_is_next_is_told_and_nothing_is_rotated_in_its_place() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let before = value(&stage).await;
    let twin = stage.token("b");
    let message = stage.until_blocked("ci", "TokenAmbiguous").await;
    assert!(message.starts_with("alternateToken: "), "{message}");
    stage.request("ci", "one").await;
    // Whoever has seen this edit has seen the request too.
    stage
        .edit("ci", json!({"spec": {"schedule": {"every": "2d"}}}))
        .await;
    stage.until_blocked("ci", "TokenAmbiguous").await;
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(is_ready(&status));
    assert_eq!(status.handled_request, None, "the request stays open");
    assert_eq!(
        (rotations(&stage, &tokens), value(&stage).await),
        ((1, 0), before)
    );
    // It is done once there is one.
    stage.astro.delete(&twin.id);
    until_held(&stage, &tokens[1]).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn an_edit_of_the_tokens_costs_no_rotation() {
    let stage = stage().await;
    let [a, b, c] = ["a", "b", "c"].map(|name| stage.token(name));
    let named = |name: &str| json!({"name": stage.token_name(name)});
    stage.create("ci", json!({"token": named("a")})).await;
    stage.until_rotated("ci", 1).await;
    let secret = async || stage.secret("ci-secret").await.unwrap();
    let before = value(&stage).await;
    let unchanged = async |what: &str, token: Value, alternate: Value, other: Option<&Issued>| {
        let spec = json!({"spec": {"token": token, "alternateToken": alternate}});
        let edited = stage.edit("ci", spec).await;
        let is_other = |secret: &k8s_openapi::api::core::v1::Secret| {
            let annotations = secret.metadata.annotations.as_ref().unwrap();
            let named = annotations.get("astro-token-operator.io/other-token-id");
            other.is_none_or(|other| named == Some(&other.id))
        };
        stage.until_secret_of("ci-secret", what, is_other).await;
        let generation = edited.metadata.generation;
        let is_seen = |_: &_, status: &Status| {
            status.observed_generation == generation && is_ready(status) && held(status) == a.id
        };
        stage.until("ci", what, is_seen).await;
        assert_eq!(value(&stage).await, before, "{what}");
    };
    unchanged("one added", named("a"), named("b"), Some(&b)).await;
    unchanged("both swapped", named("b"), named("a"), Some(&b)).await;
    unchanged("the next one replaced", named("c"), named("a"), Some(&c)).await;
    // The value that is held is of neither, until the next turn.
    unchanged("the held one replaced", named("c"), named("b"), None).await;
    let count = |token: &Issued| stage.astro.rotations(&token.id);
    assert_eq!((count(&a), count(&b), count(&c)), (1, 0, 0));
    stage.request("ci", "one").await;
    let is_next = |_: &_, status: &Status| held(status) == c.id && is_ready(status);
    stage.until("ci", "rotated", is_next).await;
    assert!(
        stage.astro.is_live(&before),
        "the value of a token that is left alone"
    );
    // One that is removed while the Secret holds the other.
    stage
        .edit(
            "ci",
            json!({"spec": {"token": named("b"), "alternateToken": null}}),
        )
        .await;
    let former = |_: &_, status: &Status| {
        let ready = status.ready().unwrap();
        ready.message.contains("no longer names") && is_ready(status)
    };
    stage.until("ci", "told of the former token", former).await;
    stage.request("ci", "two").await;
    let is_next = |_: &_, status: &Status| held(status) == b.id && is_ready(status);
    stage.until("ci", "rotated", is_next).await;
    assert_eq!((count(&a), count(&b), count(&c)), (1, 1, 1));
    let annotations = secret().await.metadata.annotations.unwrap();
    assert!(!annotations.contains_key("astro-token-operator.io/other-token-id"));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_target_that_is_renamed_there_and_back_keeps_both_values() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    stage.request("ci", "one").await;
    until_held(&stage, &tokens[1]).await;
    let (held, before) = (value(&stage).await, stage.astro.live_value(&tokens[0].id));
    for target in ["moved", "ci-secret"] {
        let edit = json!({"spec": {"target": {"name": target}}});
        let generation = stage.edit("ci", edit).await.metadata.generation;
        let is_moved = |_: &_, status: &Status| {
            let is_bound = status.binding.as_ref().is_some_and(|it| it.name == target);
            is_bound && is_ready(status) && status.observed_generation == generation
        };
        let resource = stage.until("ci", "moved", is_moved).await;
        assert_eq!(
            stage.value(target, "token").await,
            Some(held.clone()),
            "{target}"
        );
        let previous = resource.status.unwrap().previous_token;
        assert_eq!(
            previous.map(|it| it.id).as_ref(),
            Some(&tokens[0].id),
            "{target}"
        );
    }
    assert_eq!(rotations(&stage, &tokens), (1, 1));
    assert_eq!(stage.astro.live_value(&tokens[0].id), before);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_token_of_another_resource_is_left_to_that_one_until_it_is_gone() {
    let stage = stage().await;
    let [a, b] = ["a", "b"].map(|name| stage.token(name));
    let named = |name: &str| json!({"token": {"name": stage.token_name(name)}});
    stage.create("ci", named("a")).await;
    stage.create("other", named("b")).await;
    stage.until_rotated("ci", 1).await;
    stage.until_rotated("other", 1).await;
    let both = json!({"spec": alternate(&stage, "b")});
    stage.edit("ci", both).await;
    let message = stage.until_blocked("ci", "TokenConflict").await;
    assert!(message.starts_with("alternateToken: "), "{message}");
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(is_ready(&status) && stage.holds_live("ci").await);
    stage.request("ci", "one").await;
    stage.request("other", "one").await;
    stage.until_rotated("other", 2).await;
    stage.delete("other").await;
    until_held(&stage, &b).await;
    let count = |token: &Issued| stage.astro.rotations(&token.id);
    assert_eq!((count(&a), count(&b)), (1, 3));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_call_that_fails_puts_the_value_in_no_doubt() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let before = value(&stage).await;
    // It takes effect, and the answer is lost.
    let lost = Fault::on(Operation::Rotate).token(&tokens[1].id).once();
    stage.astro.fault(lost.after(Step::Close));
    stage.request("ci", "one").await;
    let message = stage.until_blocked("ci", "RotationInDoubt").await;
    let status = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert!(is_ready(&status), "{message}");
    assert!(stage.astro.is_live(&before));
    let status = until_held(&stage, &tokens[1]).await.status.unwrap();
    assert!(stage.astro.is_live(&before), "the value before was rotated");
    assert_eq!(rotations(&stage, &tokens), (1, 2));
    assert_eq!(status.last_rotation.unwrap().reason, Cause::Lost);
    // Another process could not have stored the value that was lost.
    let secret = stage.secret("ci-secret").await.unwrap();
    let annotations = secret.metadata.annotations.unwrap();
    let lost = status
        .history
        .iter()
        .find(|it| it.outcome != astro_token_operator::api::RotationOutcome::Stored);
    assert_eq!(
        annotations.get("astro-token-operator.io/fence"),
        lost.map(|it| &it.id)
    );
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_refusal_leaves_both_values_as_they_are() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let refused = Fault::on(Operation::Rotate).token(&tokens[1].id).once();
    stage
        .astro
        .fault(refused.before(Step::Answer(Reply::json(403))));
    stage.request("ci", "one").await;
    stage.until_blocked("ci", "Forbidden").await;
    assert!(stage.holds_live("ci").await);
    until_held(&stage, &tokens[1]).await;
    assert_eq!(rotations(&stage, &tokens), (1, 1));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_revocation_ends_the_value_before_too_and_keeps_none_but_the_one_in_the_secret() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let before = value(&stage).await;
    let revoke = json!({"astro-token-operator.io/revoke": "leaked"});
    stage
        .edit("ci", json!({"metadata": {"annotations": revoke}}))
        .await;
    let resource = until_held(&stage, &tokens[1]).await;
    assert_eq!(
        resource.status.unwrap().handled_revoke.as_deref(),
        Some("leaked")
    );
    let is_done = |_: &_, status: &Status| {
        let first = status.history.first();
        first.is_some_and(|it| it.outcome == RotationOutcome::Dropped) && status.pending.is_none()
    };
    let resource = stage.until("ci", "without the value before", is_done).await;
    let status = resource.status.unwrap();
    let told: Vec<_> = status
        .history
        .iter()
        .map(|it| (it.reason, &it.token_id))
        .collect();
    let [a, b] = [&tokens[0].id, &tokens[1].id];
    assert_eq!(
        told,
        [
            (Cause::Revoked, a),
            (Cause::Requested, b),
            (Cause::Initial, a)
        ]
    );
    let issued = stage.astro.issued();
    let live: Vec<_> = issued.iter().filter(|it| stage.astro.is_live(it)).collect();
    let of_pair = |it: &&String| {
        let of = stage.astro.token_of(it);
        tokens.iter().any(|token| of.as_ref() == Some(&token.id))
    };
    // The one that was dropped exists nowhere.
    let live: Vec<_> = live.into_iter().filter(of_pair).collect();
    assert_eq!(live.len(), 2);
    assert!(!stage.astro.is_live(&before));
    assert!(is_ready(&status) && status.previous_token.is_none());
    assert_eq!(rotations(&stage, &tokens), (2, 1));
    stage.until_notice("ci", "Revoked").await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_revocation_at_once_gives_consumers_no_time() {
    let stage = stage().await;
    let tokens = pair(&stage, json!({})).await;
    until_held(&stage, &tokens[0]).await;
    let (before, begun) = (value(&stage).await, Instant::now());
    let revoke = json!({"astro-token-operator.io/revoke": "now/1"});
    stage
        .edit("ci", json!({"metadata": {"annotations": revoke}}))
        .await;
    let is_dead = |_: &_, _: &Status| !stage.astro.is_live(&before);
    stage.until("ci", "without the value before", is_dead).await;
    until_held(&stage, &tokens[1]).await;
    // It waits for 12 s otherwise.
    assert!(begun.elapsed() < Duration::from_secs(12));
    assert_eq!(rotations(&stage, &tokens), (2, 1));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn two_tokens_can_rotate_each_other() {
    let stage = stage().await;
    let owners = ["a", "b"].map(|name| {
        let owner = NewToken::owner(stage.token_name(name), &stage.workspace);
        stage.astro.create(owner)
    });
    let secret = json!({
        "metadata": {"name": "ci-secret", "annotations": {"astro-token-operator.io/adopt": "ci"}},
        "stringData": {"token": owners[0].value},
    });
    let secret = serde_json::from_value(secret).unwrap();
    let params = kube::api::PostParams::default();
    stage.secrets().create(&params, &secret).await.unwrap();
    let mut spec = alternate(&stage, "b");
    spec["token"] = json!({"name": stage.token_name("a")});
    spec["credentials"] = json!({"secretRef": {"name": "ci-secret"}});
    stage.create("ci", spec).await;
    until_held(&stage, &owners[0]).await;
    assert_eq!(
        rotations(&stage, &owners),
        (0, 0),
        "the first value is kept"
    );
    for turn in 1..=4 {
        stage.request("ci", &format!("turn {turn}")).await;
        until_held(&stage, &owners[turn % 2]).await;
    }
    assert_eq!(rotations(&stage, &owners), (2, 2));
    for request in stage.astro.requests() {
        let of_ours = owners
            .iter()
            .any(|it| request.token_id.as_ref() == Some(&it.id));
        if request.operation == Operation::Rotate && of_ours {
            assert_ne!(
                request.credential, request.token_id,
                "called by its own value"
            );
        }
    }
    // Whoever rotates the one that is held locks the operator out, and a person lets it in again.
    stage.astro.rotate(&owners[0].id);
    let is_out = |_: &_, status: &Status| {
        status
            .ready()
            .is_some_and(|it| (&*it.status, &*it.reason) == ("False", "CredentialsRejected"))
    };
    stage.until("ci", "locked out", is_out).await;
    assert_eq!(rotations(&stage, &owners), (2, 2));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_copy_of_either_token_is_no_credential() {
    let stage = stage().await;
    let owners = ["a", "b"].map(|name| {
        let owner = NewToken::owner(stage.token_name(name), &stage.workspace);
        stage.astro.create(owner)
    });
    for (copy, owner) in ["copy-a", "copy-b"].into_iter().zip(&owners) {
        stage.put_secret(copy, json!({"token": owner.value})).await;
        let mut spec = alternate(&stage, "b");
        spec["token"] = json!({"name": stage.token_name("a")});
        spec["credentials"] = json!({"secretRef": {"name": copy}});
        stage.create("ci", spec).await;
        let message = stage.until_blocked("ci", "SelfRotation").await;
        assert!(message.contains(&owner.id), "{message}");
        stage.delete("ci").await;
    }
    assert_eq!(rotations(&stage, &owners), (0, 0));
    stage.assert_no_leak().await;
}
