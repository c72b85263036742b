//! The tokens of a spec: one, or two that take turns.

use super::scope::Scope;
use crate::id;
use crate::id::is_same;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A token by name or by id, exactly one of the two.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.id)").message("give exactly one of name and id"),
    validation = Rule::new("has(self.deploymentId) == (has(self.scope) && self.scope == 'Deployment')").message("give deploymentId with scope: Deployment, and with no other"),
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
    /// What the token is for. When absent, `Workspace`, and that of `token` for `alternateToken`.
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

/// Which token of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `token`.
    Token,
    /// `alternateToken`.
    Alternate,
}

impl Role {
    /// All of them, in the order in which they are rotated first.
    pub const ALL: [Self; 2] = [Self::Token, Self::Alternate];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Token => Self::Alternate,
            Self::Alternate => Self::Token,
        }
    }

    /// The field of the spec.
    pub fn field(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Alternate => "alternateToken",
        }
    }
}

impl TokenRef {
    /// Whether it names the token of this id.
    pub fn has_id(&self, id: &str) -> bool {
        self.id.as_ref().is_some_and(|own| is_same(own, id))
    }
}
