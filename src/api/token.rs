//! The reference to a token in a spec.

use super::scope::Scope;
use crate::id;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A token by name or by id, exactly one of the two.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.id)").message("give exactly one of token.name and token.id"),
    validation = Rule::new("has(self.deploymentId) == (has(self.scope) && self.scope == 'Deployment')").message("give token.deploymentId with token.scope: Deployment, and with no other"),
)]
#[serde(rename_all = "camelCase")]
pub struct TokenRef {
    /// Exact name; must match one token of the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
    /// Token id.
    #[serde(
        default,
        deserialize_with = "id::read_optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub id: Option<String>,
    /// What the token is for; `Workspace` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Id of the Deployment that a token with the scope `Deployment` is for.
    #[serde(
        default,
        deserialize_with = "id::read_optional",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub deployment_id: Option<String>,
}
