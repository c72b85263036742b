//! The custom resource: its types, and the label and annotation keys the operator writes and reads.

mod rotation;
mod scope;
mod token;
mod unknown;

pub use self::rotation::{Cause, HistoryEntry, Pending, RotationOutcome, Version};
pub use self::scope::Scope;
pub use self::token::{Role, TokenRef};
pub use self::unknown::Unknown;

use crate::id;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which resource: its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl From<&WorkspaceTokenRotation> for Key {
    fn from(resource: &WorkspaceTokenRotation) -> Self {
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
        }
    }
}

/// API group, and the prefix of every annotation the operator owns.
pub const GROUP: &str = "astro-token-operator.io";
/// Key of the raw value in the target Secret, and of the credential in its Secret, when the spec names none.
pub const DEFAULT_KEY: &str = "token";

/// Label on every Secret the operator writes; its watch selects by it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "astro-token-operator");

/// Annotations that people write on a resource, and on a Secret to give it away.
pub mod request {
    /// On the resource: rotate now, once for each distinct value.
    pub const ROTATE: &str = "astro-token-operator.io/rotate";
    /// On the resource: like `rotate`, and apart from it; with two tokens the previous value is killed too.
    pub const REVOKE: &str = "astro-token-operator.io/revoke";
    /// On a Secret: the resource of this name may take it over.
    pub const ADOPT: &str = "astro-token-operator.io/adopt";
}

/// Annotations the operator writes on a Secret: the evidence of which value it holds.
pub mod evidence {
    /// Name of the resource that owns the Secret.
    pub const OWNED_BY: &str = "astro-token-operator.io/owned-by";
    /// Key that holds the raw value.
    pub const KEY: &str = "astro-token-operator.io/key";
    /// Id of the token the value belongs to.
    pub const TOKEN_ID: &str = "astro-token-operator.io/token-id";
    /// The vendor's `lastRotatedAt` of the value.
    pub const ROTATED_AT: &str = "astro-token-operator.io/rotated-at";
    /// The vendor's `shortToken` of the value.
    pub const SHORT_TOKEN: &str = "astro-token-operator.io/short-token";
    /// Id of the other token of the spec, when there are two that take turns.
    pub const OTHER_ID: &str = "astro-token-operator.io/other-token-id";
    /// The vendor's `lastRotatedAt` of the value of the other token that the Secret held before.
    pub const PREVIOUS_AT: &str = "astro-token-operator.io/previous-rotated-at";
    /// The vendor's `shortToken` of that value.
    pub const PREVIOUS_SHORT: &str = "astro-token-operator.io/previous-short-token";
    /// The `revoke` request that ends the value of the other token too, which is done once consumers had time to follow.
    pub const REVOKE_PREVIOUS: &str = "astro-token-operator.io/revoke-previous";
    /// Id of a rotation whose value must not be written any more.
    pub const FENCE: &str = "astro-token-operator.io/fence";
    /// The vendor's `shortToken` of the value before it.
    pub const REPLACED: &str = "astro-token-operator.io/replaced-short-token";
    /// Id of the rotation that obtained the value; carries our own clock (see `plan`).
    pub const ROTATION_ID: &str = "astro-token-operator.io/rotation-id";
    /// The vendor's `endAt` of the value; absent: it never expires.
    pub const EXPIRES_AT: &str = "astro-token-operator.io/expires-at";
    /// When the value was adopted, by our own clock; absent: it was rotated.
    pub const ADOPTED_AT: &str = "astro-token-operator.io/adopted-at";
    /// The `rotate` request that was answered with this value.
    pub const REQUEST: &str = "astro-token-operator.io/handled-request";
    /// The `revoke` request that was answered with this value.
    pub const REVOKE: &str = "astro-token-operator.io/handled-revoke";
    /// Hashes of the consents that were used for it, separated by commas; empty: none yet.
    pub const ADOPTED: &str = "astro-token-operator.io/adopted";
    /// Uid of the cluster's `kube-system` namespace.
    pub const CLUSTER: &str = "astro-token-operator.io/cluster";
}

/// Rotates one Astro API token on a schedule and keeps the live value in a Secret.
#[expect(clippy::duplicated_attributes, reason = "printer columns look alike")]
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "astro-token-operator.io",
    version = "v1alpha1",
    kind = "WorkspaceTokenRotation",
    plural = "workspacetokenrotations",
    shortname = "wtr",
    category = "astro",
    namespaced,
    status = "Status",
    doc = "Rotates one Astro API token on a schedule and keeps the live value in a Secret.",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Blocked", type_ = "string", json_path = ".status.conditions[?(@.type==\"Stalled\")].reason"),
    printcolumn(name = "Token", type_ = "string", json_path = ".status.token.name"),
    // Not of type date: kubectl prints a date in the future as <invalid>.
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRotation"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastRotation.at"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reconciling", type_ = "string", json_path = ".status.conditions[?(@.type==\"Reconciling\")].reason", priority = 1),
    printcolumn(name = "Secret", type_ = "string", json_path = ".spec.target.name", priority = 1),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.token.expiresAt", priority = 1),
    printcolumn(name = "Workspace", type_ = "string", json_path = ".spec.workspaceId", priority = 1),
)]
#[x_kube(
    validation = Rule::new("has(self.workspaceId) || (has(self.token.scope) && self.token.scope != 'Workspace')").message("give workspaceId, or token.scope: Deployment or Organization"),
    validation = Rule::new("!has(self.alternateToken) || !has(self.alternateToken.scope) || self.alternateToken.scope == (has(self.token.scope) ? self.token.scope : 'Workspace')").message("alternateToken must have the scope of token"),
    validation = Rule::new("!has(self.alternateToken) || !has(self.alternateToken.deploymentId) || (has(self.token.deploymentId) && self.alternateToken.deploymentId == self.token.deploymentId)").message("alternateToken must be for the Deployment of token"),
    validation = Rule::new("!has(self.alternateToken) || !(has(self.alternateToken.id) && has(self.token.id) && self.alternateToken.id == self.token.id || has(self.alternateToken.name) && has(self.token.name) && self.alternateToken.name == self.token.name)").message("token and alternateToken must be two tokens"),
    validation = Rule::new("!has(self.schedule.waitForPrevious) || has(self.alternateToken)").message("schedule.waitForPrevious only has a meaning with alternateToken"),
)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceTokenRotationSpec {
    /// Organization id; else the operator's `--organization-id`, else the credential's own claim.
    #[serde(
        default,
        deserialize_with = "id::read_optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub organization_id: Option<String>,
    /// Id of the Workspace the token must belong to. A token of another scope needs none.
    #[serde(
        default,
        deserialize_with = "id::read_optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub workspace_id: Option<String>,
    /// The token to rotate.
    pub token: TokenRef,
    /// A second token of the same scope. The two take turns: each rotation takes the one whose value the Secret does not hold,
    /// so that the value before stays valid until the next rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_token: Option<TokenRef>,
    /// When to rotate it.
    pub schedule: ScheduleSpec,
    /// `true`: no rotation of any kind, recovery included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// The API token to call the vendor with; absent: the operator's own, where it allows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// The Secret to write.
    pub target: Target,
    /// What to do when somebody else rotated the token; `Reclaim` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_rotation: Option<ExternalRotation>,
}

impl WorkspaceTokenRotationSpec {
    /// The reference to the token of this role.
    pub fn reference(&self, role: Role) -> Option<&TokenRef> {
        match role {
            Role::Token => Some(&self.token),
            Role::Alternate => self.alternate_token.as_ref(),
        }
    }

    /// Whether the operator is to call the vendor with the value that it stores: safe where two tokens take turns.
    pub fn rotates_its_credential(&self) -> bool {
        let secret = self.credentials.as_ref().map(|it| &it.secret_ref);
        secret.is_some_and(|it| it.name == self.target.name && it.key() == self.target.key())
            && self.alternate_token.is_some()
    }

    /// All that there are.
    pub fn references(&self) -> impl Iterator<Item = (Role, &TokenRef)> {
        let each = |role| Some((role, self.reference(role)?));
        Role::ALL.into_iter().filter_map(each)
    }
}

/// When rotation is due. At least one of `every`, `cron` and `beforeExpiry`; the earliest wins.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.every) || has(self.cron) || has(self.beforeExpiry)").message("give at least one of schedule.every, schedule.cron and schedule.beforeExpiry"),
    validation = Rule::new("!has(self.timeZone) || has(self.cron)").message("schedule.timeZone only has a meaning with schedule.cron"),
)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleSpec {
    /// This long after the last rotation: `720h`, `30d`, `4w` (a day is 24 hours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(w|d|h|m|s))+$"))]
    pub every: Option<String>,
    /// Five-field cron, or `@daily` and the like, in `timeZone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub cron: Option<String>,
    /// IANA time zone of `cron`, `UTC` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// This long before the token's own expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(w|d|h|m|s))+$"))]
    pub before_expiry: Option<String>,
    /// A delay between zero and this, fixed for each resource and due time, so that many resources do not fire at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(w|d|h|m|s))+$"))]
    pub jitter: Option<String>,
    /// With two tokens: a rotation that is due waits at most this long while consumers still use the value before, and until it was
    /// not used for this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(w|d|h|m|s))+$"))]
    pub wait_for_previous: Option<String>,
}

/// Where the vendor credential is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret in the resource's own namespace.
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key in the Secret, `token` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
}

/// The Secret that gets the value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Key of the raw value, `token` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: Option<String>,
    /// Type of the Secret, used when it is created; `Opaque` when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub type_: Option<String>,
    /// Labels to add to the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add to the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// What happens to the Secret when the resource is deleted; `Retain` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

impl SecretKeyRef {
    /// Key in the Secret.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(DEFAULT_KEY)
    }
}

impl Target {
    /// Key of the raw value.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(DEFAULT_KEY)
    }

    /// Whether the Secret is deleted with the resource.
    pub fn is_deleted_with_owner(&self) -> bool {
        self.deletion_policy == Some(DeletionPolicy::Delete)
    }
}

/// What happens to the Secret when the resource is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays: it may hold the only copy of a live credential.
    Retain,
    /// It is deleted with the resource, by an owner reference.
    Delete,
}

/// What to do when somebody else rotated the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalRotation {
    /// Rotate once more, so that the Secret works again.
    Reclaim,
    /// Say so, and leave the token alone.
    Report,
}

/// What the operator knows and did. Times are whole seconds, UTC.
///
/// Objects in it are atomic: an apply that leaves one out removes it whole, on the oldest API servers too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Generation of the spec this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled`, `Suspended` and `CredentialsExpiring`; all but the first only while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The Secret that holds the value, as the Service Binding specification has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The value in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenStatus>,
    /// The value that the Secret held before, while it is still valid: only with two tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<PreviousToken>,
    /// When the next rotation is due, jitter included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
    /// From when on times of the schedule's `cron` count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CronStatus>,
    /// The last rotation that was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<LastRotation>,
    /// The recorded intent; present only while a rotation is in flight or in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// The last text of the annotation `rotate` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_request: Option<String>,
    /// The last text of the annotation `revoke` that was acted on; empty: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_revoke: Option<String>,
    /// When the credential expires that the token is rotated with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires_at: Option<Time>,
    /// Hashes of the consents to take a Secret over that were used, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub used_consents: Vec<String>,
    /// Failures since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// Not before this time is the failed step tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// The last ten rotations, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<HistoryEntry>,
}

impl Status {
    /// The `Ready` condition.
    pub fn ready(&self) -> Option<&Condition> {
        self.conditions.iter().find(|it| it.type_ == "Ready")
    }

    /// The condition of this type, where it is true.
    pub fn present(&self, type_: &str) -> Option<&Condition> {
        let mut all = self.conditions.iter();
        all.find(|it| it.type_ == type_ && it.status == "True")
    }

    /// The conditions that tell what is not as it should be: `Stalled`, `Reconciling`, and `Ready` where it is false.
    pub fn obstacles(&self) -> impl Iterator<Item = &Condition> {
        let ready = self.ready().filter(|ready| ready.status == "False");
        let beside = ["Stalled", "Reconciling"].into_iter();
        beside.filter_map(|type_| self.present(type_)).chain(ready)
    }

    /// Whether `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "True")
    }
}

/// The Secret that holds the value; it stays named while an edit of `target.name` is not carried out yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Binding {
    /// Name of the Secret.
    pub name: String,
}

/// The token whose value the Secret holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct TokenStatus {
    /// Token id.
    pub id: String,
    /// Name at the vendor.
    pub name: String,
    /// The vendor's short display form of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_token: Option<String>,
    /// When the value was issued, by the vendor's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,
    /// When the value expires; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// The token whose value the Secret held before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PreviousToken {
    /// Token id.
    pub id: String,
    /// Name at the vendor.
    pub name: String,
    /// When it was last used, as far as Astro has noticed; cut to the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Time>,
    /// Whether it was used after consumers had time to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_used: Option<bool>,
    /// Until when the value is valid: its own expiry, or the rotation that replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Time>,
}

/// From when on times of the schedule's `cron` count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct CronStatus {
    /// Hash of `cron` and its time zone; absent: the schedule has no `cron`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Times up to this one do not count: it was written, or resumed, then.
    pub since: Time,
}

/// The last rotation that was stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LastRotation {
    /// Rotation id.
    pub id: String,
    /// Why it was done.
    pub reason: Cause,
    /// When, by the operator's clock.
    pub at: Time,
    /// Calls it took, where one did not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i32>,
}
