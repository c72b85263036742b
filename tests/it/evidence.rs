//! What evidence there is decides: after a restore, a new start from nothing or a person's edit no value is rotated that
//! is live, and a dead one is replaced once.

use crate::stage::{self, DEADLINE, Stage};
use crate::whole_cluster::audited as stage;
use astro_token_operator::api::{Cause, Status, WorkspaceTokenRotation};
use futures::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use lab::astro::{Astro, Issued, NewToken, Operation};
use serde_json::{Value, json};
use tokio::time::Instant;

const PREFIX: &str = "astro-token-operator.io";

/// Waits until a resource that is alone in its namespace was looked at by a whole pass, on a record of the vendor's
/// that was read after now.
async fn until_audited(stage: &Stage) {
    let lists = |world: &lab::astro::World| {
        world.count_requests(|request| {
            request.operation == Operation::List
                && request.credential.as_ref() == Some(&stage.owner.id)
                && request.status.is_some()
        })
    };
    // The first of them may have begun before, and the pass of the next is over when one more begins.
    let wanted = lists(&stage.astro) + 3;
    stage.astro.until(|world| lists(world) >= wanted).await;
}

/// It is ready, its Secret holds the live value, and the token was rotated exactly this often.
async fn assert_rests(stage: &Stage, name: &str, token: &Issued, rotations: usize, what: &str) {
    stage
        .until(name, &format!("ready: {what}"), |_, status| {
            stage::is_ready(status) && status.pending.is_none()
        })
        .await;
    until_audited(stage).await;
    let status = status(stage, name).await;
    assert!(stage::is_ready(&status), "{what}: {status:?}");
    assert!(stage.holds_live(name).await, "{what}: a dead value");
    let history = status.history;
    assert_eq!(
        stage.astro.rotations(&token.id),
        rotations,
        "{what}: {history:#?}"
    );
    stage.assert_no_leak().await;
}

async fn status(stage: &Stage, name: &str) -> Status {
    let resource = stage.resources().get(name).await.unwrap();
    resource.status.unwrap_or_default()
}

/// Writes a status back as an administrator does who has a backup.
async fn restore_status(stage: &Stage, name: &str, status: &Status) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut resource: WorkspaceTokenRotation = stage.resources().get(name).await.unwrap();
        resource.status = Some(status.clone());
        let params = PostParams {
            field_manager: Some("an-administrator".into()),
            ..PostParams::default()
        };
        let api = stage.resources();
        match api.replace_status(name, &params, &resource).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 && Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn consent(name: &str) -> Value {
    json!({"metadata": {"annotations": {format!("{PREFIX}/adopt"): name}}})
}

#[tokio::test]
async fn a_value_that_is_given_to_the_operator_is_kept_only_where_it_is_the_token_s_own() {
    let row = async |name: &'static str| {
        let stage = stage().await;
        let (token, other) = (stage.token(name), stage.token("other"));
        let (key, value, consents_to) = match name {
            "before" => ("token", &token.value, name),
            "for-another" => ("token", &token.value, "somebody"),
            "for-one" => ("token", &token.value, "for-one-more "),
            "spaced" => ("token", &token.value, "spaced "),
            "other-token" => ("token", &other.value, name),
            "other-key" => ("value", &token.value, name),
            _ => ("token", &name.to_owned(), name),
        };
        let secret = format!("{name}-secret");
        stage.put_secret(&secret, json!({key: value})).await;
        stage.edit_secret(&secret, consent(consents_to)).await;
        stage.create(name, json!({})).await;
        match name {
            "for-another" | "for-one" => {
                stage.until_blocked(name, "SecretNotOurs").await;
                until_audited(&stage).await;
                assert!(stage.astro.is_live(&token.value));
                assert_eq!(stage.value(&secret, key).await.as_ref(), Some(value));
            }
            "before" | "spaced" => {
                assert_rests(&stage, name, &token, 0, name).await;
                assert_eq!(stage.events(name).await, ["Adopted"]);
            }
            _ => assert_rests(&stage, name, &token, 1, name).await,
        }
        if name == "other-key" {
            assert_eq!(stage.value(&secret, key).await.as_ref(), Some(value));
        }
        assert!(stage.astro.is_live(&other.value), "{name}");
    };
    let rows = [
        "before",
        "spaced",
        "for-another",
        "for-one",
        "other-token",
        "other-key",
        "no-token",
    ];
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn an_old_value_that_is_adopted_is_kept_and_the_schedule_counts_from_then() {
    let stage = Stage::new(&Astro::start().await.unwrap()).await;
    let set_clock = |ahead| {
        stage
            .astro
            .settings(|settings| settings.clock_ahead = ahead)
    };
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    set_clock(days(-60));
    let token = stage.token("old");
    let value = stage.astro.rotate(&token.id);
    set_clock(SignedDuration::ZERO);
    stage
        .put_secret("old-secret", json!({"token": value}))
        .await;
    stage.edit_secret("old-secret", consent("old")).await;
    let _operator = stage.operator(&["--leader-election=false"]).await;
    let every = json!({"schedule": {"every": "30d"}});
    let created = stage.create("old", every).await.metadata.creation_timestamp;

    assert_rests(&stage, "old", &token, 0, "adopted").await;
    let next = status(&stage, "old").await.next_rotation.unwrap().0;
    assert!(next >= created.unwrap().0 + days(30), "{next}");
}

#[tokio::test]
async fn a_resource_created_again_over_a_dead_value_reclaims_once() {
    let stage = stage().await;
    let token = stage.token("again");
    stage.create("again", json!({})).await;
    stage.until_rotated("again", 1).await;
    stage.delete("again").await;
    stage.astro.rotate(&token.id);
    stage.create("again", json!({})).await;
    let resource = stage.until_rotated("again", 1).await;
    let last = resource.status.unwrap().last_rotation.unwrap();
    assert_eq!(last.reason, Cause::Reclaimed);
    assert_rests(&stage, "again", &token, 2, "reclaimed").await;
}

#[tokio::test]
async fn what_comes_from_another_cluster_with_a_dead_value_is_rotated_once_it_is_given_away() {
    let stage = stage().await;
    let token = stage.token("clone");
    stage.create("clone", json!({})).await;
    stage.until_rotated("clone", 1).await;
    stage.delete("clone").await;
    let elsewhere =
        json!({"metadata": {"annotations": {format!("{PREFIX}/cluster"): "the-other-one"}}});
    stage.edit_secret("clone-secret", elsewhere).await;
    stage.astro.rotate(&token.id);
    stage.create("clone", json!({})).await;
    stage.until_blocked("clone", "ClusterChanged").await;
    until_audited(&stage).await;
    assert_eq!(stage.astro.rotations(&token.id), 1);
    stage.edit_secret("clone-secret", consent("clone")).await;
    assert_rests(&stage, "clone", &token, 2, "given away").await;
}

#[tokio::test]
async fn a_status_from_a_backup_or_none_rotates_nothing_and_is_put_right() {
    let row = async |what: &'static str| {
        let stage = stage().await;
        let token = stage.token("back");
        stage.create("back", json!({})).await;
        let first = stage.until_rotated("back", 1).await.status.unwrap();
        stage.request("back", "one").await;
        let second = stage.until_rotated("back", 2).await.status.unwrap();
        stage.request("back", "two").await;
        stage.until_rotated("back", 3).await;
        let stored = second.last_rotation.clone().unwrap();
        let replaced = first.token.clone().unwrap();
        let pending = json!({
            "id": stored.id, "reason": stored.reason, "attempt": 1, "tokenId": token.id, "startedAt": stored.at,
            "replaces": {"rotatedAt": replaced.rotated_at, "shortToken": replaced.short_token},
            "holder": "a pod of long ago", "request": "one",
        });
        let with = |status: &Status, edit: Value| -> Status {
            let mut status = json!(status);
            stage::merge(&mut status, edit);
            serde_json::from_value(status).unwrap()
        };
        let old = match what {
            "of the first rotation" => first,
            "of the second" => second,
            "in the middle of the second" => with(&first, json!({"pending": pending})),
            "in the middle of one that nobody remembers" => {
                let unknown =
                    json!({"id": uuid::Uuid::now_v7().to_string(), "reason": "Lost", "attempt": 7});
                with(
                    &with(&first, json!({"pending": pending})),
                    json!({"pending": unknown}),
                )
            }
            "about another token" => {
                let other = json!({"pending": {"tokenId": "clm0former"}});
                with(&with(&second, json!({"pending": pending})), other)
            }
            "of a failure" => with(
                &second,
                json!({
                    "failures": 3, "retryAt": "2026-01-01T00:00:00Z", "token": null, "nextRotation": null,
                    "lastRotation": {"reason": "Lost", "attempts": 2},
                    "conditions": [{
                        "type": "Ready", "status": "False", "reason": "TokenConflict", "message": "x",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }, {
                        "type": "Stalled", "status": "True", "reason": "TokenConflict", "message": "x",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }],
                }),
            ),
            _ => Status::default(),
        };
        restore_status(&stage, "back", &old).await;
        let settled = |_: &WorkspaceTokenRotation, status: &Status| {
            stage::is_ready(status)
                && status.pending.is_none()
                && status.handled_request.as_deref() == Some("two")
        };
        stage.until("back", what, settled).await;
        assert_rests(&stage, "back", &token, 3, what).await;
        let now = status(&stage, "back").await;
        assert!(
            settled(&stage.resources().get("back").await.unwrap(), &now),
            "{what}"
        );
        assert!(
            now.conditions.iter().all(|c| c.type_ != "Stalled"),
            "{what}"
        );
        let version = |resource: WorkspaceTokenRotation| resource.metadata.resource_version;
        let before = version(stage.resources().get("back").await.unwrap());
        until_audited(&stage).await;
        let after = version(stage.resources().get("back").await.unwrap());
        assert_eq!(before, after, "{what}: written at rest");
        // And it goes on from there.
        stage.request("back", "three").await;
        stage
            .until("back", "three", |_, status| {
                status.handled_request.as_deref() == Some("three") && status.pending.is_none()
            })
            .await;
        assert_eq!(stage.astro.rotations(&token.id), 4, "{what}");
    };
    let rows = [
        "of the first rotation",
        "of the second",
        "in the middle of the second",
        "in the middle of one that nobody remembers",
        "about another token",
        "of a failure",
        "none at all",
    ];
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

/// Puts a Secret back as a backup tool does, over what is there or where nothing is.
async fn restore_secret(stage: &Stage, backup: &Secret, in_place: bool) {
    let name = backup.metadata.name.clone().unwrap();
    let mut secret = backup.clone();
    secret.metadata.managed_fields = None;
    secret.metadata.resource_version = None;
    secret.metadata.uid = None;
    let params = PostParams {
        field_manager: Some("velero".into()),
        ..PostParams::default()
    };
    if in_place {
        stage
            .secrets()
            .replace(&name, &params, &secret)
            .await
            .unwrap();
    } else {
        let none = DeleteParams::default();
        stage.secrets().delete(&name, &none).await.unwrap();
        stage.secrets().create(&params, &secret).await.unwrap();
    }
}

#[tokio::test]
async fn a_secret_from_a_backup_costs_one_rotation_where_its_value_is_dead_and_none_where_it_lives()
{
    let row = async |(in_place, dead): (bool, bool)| {
        let what = format!("in place {in_place}, dead {dead}");
        let stage = stage().await;
        let token = stage.token("saved");
        stage.create("saved", json!({})).await;
        stage.until_rotated("saved", 1).await;
        let old = stage.secret("saved-secret").await.unwrap();
        stage.request("saved", "more").await;
        stage.until_rotated("saved", 2).await;
        let new = stage.secret("saved-secret").await.unwrap();
        // Else the moment without a Secret would count.
        stage
            .edit("saved", json!({"spec": {"suspend": true}}))
            .await;
        let is_suspended =
            |_: &_, status: &Status| status.conditions.iter().any(|c| c.type_ == "Suspended");
        stage.until("saved", "suspended", is_suspended).await;
        restore_secret(&stage, if dead { &old } else { &new }, in_place).await;
        stage
            .edit("saved", json!({"spec": {"suspend": false}}))
            .await;
        if dead {
            let resource = stage.until_rotated("saved", 3).await;
            let last = resource.status.unwrap().last_rotation.unwrap();
            assert_eq!(last.reason, Cause::Reclaimed, "{what}");
        }
        assert_rests(&stage, "saved", &token, 2 + usize::from(dead), &what).await;
        // Its key is ours again.
        stage.request("saved", "and more").await;
        stage.until_rotated("saved", 3 + usize::from(dead)).await;
    };
    let rows = [(true, true), (true, false), (false, true), (false, false)];
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn evidence_that_a_person_removed_or_garbled_is_restored_without_a_rotation() {
    let row = async |(what, text): (&'static str, Option<&'static str>)| {
        let stage = stage().await;
        let token = stage.token("marred");
        stage.create("marred", json!({})).await;
        stage.until_rotated("marred", 1).await;
        let before = stage.secret("marred-secret").await.unwrap().metadata;
        let edit = match what {
            "label" => json!({"labels": {"app.kubernetes.io/managed-by": text}}),
            "all" => json!({"annotations": null, "labels": null}),
            key => json!({"annotations": {format!("{PREFIX}/{key}"): text}}),
        };
        stage
            .edit_secret("marred-secret", json!({"metadata": edit}))
            .await;
        let row = format!("{what}: {text:?}");
        assert_rests(&stage, "marred", &token, 1, &row).await;
        let evidence = |metadata: &ObjectMeta| {
            let of = |key: &&str| {
                let annotations = metadata.annotations.as_ref()?;
                annotations.get(&format!("{PREFIX}/{key}")).cloned()
            };
            let keys = [
                "owned-by",
                "key",
                "token-id",
                "rotated-at",
                "short-token",
                "cluster",
            ];
            (metadata.labels.clone(), keys.each_ref().map(of))
        };
        let wanted = evidence(&before);
        let restored = |secret: &Secret| evidence(&secret.metadata) == wanted;
        stage.until_secret_of("marred-secret", &row, restored).await;
        assert_eq!(stage.astro.rotations(&token.id), 1, "{row}");
        // What was healed is still noticed to die.
        stage.astro.rotate(&token.id);
        stage
            .until("marred", "reclaimed", |_, status| {
                let last = status.last_rotation.as_ref();
                last.is_some_and(|last| last.reason == Cause::Reclaimed) && status.pending.is_none()
            })
            .await;
        assert_rests(&stage, "marred", &token, 2, &row).await;
    };
    let rows = [
        ("label", None),
        ("label", Some("helm")),
        ("owned-by", None),
        ("owned-by", Some("nobody")),
        ("key", None),
        ("key", Some("../other")),
        ("token-id", None),
        ("token-id", Some("../../x\u{202e}")),
        ("token-id", Some("clm0another")),
        ("rotated-at", None),
        ("rotated-at", Some("yesterday")),
        ("rotated-at", Some("2020-01-01T00:00:00Z")),
        ("rotated-at", Some("2099-01-01T00:00:00Z")),
        ("short-token", None),
        ("short-token", Some("other")),
        ("rotation-id", None),
        ("rotation-id", Some("x")),
        ("cluster", None),
        ("handled-request", Some("anything")),
        ("expires-at", Some("2020-01-01T00:00:00Z")),
        ("all", None),
    ];
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn a_consent_is_used_up_by_the_value_it_was_given_for() {
    let stage = stage().await;
    let token = stage.token("ci");
    let adopt =
        |text: &str| json!({"metadata": {"annotations": {format!("{PREFIX}/adopt"): text}}});
    let given = json!({
        "metadata": {"name": "ci-secret", "annotations": {format!("{PREFIX}/adopt"): "ci"}},
        // As a file has it that was made on Windows.
        "stringData": {"token": format!("Bearer {}\r\n", token.value)},
    });
    let given: Secret = serde_json::from_value(given).unwrap();
    stage
        .secrets()
        .create(&PostParams::default(), &given)
        .await
        .unwrap();
    stage.create("ci", json!({})).await;
    assert_rests(&stage, "ci", &token, 0, "adopted").await;
    let stored = stage.value("ci-secret", "token").await;
    assert!(stored.as_ref() == Some(&token.value), "not the exact value");

    // What a clone of the cluster looks like: its old consent must not cost production its value.
    let clone = json!({"metadata": {"annotations": {format!("{PREFIX}/cluster"): "another"}}});
    stage.edit_secret("ci-secret", clone).await;
    stage.astro.rotate(&token.id);
    let message = stage.until_blocked("ci", "ClusterChanged").await;
    assert!(message.contains("adopt=ci/2"), "{message}");
    stage.edit_secret("ci-secret", adopt("ci ")).await;
    until_audited(&stage).await;
    stage.until_blocked("ci", "ClusterChanged").await;
    assert_eq!(stage.astro.rotations(&token.id), 0);

    stage.edit_secret("ci-secret", adopt("ci/2")).await;
    stage.until_rotated("ci", 1).await;
    assert_rests(&stage, "ci", &token, 1, "with a new consent").await;
    // And once more the old one, as it stands in a repository.
    stage.edit_secret("ci-secret", adopt("ci")).await;
    assert_rests(&stage, "ci", &token, 1, "with an old consent").await;
    let params = DeleteParams::default();
    stage.secrets().delete("ci-secret", &params).await.unwrap();
    stage.until_rotated("ci", 2).await;
}

#[tokio::test]
async fn managed_fields_that_are_gone_rotate_nothing() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let stripped = json!({"metadata": {"managedFields": [{}]}});
    stage.edit_secret("ci-secret", stripped).await;
    assert_rests(&stage, "ci", &token, 1, "stripped of its managed fields").await;
    stage.request("ci", "now").await;
    stage.until_rotated("ci", 2).await;
    assert_rests(&stage, "ci", &token, 2, "and rotated").await;
}

#[tokio::test]
async fn a_target_that_is_renamed_there_and_back_keeps_its_live_value() {
    let stage = stage().await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let rename = async |name: &str| {
        let target = json!({"spec": {"target": {"name": name}}});
        stage.edit("ci", target).await;
        let bound = |_: &WorkspaceTokenRotation, status: &Status| {
            let binding = status.binding.as_ref();
            stage::is_ready(status) && binding.is_some_and(|it| it.name == name)
        };
        stage.until("ci", name, bound).await;
    };
    rename("other").await;
    stage.request("ci", "now").await;
    stage.until_rotated("ci", 2).await;
    rename("ci-secret").await;
    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    rename("third").await;
    stage.request("ci", "again").await;
    stage.until_rotated("ci", 3).await;
    rename("fourth").await;
    rename("ci-secret").await;
    assert!(stage.holds_live("ci").await);
    assert_rests(&stage, "ci", &token, 3, "there and back by two others").await;
}

#[tokio::test]
async fn a_secret_that_is_replaced_with_a_used_consent_is_not_taken() {
    let stage = stage().await;
    let token = stage.token("ci");
    let value = json!({"token": token.value});
    stage.put_secret("ci-secret", value).await;
    stage.edit_secret("ci-secret", consent("ci")).await;
    stage.create("ci", json!({})).await;
    assert_rests(&stage, "ci", &token, 0, "adopted").await;

    // As `kubectl replace` does with the file of then: no label, no stamp, and the consent.
    let file = json!({
        "metadata": {"name": "ci-secret", "annotations": consent("ci")["metadata"]["annotations"]},
        "stringData": {"token": "of a person"},
    });
    let file = serde_json::from_value(file).unwrap();
    let (secrets, params) = (stage.secrets(), PostParams::default());
    let replaced = secrets.replace("ci-secret", &params, &file);
    replaced.await.unwrap();
    let message = stage.until_blocked("ci", "SecretNotOurs").await;
    until_audited(&stage).await;
    let left = stage.value("ci-secret", "token").await;
    assert_eq!(left.as_deref(), Some("of a person"));
    assert_eq!(stage.astro.rotations(&token.id), 0);

    // The message has the text that counts.
    let offered = "astro-token-operator.io/adopt=ci/2";
    assert!(message.contains(offered), "{message}");
    stage.edit_secret("ci-secret", consent("ci/2")).await;
    assert_rests(&stage, "ci", &token, 1, "taken with a new consent").await;
}

#[tokio::test]
async fn a_credential_that_expires_soon_is_warned_of_and_works_as_long_as_it_lasts() {
    let stage = stage().await;
    let name = format!("expiring {}", stage.namespace);
    let credential = NewToken::owner(name, &stage.workspace).expires(1);
    let credential = stage.astro.create(credential);
    stage
        .put_secret("owner", json!({"token": credential.value}))
        .await;
    let token = stage.token("r");
    stage.create("r", json!({})).await;
    let warned = |_: &_, status: &Status| status.present("CredentialsExpiring").is_some();
    stage.until("r", "warned of", warned).await;
    stage.until_notice("r", "CredentialsExpiring").await;
    stage.until_rotated("r", 1).await;
    // With one that never expires the warning is over.
    stage
        .put_secret("owner", json!({"token": stage.owner.value}))
        .await;
    let over = |_: &_, status: &Status| status.present("CredentialsExpiring").is_none();
    stage.until("r", "no longer warned of", over).await;
    assert_rests(&stage, "r", &token, 1, "rotated once").await;
}

#[tokio::test]
async fn a_mistyped_name_says_nothing_of_the_value_and_a_deleted_token_does() {
    let stage = stage().await;
    let token = stage.token("r");
    stage.create("r", json!({})).await;
    stage.until_rotated("r", 1).await;
    let name = |name: &str| json!({"spec": {"token": {"name": name}}});
    stage.edit("r", name("no such token")).await;
    let stalled = |_: &_, status: &Status| {
        let stalled = status.present("Stalled");
        stalled.is_some_and(|stalled| stalled.reason == "TokenNotFound")
    };
    stage.until("r", "stalled", stalled).await;
    assert!(stage::is_ready(&status(&stage, "r").await));
    stage.edit("r", name(&stage.token_name("r"))).await;
    assert_rests(&stage, "r", &token, 1, "the name is right again").await;
    stage.astro.delete(&token.id);
    stage.until_blocked("r", "TokenNotFound").await;
    assert!(!stage::is_ready(&status(&stage, "r").await));
}
