//! What the store learns of a write, against an API server that is made up here and stores what it is sent.

use super::{Draft, rehearse, write};
use crate::api::{Key, WorkspaceTokenRotation, evidence};
use crate::cluster::error::Error;
use crate::cluster::store::Store;
use crate::decide::managed::{MANAGER, Metadata};
use crate::decide::stamp::{Stamp, rotation_id};
use axum::http::{Request, Response};
use jiff::Timestamp;
use kube::client::Body;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// Answers an apply with what was sent, as version 9.
fn server() -> Client {
    let answer = |request: Request<Body>| async move {
        let body = request.into_body().collect_bytes().await?;
        let mut secret: Value = serde_json::from_slice(&body).unwrap();
        let annotations = secret["metadata"]["annotations"].as_object().unwrap();
        let fields = annotations
            .keys()
            .map(|key| (format!("f:{key}"), json!({})));
        let fields: serde_json::Map<_, _> = fields.collect();
        let metadata = &mut secret["metadata"];
        metadata["uid"] = "u".into();
        metadata["resourceVersion"] = "9".into();
        metadata["managedFields"] = json!([{
            "manager": MANAGER, "operation": "Apply",
            "fieldsV1": {"f:data": {"f:token": {}}, "f:metadata": {"f:annotations": fields}},
        }]);
        let answer = Response::new(Body::from(secret.to_string().into_bytes()));
        Ok::<_, kube::Error>(answer)
    };
    Client::new(tower::service_fn(answer), "ns")
}

#[tokio::test]
async fn a_write_is_known_at_once_and_a_dry_run_is_not() {
    let owner = json!({
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {"name": "ci", "namespace": "ns", "uid": "o"},
        "spec": {"workspaceId": "w", "token": {"id": "tok"}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
    });
    let owner: WorkspaceTokenRotation = serde_json::from_value(owner).unwrap();
    let mut draft = Draft {
        owner: &owner,
        name: "s".into(),
        stamp: Stamp {
            owner: "ci".into(),
            key: "token".into(),
            token_id: "tok".into(),
            rotation_id: Some(rotation_id(Timestamp::UNIX_EPOCH, 1)),
            ..Stamp::default()
        },
        resource_version: None,
        replaces: None,
        force: true,
    };
    let known = Store::<Metadata>::default();
    let old =
        json!({"metadata": {"name": "s", "namespace": "ns", "uid": "u", "resourceVersion": "7"}});
    known.put(&serde_json::from_value(old).unwrap());
    let key = Key {
        namespace: "ns".into(),
        name: "s".into(),
    };
    let version = || known.get(&key).unwrap().resource_version();
    let client = server();
    // What was not there is there by now.
    let raced = rehearse(&client, &draft).await;
    assert!(matches!(raced, Err(Error::Raced)));
    draft.resource_version = Some("7".into());
    rehearse(&client, &draft).await.unwrap();
    assert_eq!(version().as_deref(), Some("7"));
    let held = write((&client, &known), &draft, &"value".into())
        .await
        .unwrap();
    assert_eq!(version().as_deref(), Some("9"));
    assert_eq!(
        known.get(&key).unwrap().annotations()[evidence::TOKEN_ID],
        held.stamp.token_id
    );
    assert_eq!(known.owned_by(&Key::from(&owner)).len(), 1);
    // What is kept has nothing of the value.
    assert!(
        !json!(known.get(&key).unwrap())
            .to_string()
            .contains(base64("value").as_str())
    );
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
