//! A resource that the operator has rotated, as the pattern of others: their statuses and the metadata of their Secrets
//! have its shape and size, with names, ids and times of their own.

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fleet::KEY;
use super::now;
use super::watching::status;

/// Field managers as the operator's, so that the API server has the same to merge.
pub const MANAGER: &str = "astro-token-operator";
/// That of the status.
pub const STATUS_MANAGER: &str = "astro-token-operator-status";

/// As many as a status keeps.
const HISTORY: i32 = 10;

/// A resource's status as the operator left it, and the metadata of its Secret, as text.
#[derive(Clone)]
pub struct Model {
    status: String,
    secret: String,
    next: String,
    texts: Texts,
}

/// What differs from one rotation to the next.
#[derive(Clone)]
pub struct Texts {
    /// Name of resource, token and Secret.
    pub name: String,
    /// Id of the token.
    pub token_id: String,
    /// Of the value.
    pub short_token: String,
    /// When the value was issued.
    pub rotated_at: String,
    /// Id of the rotation.
    pub rotation_id: String,
}

impl Model {
    /// By a settled resource and its Secret.
    ///
    /// # Errors
    /// When it is not settled, or the API server does not answer.
    pub async fn of(client: &Client, resource: &DynamicObject) -> anyhow::Result<Self> {
        let text = |pointer| status(resource, pointer).as_str().map(str::to_owned);
        let texts = Texts {
            name: resource.name_any(),
            token_id: text("/token/id").context("no token")?,
            short_token: text("/token/shortToken").context("no short token")?,
            rotated_at: text("/token/rotatedAt").context("no time of rotation")?,
            rotation_id: text("/lastRotation/id").context("no rotation")?,
        };
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let secret = api.get_metadata(&texts.name).await?;
        let secret = json!({ "labels": secret.labels(), "annotations": secret.annotations() });
        Ok(Self {
            status: status(resource, "").to_string(),
            secret: secret.to_string(),
            next: text("/nextRotation").context("no next rotation")?,
            texts,
        })
    }

    /// When the model's own value was issued.
    pub fn rotated_at(&self) -> &str {
        &self.texts.rotated_at
    }

    /// The status after a rotation.
    ///
    /// # Errors
    /// When the texts break its JSON.
    pub fn outcome(&self, texts: &Texts) -> anyhow::Result<Value> {
        self.texts.replaced_by(texts, &self.status)
    }

    /// The status of a resource that was rotated ten times, the last time at `last`, and is due next at `next`.
    ///
    /// # Errors
    /// When the texts break its JSON, or a time is out of range.
    pub fn settled(
        &self,
        texts: &Texts,
        last: Timestamp,
        next: Timestamp,
    ) -> anyhow::Result<Value> {
        let mut status = self.outcome(texts)?.to_string();
        // It is in a message too.
        status = status.replace(&self.next, &seconds(next));
        let mut status: Value = serde_json::from_str(&status)?;
        status["lastRotation"]["at"] = seconds(last).into();
        status["lastRotation"]["reason"] = "Scheduled".into();
        let mut history = Vec::new();
        for n in 0..HISTORY {
            let at = last - next.duration_since(last) * n;
            let mut entry = status["history"][0].clone();
            entry["at"] = seconds(at).into();
            entry["reason"] = "Scheduled".into();
            entry["id"] = match n {
                0 => texts.rotation_id.as_str().into(),
                _ => rotation_id(at).into(),
            };
            history.push(entry);
        }
        status["history"] = history.into();
        Ok(status)
    }

    /// The status before a rotation is begun.
    ///
    /// # Errors
    /// When the texts break its JSON.
    pub fn intent(&self, texts: &Texts) -> anyhow::Result<Value> {
        let mut status = self.outcome(texts)?;
        status["pending"] = json!({
            "id": texts.rotation_id,
            "reason": "Scheduled",
            "attempt": 1,
            "tokenId": texts.token_id,
            "startedAt": seconds(now()),
            "replaces": { "rotatedAt": texts.rotated_at, "shortToken": texts.short_token },
            "holder": "floor/0123456789abcdef0123456789abcdef",
        });
        let reconciling = json!({
            "type": "Reconciling",
            "status": "True",
            "reason": "Rotating",
            "message": format!("rotating token {} (Scheduled)", texts.token_id),
            "lastTransitionTime": seconds(now()),
        });
        let conditions = status["conditions"].as_array_mut();
        conditions.context("no conditions")?.push(reconciling);
        Ok(status)
    }

    /// Holds a value: only to be sent.
    ///
    /// # Errors
    /// When the texts break its JSON.
    pub fn secret(
        &self,
        texts: &Texts,
        version: Option<&str>,
        value: &str,
    ) -> anyhow::Result<Value> {
        let mut metadata = self.texts.replaced_by(texts, &self.secret)?;
        metadata["name"] = texts.name.as_str().into();
        if let Some(version) = version {
            metadata["resourceVersion"] = version.into();
        }
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "data": { KEY: BASE64_STANDARD.encode(value) },
        }))
    }
}

impl Texts {
    /// The JSON in `text` with these texts replaced by `others`.
    fn replaced_by(&self, others: &Texts, text: &str) -> anyhow::Result<Value> {
        let text = text
            .replace(&self.rotation_id, &others.rotation_id)
            .replace(&self.token_id, &others.token_id)
            .replace(&self.short_token, &others.short_token)
            .replace(&self.rotated_at, &others.rotated_at)
            .replace(&self.name, &others.name);
        Ok(serde_json::from_str(&text)?)
    }
}

/// As the operator makes them: the time is in it.
pub fn rotation_id(at: Timestamp) -> String {
    let millis = u64::try_from(at.as_millisecond()).unwrap_or_default();
    let random = Uuid::new_v4().as_u128().to_be_bytes();
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&random[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes)
        .into_uuid()
        .to_string()
}

/// As times are in the API.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
