//! What was checked of a resource: permissions, the rehearsal of its Secret's write, and what Astro says.

use crate::api::{Role, Scope};
use crate::astro::record;
use crate::cluster::error::Error;
use crate::cluster::permissions::{self, Answer, Permission};
use crate::cluster::secret::{self, Draft};
use crate::cluster::watch::SecretAccess;
use crate::decide::entity::Entity;
use crate::decide::evidence::{Access, Live, Observed};
use crate::decide::validate::check_token;
use crate::reason::{Blocked, Reason};
use crate::text::line;
use futures::future::join_all;
use kube::Client;
use serde::Serialize;

/// What a check of the cluster's copy is called.
pub const PRESENT: &str = "what the cluster has of it now";

/// Longest text of the API server's that is shown, characters.
pub const LONGEST: usize = 400;

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was to be found out.
    pub name: String,
    /// Whether it is so.
    pub result: Outcome,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// Not as it should be.
    #[serde(rename = "no")]
    No,
    /// It could not be found out.
    #[serde(rename = "not checked")]
    NotChecked,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            result: Outcome::Ok,
            message: None,
            remedy: None,
        }
    }

    /// Not as it should be.
    pub fn no(
        name: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Outcome::No,
            message: Some(message.into()),
            remedy: Some(remedy.into()),
            ..Self::ok(name)
        }
    }

    /// It could not be found out.
    pub fn not(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            result: Outcome::NotChecked,
            message: Some(why.into()),
            ..Self::ok(name)
        }
    }

    fn blocked(name: impl Into<String>, blocked: &Blocked) -> Self {
        Self::no(name, &blocked.message, blocked.reason.explain().remedy)
    }
}

/// What spec and schedule are by themselves; `blocked`: why they are not acted on.
pub fn spec(blocked: Option<&Blocked>) -> Check {
    let name = "spec and schedule make sense";
    blocked.map_or_else(|| Check::ok(name), |blocked| Check::blocked(name, blocked))
}

/// Whether an older resource comes first; `unseen`: why not all of them are known.
pub fn rivals(seen: Option<&Observed>, unseen: Option<&str>) -> Check {
    let name = "no other resource has a better claim to the token or the Secret";
    match (seen.and_then(|seen| seen.rival.as_ref()), unseen) {
        (Some(rival), _) => Check::blocked(name, &rival.blocked),
        (None, Some(why)) => Check::not(name, why),
        (None, None) => Check::ok(name),
    }
}

/// Whether the caller may do all that the operator does in a namespace.
pub async fn in_namespace(client: &Client, namespace: &str, access: SecretAccess) -> Vec<Check> {
    let remedy = "apply deploy, or deploy/tenant to this namespace; --as asks for the operator instead of you";
    let asked = permissions::in_namespace(namespace, access);
    let asked = asked.map(|it| permission(client, it, remedy));
    join_all(asked).await
}

/// Whether the caller may tell this cluster from others.
pub async fn of_cluster(client: &Client) -> Check {
    let remedy = "apply deploy or deploy/namespaced; --as asks for the operator instead of you";
    permission(client, permissions::of_cluster(), remedy).await
}

async fn permission(client: &Client, permission: Permission<'_>, remedy: &str) -> Check {
    let name = permission.to_string();
    match permissions::review(client, &permission).await {
        Answer::Yes => Check::ok(name),
        Answer::No(why) => Check::no(name, why, remedy),
        Answer::None(why) => Check::not(name, why),
    }
}

/// What the rehearsal is called.
const REHEARSAL: &str = "the Secret would take a new value";

/// Tries the write of the Secret, in a dry run; also what the operator would be kept from by it.
pub async fn rehearsal(client: &Client, draft: &Draft<'_>) -> (Check, Option<Blocked>) {
    match secret::rehearse(client, draft).await {
        Ok(()) => (Check::ok(REHEARSAL), None),
        Err(Error::Refused(blocked)) => (Check::blocked(REHEARSAL, &blocked), Some(blocked)),
        Err(error) => (Check::not(REHEARSAL, error.to_string()), None),
    }
}

/// The Secret's write was not rehearsed.
pub fn no_rehearsal(why: &str) -> Check {
    Check::not(REHEARSAL, why)
}

/// What is to be found out about the vendor, in the order of the questions.
const CREDENTIAL: &str = "there is a credential for Astro";
const ANSWER: &str = "Astro answers";
const ACCEPTED: &str = "Astro accepts the credential";
const FOUND: &str = "Astro knows the token";
const RIGHT: &str = "the token has the scope and the role that the spec asks for";
const OWNER: &str = "the credential may rotate the token";

/// What the live evidence says of the vendor; `unasked`: why it was not asked.
pub fn vendor(seen: &Observed, unasked: &str) -> Vec<Check> {
    let mut checks = of_token(seen, unasked, Role::Token);
    if seen.resource.spec.alternate_token.is_some() {
        // What is not about the token was checked already.
        let other = of_token(seen, unasked, Role::Alternate).into_iter();
        let other = other.filter(|check| [FOUND, RIGHT].contains(&&*check.name));
        checks.extend(other.map(|check| Check {
            name: format!("{}: {}", Role::Alternate.field(), check.name),
            ..check
        }));
    }
    checks
}

fn of_token(seen: &Observed, unasked: &str, role: Role) -> Vec<Check> {
    let not = |names: &[&str], why: &str| -> Vec<Check> {
        names.iter().map(|name| Check::not(*name, why)).collect()
    };
    let ok = |names: &[&str]| -> Vec<Check> { names.iter().copied().map(Check::ok).collect() };
    match (&seen.access, seen.records.of(role)) {
        (Access::Denied(blocked), _) => {
            let rest = not(&[ANSWER, ACCEPTED, FOUND, RIGHT], "there is no credential");
            [vec![Check::blocked(CREDENTIAL, blocked)], rest].concat()
        }
        (Access::Unknown, _) | (_, Live::NotAsked) => {
            not(&[CREDENTIAL, ANSWER, ACCEPTED, FOUND, RIGHT], unasked)
        }
        (_, Live::Unavailable { message, .. }) => {
            let blocked = Blocked::new(Reason::VendorUnavailable, message);
            let rest = not(&[ACCEPTED, FOUND, RIGHT], "Astro did not answer");
            [
                ok(&[CREDENTIAL]),
                vec![Check::blocked(ANSWER, &blocked)],
                rest,
            ]
            .concat()
        }
        (_, Live::Refused { blocked, .. }) => match blocked.reason {
            Reason::CredentialsRejected | Reason::Forbidden => {
                let rest = not(&[FOUND, RIGHT], "Astro refused the credential");
                let refused = Check::blocked(ACCEPTED, blocked);
                [ok(&[CREDENTIAL, ANSWER]), vec![refused], rest].concat()
            }
            _ => {
                let rest = not(&[RIGHT], "it is not known which token it is");
                let refused = Check::blocked(FOUND, blocked);
                [ok(&[CREDENTIAL, ANSWER, ACCEPTED]), vec![refused], rest].concat()
            }
        },
        (_, Live::Token { token, .. }) => {
            let right = match check_token(seen, token) {
                Ok(()) => Check::ok(RIGHT),
                Err(blocked) => Check::blocked(RIGHT, &blocked),
            };
            [ok(&[CREDENTIAL, ANSWER, ACCEPTED, FOUND]), vec![right]].concat()
        }
    }
}

/// Whether the credential's roles let it rotate tokens of the entity; `Err`: why they are not known.
pub fn role(roles: Result<&[record::Role], &str>, entity: &Entity) -> Check {
    let roles = match roles {
        Ok(roles) => roles,
        Err(why) => return Check::not(OWNER, why),
    };
    let owner = format!("{}_OWNER", entity.scope.of_record());
    let is_enough = |role: &record::Role| match role.entity_type.as_str() {
        "WORKSPACE" => role.entity_id == entity.id && role.role == owner,
        "ORGANIZATION" => role.role == "ORGANIZATION_OWNER",
        _ => false,
    };
    if roles.iter().any(is_enough) {
        return Check::ok(OWNER);
    }
    if entity.scope == Scope::Deployment {
        return Check::not(
            OWNER,
            "Astro's records do not tell in which Workspace the Deployment is, whose owner may",
        );
    }
    let here =
        |role: &&record::Role| role.entity_type == "ORGANIZATION" || role.entity_id == entity.id;
    let here: Vec<_> = roles
        .iter()
        .filter(here)
        .map(|role| line(&role.role, 64))
        .collect();
    let message = match here.is_empty() {
        true => format!("it has no role in {entity}"),
        false => format!("its roles are {}", here.join(", ")),
    };
    Check::no(OWNER, message, Reason::Forbidden.explain().remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_of_the_workspace_or_the_organization_may_and_nobody_else() {
        let of = |scope, id: &str| {
            let id = id.into();
            Entity { scope, id }
        };
        let workspace = of(Scope::Workspace, "w");
        let role_of = |entity_type: &str, entity_id: &str, role: &str| record::Role {
            entity_type: entity_type.into(),
            entity_id: entity_id.into(),
            role: role.into(),
        };
        for (roles, expected) in [
            (
                vec![role_of("WORKSPACE", "w", "WORKSPACE_OWNER")],
                Outcome::Ok,
            ),
            (
                vec![role_of("ORGANIZATION", "o", "ORGANIZATION_OWNER")],
                Outcome::Ok,
            ),
            (
                vec![role_of("WORKSPACE", "v", "WORKSPACE_OWNER")],
                Outcome::No,
            ),
            (
                vec![role_of("WORKSPACE", "w", "WORKSPACE_MEMBER")],
                Outcome::No,
            ),
            (
                vec![role_of("ORGANIZATION", "o", "WORKSPACE_OWNER")],
                Outcome::No,
            ),
            (vec![], Outcome::No),
        ] {
            assert_eq!(role(Ok(&roles), &workspace).result, expected, "{roles:?}");
        }
        let unread = role(Err("unread"), &workspace);
        assert_eq!(unread.result, Outcome::NotChecked);
        let owners = [
            ("WORKSPACE", "w", "WORKSPACE_OWNER"),
            ("ORGANIZATION", "o", "ORGANIZATION_OWNER"),
        ];
        for (scope, expected) in [
            (Scope::Deployment, [Outcome::NotChecked, Outcome::Ok]),
            (Scope::Organization, [Outcome::No, Outcome::Ok]),
        ] {
            let found = owners.map(|(entity_type, entity_id, name)| {
                role(
                    Ok(&[role_of(entity_type, entity_id, name)]),
                    &of(scope, "w"),
                )
                .result
            });
            assert_eq!(found, expected, "{scope}");
        }
    }
}
