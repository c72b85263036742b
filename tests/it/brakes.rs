//! What others undo again and again, and what fails again and again, is repaired less and less often, is told of, and
//! heals once it is left alone.

use crate::stage::net::http;
use crate::stage::process::free_port;
use crate::stage::{self, Stage};
use kube::api::{DeleteParams, Patch, PatchParams};
use lab::astro::{Astro, Fault, Operation, Step};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often another party is at it.
const OFTEN: Duration = Duration::from_millis(200);
const ALONE: &str = "--leader-election=false";

async fn fresh_stage() -> Stage {
    Stage::new(&Astro::start().await.unwrap()).await
}

/// Does this again and again for so long.
async fn again_and_again(long: Duration, mut deed: impl AsyncFnMut()) {
    let end = Instant::now() + long;
    while Instant::now() < end {
        deed().await;
        sleep(OFTEN).await;
    }
}

/// Removes one thing from the Secret `ci-secret`, as another party; returns whether it was there.
async fn remove(stage: &Stage, kind: &str, key: &str) -> bool {
    let Some(secret) = stage.secret("ci-secret").await else {
        return false;
    };
    let metadata = json!(secret.metadata);
    if metadata[kind][key].is_null() {
        return false;
    }
    let edit = json!({"metadata": {kind: {key: null}}});
    let params = PatchParams {
        field_manager: Some("another-party".into()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(edit);
    let secrets = stage.secrets();
    secrets.patch("ci-secret", &params, &patch).await.is_ok()
}

fn number(status: &Value) -> usize {
    status.as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_secret_that_is_deleted_again_and_again_costs_few_rotations_and_heals_when_it_is_left_alone()
 {
    let stage = fresh_stage().await;
    let _operator = stage.operator(&[ALONE]).await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let mut deleted = 0;
    again_and_again(Duration::from_secs(5), async || {
        let (secrets, params) = (stage.secrets(), DeleteParams::default());
        deleted += usize::from(secrets.delete("ci-secret", &params).await.is_ok());
    })
    .await;
    let message = stage.until_blocked("ci", "TargetUnstable").await;
    assert!(
        message.contains("was deleted") && message.contains("times in a row"),
        "{message}"
    );
    let rotations = stage.astro.rotations(&token.id);
    // At once, after a fifth of the minimum interval, after all of it, and after three of them.
    assert!((3..=4).contains(&rotations), "{rotations} rotations");
    assert!((3..=4).contains(&deleted), "{deleted} deletions");

    let resource = stage.until_rotated("ci", rotations + 1).await;
    assert!(stage.holds_live("ci").await);
    let status = resource.status.unwrap();
    assert_eq!(number(&json!(status.history)), rotations + 1);
    assert_eq!(stage.astro.rotations(&token.id), rotations + 1);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn values_that_are_lost_in_a_row_are_replaced_less_and_less_and_one_that_is_stored_ends_it() {
    let stage = fresh_stage().await;
    let port = free_port();
    let listen = format!("--listen=127.0.0.1:{port}");
    let flags = [ALONE, "--minimum-interval=10s", &listen];
    let _operator = stage.operator(&flags).await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let lost = Fault::on(Operation::Rotate).token(&token.id).times(3);
    stage.astro.fault(lost.after(Step::Close));
    // Versions have whole seconds.
    stage::next_second().await;
    stage::next_second().await;
    stage.request("ci", "now").await;
    let in_a_row = |_: &_, status: &astro_token_operator::api::Status| {
        let stalled = status.present("Stalled");
        stalled.is_some_and(|it| it.reason == "ValueLost" && it.message.contains("3 values of"))
    };
    stage
        .until("ci", "lost three times in a row", in_a_row)
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 4);
    let metrics = http().get(format!("http://127.0.0.1:{port}/metrics"));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let resource = format!(r#"{{namespace="{}",name="ci"}}"#, stage.namespace);
    for line in [
        format!("astro_token_operator_values_lost_in_a_row{resource} 3"),
        "astro_token_operator_rotations_held_back 1".into(),
        "astro_token_operator_values_lost_total 2".into(),
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }

    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 5);
    stage.assert_no_leak().await;
}

/// The value is live and stays so, whatever is done to what is written beside it.
async fn undone(kind: &str, key: &str) {
    let stage = fresh_stage().await;
    let _operator = stage.operator(&[ALONE]).await;
    let token = stage.token("ci");
    let labels = json!({"target": {"labels": {"team": "data"}}});
    stage.create("ci", labels).await;
    stage.until_rotated("ci", 1).await;
    let reads = || {
        stage.astro.count_requests(|request| {
            matches!(request.operation, Operation::Get | Operation::GetWorkspace)
        })
    };
    let before = reads();
    let (mut removed, mut pokes) = (0, 0);
    again_and_again(Duration::from_secs(8), async || {
        removed += usize::from(remove(&stage, kind, key).await);
        // Each wakes the resource, and asks for nothing.
        pokes += 1;
        let poke = json!({"metadata": {"annotations": {"example.com/poke": pokes.to_string()}}});
        stage.edit("ci", poke).await;
        let status = stage.resources().get("ci").await.unwrap().status.unwrap();
        assert!(stage::is_ready(&status), "{key}: {status:?}");
    })
    .await;
    // At once, and then after 3 seconds of this pace, doubled.
    assert!((2..=4).contains(&removed), "{key}: written {removed} times");
    let message = stage.until_blocked("ci", "TargetUnstable").await;
    assert!(message.contains(key), "{message}");
    // Each write takes one look, of two reads; between them the proof stands for an audit interval, here two seconds.
    let reads = reads() - before;
    assert!(
        reads <= 20,
        "{key}: {reads} reads of the token at {pokes} pokes"
    );

    let at_rest = |_: &_, status: &astro_token_operator::api::Status| {
        stage::is_ready(status)
            && status.present("Stalled").is_none()
            && status.present("Reconciling").is_none()
    };
    stage.until("ci", "left alone", at_rest).await;
    let is_back =
        |secret: &k8s_openapi::api::core::v1::Secret| !json!(secret.metadata)[kind][key].is_null();
    stage.until_secret("ci-secret", is_back).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 1, "{key}");
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_label_of_the_spec_that_is_removed_again_and_again_is_written_a_few_times() {
    undone("labels", "team").await;
}

#[tokio::test]
async fn the_label_that_is_watched_is_written_a_few_times_though_it_is_removed_again_and_again() {
    undone("labels", "app.kubernetes.io/managed-by").await;
}

#[tokio::test]
async fn a_part_of_the_stamp_that_is_removed_again_and_again_is_written_a_few_times() {
    undone("annotations", "astro-token-operator.io/token-id").await;
}

#[tokio::test]
async fn an_edit_is_written_at_once_though_another_party_undoes_what_is_written() {
    let stage = fresh_stage().await;
    let _operator = stage.operator(&[ALONE]).await;
    stage.token("ci");
    let labels = |team: &str| json!({"target": {"labels": {"team": team}}});
    stage.create("ci", labels("one")).await;
    stage.until_rotated("ci", 1).await;
    again_and_again(Duration::from_secs(4), async || {
        remove(&stage, "labels", "team").await;
    })
    .await;
    stage.until_blocked("ci", "TargetUnstable").await;
    let before = Instant::now();
    stage.edit("ci", json!({"spec": labels("two")})).await;
    let is_two = |secret: &k8s_openapi::api::core::v1::Secret| {
        let labels = secret.metadata.labels.as_ref();
        labels
            .and_then(|it| it.get("team"))
            .is_some_and(|it| it == "two")
    };
    stage.until_secret("ci-secret", is_two).await;
    // Its brake holds for six seconds and more by then.
    assert!(before.elapsed() < Duration::from_secs(3), "held back");
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_key_that_is_emptied_is_no_value_and_no_reason_to_rotate_again_and_again() {
    let stage = fresh_stage().await;
    let _operator = stage.operator(&[ALONE]).await;
    let token = stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    let empty = || json!({"data": {"token": ""}});
    stage.edit_secret("ci-secret", empty()).await;
    let message = stage.until_blocked("ci", "SecretNotOurs").await;
    assert!(message.contains("kubectl-edit"), "{message}");
    assert_eq!(stage.astro.rotations(&token.id), 1);
    // Where nothing tells who emptied it, it is read that there is none.
    let nobodys = json!({"metadata": {"managedFields": [{}]}});
    stage.edit_secret("ci-secret", nobodys).await;
    stage.until_rotated("ci", 2).await;
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&token.id), 2);
    stage.assert_no_leak().await;
}
