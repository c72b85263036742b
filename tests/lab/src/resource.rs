//! What the lab reads of a WorkspaceTokenRotation: the fields a person would look at.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, GroupVersionKind, Object};
use serde::Deserialize;
use serde_json::Value;

/// A resource as the API server shows it.
pub type Resource = Object<Value, Status>;

/// Its status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
    pub token: Option<Token>,
    pub next_rotation: Option<Timestamp>,
    pub last_rotation: Option<LastRotation>,
    pub pending: Option<Pending>,
    pub handled_request: Option<String>,
    /// The newest first.
    pub history: Vec<Entry>,
}

/// The token whose value the Secret holds, and which value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Token {
    pub short_token: String,
}

/// The last rotation that was stored.
#[derive(Clone, Debug, Deserialize)]
pub struct LastRotation {
    pub id: String,
    pub attempts: Option<i32>,
    pub reason: String,
    pub at: Timestamp,
}

/// The recorded intent.
#[derive(Clone, Debug, Deserialize)]
pub struct Pending {
    pub reason: String,
    pub replaces: Token,
}

/// A rotation of the past.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    pub reason: String,
    pub outcome: String,
}

/// The kind of the operator's resources.
pub fn kind() -> ApiResource {
    let kind = GroupVersionKind::gvk(
        "astro-token-operator.io",
        "v1alpha1",
        "WorkspaceTokenRotation",
    );
    ApiResource::from_gvk_with_plural(&kind, "workspacetokenrotations")
}

/// The status; an empty one before there is any.
pub fn status(resource: &Resource) -> Status {
    resource.status.clone().unwrap_or_default()
}

impl Status {
    /// Status and reason of the condition `Ready`.
    pub fn ready(&self) -> (&str, &str) {
        let ready = self.conditions.iter().find(|it| it.type_ == "Ready");
        ready.map_or(("Unknown", "none"), |it| (&it.status, &it.reason))
    }

    /// Whether `Ready` is true and nothing is in flight, all of it said of this generation of the spec.
    pub fn is_at_rest(&self, generation: Option<i64>) -> bool {
        self.ready().0 == "True" && self.pending.is_none() && self.observed_generation == generation
    }

    /// Why the last rotation was done.
    pub fn cause(&self) -> &str {
        let last = self.last_rotation.as_ref();
        last.map_or("none", |last| &last.reason)
    }

    /// How things are, in one line.
    pub fn summary(&self) -> String {
        let (ready, reason) = self.ready();
        let pending = self.pending.as_ref().map_or("none", |it| &it.reason);
        let last = self.cause();
        format!("Ready={ready} ({reason}), pending: {pending}, last: {last}")
    }

    /// The rotations of the past, the oldest first, as `Reason` or, when it was not stored, `Reason/Outcome`.
    pub fn story(&self) -> Vec<String> {
        let entry = |entry: &Entry| match entry.outcome.as_str() {
            "Stored" => entry.reason.clone(),
            outcome => format!("{}/{outcome}", entry.reason),
        };
        self.history.iter().rev().map(entry).collect()
    }
}
