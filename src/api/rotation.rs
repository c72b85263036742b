//! What a status tells of rotations: the one that is recorded, and those of the past.

use super::unknown::Unknown;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A recorded intent: written before the vendor is called, gone when the outcome is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Pending {
    /// Rotation id.
    pub id: String,
    /// Why the rotation is done.
    pub reason: Cause,
    /// 1 for the first call, raised by each further one.
    pub attempt: i32,
    /// The token to rotate.
    pub token_id: String,
    /// When the intent was recorded.
    pub started_at: Time,
    /// The version that was live when the intent was recorded.
    pub replaces: Version,
    /// The process that works on it.
    pub holder: String,
    /// The text of the annotation `rotate` that this rotation answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The text of the annotation `revoke` that this rotation answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke: Option<String>,
}

/// What an intent that cannot be read has for texts: an old API server makes null of empty ones.
const UNREADABLE: &str = "unreadable";

impl Pending {
    /// One that cannot be read, as a newer version may have written it: that there is one is all that is believed of it.
    pub fn unreadable() -> Self {
        Self {
            id: UNREADABLE.into(),
            reason: Cause::Lost,
            attempt: 1,
            token_id: UNREADABLE.into(),
            started_at: Time(jiff::Timestamp::UNIX_EPOCH),
            replaces: Version::default(),
            holder: UNREADABLE.into(),
            request: None,
            revoke: None,
        }
    }

    /// Whether it is one of these.
    pub fn is_unreadable(&self) -> bool {
        self.id == UNREADABLE
    }
}

/// Which value of a token: the vendor changes both with each rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The vendor's `lastRotatedAt`; absent before the first rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,
    /// The vendor's `shortToken`, the tie-breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_token: Option<String>,
}

/// One past rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Rotation id.
    pub id: String,
    /// Why it was done.
    pub reason: Cause,
    /// When, by the operator's clock.
    pub at: Time,
    /// The token that was rotated.
    pub token_id: String,
    /// What became of it.
    pub outcome: RotationOutcome,
}

/// Why a rotation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Cause {
    /// The Secret held no value.
    Initial,
    /// The schedule's `every` or `cron`.
    Scheduled,
    /// The schedule's `beforeExpiry`.
    Expiring,
    /// A person asked for it by annotation.
    Requested,
    /// A value was issued and lost before it was stored.
    Lost,
    /// Somebody else had rotated the token.
    Reclaimed,
    /// A person asked for the end of the value that the Secret held before: only with two tokens.
    Revoked,
    /// Another reason, of a newer version.
    #[serde(untagged)]
    #[schemars(!untagged, skip)]
    Other(Unknown),
}

/// What became of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RotationOutcome {
    /// The new value is in the Secret.
    Stored,
    /// The vendor issued a value that never reached the Secret.
    Lost,
    /// The vendor issued a value only to invalidate the previous one; it was not stored.
    Dropped,
    /// Something else, of a newer version.
    #[serde(untagged)]
    #[schemars(!untagged, skip)]
    Other(Unknown),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(name) => write!(f, "{name:?}"),
            known => write!(f, "{known:?}"),
        }
    }
}

impl std::fmt::Display for RotationOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(name) => write!(f, "{name:?}"),
            known => write!(f, "{known:?}"),
        }
    }
}
