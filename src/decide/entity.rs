//! What a token is for: the entity of its scope, in the vendor's terms. Pure.

use crate::api::{Scope, WorkspaceTokenRotationSpec};
use crate::decide::evidence::Token;
use crate::id::is_same;
use std::fmt;

/// The entity that a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entity {
    /// Of which scope its tokens are.
    pub scope: Scope,
    /// Id of the Workspace, of the Deployment, or of the Organization as far as the spec names it; otherwise empty.
    pub id: String,
}

impl Entity {
    /// That of the token of a spec. What the spec lacks is empty, and one that lacks it is not acted on.
    pub fn of(spec: &WorkspaceTokenRotationSpec) -> Self {
        let scope = spec.token.scope.unwrap_or_default();
        let id = match scope {
            Scope::Workspace => &spec.workspace_id,
            Scope::Deployment => &spec.token.deployment_id,
            Scope::Organization => &spec.organization_id,
        };
        Self {
            scope,
            id: id.clone().unwrap_or_default(),
        }
    }

    /// The parameter of the vendor's list that leaves only tokens with a role on it, and its value.
    pub fn filter(&self) -> (&'static str, &str) {
        match self.scope {
            Scope::Workspace => ("workspaceId", &self.id),
            Scope::Deployment => ("deploymentId", &self.id),
            // The path of the call names it.
            Scope::Organization => ("includeOnlyOrganizationTokens", "true"),
        }
    }

    /// The field of a spec that says which it is.
    pub fn field(&self) -> &'static str {
        match self.scope {
            Scope::Workspace => "workspaceId",
            Scope::Deployment => "token.deploymentId",
            Scope::Organization => "organizationId",
        }
    }

    /// Whether this may be the same as another one: a spec need not name the Organization.
    pub fn may_be(&self, other: &Self) -> bool {
        let is_unnamed = self.id.is_empty() || other.id.is_empty();
        self.scope == other.scope && (is_unnamed || is_same(&self.id, &other.id))
    }

    /// Whether the token has a role on it.
    pub fn has(&self, token: &Token) -> bool {
        // The vendor shows only tokens of the Organization that it was asked for.
        self.scope == Scope::Organization || token.entities.iter().any(|id| is_same(id, &self.id))
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Organization => f.write_str("the Organization"),
            scope => write!(f, "{scope} {}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(scope: Scope, id: &str) -> Entity {
        let id = id.into();
        Entity { scope, id }
    }

    #[test]
    fn one_that_a_spec_leaves_open_may_be_any_of_its_scope() {
        use Scope::{Deployment, Organization, Workspace};
        let ours = entity(Organization, "org");
        for (one, other, expected) in [
            (entity(Workspace, "w"), entity(Workspace, "W"), true),
            (entity(Workspace, "w"), entity(Workspace, "v"), false),
            (entity(Workspace, "w"), entity(Deployment, "w"), false),
            (ours.clone(), entity(Organization, ""), true),
            (ours.clone(), entity(Organization, "other"), false),
            (ours, entity(Workspace, ""), false),
        ] {
            assert_eq!(one.may_be(&other), expected, "{one} {other}");
            assert_eq!(other.may_be(&one), expected, "{one} {other}");
        }
    }
}
