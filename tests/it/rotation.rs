//! From a resource to a live value in a Secret: what the operator does whatever it may see of the cluster.

use super::patient as stage;
use crate::stage;
use astro_token_operator::api::Cause;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lab::astro::{Fault, NewToken, Operation, Step};
use serde_json::{Value, json};
use std::time::Duration;

fn cause(resource: &astro_token_operator::api::WorkspaceTokenRotation) -> Option<Cause> {
    let status = resource.status.as_ref()?;
    Some(status.last_rotation.as_ref()?.reason)
}

#[tokio::test]
async fn a_new_resource_gets_its_value_once() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    let resource = stage.until_rotated("ci", 1).await;
    assert_eq!(cause(&resource), Some(Cause::Initial));
    assert!(stage.holds_live("ci").await);
    assert!(
        !stage.astro.is_live(&token.value),
        "the first value still works"
    );
    assert_eq!(stage.astro.rotations(&token.id), 1);
    let status = resource.status.unwrap();
    assert_eq!(status.token.unwrap().id, token.id);
    assert!(status.next_rotation.is_some());
    // It follows the status.
    stage.until_event("ci", 1).await;
    assert_eq!(stage.events("ci").await, ["Rotated"]);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_token_that_nobody_asked_for_when_its_list_was_read_is_found_all_the_same() {
    let stage = stage().await;
    let tokens = ["first", "second", "third"].map(|name| stage.token(name));
    for name in ["first", "second"] {
        stage.create(name, json!({})).await;
        stage.until_rotated(name, 1).await;
        stage.until_event(name, 1).await;
        assert_eq!(stage.events(name).await, ["Rotated"]);
    }
    let third = json!({"spec": {"token": {"name": stage.token_name("third")}}});
    stage.edit("second", third).await;
    stage.until_rotated("second", 2).await;
    for token in tokens {
        assert_eq!(stage.astro.rotations(&token.id), 1);
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn tokens_of_a_deployment_and_of_the_organization_are_rotated_like_those_of_a_workspace() {
    let stage = stage().await;
    let (name, deployment) = (stage.token_name("same"), format!("d-{}", stage.namespace));
    let owner = NewToken::organization("owner").role("ORGANIZATION_OWNER");
    let owner = stage.astro.create(owner);
    let value = json!({"token": owner.value});
    stage.put_secret("organization-owner", value).await;
    let of_deployment = |name: &str| {
        let new = NewToken::deployment(name, &deployment, &stage.workspace);
        stage.astro.create(new)
    };
    // The Workspace's list has this one too.
    let of_organization = NewToken::organization(&name).also(&stage.workspace, "WORKSPACE_MEMBER");
    let tokens = [
        stage.token("same"),
        of_deployment(&name),
        stage.astro.create(of_organization),
        of_deployment("by id"),
    ];
    let owner = json!({"secretRef": {"name": "organization-owner"}});
    let rows = [
        ("workspace", json!({"token": {"name": name}})),
        (
            "deployment",
            json!({
                "workspaceId": null,
                "token": {"name": name, "scope": "Deployment", "deploymentId": deployment},
            }),
        ),
        (
            "organization",
            json!({
                "workspaceId": null, "credentials": owner,
                "token": {"name": name, "scope": "Organization"},
            }),
        ),
        (
            "by-id",
            json!({
                "token": {"name": null, "id": tokens[3].id, "scope": "Deployment", "deploymentId": deployment},
            }),
        ),
    ];
    for ((resource, edit), token) in rows.into_iter().zip(&tokens) {
        stage.create(resource, edit).await;
        stage.until_rotated(resource, 1).await;
        stage.request(resource, "again").await;
        let status = stage.until_rotated(resource, 2).await.status.unwrap();
        assert_eq!(status.token.unwrap().id, token.id, "{resource}");
        assert!(stage.holds_live(resource).await, "{resource}");
        assert_eq!(stage.astro.rotations(&token.id), 2, "{resource}");
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn it_rotates_on_schedule_one_rotation_for_each_due_time() {
    let stage = stage().await;
    let token = stage.token("often");
    stage
        .create("often", json!({"schedule": {"every": "2s"}}))
        .await;
    let resource = stage.until_rotated("often", 3).await;
    assert_eq!(cause(&resource), Some(Cause::Scheduled));
    stage
        .edit("often", json!({"spec": {"suspend": true}}))
        .await;
    let suspended = |_: &_, status: &astro_token_operator::api::Status| {
        status.pending.is_none() && status.conditions.iter().any(|c| c.type_ == "Suspended")
    };
    let resource = stage.until("often", "suspended", suspended).await;
    let history = resource.status.unwrap().history;
    assert_eq!(stage.astro.rotations(&token.id), history.len());
    for pair in history.windows(2) {
        let apart = pair[0].at.0.duration_since(pair[1].at.0);
        assert!(apart.as_secs() >= 2, "two rotations within {apart}");
    }
    assert!(stage.holds_live("often").await);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn the_next_rotation_is_due_a_period_after_the_last_however_slow_the_vendor_was() {
    let stage = stage().await;
    stage.token("slow");
    let slow = Fault::any().credential(&stage.owner.id);
    let slow = slow.before(Step::Delay(Duration::from_millis(1_200)));
    stage.astro.fault(slow);
    stage
        .create("slow", json!({"schedule": {"every": "1h"}}))
        .await;
    let status = stage.until_rotated("slow", 1).await.status.unwrap();
    let (last, next) = (status.last_rotation.unwrap(), status.next_rotation.unwrap());
    let seconds = |time: Time| time.0.as_second();
    assert_eq!(seconds(next) - seconds(last.at), 3_600);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_request_rotates_once_for_each_distinct_text() {
    let stage = stage().await;
    let token = stage.token("ask");
    stage.create("ask", json!({})).await;
    stage.until_rotated("ask", 1).await;
    stage.request("ask", "one").await;
    let resource = stage.until_rotated("ask", 2).await;
    assert_eq!(cause(&resource), Some(Cause::Requested));
    assert_eq!(
        resource.status.unwrap().handled_request.as_deref(),
        Some("one")
    );
    stage.request("ask", "one").await;
    stage.request("ask", "two").await;
    stage.until_rotated("ask", 3).await;
    assert_eq!(stage.astro.rotations(&token.id), 3);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_request_that_is_taken_away_asks_for_nothing() {
    let stage = stage().await;
    let token = stage.token("apart");
    let revoke = |text: Value| json!({"astro-token-operator.io/revoke": text});
    stage.create("apart", json!({})).await;
    stage.until_rotated("apart", 1).await;
    stage.request("apart", "one").await;
    stage.until_rotated("apart", 2).await;
    let two = json!({"metadata": {"annotations": revoke("two".into())}});
    stage.edit("apart", two).await;
    let status = stage.until_rotated("apart", 3).await.status.unwrap();
    let handled = (status.handled_request, status.handled_revoke);
    assert_eq!(handled, (Some("one".into()), Some("two".into())));

    // A label, which is written by the pass that looks at it, unless that has to rotate.
    stage
        .edit(
            "apart",
            json!({
                "metadata": {"annotations": revoke(Value::Null)},
                "spec": {"target": {"labels": {"team": "data"}}},
            }),
        )
        .await;
    stage
        .until_secret("apart-secret", |secret| {
            let labels = secret.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key("team"))
        })
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 3);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_deleted_secret_is_made_again() {
    let stage = stage().await;
    let token = stage.token("gone");
    stage.create("gone", json!({})).await;
    stage.until_rotated("gone", 1).await;
    stage
        .secrets()
        .delete("gone-secret", &Default::default())
        .await
        .unwrap();
    stage.until_rotated("gone", 2).await;
    assert!(stage.holds_live("gone").await);
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn edits_never_rotate_and_the_value_moves_with_the_spec() {
    let stage = stage().await;
    let token = stage.token("edited");
    stage.create("edited", json!({})).await;
    stage.until_rotated("edited", 1).await;
    let value = stage.value("edited-secret", "token").await.unwrap();

    let labelled =
        json!({"spec": {"target": {"labels": {"team": "data"}, "annotations": {"note": "x"}}}});
    stage.edit("edited", labelled).await;
    stage
        .until_secret("edited-secret", |s| {
            s.metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.contains_key("team"))
        })
        .await;
    stage
        .edit("edited", json!({"spec": {"target": {"labels": null}}}))
        .await;
    stage
        .until_secret("edited-secret", |s| {
            !s.metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.contains_key("team"))
        })
        .await;

    stage
        .edit("edited", json!({"spec": {"target": {"key": "api-token"}}}))
        .await;
    let has = |key: &'static str| {
        move |s: &k8s_openapi::api::core::v1::Secret| {
            s.data.as_ref().is_some_and(|d| d.contains_key(key))
        }
    };
    stage.until_secret("edited-secret", has("api-token")).await;
    assert!(stage.value("edited-secret", "api-token").await.as_ref() == Some(&value));
    assert_eq!(stage.value("edited-secret", "token").await, None);

    stage
        .edit("edited", json!({"spec": {"target": {"name": "renamed"}}}))
        .await;
    stage.until_secret("renamed", has("api-token")).await;
    let bound = |_: &_, status: &astro_token_operator::api::Status| {
        let binding = status.binding.as_ref();
        binding.is_some_and(|binding| binding.name == "renamed")
    };
    stage
        .until("edited", "bound to the new Secret", bound)
        .await;
    assert!(stage.value("renamed", "api-token").await.as_ref() == Some(&value));
    assert_eq!(stage.astro.rotations(&token.id), 1, "an edit rotated");
    assert!(stage.astro.is_live(&value));
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn an_edit_of_the_target_in_the_middle_of_a_rotation_moves_the_new_value() {
    let stage = stage().await;
    let token = stage.token("mid");
    stage.create("mid", json!({})).await;
    stage.until_rotated("mid", 1).await;
    let rotation = Fault::on(Operation::Rotate).token(&token.id).once();
    let rotation = stage.astro.fault(rotation.after(Step::Hold));
    stage.request("mid", "now").await;
    rotation.reached().await;
    stage
        .edit("mid", json!({"spec": {"target": {"name": "moved"}}}))
        .await;
    rotation.release();
    stage.until_rotated("mid", 2).await;
    let bound = |_: &_, status: &astro_token_operator::api::Status| {
        let binding = status.binding.as_ref();
        binding.is_some_and(|binding| binding.name == "moved")
    };
    stage.until("mid", "bound to the new Secret", bound).await;
    let moved = stage.value("moved", "token").await;
    assert!(moved.is_some_and(|value| stage.astro.is_live(&value)));
    assert_eq!(stage.astro.rotations(&token.id), 2, "an edit rotated");
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_resource_created_again_keeps_the_value() {
    let stage = stage().await;
    let token = stage.token("again");
    stage.create("again", json!({})).await;
    stage.until_rotated("again", 1).await;
    stage.delete("again").await;
    assert!(stage.holds_live("again").await, "Retain is the default");
    stage.create("again", json!({})).await;
    stage
        .until("again", "ready", |_, status| stage::is_ready(status))
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn with_delete_the_secret_belongs_to_the_resource_and_else_to_nobody() {
    let stage = stage().await;
    stage.token("brief");
    stage
        .create("brief", json!({"target": {"deletionPolicy": "Delete"}}))
        .await;
    let resource = stage.until_rotated("brief", 1).await;
    let owners = async || {
        stage
            .secret("brief-secret")
            .await
            .unwrap()
            .metadata
            .owner_references
    };
    assert_eq!(
        owners().await.map(|all| all[0].uid.clone()),
        resource.metadata.uid
    );
    stage
        .edit(
            "brief",
            json!({"spec": {"target": {"deletionPolicy": "Retain"}}}),
        )
        .await;
    stage
        .until_secret("brief-secret", |s| s.metadata.owner_references.is_none())
        .await;
}

#[tokio::test]
async fn a_secret_is_adopted_with_its_live_value_and_otherwise_replaced() {
    let stage = stage().await;
    for (name, live) in [("kept", true), ("dead", false)] {
        let token = stage.token(name);
        let secret = format!("{name}-secret");
        stage
            .put_secret(&secret, json!({"token": token.value}))
            .await;
        if !live {
            stage.astro.rotate(&token.id);
        }
        stage.create(name, json!({})).await;
        stage.until_blocked(name, "SecretNotOurs").await;
        assert!(
            stage.value(&secret, "token").await.as_ref() == Some(&token.value),
            "touched without consent"
        );
        let consent = json!({"metadata": {"annotations": {"astro-token-operator.io/adopt": name}}});
        stage.edit_secret(&secret, consent).await;
        // The Secret has no label of ours, so nothing tells the operator: an edit of the resource does.
        stage
            .edit(name, json!({"metadata": {"labels": {"x": "y"}}}))
            .await;
        stage
            .until(name, "ready", |_, status| stage::is_ready(status))
            .await;
        assert!(stage.holds_live(name).await);
        assert_eq!(stage.astro.rotations(&token.id), usize::from(!live));
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn the_oldest_of_two_works_and_the_other_takes_over_at_once() {
    let stage = stage().await;
    let token = stage.token("one");
    stage.create("one", json!({})).await;
    stage.until_rotated("one", 1).await;
    stage::next_second().await;
    let by_id = json!({"token": {"name": null, "id": token.id}, "target": {"name": "two-secret"}});
    stage.create("two", by_id).await;
    stage.until_blocked("two", "TokenConflict").await;
    stage.token("three");
    stage
        .create("three", json!({"target": {"name": "one-secret"}}))
        .await;
    stage.until_blocked("three", "TargetConflict").await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage
        .resources()
        .delete("one", &Default::default())
        .await
        .unwrap();
    stage.until_rotated("two", 1).await;
    stage.until_rotated("three", 1).await;
    assert!(stage.holds_live("two").await);
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn one_rotation_costs_one_read_and_one_call_at_the_vendor() {
    let stage = stage().await;
    let token = stage.token("cost");
    stage
        .create("cost", json!({"token": {"name": null, "id": token.id}}))
        .await;
    stage.until_rotated("cost", 1).await;
    let before = stage.astro.requests().len();
    stage.request("cost", "now").await;
    stage.until_rotated("cost", 2).await;
    let about = stage.astro.requests().split_off(before);
    let about: Vec<_> = about
        .iter()
        .filter(|r| r.token_id.as_ref() == Some(&token.id))
        .map(|r| r.operation)
        .collect();
    assert_eq!(about, [Operation::Get, Operation::Rotate]);
}
